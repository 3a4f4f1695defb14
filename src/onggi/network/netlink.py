"""One netlink socket, which carries messages and names what failed; and the messages' encoding.

Source: netlink(7), rtnetlink(7), linux/netlink.h, linux/netfilter/nfnetlink.h.
"""

from __future__ import annotations

import errno
import socket
import struct

from onggi.errors import SyscallError
from onggi.network.netlink_messages import (
    HEADER_BYTES,
    NLA_F_NESTED,
    NLM_F_ACK,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    attribute,
    attributes,
    batch,
    be16,
    be32,
    be64,
    each_attribute,
    flag,
    frames,
    message,
    nested,
    numbered,
    split,
    string,
    text_of,
    u8,
    u16,
    u32,
    u64,
    with_flags,
)
from onggi.network.netlink_text import describe, hint_for

TYPE_CHECKING = False  # typing's own costs 9 ms to import
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

#: The encoding is part of what this room offers: who sends messages also writes them.
__all__ = [
    "HEADER_BYTES", "NETLINK_NETFILTER", "NETLINK_ROUTE", "NLA_F_NESTED", "NLM_F_ACK",
    "NLM_F_APPEND", "NLM_F_CREATE", "NLM_F_DUMP", "NLM_F_EXCL", "NLM_F_REPLACE", "NLM_F_REQUEST",
    "Netlink",
    "attribute", "attributes", "batch", "be16", "be32", "be64", "each_attribute", "flag", "message",
    "nested", "open_socket", "split", "string", "text_of", "u8", "u16", "u32", "u64",
]  # fmt: skip

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

NLMSG_NOOP, NLMSG_ERROR, NLMSG_DONE = 1, 2, 3
_NLM_F_CAPPED, _NLM_F_ACK_TLVS = 0x100, 0x200
_NLMSGERR_ATTR_MSG = 1
_NFNL_MSG_BATCH_BEGIN, _NFNL_MSG_BATCH_END = 0x10, 0x11
_SOL_NETLINK = 270
_ADD_MEMBERSHIP, _CAP_ACK, _EXT_ACK, _STRICT_CHECK = 1, 10, 11, 12
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
#: What an acknowledgement takes of the receive buffer lets some 250 of them wait at once.
_AT_ONCE = 64
_DUMP_ATTEMPTS = 20
_RECEIVE_BYTES = 64 << 10
_SEND_BYTES = 128 << 10
_SUBSCRIBER_BYTES = 1 << 20

_INT = struct.Struct("=i")


class Netlink:
    """One netlink socket. A context manager; not to be shared between threads.

    The kernel carries a request out before `send` returns, so nothing here ever waits for more
    than the kernel's own locks.
    """

    __slots__ = ("_number", "_receive_bytes", "_socket", "protocol")

    def __init__(self, sock: socket.socket, protocol: int = NETLINK_ROUTE) -> None:
        """Take over an open, non-blocking socket of the protocol."""
        self._socket = sock
        self._number = 0
        self._receive_bytes = _RECEIVE_BYTES
        self.protocol = protocol
        sock.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        sock.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        if protocol == NETLINK_ROUTE:
            sock.setsockopt(_SOL_NETLINK, _STRICT_CHECK, 1)

    @classmethod
    def open(cls, protocol: int = NETLINK_ROUTE, groups: Sequence[int] = ()) -> Netlink:
        """A socket in the caller's network namespace that hears the multicast `groups`.

        A socket with groups is for `receive` only: their messages would crowd out answers.

        Raises:
            SyscallError: the kernel lacks the protocol, or has no descriptor left.
        """
        try:
            sock = open_socket(protocol)
        except OSError as error:
            raise _failed(f"open of protocol {protocol}", error.errno or 0) from None
        try:
            netlink = cls(sock, protocol)
            if groups:
                sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _SUBSCRIBER_BYTES)
                # A socket without a port id hears nothing of what the kernel says of itself.
                sock.bind((0, 0))
            for group in groups:
                sock.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        except OSError as error:
            sock.close()
            raise _failed(f"listen to groups {tuple(groups)}", error.errno or 0) from None
        return netlink

    def fileno(self) -> int:
        """The socket, borrowed, for a selector."""
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Netlink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def request(self, messages: bytes | Sequence[bytes]) -> None:
        """Have the kernel carry out messages, in order.

        No transaction: after a failure the ones behind it have been tried, too.

        Raises:
            SyscallError: the first that failed, with the kernel's own words and a hint.
        """
        pending = split(messages) if isinstance(messages, bytes) else list(messages)
        failure: SyscallError | None = None
        for start in range(0, len(pending), _AT_ONCE):
            part = pending[start : start + _AT_ONCE]
            first = self._send(part, NLM_F_ACK)
            failure = self._acknowledged(part, first, len(part)) or failure
            if failure is not None:
                raise failure

    def transact(self, messages: Sequence[bytes], subsystem: int = 10) -> None:
        """Have nfnetlink carry out all the messages or, if one fails, none of them.

        `subsystem`: 10 is nftables.

        Raises:
            SyscallError: the first that failed.
        """
        if not messages:
            return
        frame = struct.pack(">BBH", 0, 0, subsystem)
        parts = [message(_NFNL_MSG_BATCH_BEGIN, 0, frame), *messages]
        # Errors come for every message; success is told by the last one, so that a long
        # transaction's acknowledgements do not overflow the buffer.
        parts[-1] = with_flags(parts[-1], NLM_F_ACK)
        first = self._send([*parts, message(_NFNL_MSG_BATCH_END, 0, frame)], 0)
        failure = self._acknowledged(parts, first, 1)
        if failure is not None:
            raise failure

    def query(self, request: bytes) -> list[tuple[int, bytes]]:
        """Kind and body of what the kernel answers to one request that is not a dump.

        Raises:
            SyscallError: it was refused; ENOENT or ENODEV: there is no such object.
        """
        first = self._send([request], NLM_F_ACK)
        answers: list[tuple[int, bytes]] = []
        failure = self._acknowledged([request], first, 1, answers)
        if failure is not None:
            raise failure
        return answers

    def dump(self, request: bytes) -> Iterator[tuple[int, bytes]]:
        """Kind and body of every object, as they were at one moment.

        What the kernel marks as changed meanwhile, or cuts off, is asked for again.

        Raises:
            SyscallError: refused, or changing all the time.
        """
        for _ in range(_DUMP_ATTEMPTS):
            first = self._send([request], NLM_F_DUMP)
            found = self._dumped(request, first)
            if found is not None:
                return iter(found)
        raise _failed(describe(request, self.protocol), errno.EINTR)

    def receive(self) -> list[tuple[int, bytes]]:
        """Kind and body of what has arrived from the groups; empty when nothing has.

        Raises:
            SyscallError: ENOBUFS, messages were lost: look at everything again.
        """
        found: list[tuple[int, bytes]] = []
        while True:
            data = self._read()
            if data is None:
                return found
            for kind, start, end in frames(data):
                if kind not in (NLMSG_NOOP, NLMSG_ERROR, NLMSG_DONE):
                    found.append((kind, data[start + HEADER_BYTES : end]))

    def _send(self, messages: Sequence[bytes], flags: int) -> int:
        """Send messages as one, and return the number of the first."""
        self._drain()
        first = self._number % 0x7FFFFFFF + 1
        self._number = first + len(messages) - 1
        data = numbered(messages, first, flags)
        try:
            if len(data) > _SEND_BYTES:
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 2 * len(data))
            self._socket.send(data)
        except OSError as error:
            what = describe(messages[0], self.protocol)
            raise _failed(what, error.errno or 0) from None
        return first

    def _drain(self) -> None:
        """Forget what an interrupted exchange left behind."""
        while True:
            try:
                self._socket.recv(1)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise _failed("receive", error.errno or 0) from None

    def _acknowledged(
        self,
        messages: Sequence[bytes],
        first: int,
        missing: int,
        answers: list[tuple[int, bytes]] | None = None,
    ) -> SyscallError | None:
        """Read until `missing` messages are acknowledged; the failure of the earliest one.

        Messages after one that failed may have failed as well: what is left unread is drained
        before the next request.
        """
        failures: dict[int, SyscallError] = {}
        while missing > 0 or failures:
            data = self._read()
            if data is None:
                break
            for kind, start, end in frames(data):
                number = struct.unpack_from("=I", data, start + 8)[0] - first
                if kind != NLMSG_ERROR:
                    if answers is not None and kind not in (NLMSG_NOOP, NLMSG_DONE):
                        answers.append((kind, data[start + HEADER_BYTES : end]))
                elif 0 <= number < len(messages):
                    missing -= 1
                    failure = self._refusal(data[start:end], messages[number])
                    if failure is not None:
                        failures[number] = failure
        if failures:
            return failures[min(failures)]
        if missing > 0:
            return _failed(f"acknowledgement of {describe(messages[-1], self.protocol)}", errno.EIO)
        return None

    def _refusal(self, answer: bytes, request: bytes) -> SyscallError | None:
        number = -_INT.unpack_from(answer, HEADER_BYTES)[0]
        if number == 0:
            return None
        return _failed(describe(request, self.protocol), number, _words(answer))

    def _dumped(self, request: bytes, first: int) -> list[tuple[int, bytes]] | None:
        """All parts of one dump; None when it must be asked for again."""
        found: list[tuple[int, bytes]] = []
        while True:
            try:
                data = self._read()
            except SyscallError as error:
                if error.errno in (errno.ENOBUFS, errno.EMSGSIZE):
                    return None
                raise
            if data is None:
                return None
            for kind, start, end in frames(data):
                flags, number = struct.unpack_from("=HI", data, start + 6)
                if number != first:
                    continue
                if flags & NLM_F_DUMP_INTR:
                    return None
                if kind in (NLMSG_DONE, NLMSG_ERROR):
                    # The end of a dump carries an error, too, where it has a body.
                    refused = end - start >= HEADER_BYTES + 4
                    failure = self._refusal(data[start:end], request) if refused else None
                    if failure is not None:
                        raise failure
                    return found
                found.append((kind, data[start + HEADER_BYTES : end]))

    def _read(self) -> bytes | None:
        """One datagram of the kernel's; None when there is none.

        Raises:
            SyscallError: ENOBUFS, some were lost; EMSGSIZE, cut off (the next may be longer).
        """
        while True:
            try:
                data, _, flags, sender = self._socket.recvmsg(self._receive_bytes)
            except BlockingIOError:
                return None
            except OSError as error:
                raise _failed("receive", error.errno or 0) from None
            if flags & socket.MSG_TRUNC:
                self._receive_bytes *= 2
                raise _failed("receive", errno.EMSGSIZE)
            # Another process may write to this socket, too: only the kernel has port id 0.
            if sender[0] == 0:
                return data


def open_socket(protocol: int) -> socket.socket:
    """A non-blocking netlink socket in the calling thread's network namespace.

    Raises:
        OSError: as socket(2).
    """
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    return socket.socket(socket.AF_NETLINK, kind, protocol)


def _words(answer: bytes) -> str:
    """What the kernel says about a failure beside its number; empty when nothing."""
    flags = struct.unpack_from("=H", answer, 6)[0]
    if not flags & _NLM_F_ACK_TLVS:
        return ""
    offset = HEADER_BYTES + 4 + HEADER_BYTES
    if not flags & _NLM_F_CAPPED:
        size = struct.unpack_from("=I", answer, HEADER_BYTES + 4)[0]
        offset += size - HEADER_BYTES + -size % 4
    words = text_of(attributes(answer[offset:]).get(_NLMSGERR_ATTR_MSG, b""))
    return words.rstrip(".")


def _failed(what: str, number: int, words: str = "") -> SyscallError:
    text = f"{what}: {words}" if words else what
    return SyscallError("netlink", text, number, hint=hint_for(what, number))
