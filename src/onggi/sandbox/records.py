"""What a monitor leaves in its run directory: who runs (`state`) and how it ended (exit record).

Both are written by keel under a temporary name and renamed, so a reader finds a whole one or none.
A record of another boot names nothing that exists any more and counts as none. This room does not
know what an engine concludes from it.
"""

from __future__ import annotations

import os
import stat
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta

from onggi.errors import DataLoss, from_os_error
from onggi.kernel.processes import boot_id as running_boot_id

STATE_NAME: Final = "state"
_MAX_SIZE_BYTES: Final = 4096

_Pid = Annotated[int, Meta(ge=1)]
_Count = Annotated[int, Meta(ge=0)]


class StateRecord(msgspec.Struct, frozen=True):
    """The monitor and its child. `start_time`: clock ticks since boot, /proc/PID/stat field 22."""

    monitor_pid: _Pid
    pid: _Pid
    start_time: _Count
    boot_id: str


class ExitRecord(msgspec.Struct, frozen=True):
    """How the child ended.

    `code` is -1 when `signal` ended it; -1 with signal 0: unknown. `started_ns` and `exited_ns` are
    wall clock, `runtime_ns` is monotonic.
    """

    pid: _Pid
    code: Annotated[int, Meta(ge=-1, le=255)]
    signal: Annotated[int, Meta(ge=0, le=64)]
    core: Annotated[int, Meta(ge=0, le=1)]
    started_ns: _Count
    exited_ns: _Count
    runtime_ns: _Count
    boot_id: str
    dropped_log_lines: _Count


_Record = TypeVar("_Record", StateRecord, ExitRecord)


def read_state(run_dirfd: int, *, boot_id: str | None = None) -> StateRecord | None:
    """The state record; None: there is none of this boot. `boot_id`: default the running one.

    Raises:
        DataLoss: what is there is not a state record.
        EngineError: it cannot be read.
    """
    return _read(run_dirfd, STATE_NAME, StateRecord, boot_id or running_boot_id())


def read_exit_record(
    run_dirfd: int, name: str = "exit", *, boot_id: str | None = None
) -> ExitRecord | None:
    """The exit record `name`; None: there is none of this boot. `boot_id`: default the running one.

    Raises:
        DataLoss: what is there is not an exit record.
        EngineError: it cannot be read.
    """
    return _read(run_dirfd, name, ExitRecord, boot_id or running_boot_id())


def _read(dirfd: int, name: str, kind: type[_Record], boot_id: str) -> _Record | None:
    try:
        data = _read_bounded(dirfd, name)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise from_os_error(error, f"read the record {name}") from error
    try:
        record = msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataLoss(f"the record {name} is damaged: {str(error).rstrip('.')}") from None
    return record if record.boot_id == boot_id else None


def _read_bounded(dirfd: int, name: str) -> bytes:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    fd = os.open(name, flags, dir_fd=dirfd)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise DataLoss(f"the record {name} is not a regular file")
        data = os.read(fd, _MAX_SIZE_BYTES + 1)
    finally:
        os.close(fd)
    if len(data) > _MAX_SIZE_BYTES:
        raise DataLoss(f"the record {name} is longer than {_MAX_SIZE_BYTES} bytes")
    return data
