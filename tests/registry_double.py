"""A registry that misbehaves on purpose, for tests: loopback only, plain or TLS, scripted.

A script is a function from `Call` to nothing: it answers through the call, properly (`answer`) or
byte by byte (`raw`). Every request is kept in `Double.seen`.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from onggi.image.registry.client import Keychain, RegistryClient
from onggi.image.registry.patience import Patience
from onggi.image.settings import ImageSettings
from onggi.specs.image import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Descriptor, Manifest
from onggi.specs.image import encode_document as encode

FAST = Patience(
    connect_s=2,
    answer_s=0.4,
    finish_s=2,
    window_s=0.3,
    window_bytes=2000,
    document_s=0.5,
    attempts=3,
    first_wait_s=0.01,
    longest_wait_s=0.05,
)
CONFIG = b"{}"


def described(data: bytes, media_type: str = OCI_LAYER) -> Descriptor:
    """The descriptor of some bytes."""
    return Descriptor(media_type, "sha256:" + hashlib.sha256(data).hexdigest(), len(data))


MANIFEST = encode(Manifest(2, described(CONFIG, OCI_CONFIG), (), OCI_MANIFEST))


class Stream(io.BytesIO):
    """Bytes as a blob's stream; one that can go back, as io.BytesIO can."""

    offset = 0


class OneWay:
    """Bytes as a blob's stream that cannot go back."""

    def __init__(self, data: bytes) -> None:
        self.offset = 0
        self._file = io.BytesIO(data)

    def read(self, size: int) -> bytes:
        return self._file.read(size)

    def __enter__(self) -> OneWay:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def client_of(
    registry: Double | str,
    settings: ImageSettings | None = None,
    keychain: Keychain | None = None,
    *,
    patience: Patience = FAST,
    environment: dict[str, str] | None = None,
) -> RegistryClient:
    """A client in a hurry that sees no proxy and no certificates but those it is given."""
    name = registry if isinstance(registry, str) else registry.address
    settings = settings or ImageSettings(certificate_directories=())
    return RegistryClient(
        name, settings, keychain, environment=environment or {}, patience=patience
    )


@dataclass
class Call:
    """One request, and the way to answer it."""

    handler: BaseHTTPRequestHandler
    method: str
    path: str
    headers: dict[str, str]
    number: int
    body: bytes = b""
    answered: bool = field(default=False)

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        """A proper answer; `_` in a header's name stands for `-`."""
        self.answered = True
        self.handler.send_response(status)
        names = {name.lower() for name in headers}
        for name, value in headers.items():
            self.handler.send_header(name.replace("_", "-"), value)
        if "content_length" not in names and "transfer_encoding" not in names:
            self.handler.send_header("Content-Length", str(len(body)))
        self.handler.end_headers()
        if self.method != "HEAD":
            self.handler.wfile.write(body)

    def raw(self, data: bytes) -> None:
        """Bytes as they are; the connection ends after this call."""
        self.answered = True
        self.handler.close_connection = True
        self.handler.wfile.write(data)
        self.handler.wfile.flush()

    def read(self, size: int) -> bytes:
        """Some of the request's body, when the double does not read it by itself."""
        return self.handler.rfile.read(size)

    def drop(self) -> None:
        """End the connection without a word more."""
        self.answered = True
        self.handler.close_connection = True


Script = Callable[[Call], None]


class Double:
    """The server. `address`: host:port. `reads_bodies`: False leaves them to the script."""

    def __init__(
        self,
        script: Script,
        *,
        host: str = "127.0.0.1",
        tls: Certificates | None = None,
        client_ca: Path | None = None,
        reads_bodies: bool = True,
    ) -> None:
        self.seen: list[Call] = []
        self.connections = 0
        self.errors: list[BaseException] = []
        self.stopping = threading.Event()
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 10
            disable_nagle_algorithm = True

            def setup(self) -> None:
                double.connections += 1
                super().setup()

            def handle_one_request(self) -> None:
                try:
                    first = self.request.recv(1, socket.MSG_PEEK) if tls is None else b""
                    if first == b"\x16":  # a TLS ClientHello at a plain server
                        self.close_connection = True
                        return
                    super().handle_one_request()
                except OSError:
                    self.close_connection = True  # the client went away, as it may

            def _any(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                call = Call(self, self.command, self.path, dict(self.headers), len(double.seen))
                double.seen.append(call)
                if reads_bodies:
                    call.body = self.rfile.read(length)
                script(call)
                assert call.answered, f"the script did not answer {call.method} {call.path}"

            do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = do_CONNECT = _any

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, request: object, _address: object) -> None:
                import sys

                error = sys.exception()
                if not isinstance(error, OSError):
                    double.errors.append(error)

            def get_request(self) -> tuple[socket.socket, object]:
                sock, address = super().get_request()
                if context is not None:
                    sock.settimeout(5)
                    sock = context.wrap_socket(
                        sock, server_side=True, do_handshake_on_connect=False
                    )
                return sock, address

        context = tls.server(client_ca) if tls else None
        self._server = Server((host, 0), Handler)
        self.host = host
        self.port = self._server.server_address[1]
        self.address = f"{host}:{self.port}"
        self.url = f"{'https' if tls else 'http'}://{self.address}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def asked(self) -> list[str]:
        """Method and path of every request but the first probe of the scheme."""
        return [f"{call.method} {call.path}" for call in self.seen if call.path != "/v2/"]

    def __enter__(self) -> Double:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        assert not self.errors, self.errors


@dataclass(frozen=True)
class Certificates:
    """An authority, a server's pair for loopback, and a client's pair, in files."""

    ca: Path
    server_cert: Path
    server_key: Path
    client_cert: Path
    client_key: Path

    def server(self, client_ca: Path | None = None) -> ssl.SSLContext:
        """A server's context; with `client_ca` clients need a certificate of that authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server_cert, self.server_key)
        if client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(client_ca)
        return context


def make_certificates(directory: Path) -> Certificates:
    """An authority of its own and what it signs, by openssl(1), valid for loopback for a day."""
    directory.mkdir(parents=True, exist_ok=True)
    made = Certificates(*(directory / n for n in ("ca.crt", "s.crt", "s.key", "c.crt", "c.key")))
    _openssl(
        directory,
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=test-ca"
        f" -keyout ca.key -out {made.ca.name} -addext keyUsage=critical,keyCertSign",
    )
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:127.0.0.2,IP:127.0.0.3"
    for who in ("s", "c"):
        _openssl(
            directory,
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
            f" -subj /CN=test-{who} -keyout {who}.key -out {who}.csr -addext {names}",
        )
        _openssl(
            directory,
            f"x509 -req -days 1 -in {who}.csr -CA ca.crt -CAkey ca.key -CAcreateserial"
            f" -copy_extensions copy -out {who}.crt",
        )
    return made


def _openssl(directory: Path, command: str) -> None:
    subprocess.run(["openssl", *command.split()], cwd=directory, check=True, capture_output=True)


@contextlib.contextmanager
def doubles(*all_of_them: Double) -> Iterator[tuple[Double, ...]]:
    """Several at once."""
    with contextlib.ExitStack() as stack:
        yield tuple(stack.enter_context(double) for double in all_of_them)
