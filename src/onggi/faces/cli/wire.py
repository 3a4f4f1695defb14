"""Messages and descriptors on the native wire (docs/wire.md).

A message is a u32 little-endian length and that many bytes. Pure but for two calls on a socket;
knows nothing about JSON or about calls.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Iterator, Sequence

MAX_REQUEST_BYTES = 8 * 1024 * 1024
MAX_ANSWER_BYTES = 64 * 1024 * 1024
#: What one receive accepts; a sender of more loses its connection, never our descriptors.
MAX_DESCRIPTORS = 4
_HEADER = 4
_INT = 4
_SOL_SOCKET = 1
_SCM_RIGHTS = 1
_MSG_CTRUNC = 0x8
_MSG_CMSG_CLOEXEC = 0x40000000
# cmsghdr is 16 bytes on 64-bit Linux, its data aligned to 8.
_ANCILLARY_HEAD = 16


class WireError(Exception):
    """The peer broke the framing; the connection is of no more use."""


def pack(payload: bytes) -> bytes:
    """`payload` with its length in front."""
    return len(payload).to_bytes(_HEADER, "little") + payload


class Framer:
    """Cuts a byte stream into messages. Holds at most one message beyond what was fed."""

    __slots__ = ("_buffer", "_limit")

    def __init__(self, limit_bytes: int) -> None:
        self._buffer = bytearray()
        self._limit = limit_bytes

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Each message that `data` completes.

        Raises: WireError for a message beyond the limit, before it is collected.
        """
        buffer = self._buffer
        buffer += data
        while len(buffer) >= _HEADER:
            size = int.from_bytes(buffer[:_HEADER], "little")
            if size > self._limit:
                raise WireError(f"a message of {size} bytes; at most {self._limit} are taken")
            if len(buffer) < _HEADER + size:
                return
            message = bytes(buffer[_HEADER : _HEADER + size])
            del buffer[: _HEADER + size]
            yield message

    @property
    def pending(self) -> int:
        """Bytes of a message that is not complete."""
        return len(self._buffer)


def rights(fds: Sequence[int]) -> list[tuple[int, int, bytes]]:
    """Ancillary data that carries `fds`. Source: unix(7), SCM_RIGHTS."""
    if not fds:
        return []
    packed = b"".join(fd.to_bytes(_INT, sys.byteorder) for fd in fds)
    return [(_SOL_SOCKET, _SCM_RIGHTS, packed)]


def receive(sock: socket, size_bytes: int, most: int = MAX_DESCRIPTORS) -> tuple[bytes, list[int]]:
    """Up to `size_bytes` and the descriptors that came along (owned by the caller, close-on-exec).

    Raises: WireError when clearly more descriptors came than `most` (all are closed);
    OSError as recvmsg(2).
    """
    space = _ANCILLARY_HEAD + most * _INT
    data, ancillary, flags, _ = sock.recvmsg(size_bytes, space, _MSG_CMSG_CLOEXEC)
    fds: list[int] = []
    for level, kind, content in ancillary:
        if level == _SOL_SOCKET and kind == _SCM_RIGHTS:
            whole = len(content) - len(content) % _INT
            for at in range(0, whole, _INT):
                fds.append(int.from_bytes(content[at : at + _INT], sys.byteorder))
    if flags & _MSG_CTRUNC:
        close_all(fds)
        raise WireError(f"more than {most} descriptors")
    return data, fds


def close_all(fds: list[int]) -> None:
    """Close and forget each."""

    while fds:
        os.close(fds.pop())
