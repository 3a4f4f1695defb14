"""Connections to hosts that may be hostile: headers, lines and pace are bounded below HTTP.

`http.client` bounds the length of a header line (64 KiB) and the number of headers (100). It does
not bound time, nor `100 Continue` answers, nor the trailers of a chunked body, nor what a proxy
answers to CONNECT; this room does, between the socket and `http.client`. It knows nothing of what
is asked.
"""

from __future__ import annotations

import http.client
import io
import logging
import socket
import time
from typing import Any

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

from onggi.image.registry.patience import Patience

# urllib3 writes whole URLs into its log, and what is signed there is as good as a password.
logging.getLogger("urllib3").setLevel(logging.CRITICAL)

BUFFER_BYTES = 64 * 1024
MAX_LINE_BYTES = 64 * 1024
MAX_HEADER_BYTES = 256 * 1024
MAX_LINES_IN_A_ROW = 400
SEND_BYTES = 64 * 1024


class _PacedSocket(io.RawIOBase):
    """What a peer sends, while it keeps pace: the headers in one deadline, then the body."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, patience: Patience) -> None:
        self._raw = raw
        self._sock = sock
        self._patience = patience
        self._deadline: float | None = time.monotonic() + (sock.gettimeout() or patience.answer_s)
        self._waited_s = 0.0
        self._received_bytes = 0

    def headers_end(self) -> None:
        """From here on the body's rule holds."""
        self._deadline = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        began = time.monotonic()
        if self._deadline is not None:
            left_s = self._deadline - began
        else:
            left_s = self._patience.window_s - self._waited_s
        if left_s <= 0:
            raise TimeoutError("too slow")
        self._sock.settimeout(left_s)
        count = self._raw.readinto(buffer)
        if self._deadline is None:
            self._account(count or 0, time.monotonic() - began)
        return int(count) if count is not None else None

    def _account(self, count: int, waited_s: float) -> None:
        """A window ends when enough has come; if its time ends first, `readinto` gives up."""
        self._received_bytes += count
        self._waited_s += waited_s
        if self._received_bytes >= self._patience.window_bytes:
            self._received_bytes = 0
            self._waited_s = 0.0

    def close(self) -> None:
        self._raw.close()
        super().close()


class _BoundedReader(io.BufferedReader):
    """Lines of bounded length, and only so many (and so long) without data between them."""

    def __init__(self, raw: _PacedSocket) -> None:
        super().__init__(raw, BUFFER_BYTES)
        self._lines = 0
        self._line_bytes = 0

    def readline(self, size: int | None = -1, /) -> bytes:
        limit = MAX_LINE_BYTES + 1 if size is None or size < 0 else size
        line = super().readline(limit)
        self._lines += 1
        self._line_bytes += len(line)
        if self._lines > MAX_LINES_IN_A_ROW or self._line_bytes > MAX_HEADER_BYTES:
            raise http.client.HTTPException("headers without end")
        return line

    def _data_seen(self) -> None:
        self._lines = 0
        self._line_bytes = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self._data_seen()
        return super().read(size)

    def readinto(self, buffer: Any, /) -> int:
        self._data_seen()
        return super().readinto(buffer)


class _Response(http.client.HTTPResponse):
    """A response read through a bounded, paced reader."""

    def __init__(self, patience: Patience, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._paced = _PacedSocket(self.fp.detach(), sock, patience)
        self.fp = _BoundedReader(self._paced)

    def begin(self) -> None:
        super().begin()
        self._paced.headers_end()


def pool_classes(patience: Patience, verified: bool) -> dict[str, type[HTTPConnectionPool]]:
    """Pools of bounded connections for a `urllib3.PoolManager`, by scheme.

    `verified`: False for hosts whose certificates the administrator has said not to check.
    """

    class Bounded:
        """What both kinds of connection have in common."""

        _response: _Response | None = None

        def response_class(self, sock: socket.socket, *args: Any, **kwargs: Any) -> _Response:
            self._response = _Response(patience, sock, *args, **kwargs)
            return self._response

        def getresponse(self) -> Any:
            """urllib3 forgets the response, and its socket, when it dislikes a header."""
            try:
                return super().getresponse()  # type: ignore[misc]
            except BaseException:
                if self._response is not None:
                    self._response.close()
                raise
            finally:
                self._response = None

        def send(self, data: Any) -> None:
            """In pieces, each with a time of its own: a timeout holds for a whole `sendall`."""
            sock = getattr(self, "sock", None)
            if sock is not None:
                sock.settimeout(patience.window_s)
            if not isinstance(data, bytes) or len(data) <= SEND_BYTES:
                super().send(data)  # type: ignore[misc]
                return
            view = memoryview(data)
            for start in range(0, len(view), SEND_BYTES):
                super().send(view[start : start + SEND_BYTES])  # type: ignore[misc]

    class Plain(Bounded, HTTPConnection):  # type: ignore[misc]
        """Plain HTTP, bounded."""

    class Secure(Bounded, HTTPSConnection):  # type: ignore[misc]
        """HTTPS, bounded."""

    class PlainPool(HTTPConnectionPool):
        """Of plain connections."""

        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        """Of secure connections."""

        ConnectionCls = Secure

        def _validate_conn(self, conn: Any) -> None:
            """urllib3 warns at every request of a host that the administrator has listed."""
            if verified:
                super()._validate_conn(conn)
            elif conn.is_closed:
                conn.connect()

    return {"http": PlainPool, "https": SecurePool}
