"""Debian's `docker-registry` on loopback, for tests: plain, password, TLS, client certificates,
tokens. Each in a temporary directory, ended by its pid.

The token server is ours, in this process: it signs what `docker-registry` verifies.
"""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from registry_double import Certificates

USER = "vessel"
PASSWORD = "clay and fire"


def need(program: str, package: str) -> None:
    """Skip unless a program is there; says which package has it."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is missing: install the package {package}")


@dataclass
class Rig:
    """A running registry. `address`: host:port. `storage`: its directory."""

    address: str
    storage: Path
    process: subprocess.Popen[bytes]
    log: Path

    def stop(self) -> None:
        """End it, and wait."""
        self.process.terminate()
        self.process.wait(10)

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start(
    directory: Path,
    *,
    password: bool = False,
    tls: Certificates | None = None,
    client_certificates: bool = False,
    tokens: TokenServer | None = None,
) -> Rig:
    """Start a registry with everything it writes in `directory`; it is ready when this returns."""
    need("docker-registry", "docker-registry")
    directory.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    http: dict[str, object] = {"addr": f"127.0.0.1:{port}"}
    if tls:
        http["tls"] = {"certificate": str(tls.server_cert), "key": str(tls.server_key)}
        if client_certificates:
            http["tls"]["clientcas"] = [str(tls.ca)]  # type: ignore[index]
    config: dict[str, object] = {
        "version": 0.1,
        "log": {"level": "warn"},
        "storage": {
            "filesystem": {"rootdirectory": str(directory / "data")},
            "delete": {"enabled": True},
        },
        "http": http,
    }
    if password:
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(_htpasswd(directory))}}
    if tokens:
        config["auth"] = {"token": tokens.registry_settings()}
    path = directory / "config.yml"
    path.write_text(json.dumps(config))  # JSON is YAML
    log = directory / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(path)], stdout=output, stderr=subprocess.STDOUT
        )
    rig = Rig(f"127.0.0.1:{port}", directory / "data", process, log)
    _wait_until_it_listens(rig, port)
    return rig


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _wait_until_it_listens(rig: Rig, port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if rig.process.poll() is not None or time.monotonic() > deadline:
                rig.process.kill()
                rig.process.wait()
                raise AssertionError(rig.log.read_text()) from None
            time.sleep(0.02)


def _htpasswd(directory: Path) -> Path:
    need("htpasswd", "apache2-utils")
    path = directory / "htpasswd"
    text = subprocess.run(
        ["htpasswd", "-nbB", "-C", "4", USER, PASSWORD], check=True, capture_output=True
    ).stdout
    path.write_bytes(text)
    return path


class TokenServer:
    """Signs tokens as docker's token authentication has them; grants to USER what is asked for.

    Anonymous clients are granted `pull` only. `asked`: the queries (GET) and forms (POST) seen.
    """

    IDENTITY = "an-identity-token"

    def __init__(self, directory: Path, *, expires_in: int | None = 300) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._key, self.certificate = directory / "token.key", directory / "token.crt"
        command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=t"
        subprocess.run(
            ["openssl", *command.split(), "-keyout", self._key, "-out", self.certificate],
            check=True,
            capture_output=True,
        )
        self.expires_in = expires_in
        self.asked: list[tuple[str, dict[str, list[str]], str]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.realm = f"http://127.0.0.1:{self._server.server_address[1]}/token"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def registry_settings(self) -> dict[str, str]:
        """What goes into the registry's configuration."""
        return {
            "realm": self.realm,
            "service": "rig",
            "issuer": "rig-issuer",
            "rootcertbundle": str(self.certificate),
        }

    def __enter__(self) -> TokenServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> Callable[..., BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer(parse_qs(urlsplit(self.path).query))

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                self._answer(parse_qs(self.rfile.read(length).decode()))

            def _answer(self, query: dict[str, list[str]]) -> None:
                authorization = self.headers.get("Authorization", "")
                server.asked.append((self.command, query, authorization))
                expected = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
                known = authorization == f"Basic {expected}" or query.get("refresh_token") == [
                    TokenServer.IDENTITY
                ]
                status, body = 401, b'{"details":"incorrect username or password"}'
                if known or not (authorization or "refresh_token" in query):
                    scopes = " ".join(query.get("scope", [])).split()
                    status, body = 200, server._answer(scopes, known, self.command == "POST")
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def _answer(self, scopes: list[str], known: bool, oauth: bool) -> bytes:
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            granted = actions.split(",") if known else ["pull"] if "pull" in actions else []
            access.append({"type": kind, "name": name, "actions": granted})
        answer: dict[str, object] = {"access_token" if oauth else "token": self._signed(access)}
        if self.expires_in is not None:
            answer["expires_in"] = self.expires_in
        return json.dumps(answer).encode()

    def _signed(self, access: list[dict[str, object]]) -> str:
        now = int(time.time())
        der = subprocess.run(
            ["openssl", "x509", "-in", self.certificate, "-outform", "DER"],
            check=True,
            capture_output=True,
        ).stdout
        header = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(der).decode()]}
        claims = {
            "iss": "rig-issuer",
            "sub": USER,
            "aud": "rig",
            "exp": now + 300,
            "nbf": now - 10,
            "iat": now,
            "jti": str(len(self.asked)),
            "access": access,
        }
        text = (
            f"{_base64url(json.dumps(header).encode())}.{_base64url(json.dumps(claims).encode())}"
        )
        signature = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", self._key],
            input=text.encode(),
            check=True,
            capture_output=True,
        ).stdout
        return f"{text}.{_base64url(_raw_signature(signature))}"


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _raw_signature(der: bytes) -> bytes:
    """r and s, 32 bytes each, out of the DER sequence that openssl writes."""
    numbers, position = [], 2
    for _ in range(2):
        length = der[position + 1]
        numbers.append(int.from_bytes(der[position + 2 : position + 2 + length]))
        position += 2 + length
    return b"".join(number.to_bytes(32) for number in numbers)
