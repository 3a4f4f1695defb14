"""Hooks that are run from outside the start: poststart and poststop, and a restore's.

A failure of the first two is told and changes nothing.
Source: runtime-spec config.md#posix-platform-hooks.
"""

from __future__ import annotations

import os
import select
import signal

from onggi.errors import EngineError, FailedPrecondition
from onggi.kernel.syscalls import sealed_memfd
from onggi.sandbox.oci.records import CONFIG_NAME, Directory, Record
from onggi.specs import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from onggi.specs.runtime import Config


def later(config: Config) -> list[str]:
    """Which kinds of hooks a configuration has for later verbs."""
    found = {}
    if config.hooks is not None:
        found = {"poststart": config.hooks.poststart, "poststop": config.hooks.poststop}
    return [kind for kind, hooks in found.items() if hooks]


def run(
    kind: str, status: str, directory: Directory, record: Record, warn: Callable[[str], None]
) -> None:
    """Run every hook of a kind, one after another, with the state on its stdin."""
    if kind not in record.hooks:
        return
    try:
        for failure in _run_all(kind, status, record.pid, directory, record):
            warn(failure)
    except (OSError, EngineError) as error:
        warn(f"{kind} hooks are not run: {error}")


def require(kind: str, pid: int, directory: Directory, record: Record) -> None:
    """Run every hook of a kind for a process that is being made by another than keel.

    Raises:
        FailedPrecondition: one fails; those after it are not run.
    """
    for failure in _run_all(kind, "creating", pid, directory, record):
        raise FailedPrecondition(failure)


def _run_all(
    kind: str, status: str, pid: int, directory: Directory, record: Record
) -> Iterator[str]:
    """Run one after another; what went wrong, before the next is run."""
    config = jsontext.decode(directory.read_file(CONFIG_NAME))
    state = {
        "ociVersion": record.oci_version,
        "id": record.id,
        "status": status,
        "pid": 0 if status == "stopped" else pid,
        "bundle": record.bundle,
        "annotations": record.annotations,
    }
    for index, hook in enumerate((config.get("hooks") or {}).get(kind, ())):
        reason = _run_one(hook, jsontext.encode(state))
        if reason:
            yield f"$.hooks.{kind}[{index}]: {hook['path']} {reason}"


def _run_one(hook: dict[str, Any], state: bytes) -> str:
    """What went wrong; empty: nothing. A hook that names no environment has its caller's."""
    own = hook.get("env")
    environment = dict(entry.partition("=")[::2] for entry in own) if own else dict(os.environ)
    # a file, not a pipe: a hook that does not read holds nobody up
    with sealed_memfd("state", state) as stdin:
        try:
            pid = os.posix_spawn(
                hook["path"],
                hook.get("args") or [hook["path"]],
                environment,
                file_actions=[(os.POSIX_SPAWN_DUP2, stdin, 0)],
                setsigdef=(signal.SIGPIPE,),
            )
        except OSError as error:
            return f"cannot be executed: {os.strerror(error.errno or 0).lower()}"
    timeout_s = hook.get("timeout")
    with os.fdopen(os.pidfd_open(pid), "rb", buffering=0) as pidfd:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        late = not poll.poll(timeout_s * 1000 if timeout_s else None)
        if late:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    if late:
        return f"did not end within {timeout_s} s"
    code = os.waitstatus_to_exitcode(status)
    return f"answered {code}" if code else ""
