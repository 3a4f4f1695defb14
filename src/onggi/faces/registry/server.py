"""The HTTP server: connections, one thread each and a bounded number; requests one after another.

Python's http.server parses heads (it bounds lines and their number); around it are the bounds that
it does not have: on a head's size and time, on a body's pace, on connections. Knows the protocol,
not the registry.

Source: RFC 9112 (HTTP/1.1).
"""

from __future__ import annotations

import contextlib
import http.server
import os
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, unquote

from onggi.faces.registry.access import TOKEN_PATH, Address, Rules
from onggi.faces.registry.answers import Answer, ApiError, FileSlice, Request
from onggi.faces.registry.inbound import (
    HEAD_S,
    FramingError,
    HeadTooLargeError,
    HttpBody,
    Inbound,
    send,
)
from onggi.runtime.printable import printable

MAX_CONNECTIONS = 256
_SLOT_S = 5.0
_DRAIN_BYTES = 16 * 1024 * 1024
_DRAIN_S = 2.0
_MAX_QUERY_FIELDS = 16
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n"
    b"Connection: close\r\n\r\n"
)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})


class RegistryServer(http.server.ThreadingHTTPServer):
    """Listens at `address`; `log` gets a line for each request. `serve` begins to answer.

    Raises: OSError: it cannot listen there.
    """

    request_queue_size = 128

    def __init__(
        self,
        address: Address,
        rules: Rules,
        log: Callable[[str], None],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.rules = rules
        self.log = log
        self.tls = tls
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        family, *_, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        self.address_family = family
        super().__init__((str(place[0]), int(place[1])), Connection)

    def server_bind(self) -> None:
        """Bind, without asking the name service for our name as HTTPServer would."""
        socketserver.TCPServer.server_bind(self)

    def serve(self, answer: Callable[[Request], Answer]) -> None:
        """Let `answer` answer, until `shutdown` is called from another thread."""
        self.answer = answer
        self.serve_forever(poll_interval=0.2)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.socket.getsockname()[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the connection a thread, as soon as there is room for one."""
        if self._slots.acquire(timeout=_SLOT_S):
            try:
                super().process_request(request, client_address)
            except BaseException:
                self._slots.release()
                raise
            return
        with contextlib.suppress(OSError):
            if self.tls is None:
                request.setblocking(False)
                request.send(_BUSY)
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """A defect of ours ended a connection: say so, and serve the others."""
        import traceback  # noqa: PLC0415 - only after a defect

        self.log(f"internal error: {traceback.format_exc()}")


class Connection(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    # http.server answers HTTP/0.9 without a head as long as it has read no other version.
    default_request_version = "HTTP/1.1"
    server: RegistryServer
    connection: socket.socket

    def setup(self) -> None:
        """The TLS handshake is part of it: it must not hold up those who wait to be accepted."""
        self.connection = self.request
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._ready = True
        if self.server.tls is not None:
            self.connection.settimeout(HEAD_S)
            try:
                self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
            except OSError as error:
                self._ready = False
                self.server.log(f"{self.client_address[0]} TLS failed: {printable(str(error))}")
        self._inbound = Inbound(self.connection)
        self.rfile = self._inbound  # type: ignore[assignment]
        self.wfile = _Unbuffered(self.connection)  # type: ignore[assignment]
        self._body: HttpBody | None = None
        self._waits_for_continue = False

    def handle(self) -> None:
        """Requests until one side has had enough."""
        self.close_connection = not self._ready
        try:
            while not self.close_connection:
                self.handle_one_request()
        except (OSError, FramingError) as error:
            self.server.log(f"{self.client_address[0]} gave up: {printable(str(error))}")

    def finish(self) -> None:
        """End it so that the client still reads our last answer."""
        if self._ready:
            self._drain()
        with contextlib.suppress(OSError):
            if isinstance(self.connection, ssl.SSLSocket):
                self.connection.close()

    def handle_one_request(self) -> None:
        """Read a head, answer. Raises: OSError, FramingError: the connection is of no more use."""
        self.requestline, self.command, self.path = "", "", ""
        self.request_version = self.default_request_version
        self._body = None
        if not self._inbound.wait():
            self.close_connection = True
            return
        self._started_s = time.monotonic()
        self._inbound.begin_head()
        try:
            self.raw_requestline = self._inbound.readline(HEAD_LINE_BYTES)
            if not self.raw_requestline.strip():
                # Some clients send an empty line between requests; anything else ends.
                self.close_connection = not self.raw_requestline
                return
            if len(self.raw_requestline.split()) != 3:
                self.send_error(400, "this is not a request of HTTP/1.1")
                return
            good = self.parse_request()
        except HeadTooLargeError:
            self.send_error(431, "the request's head is too large")
            return
        except TimeoutError:
            self.send_error(408, "the request's head took too long")
            return
        if good:
            self._answer()

    def handle_expect_100(self) -> bool:
        """Ask for the body only when it is read: not before its sender is known."""
        self._waits_for_continue = True
        return True

    def _continue(self) -> None:
        if self._waits_for_continue:
            self._waits_for_continue = False
            send(self.connection, b"HTTP/1.1 100 Continue\r\n\r\n")

    def _answer(self) -> None:
        try:
            request = self._request()
        except FramingError as error:
            self.send_error(400, str(error))
            return
        try:
            answer = self._permitted(request)
        except ApiError as refusal:
            answer = refusal.answer()
        except FramingError as error:
            self.send_error(400, str(error))
            return
        except TimeoutError as error:
            self.send_error(408, str(error))
            return
        finally:
            self._waits_for_continue = False
        self._send(answer)

    def _permitted(self, request: Request) -> Answer:
        rules = self.server.rules
        if rules.anonymous_pull and request.path == TOKEN_PATH:
            return rules.token(request.method, request.headers)
        rules.check(request.method, request.path, request.headers)
        return self.server.answer(request)

    def _request(self) -> Request:
        if self.headers.defects:
            raise FramingError("the request's head is damaged")
        headers: dict[str, str] = {}
        for name, value in self.headers.items():
            key = name.lower()
            if key in ("content-length", "transfer-encoding", "host") and key in headers:
                raise FramingError(f"{name} is there twice")
            headers[key] = f"{headers[key]}, {value}" if key in headers else value
        self._body = HttpBody(self._inbound, headers, self._continue)
        path, _, query = self.path.partition("?")
        if self.command not in _METHODS or not path.startswith("/"):
            raise FramingError("not a request that a registry has")
        try:
            fields = dict(parse_qsl(query, max_num_fields=_MAX_QUERY_FIELDS))
            plain = unquote(path, errors="strict")
        except ValueError:
            raise FramingError("the request's path is damaged") from None
        return Request(self.command, plain, fields, headers, self._body)

    def _send(self, answer: Answer) -> None:
        body = answer.body
        size = len(body) if isinstance(body, bytes) else body.size_bytes
        announced = size if answer.body_bytes is None else answer.body_bytes
        if self._body is not None and not self._body.done:
            self.close_connection = True
        try:
            self.send_response(answer.status)
            self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
            self.send_header("X-Content-Type-Options", "nosniff")
            for name, value in answer.headers:
                self.send_header(name, value)
            if answer.status not in (204, 304):
                self.send_header("Content-Length", str(announced))
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            if self.command != "HEAD" and size and answer.status not in (204, 304):
                send(self.connection, body)
        finally:
            if isinstance(body, FileSlice):
                os.close(body.fd)
            self._log(answer.status, announced)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what is not HTTP as a registry would, and end the connection."""
        self.close_connection = True
        self._send(ApiError(code, "UNSUPPORTED", message or "this is not HTTP").answer())

    def _log(self, status: int, size_bytes: int) -> None:
        took_ms = (time.monotonic() - self._started_s) * 1000
        asked = printable(f"{self.command or '-'} {self.path or '-'}")
        self.server.log(
            f"{self.client_address[0]} {asked} {status} {size_bytes} bytes {took_ms:.0f} ms"
        )

    def _drain(self) -> None:
        """Read a little of what nobody wanted: closing on unread bytes would reset our answer."""
        if self._body is None or self._body.done or isinstance(self.connection, ssl.SSLSocket):
            return
        deadline_s = time.monotonic() + _DRAIN_S
        drained = 0
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            while drained < _DRAIN_BYTES and (left_s := deadline_s - time.monotonic()) > 0:
                self.connection.settimeout(left_s)
                data = self.connection.recv(65536)
                if not data:
                    return
                drained += len(data)

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Nothing: a line is written when the answer has been sent."""

    def version_string(self) -> str:
        """What we are; not with which Python."""
        return "onggi"


#: What http.server reads a request line with; a longer one it refuses itself.
HEAD_LINE_BYTES = 65537


class _Unbuffered:
    """What http.server writes heads to."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def write(self, data: bytes) -> None:
        send(self._sock, data)

    def flush(self) -> None:
        """Nothing is held back."""
