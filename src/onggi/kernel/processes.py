"""Facts about processes from /proc, and which of them are still the same process.

A pid alone names nobody: numbers are reused. Pid, start time and boot id together do. Names and
arguments are chosen by the process itself: whoever prints them must neutralise control characters.

Source: proc_pid_stat(5), proc_pid_status(5).
"""

from __future__ import annotations

import errno
import os

import msgspec

from onggi.errors import NotFound, SyscallError
from onggi.kernel.descriptors import Descriptor
from onggi.kernel.procfs import read_process_file
from onggi.kernel.syscalls import pidfd_open

#: A process can make its argument list as long as its memory; nobody reads further than this.
MAX_ARGUMENTS_BYTES = 128 * 1024


class ProcessStat(msgspec.Struct, frozen=True):
    """Fields of /proc/PID/stat. Times are in clock ticks (SC_CLK_TCK), the start since boot."""

    pid: int
    comm: str
    state: str
    parent_pid: int
    session: int
    terminal: int
    user_ticks: int
    system_ticks: int
    threads: int
    start_time_ticks: int
    resident_pages: int


class ProcessStatus(msgspec.Struct, frozen=True):
    """Lines of /proc/PID/status. Ids are real, effective, saved, file system, as seen from here.

    `pids` are the process's numbers from our pid namespace inwards: the last is its own view.
    """

    uids: tuple[int, ...]
    gids: tuple[int, ...]
    groups: tuple[int, ...]
    pids: tuple[int, ...]


class ProcessView(msgspec.Struct, frozen=True):
    """One process as `top` shows it: from both sides."""

    stat: ProcessStat
    status: ProcessStatus
    arguments: tuple[str, ...]


def boot_id() -> str:
    """The random id of this boot of the kernel."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def parse_stat(content: bytes) -> ProcessStat:
    """Read a /proc/PID/stat.

    Raises:
        ValueError: not one.
    """
    # comm is the process's choice and may hold spaces and parentheses: the last `)` ends it.
    head, parenthesis, tail = content.rpartition(b") ")
    pid, _, comm = head.partition(b" (")
    fields = tail.split()
    if not parenthesis or len(fields) < 22:
        raise ValueError(f"not a /proc/PID/stat: {content[:80]!r}")
    return ProcessStat(
        pid=int(pid),
        comm=os.fsdecode(comm),
        state=fields[0].decode("ascii"),
        parent_pid=int(fields[1]),
        session=int(fields[3]),
        terminal=int(fields[4]),
        user_ticks=int(fields[11]),
        system_ticks=int(fields[12]),
        threads=int(fields[17]),
        start_time_ticks=int(fields[19]),
        resident_pages=int(fields[21]),
    )


def parse_status(content: bytes) -> ProcessStatus:
    """Read a /proc/PID/status.

    Raises:
        ValueError: not one.
    """
    lines = dict(line.partition(b":")[::2] for line in content.split(b"\n"))
    try:
        uids, gids, groups, pids = (
            tuple(int(value) for value in lines[name].split())
            for name in (b"Uid", b"Gid", b"Groups", b"NSpid")
        )
    except KeyError as error:
        raise ValueError(f"no line {error} in /proc/PID/status") from None
    return ProcessStatus(uids=uids, gids=gids, groups=groups, pids=pids)


def parse_arguments(content: bytes) -> tuple[str, ...]:
    """The arguments in a /proc/PID/cmdline; none for a zombie or a kernel thread."""
    if not content:
        return ()
    return tuple(os.fsdecode(part) for part in content.removesuffix(b"\0").split(b"\0"))


def read_stat(pid: int | str) -> ProcessStat:
    """The stat of a process; a zombie has one too.

    Raises:
        NotFound: no such process.
    """
    return parse_stat(read_process_file(pid, "stat"))


def read_status(pid: int | str) -> ProcessStatus:
    """The status of a process.

    Raises:
        NotFound: no such process.
    """
    return parse_status(read_process_file(pid, "status"))


def read_arguments(pid: int | str) -> tuple[str, ...]:
    """The argument list of a process, cut at MAX_ARGUMENTS_BYTES.

    It is read from the process's memory, so a process can make it wait (a page that a FUSE file
    system of its own holds back): never on a thread that others need.

    Raises:
        NotFound: no such process.
    """
    return parse_arguments(read_process_file(pid, "cmdline", MAX_ARGUMENTS_BYTES))


def start_time_ticks(pid: int | str) -> int:
    """When a process started, in clock ticks since boot (field 22 of stat).

    Raises:
        NotFound: no such process.
    """
    return read_stat(pid).start_time_ticks


def view(pid: int) -> ProcessView:
    """A process as `top` shows it; of another one in part, if the number is reused meanwhile.

    Raises:
        NotFound: no such process.
    """
    return ProcessView(read_stat(pid), read_status(pid), read_arguments(pid))


def open_same_process(pid: int, started_ticks: int) -> Descriptor:
    """A pidfd of the process that had this pid and start time, on this boot.

    It may be a zombie. The boot id is the caller's to compare.

    Raises:
        NotFound: it has ended, whoever has its number now.
    """
    try:
        pidfd = pidfd_open(pid)
    except SyscallError as error:
        if error.errno != errno.ESRCH:
            raise
        raise NotFound(f"process {pid} has ended") from None
    try:
        # Read after the pidfd is held: if it is this process's, the pidfd is too.
        if start_time_ticks(pid) != started_ticks:
            raise NotFound(f"process {pid} has ended, and its number is another's now")
    except BaseException:
        pidfd.close()
        raise
    return pidfd


def list_pids() -> tuple[int, ...]:
    """Every process that this procfs shows, in order of the number."""
    return tuple(sorted(int(name) for name in os.listdir("/proc") if name.isdigit()))
