"""What comes in on one connection: heads of a bounded size, bodies as they are framed.

Nobody holds a connection for nothing: a head has a deadline as a whole, a body must come at 1 KiB/s
on average, and a response must be taken at that pace. Source: RFC 9112 sections 6 and 7.
"""

from __future__ import annotations

import os
import re
import select
import socket
import ssl
import time
from collections.abc import Callable, Mapping

from onggi.faces.registry.answers import FileSlice

IDLE_S = 30.0
HEAD_S = 10.0
HEAD_BYTES = 32 * 1024
PATIENCE_S = 30.0
LEAST_BYTES_PER_S = 1024
_BUFFER_BYTES = 256 * 1024
_LENGTH = re.compile(r"\d{1,18}", re.ASCII)
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;[^\r\n]*)?\r?\n")
_LINE_BYTES = 1024
_MAX_TRAILERS = 64


class HeadTooLargeError(Exception):
    """The request's head has more than 32 KiB."""


class FramingError(Exception):
    """Nobody can say where the request ends, so nothing after it can be believed."""


class Pace:
    """The time that a transfer may take, which grows with what has been transferred."""

    def __init__(self) -> None:
        self._started_s = time.monotonic()
        self.moved_bytes = 0

    def left_s(self) -> float:
        """Seconds until it is too slow. Raises: TimeoutError: it is."""
        allowed_s = PATIENCE_S + self.moved_bytes / LEAST_BYTES_PER_S
        left_s = self._started_s + allowed_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the peer is too slow")
        return min(left_s, PATIENCE_S)


class Inbound:
    """A connection's bytes, buffered. `readline` is for heads, `take` for bodies."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray(8192)
        self._start = self._end = 0
        self._deadline_s = 0.0
        self._budget_bytes = 0

    def wait(self) -> bool:
        """Wait for the next request; False: the client has ended, or sent nothing for long."""
        if self._start < self._end:
            return True
        try:
            return self._fill(IDLE_S) > 0
        except TimeoutError:
            return False

    def begin_head(self) -> None:
        """From now on the deadline and the budget of one head run."""
        self._deadline_s = time.monotonic() + HEAD_S
        self._budget_bytes = HEAD_BYTES

    def readline(self, limit: int) -> bytes:
        """A line of a head, b'' at the end of the connection.

        Raises:
            TimeoutError: the head is not there in time. HeadTooLargeError.
        """
        return self._line(limit, self._head_left_s)

    def _head_left_s(self) -> float:
        left_s = self._deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the request's head took too long")
        return left_s

    def _line(self, limit: int, left_s: Callable[[], float]) -> bytes:
        line = bytearray()
        while len(line) < limit:
            if self._start == self._end and not self._fill(left_s()):
                break
            stop = min(self._end, self._start + limit - len(line))
            found = self._buffer.find(b"\n", self._start, stop)
            stop = found + 1 if found >= 0 else stop
            line += self._buffer[self._start : stop]
            self._budget_bytes -= stop - self._start
            self._start = stop
            if self._budget_bytes < 0:
                raise HeadTooLargeError
            if found >= 0:
                break
        return bytes(line)

    def line(self, pace: Pace) -> bytes:
        """A line of a chunked body's framing. Raises: FramingError, TimeoutError."""
        self._budget_bytes = _LINE_BYTES
        try:
            line = self._line(_LINE_BYTES, pace.left_s)
        except HeadTooLargeError:
            raise FramingError("a chunk's head is too long") from None
        if not line.endswith(b"\n"):
            raise FramingError("a chunk's head is damaged")
        return line

    def take(self, most: int, pace: Pace) -> memoryview:
        """At most `most` bytes, valid until the next call.

        Raises:
            ConnectionError: the client has ended. TimeoutError.
        """
        if self._start == self._end:
            if len(self._buffer) < _BUFFER_BYTES:
                self._buffer = bytearray(_BUFFER_BYTES)
            if not self._fill(pace.left_s()):
                raise ConnectionResetError("the client ended in the middle of its body")
        stop = min(self._end, self._start + most)
        view = memoryview(self._buffer)[self._start : stop]
        self._start = stop
        pace.moved_bytes += len(view)
        return view

    def _fill(self, timeout_s: float) -> int:
        self._sock.settimeout(timeout_s)
        self._start, self._end = 0, 0
        try:
            self._end = self._sock.recv_into(self._buffer)
        except ssl.SSLError as error:
            raise ConnectionResetError(f"TLS ended: {error.reason}") from None
        return self._end


class HttpBody:
    """A request's body. `expects`: called before the first byte is waited for."""

    def __init__(
        self, inbound: Inbound, headers: Mapping[str, str], expects: Callable[[], None]
    ) -> None:
        self._inbound = inbound
        self._expects = expects
        self._pace = Pace()
        self._chunked = "transfer-encoding" in headers
        self._in_chunk = False
        self.length_bytes = _length(headers)
        self._left = self.length_bytes or 0
        self.done = not self._chunked and self._left == 0

    def read(self) -> memoryview | bytes:
        """As `answers.Body`. Raises: FramingError also."""
        if self.done:
            return b""
        self._expects()
        if self._chunked and not self._left and not self._next_chunk():
            return b""
        view = self._inbound.take(self._left, self._pace)
        self._left -= len(view)
        if not self._chunked and self._left == 0:
            self.done = True
        return view

    def _next_chunk(self) -> bool:
        if self._in_chunk and self._inbound.line(self._pace) not in (b"\r\n", b"\n"):
            raise FramingError("a chunk does not end where it should")
        match = _CHUNK_SIZE.fullmatch(self._inbound.line(self._pace))
        if match is None:
            raise FramingError("a chunk's size is damaged")
        self._left = int(match[1], 16)
        self._in_chunk = True
        if self._left:
            return True
        for _ in range(_MAX_TRAILERS):
            if self._inbound.line(self._pace) in (b"\r\n", b"\n"):
                self.done = True
                return False
        raise FramingError("too many trailers")


def _length(headers: Mapping[str, str]) -> int | None:
    """The body's length in bytes, None when it comes in chunks. Raises: FramingError."""
    encoding, length = headers.get("transfer-encoding"), headers.get("content-length")
    if encoding is not None:
        if length is not None or encoding.strip().lower() != "chunked":
            raise FramingError("a body is chunked, or has a length, and nothing else")
        return None
    if length is None:
        return 0
    if _LENGTH.fullmatch(length.strip()) is None:
        raise FramingError("Content-Length is no number")
    return int(length)


def send(sock: socket.socket, data: bytes | FileSlice) -> None:
    """Send all of it, at the client's pace. Raises: ConnectionError, TimeoutError."""
    pace = Pace()
    if isinstance(data, bytes):
        _send_bytes(sock, memoryview(data), pace)
    elif isinstance(sock, ssl.SSLSocket):
        offset, end = data.offset, data.offset + data.size_bytes
        while offset < end:
            part = os.pread(data.fd, min(_BUFFER_BYTES, end - offset), offset)
            if not part:
                raise ConnectionAbortedError("the blob became shorter while it was sent")
            _send_bytes(sock, memoryview(part), pace)
            offset += len(part)
    else:
        _send_file(sock, data, pace)


def _send_bytes(sock: socket.socket, view: memoryview, pace: Pace) -> None:
    while view:
        sock.settimeout(pace.left_s())
        try:
            sent = sock.send(view[:_BUFFER_BYTES])
        except ssl.SSLError as error:
            raise ConnectionResetError(f"TLS ended: {error.reason}") from None
        pace.moved_bytes += sent
        view = view[sent:]


def _send_file(sock: socket.socket, data: FileSlice, pace: Pace) -> None:
    sock.settimeout(pace.left_s())  # from now on the descriptor does not block
    ready = select.poll()
    ready.register(sock, select.POLLOUT)
    offset, end = data.offset, data.offset + data.size_bytes
    while offset < end:
        left_s = pace.left_s()
        try:
            sent = os.sendfile(sock.fileno(), data.fd, offset, min(end - offset, 1 << 30))
        except BlockingIOError:
            if not ready.poll(left_s * 1000):
                raise TimeoutError("the peer takes nothing") from None
            continue
        if not sent:
            raise ConnectionAbortedError("the blob became shorter while it was sent")
        pace.moved_bytes += sent
        offset += sent
