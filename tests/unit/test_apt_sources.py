"""What a mirror says of a suite."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest

from onggi.errors import NotFound, Unavailable
from onggi.image.apt_sources import _release_time_s


class _Mirror(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        texts = {"dated": b"Date: Thu, 01 Jan 1970 00:01:00 UTC\n", "empty": b"Suite: empty\n"}
        text = texts.get(self.path.split("/")[-2])
        self.send_response(200 if text is not None else 404)
        self.end_headers()
        self.wfile.write(text or b"")

    def log_message(self, *_: object) -> None:
        """Nothing to the terminal."""


@pytest.fixture
def mirror() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Mirror) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/debian"
        server.shutdown()
        thread.join()


def test_the_date_of_a_suite(mirror: str) -> None:
    assert _release_time_s(mirror, "dated") == 60


def test_a_suite_that_the_mirror_does_not_have(mirror: str) -> None:
    with pytest.raises(NotFound, match="has no suite 'bokworm' — bookworm, trixie"):
        _release_time_s(mirror, "bokworm")


def test_a_mirror_that_does_not_tell(mirror: str) -> None:
    with pytest.raises(Unavailable, match="has no date — give the time"):
        _release_time_s(mirror, "empty")
    with pytest.raises(Unavailable, match="cannot ask file:///srv/debian"):
        _release_time_s("file:///srv/debian", "bookworm")
