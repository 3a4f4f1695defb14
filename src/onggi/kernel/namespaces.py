"""Namespaces from outside: their identity, who shares them, their id maps, descriptors of them.

Making and joining them is keel's. Source: namespaces(7), user_namespaces(7), ioctl_nsfs(2).
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os

import msgspec

from onggi.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    SyscallError,
)
from onggi.kernel import constants as c
from onggi.kernel.descriptors import Descriptor
from onggi.kernel.processes import list_pids
from onggi.kernel.procfs import failed_look, read_process_file
from onggi.kernel.syscalls import pidfd_send_signal

#: The name in config.json → the file under /proc/PID/ns.
FILES: dict[str, str] = {
    "cgroup": "cgroup",
    "ipc": "ipc",
    "mount": "mnt",
    "network": "net",
    "pid": "pid",
    "time": "time",
    "user": "user",
    "uts": "uts",
}
CLONE_FLAGS: dict[str, int] = {
    "cgroup": c.CLONE_NEWCGROUP,
    "ipc": c.CLONE_NEWIPC,
    "mount": c.CLONE_NEWNS,
    "network": c.CLONE_NEWNET,
    "pid": c.CLONE_NEWPID,
    "time": c.CLONE_NEWTIME,
    "user": c.CLONE_NEWUSER,
    "uts": c.CLONE_NEWUTS,
}

_NS_GET_NSTYPE = 0xB703
# linux/pidfd.h, Linux 6.11: _IO(0xFF, n).
_PIDFD_GET: dict[str, int] = {
    "cgroup": 0xFF01,
    "ipc": 0xFF02,
    "mount": 0xFF03,
    "network": 0xFF04,
    "pid": 0xFF05,
    "time": 0xFF07,
    "user": 0xFF09,
    "uts": 0xFF0A,
}


def namespace_id(pid: int | str, kind: str) -> int:
    """The inode number of one namespace of a process; unique while the namespace lives.

    Raises:
        NotFound: the process is gone, or a zombie, which has few of them left.
        PermissionDenied: not ours to look at.
    """
    try:
        return os.stat(f"/proc/{pid}/ns/{FILES[kind]}").st_ino
    except OSError as error:
        raise failed_look(error, pid) from None


def namespace_ids(pid: int | str = "self") -> dict[str, int]:
    """The inode numbers of those that this kernel has, by their names in config.json.

    Raises:
        NotFound, PermissionDenied: as `namespace_id`.
    """
    return {kind: namespace_id(pid, kind) for kind in kinds()}


@functools.cache
def kinds() -> tuple[str, ...]:
    """The namespaces that this kernel has, by their names in config.json."""
    there = os.listdir("/proc/self/ns")
    return tuple(kind for kind, file in FILES.items() if file in there)


def processes_in(kind: str, inode: int) -> tuple[int, ...]:
    """The processes of the host which are in a namespace, in order of their pid.

    It looks at every process of the host: for a person who asks, not for every start. Processes
    that end meanwhile, or that are not ours to look at, are left out.
    """
    found = []
    for pid in list_pids():
        try:
            if namespace_id(pid, kind) == inode:
                found.append(pid)
        except (NotFound, PermissionDenied):
            continue
    return tuple(found)


class IdRange(msgspec.Struct, frozen=True):
    """`size` ids from `inside` (as the namespace's processes see them) shown as `outside`."""

    inside: int
    outside: int
    size: int


def parse_id_map(text: str) -> tuple[IdRange, ...]:
    """The lines of a /proc/PID/uid_map or gid_map.

    Raises:
        ValueError: not three numbers in a line.
    """
    ranges = []
    for line in text.splitlines():
        inside, outside, size = line.split()
        ranges.append(IdRange(int(inside), int(outside), int(size)))
    return tuple(ranges)


def read_id_maps(pid: int | str) -> tuple[tuple[IdRange, ...], tuple[IdRange, ...]]:
    """The user and group id maps of a process's user namespace, outside as seen from ours.

    Raises:
        NotFound: no such process.
    """
    users, groups = (
        parse_id_map(read_process_file(pid, name).decode("ascii"))
        for name in ("uid_map", "gid_map")
    )
    return users, groups


def to_outside(ranges: tuple[IdRange, ...], inside: int) -> int | None:
    """The id outside for one inside; None where it is not mapped."""
    for r in ranges:
        if 0 <= inside - r.inside < r.size:
            return r.outside + inside - r.inside
    return None


def to_inside(ranges: tuple[IdRange, ...], outside: int) -> int | None:
    """The id inside for one outside; None where it is not mapped (the kernel shows 65534)."""
    for r in ranges:
        if 0 <= outside - r.outside < r.size:
            return r.inside + outside - r.outside
    return None


def open_namespace(pidfd: int, kind: str) -> Descriptor:
    """A descriptor of a namespace of the process behind a pidfd, never of one that took its pid.

    Raises:
        SyscallError: ESRCH once the process has ended.
    """
    try:
        return Descriptor(fcntl.ioctl(pidfd, _PIDFD_GET[kind], 0))
    except OSError as error:
        # ENOTTY: before Linux 6.11; EINVAL: between. Through procfs then.
        if error.errno not in (errno.ENOTTY, errno.EINVAL):
            text = f"fd {pidfd}, PIDFD_GET {kind}"
            raise SyscallError("ioctl", text, error.errno or 0) from None
    return _open_through_procfs(pidfd, kind)


def _open_through_procfs(pidfd: int, kind: str) -> Descriptor:
    pid = pid_of(pidfd)
    try:
        namespace = Descriptor(os.open(f"/proc/{pid}/ns/{FILES[kind]}", os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        number = errno.ESRCH if error.errno == errno.ENOENT else error.errno or 0
        raise SyscallError("open", f"{kind} namespace of {pid}", number) from None
    try:
        # The number cannot have been another's if the process still has it now.
        pidfd_send_signal(pidfd, 0)
    except BaseException:
        namespace.close()
        raise
    return namespace


def pid_of(pidfd: int) -> int:
    """The process id behind a pidfd.

    Raises:
        SyscallError: ESRCH, the process has ended and was reaped.
        InvalidArgument: not a pidfd.
    """
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name == "Pid":
                if int(value) <= 0:
                    raise SyscallError("pidfd", f"fd {pidfd}", errno.ESRCH)
                return int(value)
    raise InvalidArgument(f"descriptor {pidfd} is not a pidfd")


def open_namespace_path(path: str, kind: str) -> Descriptor:
    """A descriptor of the namespace at a host path, such as /run/netns/NAME or /proc/PID/ns/net.

    Raises:
        FailedPrecondition: there is something else, or a namespace of another kind.
        SyscallError: it cannot be opened.
    """
    try:
        # O_NONBLOCK: the path is a user's, and may name a FIFO.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        namespace = Descriptor(os.open(path, flags))
    except OSError as error:
        raise SyscallError("open", repr(path), error.errno or 0) from None
    try:
        found = kind_of(namespace.fileno())
        if found != kind:
            what = f"a {found} namespace" if found else "not a namespace"
            raise FailedPrecondition(f"{path!r} is {what}, expected a {kind} namespace")
    except BaseException:
        namespace.close()
        raise
    return namespace


def kind_of(descriptor: int) -> str | None:
    """Which kind of namespace a descriptor is; None if it is something else."""
    try:
        flag = fcntl.ioctl(descriptor, _NS_GET_NSTYPE)
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL):
            return None
        raise SyscallError("ioctl", f"fd {descriptor}, NS_GET_NSTYPE", error.errno or 0) from None
    return next((kind for kind, value in CLONE_FLAGS.items() if value == flag), None)
