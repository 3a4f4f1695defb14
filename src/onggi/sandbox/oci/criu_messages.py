"""What is said to `criu swrk` and what it answers, as protocol buffers on the wire.

Only the fields that are used here, and only the wire types that they have: numbers, and bytes for
texts and messages. A dependency for that would be larger than CRIU's own interface.
Source: criu images/rpc.proto; protobuf.dev "Encoding".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from onggi.errors import Unavailable

DUMP: Final = 1
RESTORE: Final = 2
NOTIFY: Final = 6
#: A pre-dump that ends when it is done, and does not wait for the dump that is to follow.
SINGLE_PRE_DUMP: Final = 13

CGROUP_MODES: Final = {"ignore": 0, "soft": 3, "full": 4, "strict": 5}

#: Fields of criu_opts by name.
OPTIONS: Final = {
    "images_dir_fd": 1,
    "pid": 2,
    "leave_running": 3,
    "ext_unix_sk": 4,
    "tcp_established": 5,
    "evasive_devices": 6,
    "shell_job": 7,
    "file_locks": 8,
    "log_level": 9,
    "log_file": 10,
    "ps": 11,
    "notify_scripts": 12,
    "root": 13,
    "parent_img": 14,
    "track_mem": 15,
    "auto_dedup": 16,
    "work_dir_fd": 17,
    "manage_cgroups": 24,
    "cg_root": 25,
    "rst_sibling": 26,
    "inherit_fd": 27,
    "ext_masters": 30,
    "manage_cgroups_mode": 34,
    "external": 37,
    "empty_ns": 38,
    "join_ns": 39,
    "cgroup_dump_controller": 43,
    "freeze_cgroup": 44,
    "tcp_skip_in_flight": 46,
    "lazy_pages": 48,
    "orphan_pts_master": 50,
    "config_file": 51,
    "lsm_profile": 53,
    "lsm_mount_context": 63,
}

#: A field's value: a number, a text, a message's fields, or several of those.
Value = int | str | bytes | Mapping[int, "Value"] | Sequence["Value"]
Fields = Mapping[int, Value]

_VARINT, _I64, _BYTES, _I32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10


class Response:
    """What CRIU said. `type` NOTIFY: it waits for an answer; `script` and `pid` say of what."""

    __slots__ = ("message", "pid", "script", "success", "type")

    def __init__(self, packet: bytes) -> None:
        """Raises: Unavailable: no message."""
        fields = decode(packet)
        notify = decode(_bytes(fields.get(5, b"")))
        self.type = _number(fields.get(1, 0))
        self.success = bool(fields.get(2, 0))
        self.script = _bytes(notify.get(1, b"")).decode("utf-8", "replace")
        self.pid = _number(notify.get(2, 0))
        self.message = _bytes(fields.get(9, b"")).decode("utf-8", "replace")


def request(kind: int, options: Mapping[str, Value]) -> bytes:
    """A request: what to do, and its options by name."""
    return encode({1: kind, 2: {OPTIONS[name]: value for name, value in options.items()}})


def answer(*, success: bool) -> bytes:
    """The answer to a notification."""
    return encode({1: NOTIFY, 3: success})


def encode(fields: Fields) -> bytes:
    """A message. A sequence is a repeated field."""
    return b"".join(
        _field(number, item)
        for number, value in fields.items()
        for item in (value if isinstance(value, list | tuple) else (value,))
    )


def _field(number: int, value: Value) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3 | _VARINT) + _varint(value & (1 << 64) - 1)
    if isinstance(value, Mapping):
        value = encode(value)
    if isinstance(value, str):
        value = value.encode("utf-8", "surrogateescape")
    assert isinstance(value, bytes)
    return _varint(number << 3 | _BYTES) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode(data: bytes) -> dict[int, int | bytes]:
    """A message's fields; of a repeated one the last.

    Raises:
        Unavailable: it ends too early, or has a wire type that nobody uses.
    """
    return dict(fields_of(data))


def fields_of(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Every field of a message, in order. Raises: Unavailable: as `decode`."""
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            number, at = _read_varint(data, at)
            yield tag >> 3, number
            continue
        size = {_I64: 8, _I32: 4}.get(kind, -1)
        if kind == _BYTES:
            size, at = _read_varint(data, at)
        if size < 0 or at + size > len(data):
            raise _malformed()
        yield tag >> 3, data[at : at + size]
        at += size


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for n in range(_MAX_VARINT_BYTES):
        if at + n >= len(data):
            break
        value |= (data[at + n] & 0x7F) << 7 * n
        if data[at + n] < 0x80:
            return value, at + n + 1
    raise _malformed()


def _malformed() -> Unavailable:
    return Unavailable("criu's answer is no message of its protocol")


def _number(value: int | bytes) -> int:
    return value if isinstance(value, int) else 0


def _bytes(value: int | bytes) -> bytes:
    return value if isinstance(value, bytes) else b""
