"""The messages of the control socket as values: what the engine asks, what a monitor tells.

Pure: packets in, values out. One message is one packet (keel/README.md, "Messages on the control
socket"); the numbers are the same as in keel/keel.h.
"""

from __future__ import annotations

import enum
import struct
from typing import Final

import msgspec

from onggi.errors import DataLoss

#: FAILED is the longest: four numbers, the call, the detail and 16 KiB of facts.
MAX_PACKET_BYTES: Final = 64 * 1024
#: With STARTED: the pidfd and as many sockets as one BIND_SOCKETS makes (keel/keel.h).
MAX_SOCKETS: Final = 8
MAX_DESCRIPTORS: Final = 1 + MAX_SOCKETS


class MessageType(enum.IntEnum):
    """The first word of a packet."""

    GO = 1
    ATTACH = 2
    RESIZE = 3
    CLOSE_STDIN = 4
    INFO = 5
    STARTED = 65
    FAILED = 66
    WARNED = 67
    EXITED = 68
    CLONED = 69


_U32 = struct.Struct("<I")
_STARTED_BODY = struct.Struct("<IQQ")
_FAILED_HEAD = struct.Struct("<IIi")
_EXITED_BODY = struct.Struct("<iiIQQ")


class Started(msgspec.Struct, frozen=True):
    """The application runs.

    `start_time`: clock ticks since boot (/proc/PID/stat field 22), `realtime_ns`: wall clock.
    `pidfd`: whoever receives the event owns it; None: the monitor could not pass one. `sockets`:
    duplicates of those that BIND_SOCKETS made, in its order, owned likewise; fewer where this
    process had no descriptors left for them.
    """

    pid: int
    start_time: int
    realtime_ns: int
    pidfd: int | None
    sockets: tuple[int, ...] = ()


class Failed(msgspec.Struct, frozen=True):
    """A step failed, nothing is left of the start. `opcode` 0: the plan itself could not be read.

    `facts`: about the application's file, keys and values as in keel/README.md.
    """

    step_index: int
    opcode: int
    errno: int
    call: str
    detail: str
    facts: dict[str, str]


class Warned(msgspec.Struct, frozen=True):
    """An optional step failed; the walk goes on."""

    step_index: int
    opcode: int
    errno: int
    call: str
    detail: str
    facts: dict[str, str]


class Exited(msgspec.Struct, frozen=True):
    """The application ended and all of its output is written.

    `code` is -1 when `signal` ended it; -1 with signal 0: unknown. `realtime_ns`: wall clock of the
    end, `runtime_ns`: monotonic.
    """

    code: int
    signal: int
    core_dumped: bool
    realtime_ns: int
    runtime_ns: int


class Cloned(msgspec.Struct, frozen=True):
    """There is a process, which has done nothing yet. `pidfd`: as in `Started`."""

    pid: int
    pidfd: int | None


class Closed(msgspec.Struct, frozen=True):
    """The monitor closed the socket or is gone: nothing more will be told here."""


MonitorEvent = Started | Failed | Warned | Exited | Closed


def go() -> bytes:
    """Carry out the plan."""
    return _U32.pack(MessageType.GO)


def attach(*, stdin: bool, stdout: bool, stderr: bool) -> bytes:
    """Serve the stream socket that goes with this message."""
    return struct.pack("<II", MessageType.ATTACH, stdin | stdout << 1 | stderr << 2)


def resize(rows: int, columns: int) -> bytes:
    """Give the terminal this size; beyond 65535 it is cut to that."""
    limit = 0xFFFF
    return struct.pack(
        "<III", MessageType.RESIZE, min(max(rows, 0), limit), min(max(columns, 0), limit)
    )


def close_stdin() -> bytes:
    """End the application's stdin once what was sent before is written."""
    return _U32.pack(MessageType.CLOSE_STDIN)


def info() -> bytes:
    """Tell STARTED again."""
    return _U32.pack(MessageType.INFO)


def decode(
    packet: bytes, pidfd: int | None = None, sockets: tuple[int, ...] = ()
) -> MonitorEvent | Cloned:
    """The event in a monitor's packet. `pidfd`, `sockets`: the descriptors that came with it.

    Only a keel that creates sends `Cloned`.

    Raises:
        DataLoss: not a message of this protocol.
    """
    try:
        (kind,) = _U32.unpack_from(packet)
        body = packet[_U32.size :]
        match kind:
            case MessageType.STARTED:
                pid, start_time, realtime_ns = _STARTED_BODY.unpack(body)
                return Started(pid, start_time, realtime_ns, pidfd, sockets)
            case MessageType.FAILED:
                return Failed(*_failure(body))
            case MessageType.WARNED:
                return Warned(*_failure(body))
            case MessageType.EXITED:
                code, signal, core_dumped, realtime_ns, runtime_ns = _EXITED_BODY.unpack(body)
                return Exited(code, signal, bool(core_dumped), realtime_ns, runtime_ns)
            case MessageType.CLONED:
                (pid,) = _U32.unpack(body)
                return Cloned(pid, pidfd)
    except struct.error as error:
        raise DataLoss(f"a monitor sent a damaged message: {error}") from None
    raise DataLoss(f"a monitor sent a message of unknown type {kind}")


def _failure(body: bytes) -> tuple[int, int, int, str, str, dict[str, str]]:
    step_index, opcode, errno = _FAILED_HEAD.unpack_from(body)
    texts: list[str] = []
    at = _FAILED_HEAD.size
    for _ in range(3):
        (length,) = _U32.unpack_from(body, at)
        at += _U32.size
        if length > len(body) - at:
            raise struct.error(f"a text of {length} bytes does not fit")
        texts.append(body[at : at + length].decode("utf-8", "surrogateescape"))
        at += length
    if at != len(body):
        raise struct.error(f"{len(body) - at} bytes too many")
    call, detail, facts = texts
    pairs = (line.partition("=") for line in facts.split("\n"))
    return step_index, opcode, errno, call, detail, {key: value for key, _, value in pairs if key}
