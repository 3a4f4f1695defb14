"""The same templates carried out by the real `docker` command, on what a double engine says."""

from __future__ import annotations

import json
import shutil
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from template_cases import CONTAINER, DOCUMENTED


class Handler(BaseHTTPRequestHandler):
    """Answers a ping, and every question about a container with CONTAINER."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = b"OK" if self.path.endswith("_ping") else json.dumps(CONTAINER).encode()
        self.send_response(200)
        self.send_header("Api-Version", "1.47")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""

    def address_string(self) -> str:
        return "docker"


class Double(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 16


@pytest.fixture
def docker(tmp_path: Path) -> Iterator[list[str]]:
    """The beginning of a command line of docker's."""
    program = shutil.which("docker")
    if program is None:
        pytest.skip("needs the docker command line")
    path = tmp_path / "docker.sock"
    with Double(str(path), Handler) as double:
        thread = threading.Thread(target=double.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield [program, "-H", f"unix://{path}", "container", "inspect"]
        double.shutdown()
        thread.join()


def test_docker_prints_the_same(docker: list[str]) -> None:
    def ask(form: str) -> str:
        done = subprocess.run(
            [*docker, "--format", form, "x"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout.removesuffix("\n") if done.returncode == 0 else done.stderr

    with ThreadPoolExecutor(2) as pool:
        answers = dict(zip(DOCUMENTED, pool.map(ask, DOCUMENTED), strict=True))
    assert answers == DOCUMENTED
