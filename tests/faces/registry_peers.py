"""Registries in processes of their own, and a client that hides nothing of HTTP."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from onggi.specs.image import digest_of

_CONFIG = """\
version: 0.1
log: {level: error}
storage:
  filesystem: {rootdirectory: %s}
  delete: {enabled: true}
http: {addr: "127.0.0.1:%d"}
"""


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["errors"][0]["code"])


class Peer:
    """One registry, and requests to it; each on a connection of its own."""

    def __init__(self, port: int, process: subprocess.Popen[bytes], root: Path) -> None:
        self.port = port
        self.process = process
        self.root = root
        self.tls: ssl.SSLContext | None = None

    @property
    def images_root(self) -> str:
        return str(self.root / "data" / "image")

    def connect(self) -> http.client.HTTPConnection:
        if self.tls is not None:
            return http.client.HTTPSConnection("127.0.0.1", self.port, context=self.tls, timeout=20)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Reply:
        connection = self.connect()
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                # Refused before all of it was sent: the answer says why.
                connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, found, answer.read())
        finally:
            connection.close()

    def raw(self, data: bytes = b"") -> socket.socket:
        """A plain connection on which `data` has been sent."""
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        sock.sendall(data)
        return sock

    def begin(self, repository: str) -> str:
        """The path of a new upload."""
        reply = self.ask("POST", f"/v2/{repository}/blobs/uploads/")
        assert reply.status == 202, reply
        return relative(reply.headers["location"])

    def push_blob(self, repository: str, data: bytes) -> str:
        digest = digest_of(data)
        where = with_digest(self.begin(repository), digest)
        reply = self.ask("PUT", where, data, {"Content-Type": "application/octet-stream"})
        assert reply.status == 201, reply
        return digest

    def push_manifest(self, repository: str, reference: str, data: bytes, media_type: str) -> Reply:
        return self.ask(
            "PUT", f"/v2/{repository}/manifests/{reference}", data, {"Content-Type": media_type}
        )

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


def relative(location: str) -> str:
    return re.sub(r"^https?://[^/]+", "", location)


def with_digest(location: str, digest: str) -> str:
    return f"{location}{'&' if '?' in location else '?'}digest={digest}"


def received(sock: socket.socket) -> bytes:
    """Everything until the other side ends."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while part := sock.recv(65536):
            data += part
    return data


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def onggi_registry(
    root: Path, *options: str, stdin: bytes | None = None, listen: str = "127.0.0.1:0"
) -> Iterator[Peer]:
    """`onggi registry serve` over the root directory `root`."""
    argv = [sys.executable, "-P", "-m", "onggi.faces.registry", f"--root={root}"]
    log = root.parent / f"{root.name}-{time.monotonic_ns()}.log"
    with open(log, "wb") as stderr:
        process = subprocess.Popen(
            [*argv, f"--listen={listen}", *options],
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
    assert process.stdout is not None
    if process.stdin is not None:
        process.stdin.write(stdin or b"")
        process.stdin.close()
    said = process.stdout.readline()
    try:
        match = re.fullmatch(rb"listening on .*:(\d+)\n", said)
        assert match is not None, (said, log.read_text())
        peer = Peer(int(match[1]), process, root)
        yield peer
        assert "internal error" not in log.read_text(), log.read_text()
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(20)
        process.stdout.close()


@contextlib.contextmanager
def docker_registry(root: Path) -> Iterator[Peer]:
    """Debian's docker-registry (distribution 2.8), which also deletes."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("needs Debian's package docker-registry")
    root.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = root / "config.yml"
    config.write_text(_CONFIG % (root / "data", port))
    process = subprocess.Popen(
        [program, "serve", str(config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"},
    )
    try:
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        yield Peer(port, process, root)
    finally:
        process.kill()
        process.wait(20)
