"""What the front hands over: read from a connection, checked, and cut into its parts.

Knows the bytes, not what a command does with them. Source: front/README.md.
"""

from __future__ import annotations

import os
import sys
import time
from _socket import SO_PEERCRED, SOL_SOCKET, timeout

from onggi import __version__
from onggi.faces.cli import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

#: The kernel lets argv and environment together grow to 6 MiB. Source: execve(2).
MAX_REQUEST_BYTES = 8 * 1024 * 1024
#: stdin, stdout, stderr, the working directory, the root directory.
DESCRIPTORS = 5
_MAGIC = b"ONGGIWM\x01"
_HEAD_BYTES = 32
_PATIENCE_S = 2.0
_CHUNK_BYTES = 16384
_SO_PEERGROUPS = 59
_MAX_GROUPS_BYTES = 1024


class RefusedError(Exception):
    """This command is not ours to carry out; the front runs it itself. `reason` goes with it."""

    def __init__(self, reason: int) -> None:
        super().__init__(reason)
        self.reason = reason


NOT_OUR_USER = 1
OTHER_VERSION = 2
MALFORMED = 3
OTHER_ROOT = 4
OTHER_STANDING = 5


class Request:
    """A command: its words, and the world to run it in. `fds` are owned, in DESCRIPTORS' order."""

    __slots__ = ("arguments", "environment", "fds", "ignored", "umask")

    def __init__(self, umask: int, ignored: int, arguments: list[bytes], environment: list[bytes]):
        self.umask = umask
        self.ignored = ignored
        self.arguments = arguments
        self.environment = environment
        self.fds: list[int] = []


def _u32(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], sys.byteorder)


def body_size(head: bytes) -> int:
    """How many bytes follow a request's head.

    Raises: RefusedError for what is no head, or one of more than MAX_REQUEST_BYTES.
    """
    size = _u32(head, 8)
    if len(head) != _HEAD_BYTES or head[:8] != _MAGIC or size > MAX_REQUEST_BYTES:
        raise RefusedError(MALFORMED)
    return size


def decode(head: bytes, body: bytes) -> Request:
    """The request, without its descriptors.

    Raises: RefusedError for a front of another version, or counts that do not fit the body.
    """
    count, variables = _u32(head, 24), _u32(head, 28)
    if not body.startswith(__version__.encode() + b"\0"):
        raise RefusedError(OTHER_VERSION)
    strings = body.split(b"\0")
    if len(strings) != 2 + count + variables or strings[-1]:
        raise RefusedError(MALFORMED)
    ignored = int.from_bytes(head[16:24], sys.byteorder)
    return Request(_u32(head, 12) & 0o777, ignored, strings[1 : 1 + count], strings[1 + count : -1])


def receive(sock: socket) -> Request:
    """The request that `sock` brings, within two seconds.

    Raises: RefusedError; OSError when the front is gone.
    """
    fds: list[int] = []
    try:
        request = _receive(sock, fds)
    except BaseException:
        wire.close_all(fds)
        raise
    request.fds = fds
    return request


def _receive(sock: socket, fds: list[int]) -> Request:
    deadline = time.monotonic() + _PATIENCE_S
    data = bytearray()
    wanted = _HEAD_BYTES
    size = -1
    while len(data) < wanted:
        sock.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            piece, came = wire.receive(sock, _CHUNK_BYTES, DESCRIPTORS)
        except (timeout, wire.WireError):
            raise RefusedError(MALFORMED) from None
        fds += came
        if not piece or len(fds) > DESCRIPTORS:
            raise RefusedError(MALFORMED)
        data += piece
        if size < 0 and len(data) >= _HEAD_BYTES:
            size = body_size(bytes(data[:_HEAD_BYTES]))
            wanted += size
    if len(data) != wanted or len(fds) != DESCRIPTORS:
        raise RefusedError(MALFORMED)
    return decode(bytes(data[:_HEAD_BYTES]), bytes(data[_HEAD_BYTES:]))


def check_peer(sock: socket) -> None:
    """Our own user only: the others' files are opened with their rights, not with ours.

    Source: unix(7), SO_PEERCRED, SO_PEERGROUPS.
    Raises: RefusedError.
    """
    peer = sock.getsockopt(SOL_SOCKET, SO_PEERCRED, 12)
    euid = os.geteuid()
    if _u32(peer, 4) != euid:
        raise RefusedError(NOT_OUR_USER)
    # The superuser's rights do not hang on groups.
    if euid and (_u32(peer, 8) != os.getegid() or _groups_of(sock) != frozenset(os.getgroups())):
        raise RefusedError(NOT_OUR_USER)


def _groups_of(sock: socket) -> frozenset[int]:
    try:
        packed = sock.getsockopt(SOL_SOCKET, _SO_PEERGROUPS, _MAX_GROUPS_BYTES)
    except OSError:
        return frozenset((-1,))  # more groups than fit: nobody's
    return frozenset(_u32(packed, at) for at in range(0, len(packed), 4))


def directory_identity(fd: int) -> tuple[int, int, bytes]:
    """What makes two root directories the same one: mount, device and inode.

    A mount's id is its own in every mount namespace, so this tells namespaces apart too.
    Source: proc_pid_fdinfo(5).
    """
    found = os.stat(fd)
    info = os.open(f"/proc/self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        lines = os.read(info, 4096).split(b"\n")
    finally:
        os.close(info)
    mount = next((line for line in lines if line.startswith(b"mnt_id:")), b"")
    return found.st_dev, found.st_ino, mount
