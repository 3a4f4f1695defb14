"""The engine's part: keeps one warm process beside the engine, until the engine ends.

Without one, commands are slower and nothing else: whatever goes wrong here is logged and tried
again, less and less often.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

from onggi.errors import EngineError
from onggi.faces.warm.descriptors import LIFELINE_FD, LISTENER_FD
from onggi.sandbox.keel import hold

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

SOCKET_NAME = "warm.sock"
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0


async def keep_warm(bind: Callable[[], socket.socket]) -> None:
    """Keep a warm process listening on what `bind` makes, until cancelled."""
    pause_s = _FIRST_PAUSE_S
    while True:
        began = time.monotonic()
        try:
            await _one_life(bind)
        except (OSError, EngineError) as error:
            print(f"onggi: no warm process: {error}", file=sys.stderr, flush=True)
        if time.monotonic() - began > _LONGEST_PAUSE_S:
            pause_s = _FIRST_PAUSE_S
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


async def _one_life(bind: Callable[[], socket.socket]) -> None:
    """Start one and wait for its end; when cancelled, let it end by itself."""
    reader, lifeline = os.pipe2(os.O_CLOEXEC)
    try:
        with bind() as listener:
            pid = spawn(listener.fileno(), reader)
        os.close(reader)
        reader = -1
        await _end_of(pid)
    finally:
        os.close(lifeline)
        if reader >= 0:
            os.close(reader)
    print("onggi: the warm process has ended; the next one is on its way", file=sys.stderr)


def spawn(listener: int, lifeline: int) -> int:
    """Start a warm process; its pid. Borrows both descriptors.

    Raises: OSError, ResourceExhausted.
    """
    # It imports the same modules as the engine, and nothing from the working directory (-P).
    argv = [sys.executable, "-P", "-X", "utf8", "-m", "onggi.faces.warm"]
    kept = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    with hold(listener) as listening, hold(lifeline) as living:
        return os.posix_spawn(
            sys.executable,
            argv,
            kept,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0),
                (os.POSIX_SPAWN_DUP2, 0, 1),
                (os.POSIX_SPAWN_DUP2, listening, LISTENER_FD),
                (os.POSIX_SPAWN_DUP2, living, LIFELINE_FD),
            ],
            # A session without a terminal, so that no terminal is a command's own.
            setsid=True,
            setsigdef=range(1, 32),
            setsigmask=(),
        )


async def _end_of(pid: int) -> None:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    pidfd = os.pidfd_open(pid)
    loop.add_reader(pidfd, _settle, ended)
    try:
        await ended
        os.waitpid(pid, 0)
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
