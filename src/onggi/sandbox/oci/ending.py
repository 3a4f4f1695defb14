"""Signals to a container, its end, and the removal of whatever is left of it.

`clean` needs no more than the record: it works after a command was killed at any point, and again
after it was itself killed.
"""

from __future__ import annotations

import os
import select
import sys
import time
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_SEQPACKET, SOL_SOCKET, socket

from onggi.errors import (
    DataLoss,
    FailedPrecondition,
    NotFound,
    SyscallError,
    Unavailable,
    Unsupported,
)
from onggi.kernel.liveness import boot_id
from onggi.kernel.syscalls import pidfd_open, pidfd_send_signal
from onggi.sandbox.oci.records import SOCKET_NAME, Directory, Record, process_of, status_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from onggi.kernel.cgroups.driver import Cgroup
    from onggi.kernel.descriptors import Descriptor

SIGKILL = 9
_END_S = 10.0
#: Within this time a process has ended that nothing keeps from it.
_PROMPT_S = 0.2
_PAUSE_S = 0.001
_LONGEST_PAUSE_S = 0.05
_SO_PEERCRED = 17


def open_process(record: Record) -> Descriptor:
    """A pidfd of the container's first process.

    Raises:
        FailedPrecondition: it has ended, whoever has its number now.
    """
    if record.pid:
        try:
            pidfd = pidfd_open(record.pid)
        except SyscallError:
            raise not_running() from None
        if process_of(record) is not None:  # looked at after it is held
            return pidfd
        pidfd.close()
    raise not_running()


def not_running() -> FailedPrecondition:
    """The error that callers know a container without a process by."""
    return FailedPrecondition("container not running: process already finished")


def send_signal(record: Record, number: int, *, everyone: bool = False) -> None:
    """Send a signal to the container's first process, or to every process of its cgroup.

    Raises:
        FailedPrecondition: there is nobody.
    """
    if everyone and (record.cgroup or record.owns_pids or process_of(record) is None):
        _signal_everyone(record, number)
        return
    with open_process(record) as pidfd:
        try:
            pidfd_send_signal(pidfd, number)
        except SyscallError as error:
            if (
                isinstance(error.__cause__, ProcessLookupError)
                or error.kind == "FailedPrecondition"
            ):
                raise not_running() from None
            raise
    # One that stands still takes SIGKILL, on v1, only when it goes on.
    if number == SIGKILL and record.cgroup and status_of(record) == "paused":
        cgroup_of(record).thaw()


def _signal_everyone(record: Record, number: int) -> None:
    if record.cgroup and number == SIGKILL:
        cgroup_of(record).kill()
        return
    for pid in processes_of(record):
        try:
            with pidfd_open(pid) as pidfd:
                if pid in processes_of(record):
                    pidfd_send_signal(pidfd, number)
        except SyscallError:
            continue  # it has ended meanwhile


def processes_of(record: Record) -> tuple[int, ...]:
    """Every process of the container that is known: of its cgroup, or else of its pid namespace.

    One that has ended, and had no cgroup, has nobody left that is known.
    """
    if record.cgroup:
        return cgroup_of(record).processes()
    if process_of(record) is None:
        return ()
    return _in_namespace_of(record.pid) if record.owns_pids else (record.pid,)


def _in_namespace_of(pid: int) -> tuple[int, ...]:
    """Those whose pid namespace is this one's; only itself, before it may be looked into."""
    try:
        own = os.stat(f"/proc/{pid}/ns/pid")
    except OSError:
        return (pid,)
    found = {pid}
    for name in os.listdir("/proc"):
        try:
            if name.isdecimal() and os.path.samestat(own, os.stat(f"/proc/{name}/ns/pid")):
                found.add(int(name))
        except OSError:
            continue  # it has ended, or is somebody else's
    return tuple(sorted(found))


def cgroup_of(record: Record) -> Cgroup:
    """The container's cgroup on this host. A user's may not be on v2, whose core then does nothing
    for it."""
    from msgspec import structs  # noqa: PLC0415 - the cheap verbs need none

    from onggi.kernel.cgroups.driver import Cgroup  # noqa: PLC0415
    from onggi.kernel.cgroups.layout import CgroupLayout  # noqa: PLC0415

    layout = CgroupLayout.probe()
    if layout.mode == "hybrid" and layout.v2:
        directory = f"{layout.v2.mount_point}/{record.cgroup}"
        if not os.path.isdir(directory):
            layout = structs.replace(layout, hierarchies=layout.hierarchies[:-1])
    return Cgroup(layout, record.cgroup)


def delete(directory: Directory, *, force: bool, before: Callable[[Record], None]) -> None:
    """Remove a container that has ended or never began; `force`: whatever it does.

    `before`: what comes before its removal.

    Raises:
        FailedPrecondition: it has not ended. Conflict: another command is at it.
        NotFound: another command has removed it.
    """
    record = _readable(directory, force=force)
    if record is not None and force:
        _kill_creator(record)
    elif record is not None:
        _check_ended(record)
    directory.lock(wait=force)
    record = _readable(directory, force=force)  # whoever had the lock may have written
    if record is None:
        directory.remove()
        return
    if not force:
        _check_ended(record)  # again: a start may have had the lock
    clean(directory, record, before)


def _check_ended(record: Record) -> None:
    """Raises: FailedPrecondition: something runs, or is being made."""
    status = status_of(record)
    # One that was never started has nothing to lose: containerd's shim counts on it, as on runc.
    if status not in ("stopped", "created"):
        raise FailedPrecondition(
            f"cannot delete container {record.id} that is not stopped: {status}",
            hint="kill it first, or use --force",
        )


def _readable(directory: Directory, *, force: bool) -> Record | None:
    """The record; None: claimed, and nothing written, so nothing is made either.

    Raises:
        DataLoss: it is damaged, and nothing is forced.
    """
    try:
        return directory.read()
    except NotFound:
        return None
    except DataLoss:
        if not force:
            raise
        return None


def _kill_creator(record: Record) -> None:
    """End the command that is making the container: what it made ends with it."""
    if not record.pid and process_of(record, *record.creator) is not None:
        try:
            with pidfd_open(record.creator[0]) as pidfd:
                if process_of(record, *record.creator) is not None:
                    pidfd_send_signal(pidfd, SIGKILL)
                    wait_for_end(pidfd)
        except SyscallError:
            return


def clean(
    directory: Directory, record: Record, before: Callable[[Record], None] | None = None
) -> None:
    """End what lives, remove cgroup and directory. Idempotent.

    Raises:
        Unavailable: a process does not end.
    """
    _end_process(directory, record)
    if record.running_boot == boot_id():  # of another boot there is nothing but the directory
        if record.systemd:
            _remove_scope(directory, record)
        elif record.cgroup:
            _remove_cgroup(cgroup_of(record))
    if before is not None and record.pid:
        before(record)
    directory.remove()


def _remove_scope(directory: Directory, record: Record) -> None:
    from onggi.sandbox.oci.systemd import place  # noqa: PLC0415 - for its containers alone

    place.remove(directory, record, lambda: _remove_cgroup(cgroup_of(record)))


def _end_process(directory: Directory, record: Record) -> None:
    try:
        with open_process(record) as pidfd:
            pidfd_send_signal(pidfd, SIGKILL)
            if record.cgroup and (status_of(record) == "paused" or not _ends(pidfd, _PROMPT_S)):
                _let_go_on(cgroup_of(record))
            wait_for_end(pidfd)
    except FailedPrecondition:
        if not record.pid:
            _end_unrecorded(directory)
    except SyscallError as error:
        if error.kind != "FailedPrecondition":
            raise


def _end_unrecorded(directory: Directory) -> None:
    """Who waits at the start socket lives, though keel was killed before it could say so."""
    probe = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
    try:
        probe.connect(f"/proc/self/fd/{directory.fd}/{SOCKET_NAME}")
        credentials = probe.getsockopt(SOL_SOCKET, _SO_PEERCRED, 12)
        with pidfd_open(int.from_bytes(credentials[:4], sys.byteorder)) as pidfd:
            pidfd_send_signal(pidfd, SIGKILL)
            wait_for_end(pidfd)
    except (OSError, SyscallError):
        return  # nobody, or nobody any more
    finally:
        probe.close()


def wait_for_end(pidfd: int, timeout_s: float = _END_S) -> None:
    """Wait until a process that was killed has ended.

    Raises:
        Unavailable: it has not in time.
    """
    if not _ends(pidfd, timeout_s):
        raise Unavailable(
            f"a process does not end within {timeout_s} s of SIGKILL",
            hint="it waits in the kernel, for a disk or a network file system; try again",
        )


def _ends(pidfd: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def _let_go_on(cgroup: Cgroup) -> None:
    """Who stands still, whoever made it, takes SIGKILL on v1 only when it goes on."""
    try:
        cgroup.thaw()
    except (NotFound, Unsupported):
        return


def _remove_cgroup(cgroup: Cgroup) -> None:
    """Remove it; processes that are left in it are killed first.

    Raises:
        Unavailable: one does not end.
    """
    deadline = time.monotonic() + _END_S
    pause_s = _PAUSE_S
    while not cgroup.remove():
        cgroup.kill()
        _let_go_on(cgroup)
        if time.monotonic() > deadline:
            raise Unavailable(f"processes of cgroup {cgroup.path} do not end")
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
