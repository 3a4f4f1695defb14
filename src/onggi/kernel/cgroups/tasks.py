"""The processes of a cgroup: who they are, stop them, go on, kill them.

Works on the directories it is given; which hierarchy serves is the driver's choice.
"""

from __future__ import annotations

import os
import signal
import time

from onggi.errors import Unavailable
from onggi.kernel.cgroups import freezer
from onggi.kernel.cgroups.directory import Directory, tree

_PAUSE_S = 0.0002
_NUDGE_EVERY = 50


def processes(path: str) -> tuple[int, ...]:
    """Process ids in the cgroup and below it, in the reader's pid namespace, ascending."""
    found: set[int] = set()
    for directory in tree(path):
        found |= members(directory)
    # 0 stands for a process that has no id in our pid namespace.
    return tuple(sorted(found - {0}))


def members(path: str) -> set[int]:
    """Process ids in this very cgroup; none when it does not exist."""
    with Directory(path) as directory:
        return {int(word) for word in (directory.read("cgroup.procs") or "").split()}


def freeze(directory: Directory, *, version: int, timeout_s: float) -> None:
    """Stop every task; on return all stand still.

    Raises:
        Unavailable: some task did not stop in time (it is in an uninterruptible sleep); all go on.
        OSError: what the kernel answers.
    """
    change = freezer.FREEZE_V1 if version == 1 else freezer.FREEZE_V2
    frozen = freezer.frozen_v1 if version == 1 else freezer.frozen_v2
    directory.write(change.file, change.value)
    deadline = time.monotonic() + timeout_s
    attempts = 0
    while not frozen(directory):
        attempts += 1
        if time.monotonic() > deadline:
            thaw(directory, version=version)
            raise Unavailable(
                f"cgroup {directory.path} did not freeze within {timeout_s} s",
                hint="a process waits in the kernel; try again",
            )
        if version == 1 and attempts % _NUDGE_EVERY == 0:
            # A v1 cgroup can stay FREEZING for ever when a task forks or joins at that moment.
            thaw(directory, version=1)
            directory.write(change.file, change.value)
        time.sleep(_PAUSE_S)


def freezing(directory: Directory, *, version: int) -> bool:
    """Whether somebody has told the cgroup to stop, and nobody to go on since."""
    if version == 1:
        return (directory.read("freezer.state") or "THAWED").strip() != "THAWED"
    return (directory.read("cgroup.freeze") or "0").strip() == "1"


def thaw(directory: Directory, *, version: int) -> None:
    """Let every task go on. Idempotent."""
    change = freezer.THAW_V1 if version == 1 else freezer.THAW_V2
    directory.write(change.file, change.value)


def kill_each(path: str, but: set[int]) -> set[int]:
    """Send SIGKILL to every process in the cgroup and below, `but` to these; returns to whom.

    A process id may be taken by another process between reading and killing: each is held by a
    pidfd and looked up once more before.
    """
    return {
        pid
        for directory in tree(path)
        for pid in members(directory) - but - {0}
        if _kill(pid, directory)
    }


def _kill(pid: int, directory: str) -> bool:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if pid not in members(directory):
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True
