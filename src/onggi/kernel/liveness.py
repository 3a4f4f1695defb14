"""Whether a process is still the one that a record names, cheaply: what a cold command line asks.

`processes` knows more, and costs more to import. Source: proc_pid_stat(5).
"""

from __future__ import annotations

import os

from onggi.errors import NotFound
from onggi.kernel.procfs import read_process_file

#: include/linux/sched.h PF_FORKNOEXEC: it has not called execve since it was forked.
_FORKED_NOT_EXECUTED = 0x40
_ENDED = frozenset("ZXx")
_STAT_BYTES = 1024


class Look:
    """A process at one moment. `ended`: a zombie; `executed`: it has called execve."""

    __slots__ = ("ended", "executed", "parent_pid", "start_time")

    def __init__(self, ended: bool, executed: bool, parent_pid: int, start_time: int) -> None:
        self.ended = ended
        self.executed = executed
        self.parent_pid = parent_pid
        self.start_time = start_time


def look_at(pid: int) -> Look | None:
    """What the kernel says of a process; None: there is none of this number."""
    try:
        content = read_process_file(pid, "stat", _STAT_BYTES)
    except NotFound:
        return None
    # the name is the process's choice: the last parenthesis ends it
    fields = content.rpartition(b") ")[2].split()
    return Look(
        ended=chr(fields[0][0]) in _ENDED,
        executed=not int(fields[6]) & _FORKED_NOT_EXECUTED,
        parent_pid=int(fields[1]),
        start_time=int(fields[19]),
    )


def boot_id() -> str:
    """The random id of this boot of the kernel."""
    with open("/proc/sys/kernel/random/boot_id", "rb", buffering=0) as file:
        return file.read(64).decode("ascii").strip()


def own_identity() -> tuple[int, int]:
    """Pid and start time of this process."""
    pid = os.getpid()
    own = look_at(pid)
    return pid, own.start_time if own else 0
