"""Starts the resident engine, detached, and waits until it listens.

That only one engine runs is the lock's business (`onggi.faces.resident`): a spawn that lost the
race ends by itself, and its client connects to the winner.
"""

from __future__ import annotations

import os
import sys
import time

from onggi.errors import Unavailable
from onggi.faces.cli.client import dial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Mapping

READY = b"ready\n"
BUSY = b"busy\n"
READY_FD = 3
_DEADLINE_S = 20.0
_PAUSE_S = 0.02
_RESPAWN_S = 0.5
#: The engine outlives the command, so it takes only what it may need from the command's world.
_KEPT = (
    "HOME", "PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH", "PYTHONHASHSEED",
    "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip


def start_and_dial(path: str, root: str | None) -> socket:
    """A connection to the engine of `root`, which this or another command started.

    Raises: Unavailable with what the engine said when it could not start.
    """
    deadline = time.monotonic() + _DEADLINE_S
    while time.monotonic() < deadline:
        said = _spawn(root)
        if not said.endswith((READY, BUSY)):
            raise Unavailable(
                f"the engine could not start: {_reason(said) or 'it ended without a word'}",
                hint="python -m onggi.faces.resident shows all that it says",
            )
        respawn = time.monotonic() + _RESPAWN_S
        while time.monotonic() < respawn:
            sock = dial(path)
            if sock is not None:
                return sock
            time.sleep(_PAUSE_S)
    raise Unavailable("the engine's lock is held, but nobody listens", hint=f"look at {path}")


def _reason(said: bytes) -> str:
    """The engine's last words; what it had logged before somebody killed it is no reason."""
    text = said.decode("utf-8", "replace").strip()
    last = text.rpartition("\n")[2]
    meant = last.startswith("onggi: ") or "Traceback (most recent call last)" in text
    return last.removeprefix("onggi: ") if meant else ""


def command(root: str | None) -> list[str]:
    """The resident's argv. `-P`: a module in the working directory is never taken for ours."""
    argv = [sys.executable, "-P", "-m", "onggi.faces.resident"]
    return [*argv, "--root", os.path.realpath(root)] if root else argv


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What the engine inherits; malloc is told to keep few arenas and to give memory back."""
    kept = {name: environ[name] for name in _KEPT if name in environ}
    kept |= {name: value for name, value in environ.items() if name.startswith("ONGGI_")}
    return {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "131072", **kept}


def _spawn(root: str | None) -> bytes:
    """Start a resident; what it said until it was ready (or had ended)."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0),
            (os.POSIX_SPAWN_DUP2, 0, 1),
            (os.POSIX_SPAWN_DUP2, writer, 2),
            (os.POSIX_SPAWN_DUP2, writer, READY_FD),
        ]
        if writer == READY_FD:
            # dup2 onto itself would leave the descriptor close-on-exec.
            spare = os.dup(writer)
            os.close(writer)
            writer = spare
            actions[2:] = [
                (os.POSIX_SPAWN_DUP2, writer, 2),
                (os.POSIX_SPAWN_DUP2, writer, READY_FD),
            ]
        os.posix_spawn(
            sys.executable,
            command(root),
            {**environment(os.environ), "ONGGI_READY_FD": str(READY_FD)},
            file_actions=actions,
            setsid=True,
            setsigdef=range(1, 32),
            setsigmask=(),
        )
    finally:
        os.close(writer)
    with open(reader, "rb", buffering=0) as pipe:
        return pipe.read()
