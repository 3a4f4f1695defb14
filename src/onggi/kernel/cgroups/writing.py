"""Carry out changes in one cgroup, and say in words what the kernel or the host refused.

Knows nothing of controllers: the order is the rules', the answer is the kernel's.
"""

from __future__ import annotations

import errno

from onggi.errors import (
    ERRNO_KINDS,
    EngineError,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from onggi.kernel.cgroups.directory import Directory
from onggi.kernel.cgroups.rule import AttachProgram, Change, Lacking, Write

_KINDS: dict[int, type[EngineError]] = ERRNO_KINDS | {
    errno.EINVAL: InvalidArgument,
    errno.ERANGE: InvalidArgument,
    errno.EBUSY: FailedPrecondition,
    errno.ENODEV: NotFound,
    errno.EROFS: FailedPrecondition,
    errno.EAGAIN: ResourceExhausted,
}

_HINTS = {
    errno.EACCES: "run as root, or on a cgroup that was delegated to this user",
    errno.EPERM: "run as root, or on a cgroup that was delegated to this user",
    errno.EROFS: "the cgroup file system is mounted read-only: remount it read-write",
    errno.EBUSY: "more is in use than the new value allows",
    errno.ENODEV: "no such device, or the cgroup was removed",
    errno.EAGAIN: "the host's limit of cgroups (cgroup.max.descendants) is reached",
}


def refusal(error: OSError, doing: str, hint: str | None = None) -> EngineError:
    """The error for what the cgroup file system answered while `doing` something."""
    number = error.errno or 0
    kind = _KINDS.get(number, Internal)
    return kind(f"{doing}: {error.strerror}", hint=hint or _HINTS.get(number))


def carry_out(directory: Directory, changes: tuple[Change, ...]) -> list[str]:
    """Make the changes in order; returns a warning for each that this host lacks.

    Two values may bind each other (quota and burst, memory and memsw): a write refused with EINVAL
    is tried once more when the others are done, whatever direction the values move in.

    Raises:
        EngineError: the kernel refuses a value; those before it are in force.
    """
    warnings: list[str] = []
    again: list[Write] = []
    for change in changes:
        if isinstance(change, Lacking):
            warnings.append(change.text)
        elif isinstance(change, AttachProgram):
            _attach(directory, change)
        else:
            try:
                directory.write(change.file, change.value)
            except FileNotFoundError:
                warnings.append(f"{change.file} does not exist on this kernel: not {change.value}")
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise _refused(error, directory, change) from error
                again.append(change)
    for change in again:
        try:
            directory.write(change.file, change.value)
        except OSError as error:
            raise _refused(error, directory, change) from error
    return warnings


def _refused(error: OSError, directory: Directory, change: Write) -> EngineError:
    return refusal(error, f"cgroup {directory.path}: {change.file} = {change.value}")


def _attach(directory: Directory, change: AttachProgram) -> None:
    # ctypes takes 4 ms to import, and only hosts with device control on v2 need it.
    from onggi.kernel.cgroups.bpf import attach_device_program  # noqa: PLC0415

    attach_device_program(directory.fileno(), change.program)
