"""A registry that misbehaves: the client gives up in time, with a word, and gives nothing away."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from onggi.errors import (
    DataLoss,
    EngineError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
    Unsupported,
)
from onggi.image.registry.client import Credentials
from onggi.image.settings import ImageSettings
from onggi.specs.image import (
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    digest_of,
)
from registry_double import (
    FAST,
    MANIFEST,
    Call,
    Certificates,
    Double,
    client_of,
    described,
    doubles,
    make_certificates,
)

DIGEST = digest_of(MANIFEST)
BLOB = bytes(range(256)) * 40
ME = Credentials("me", "hush-hush")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def trusting(certificates: Certificates, tmp_path: Path) -> ImageSettings:
    """Settings that trust the test's authority for the loopback addresses in use."""
    return ImageSettings(certificate_directories=(str(tmp_path / "certs.d"),))


def trust(settings: ImageSettings, double: Double, certificates: Certificates) -> None:
    place = Path(settings.certificate_directories[0]) / double.address
    place.mkdir(parents=True, exist_ok=True)
    (place / "ca.crt").write_bytes(certificates.ca.read_bytes())


def manifests(call: Call) -> None:
    """A registry without faults that has one manifest and one blob."""
    if call.path == "/v2/":
        call.answer(200)
    elif "/manifests/" in call.path:
        call.answer(200, MANIFEST, Content_Type=OCI_MANIFEST, Docker_Content_Digest=DIGEST)
    else:
        call.answer(200, BLOB if call.method == "GET" else BLOB * 100)


def fails(script: object, match: str | None, error: type[EngineError] = Unavailable) -> Double:
    """Pulling a manifest from such a registry fails so."""
    assert callable(script)
    with Double(script) as double:
        client = client_of(double)
        with pytest.raises(error, match=match) as caught:
            client.repository("a").manifest("latest")
        client.close()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600
    return double


def probe_or(call: Call) -> bool:
    """Whether it was the question for the scheme, answered."""
    if call.path == "/v2/":
        call.answer(200)
    return call.path == "/v2/"


# --- time -------------------------------------------------------------------------------------


def test_slow_headers_are_given_up() -> None:
    def script(call: Call) -> None:
        if probe_or(call):
            return
        call.raw(b"HTTP/1.1 200 OK\r\n")
        while not call.handler.server.stopping.wait(0.02):  # type: ignore[attr-defined]
            call.raw(b"a")

    began = time.monotonic()
    _with_stopping(script, "too slowly")
    assert time.monotonic() - began < 4


def test_slow_bodies_are_given_up_though_every_byte_comes_in_time() -> None:
    def script(call: Call) -> None:
        if probe_or(call):
            return
        call.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
        while not call.handler.server.stopping.wait(0.02):  # type: ignore[attr-defined]
            call.raw(b" ")

    began = time.monotonic()
    _with_stopping(script, "too slowly|not whole within")
    assert time.monotonic() - began < 4


def test_a_slow_blob_is_given_up_but_a_slow_reader_is_not() -> None:
    def script(call: Call) -> None:
        if probe_or(call):
            return
        call.raw(f"HTTP/1.1 200 OK\r\nContent-Length: {len(BLOB)}\r\n\r\n".encode() + BLOB[:3000])
        if call.path.endswith(digest_of(BLOB)):
            call.handler.server.stopping.wait(1)  # type: ignore[attr-defined]

    with Double(script) as double:
        double._server.stopping = double.stopping  # type: ignore[attr-defined]
        with client_of(double).repository("a").open_blob(described(BLOB)) as stream:
            assert stream.read(1000) == BLOB[:1000]
            time.sleep(FAST.window_s * 1.5)  # the reader's own time does not count
            assert stream.read(2000) == BLOB[1000:3000]
            with pytest.raises(Unavailable, match="too slowly"):
                stream.read(1)


def test_silence_is_given_up() -> None:
    def script(call: Call) -> None:
        if not probe_or(call):
            call.raw(b"")
            call.handler.server.stopping.wait(3)  # type: ignore[attr-defined]

    _with_stopping(script, "too slowly")


def _with_stopping(script: object, match: str) -> None:
    assert callable(script)
    with Double(script) as double:
        double._server.stopping = double.stopping  # type: ignore[attr-defined]
        with pytest.raises(Unavailable, match=match):
            client_of(double).repository("a").manifest("latest")
        assert len(double.asked) == FAST.attempts or "body" in match or "whole" in match


# --- size -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500,
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * (1 << 20),
        b"HTTP/1.1 200 OK\r\n" + (b"X: " + b"y" * 60_000 + b"\r\n") * 20,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
        b"HTTP/1.1 " + b"2" * (1 << 20),
    ],
    ids=["many", "one long", "long ones", "continue for ever", "status"],
)
def test_headers_without_end_are_refused(head: bytes) -> None:
    def script(call: Call) -> None:
        if not probe_or(call):
            call.raw(head)

    fails(script, "got more than 100 headers|header line|without end|line|slowly")


@pytest.mark.parametrize("length", ["-1", "1e9", "+5", "5_0", "9" * 400, "5, 6", "0x10", "٣"])
def test_absurd_lengths_are_refused(length: str) -> None:
    def script(call: Call) -> None:
        if not probe_or(call):
            call.raw(b"HTTP/1.1 200 OK\r\nContent-Length: " + length.encode() + b"\r\n\r\n{}")

    fails(script, "absurd Content-Length|[cC]ontent-[lL]ength")


@pytest.mark.parametrize(
    "body",
    [
        b"zzz\r\nabc\r\n",
        b"-5\r\nabc\r\n",
        b"5\r\nab",
        b"f" * 100_000,
        b"0\r\n" + b"Trailer: x\r\n" * 2000,
        b"ffffffffffffffffffff\r\n" + b"x" * (5 << 20),
    ],
    ids=["letters", "negative", "cut", "endless line", "trailers", "huge"],
)
def test_chunked_garbage_is_refused(body: bytes) -> None:
    def script(call: Call) -> None:
        if not probe_or(call):
            call.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)

    fails(script, None, (Unavailable, DataLoss))  # type: ignore[arg-type]


def test_a_manifest_of_100_mb_is_not_read() -> None:
    sent = []

    def script(call: Call) -> None:
        if not probe_or(call):
            call.answer(200, Content_Length=str(100 << 20), Content_Type=OCI_MANIFEST)
            sent.append(call)

    double = fails(script, "104857600 bytes, more than 4194304", DataLoss)
    assert len(double.asked) == 1


def test_a_manifest_without_end_is_cut_off() -> None:
    def script(call: Call) -> None:
        if probe_or(call):
            return
        call.raw(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        piece = b" " * 65536
        for _ in range(1600):
            call.raw(piece)

    fails(script, "more than 4194304 bytes", DataLoss)


def test_a_refusal_without_end_is_cut_off_and_made_fit_to_print() -> None:
    def script(call: Call) -> None:
        if probe_or(call):
            return
        message = "\x1b]0;owned\x07\n" + "no " * 3000
        call.answer(403, json.dumps({"errors": [{"code": "DENIED", "message": message}]}).encode())

    fails(script, "says: �]0;owned", PermissionDenied)

    def endless(call: Call) -> None:
        if not probe_or(call):
            call.raw(b"HTTP/1.1 404 No\r\n\r\n" + b"x" * (1 << 20))

    fails(endless, "not there", NotFound)


# --- content ----------------------------------------------------------------------------------


def test_a_good_manifest_is_taken() -> None:
    with Double(manifests) as double:
        descriptor, data = client_of(double).repository("a").manifest("latest")
    assert (descriptor.digest, descriptor.size, data) == (DIGEST, len(MANIFEST), MANIFEST)
    assert "list.v2+json" in double.seen[-1].headers["Accept"]


@pytest.mark.parametrize(
    ("body", "headers", "match"),
    [
        (MANIFEST + b" ", {}, "digest"),
        (MANIFEST[:-5], {}, "digest"),
        (b"", {}, "digest"),
    ],
)
def test_a_wrong_document_under_a_digest_is_refused(
    body: bytes, headers: dict[str, str], match: str
) -> None:
    def script(call: Call) -> None:
        if not probe_or(call):
            call.answer(200, body, Content_Type=OCI_MANIFEST)

    with Double(script) as double, pytest.raises(DataLoss, match=match):
        client_of(double).repository("a").manifest(DIGEST)


@pytest.mark.parametrize("stated", ["sha256:" + "0" * 64, "sha512:" + "0" * 128, "sha256:../x"])
def test_a_document_that_is_not_what_the_registry_says_is_refused(stated: str) -> None:
    def script(call: Call) -> None:
        if not probe_or(call):
            call.answer(200, MANIFEST, Content_Type=OCI_MANIFEST, Docker_Content_Digest=stated)

    fails(script, "as the registry says", DataLoss)


def test_a_document_of_two_shapes_is_refused() -> None:
    """CVE-2021-41190."""
    both = json.dumps({**json.loads(MANIFEST), "mediaType": "", "manifests": []}).encode()

    def script(call: Call) -> None:
        if not probe_or(call):
            call.answer(200, both, Content_Type=OCI_INDEX)

    fails(script, "both an index and a manifest", InvalidArgument)


@pytest.mark.parametrize(
    ("announced", "match"),
    [(OCI_INDEX, "media type"), (DOCKER_MANIFEST, "announced as"), ("text/html", "media type")],
)
def test_a_document_of_another_type_than_announced_is_refused(announced: str, match: str) -> None:
    def script(call: Call) -> None:
        if not probe_or(call):
            call.answer(200, MANIFEST, Content_Type=announced)

    fails(script, match, InvalidArgument)


def test_a_vague_type_leaves_it_to_the_document() -> None:
    def script(call: Call) -> None:
        if not probe_or(call):
            call.answer(200, MANIFEST, Content_Type="text/plain; charset=utf-8")

    with Double(script) as double:
        descriptor, _data = client_of(double).repository("a").manifest("latest")
    assert descriptor.media_type == OCI_MANIFEST


def test_schema_1_is_named() -> None:
    def script(call: Call) -> None:
        if not probe_or(call):
            kind = "application/vnd.docker.distribution.manifest.v1+prettyjws"
            call.answer(200, b"{}", Content_Type=kind)

    fails(script, "schema 1", Unsupported)


def test_an_incomplete_head_becomes_a_get() -> None:
    def script(call: Call) -> None:
        if call.method == "HEAD":
            call.answer(200, Content_Length=str(len(MANIFEST)), Content_Type=OCI_MANIFEST)
        else:
            manifests(call)

    with Double(script) as double:
        found = client_of(double).repository("a").manifest_descriptor("latest")
    assert found is not None and found.digest == DIGEST
    assert double.asked == ["HEAD /v2/a/manifests/latest", "GET /v2/a/manifests/latest"]


# --- blobs ------------------------------------------------------------------------------------


def blob_script(answer: object) -> object:
    def script(call: Call) -> None:
        if not probe_or(call):
            assert callable(answer)
            answer(call)

    return script


def test_a_blob_from_the_middle() -> None:
    def script(call: Call) -> None:
        if not probe_or(call):
            assert call.headers["Range"] == "bytes=100-"
            total = len(BLOB)
            call.answer(206, BLOB[100:], Content_Range=f"bytes 100-{total - 1}/{total}")

    with Double(script) as double:
        with client_of(double).repository("a").open_blob(described(BLOB), 100) as stream:
            assert stream.offset == 100
            assert b"".join(iter(lambda: stream.read(999), b"")) == BLOB[100:]
        with client_of(double).repository("a").open_blob(described(BLOB), len(BLOB)) as stream:
            assert (stream.offset, stream.read(5)) == (len(BLOB), b"")


def test_a_registry_without_ranges_starts_again() -> None:
    with Double(manifests) as double:
        stream = client_of(double).repository("a").open_blob(described(BLOB), 100)
        with stream:
            assert stream.offset == 0
            assert b"".join(iter(lambda: stream.read(999), b"")) == BLOB


@pytest.mark.parametrize(
    "content_range",
    ["bytes 99-10239/10240", "bytes 100-10239/99999", "bytes 100-200/10240", "garbage", ""],
)
def test_another_range_than_the_one_asked_for_is_refused(content_range: str) -> None:
    def script(call: Call) -> None:
        if not probe_or(call):
            call.answer(206, BLOB[100:], Content_Range=content_range)

    with Double(script) as double, pytest.raises(DataLoss, match="content range"):
        client_of(double).repository("a").open_blob(described(BLOB), 100)


def test_a_blob_of_another_size_is_refused_at_once() -> None:
    for body in (BLOB + b"x", BLOB[:-1]):
        with (
            Double(lambda call, body=body: probe_or(call) or call.answer(200, body)) as double,
            pytest.raises(DataLoss, match="are due"),
        ):
            client_of(double).repository("a").open_blob(described(BLOB))


def test_an_endless_blob_ends_at_its_size() -> None:
    def script(call: Call) -> None:
        if not probe_or(call):
            call.raw(b"HTTP/1.1 200 OK\r\n\r\n" + BLOB + b"more")

    with Double(script) as double:
        stream = client_of(double).repository("a").open_blob(described(BLOB))
        with stream:
            assert stream.read(1 << 20) == BLOB
            with pytest.raises(DataLoss, match="more than the 10240 bytes"):
                stream.read(1)


@pytest.mark.parametrize("framing", [f"Content-Length: {len(BLOB)}\r\n", ""])
def test_a_short_blob_is_a_broken_stream(framing: str) -> None:
    def script(call: Call) -> None:
        if not probe_or(call):
            call.raw(f"HTTP/1.1 200 OK\r\n{framing}\r\n".encode() + BLOB[:500])

    with Double(script) as double:
        stream = client_of(double).repository("a").open_blob(described(BLOB))
        with stream, pytest.raises(Unavailable):
            while stream.read(400):
                pass


# --- redirects --------------------------------------------------------------------------------


def test_a_redirect_to_another_host_gets_the_blob_without_credentials() -> None:
    with Double(lambda call: call.answer(200, BLOB), host="127.0.0.2") as storage:

        def script(call: Call) -> None:
            if probe_or(call):
                return
            if "Authorization" not in call.headers:
                call.answer(401, WWW_Authenticate='Basic realm="x"')
            else:
                call.answer(307, Location=f"{storage.url}/bucket?signature=1")

        with Double(script) as double:
            client = client_of(double, keychain=lambda _name: ME)
            with client.repository("a").open_blob(described(BLOB)) as stream:
                assert stream.read(len(BLOB)) == BLOB
    assert [call.path for call in storage.seen] == ["/bucket?signature=1"]
    assert "Authorization" not in storage.seen[0].headers
    assert "Authorization" in double.seen[-1].headers


def test_a_host_that_was_redirected_to_is_not_logged_in_to() -> None:
    asks = Double(lambda call: call.answer(401, WWW_Authenticate="Basic"), host="127.0.0.2")
    with asks as storage:

        def script(call: Call) -> None:
            if not probe_or(call):
                call.answer(302, Location=f"{storage.url}/x")

        with Double(script) as double, pytest.raises(PermissionDenied):
            client_of(double, keychain=lambda _: ME).repository("a").open_blob(described(BLOB))
    assert [call.headers.get("Authorization") for call in storage.seen] == [None]


def test_redirects_end() -> None:
    def script(call: Call) -> None:
        if not probe_or(call):
            call.answer(302, Location=call.path + "x")

    double = fails(script, "more than 5 redirects")
    assert len(double.asked) == 6


def test_a_redirect_from_https_down_to_http_is_refused(
    certificates: Certificates, trusting: ImageSettings
) -> None:
    with Double(lambda call: call.answer(200, BLOB)) as plain:

        def script(call: Call) -> None:
            call.answer(200) if call.path == "/v2/" else call.answer(302, Location=plain.url + "/")

        with Double(script, tls=certificates) as double:
            trust(trusting, double, certificates)
            with pytest.raises(PermissionDenied, match="down to plain http"):
                client_of(double, trusting).repository("a").open_blob(described(BLOB))
    assert plain.seen == []


def test_a_redirect_to_plain_http_elsewhere_is_refused() -> None:
    def script(call: Call) -> None:
        if not probe_or(call):
            call.answer(302, Location="http://192.0.2.1/latest/meta-data")

    fails(script, "plain http is not allowed", PermissionDenied)


def test_a_redirect_into_nothing_is_refused() -> None:
    def script(call: Call) -> None:
        if not probe_or(call):
            call.answer(302)

    # Location is missing: the same place again, and again
    fails(script, "redirect|not a URL")


# --- TLS --------------------------------------------------------------------------------------


def test_an_unknown_certificate_is_refused_and_never_worked_around(
    certificates: Certificates,
) -> None:
    with (
        Double(manifests, tls=certificates) as double,
        pytest.raises(FailedPrecondition, match="not trusted") as caught,
    ):
        client_of(double).check()
    assert "certs.d" in str(caught.value)
    assert double.seen == []


def test_a_known_authority_is_enough(certificates: Certificates, trusting: ImageSettings) -> None:
    with Double(manifests, tls=certificates) as double:
        trust(trusting, double, certificates)
        client = client_of(double, trusting)
        client.check()
        assert client.peer.base == double.url


def test_a_listed_host_needs_no_valid_certificate(certificates: Certificates) -> None:
    with Double(manifests, tls=certificates) as double:
        settings = ImageSettings(insecure_registries=(double.address,), certificate_directories=())
        client = client_of(double, settings)
        client.check()
        assert client.peer.base.startswith("https://")


def test_a_client_certificate_is_shown(certificates: Certificates, trusting: ImageSettings) -> None:
    with Double(manifests, tls=certificates, client_ca=certificates.ca) as double:
        trust(trusting, double, certificates)
        with pytest.raises(EngineError):
            client_of(double, trusting).check()
        assert double.seen == []
        place = Path(trusting.certificate_directories[0]) / double.address
        (place / "client.cert").write_bytes(certificates.client_cert.read_bytes())
        with pytest.raises(FailedPrecondition, match=r"client\.key is missing"):
            client_of(double, trusting).check()
        (place / "client.key").write_bytes(certificates.client_key.read_bytes())
        client_of(double, trusting).check()


def test_a_broken_certificate_is_named(certificates: Certificates, trusting: ImageSettings) -> None:
    with Double(manifests, tls=certificates) as double:
        trust(trusting, double, certificates)
        broken = Path(trusting.certificate_directories[0]) / double.address / "ca.crt"
        broken.write_text("nothing")
        with pytest.raises(FailedPrecondition, match=r"ca\.crt"):
            client_of(double, trusting).check()


# --- patience ---------------------------------------------------------------------------------


def test_a_busy_registry_is_asked_again_after_the_time_it_names() -> None:
    def script(call: Call) -> None:
        if call.number < 3 and not probe_or(call):
            call.answer(429, b'{"errors":[{"code":"TOOMANYREQUESTS"}]}', Retry_After="0")
        elif not call.answered:
            manifests(call)

    with Double(script) as double:
        client_of(double).repository("a").manifest("latest")
    assert len(double.asked) == 3


def test_retry_after_is_waited_for_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    def script(call: Call) -> None:
        if not probe_or(call):
            call.answer(429, Retry_After="7" if call.number == 1 else "86400")

    with Double(script) as double:
        client = client_of(double, patience=type(FAST)(attempts=3))
        waits: list[float] = []
        monkeypatch.setattr(client.http, "pause", waits.append)
        with pytest.raises(Unavailable, match="too many requests"):
            client.repository("a").manifest("latest")
    assert waits == [7, 60]


def test_a_closed_client_does_not_wait() -> None:
    with Double(lambda call: probe_or(call) or call.answer(503, Retry_After="60")) as double:
        client = client_of(double, patience=type(FAST)())
        timer = threading.Timer(0.1, client.close)
        timer.start()
        with pytest.raises(Unavailable, match="closed"):
            client.repository("a").manifest("latest")
        timer.join()


def test_a_lost_connection_is_tried_again() -> None:
    def script(call: Call) -> None:
        if call.number == 1:
            call.drop()
        else:
            manifests(call)

    with Double(script) as double:
        client_of(double).repository("a").manifest("latest")
    assert len(double.asked) == 2


def test_connections_are_kept() -> None:
    with Double(manifests) as double:
        client = client_of(double)
        for _ in range(5):
            client.repository("a").manifest("latest")
            client.repository("a").manifest_descriptor("latest")
            client.repository("a").blob_size_bytes(DIGEST)
        # the ClientHello, the probe, and one for all that follows
        assert double.connections <= 3
        client.close()


def test_who_is_not_there() -> None:
    with Double(manifests) as double:
        address = double.address
    with pytest.raises(Unavailable, match="connection refused"):
        client_of(address).check()
    with pytest.raises(Unavailable, match="name of the host is not known"):
        client_of("no-such-host.invalid").check()


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (401, "UNAUTHORIZED", PermissionDenied),
        (404, "DENIED", PermissionDenied),
        (404, "NAME_UNKNOWN", NotFound),
        (404, "MANIFEST_UNKNOWN", NotFound),
        (400, "NAME_INVALID", InvalidArgument),
        (429, "TOOMANYREQUESTS", Unavailable),
        (500, "UNKNOWN", Unavailable),
        (405, "UNSUPPORTED", Unsupported),
        (418, "TEAPOT", Unavailable),
    ],
)
def test_words_become_errors(status: int, code: str, error: type[EngineError]) -> None:
    def script(call: Call) -> None:
        if not probe_or(call):
            body = {"errors": [{"code": code, "message": "Sorry.", "detail": {"x": [1]}}]}
            call.answer(status, json.dumps(body).encode())

    fails(script, "says: sorry", error)


def test_a_denial_says_how_to_log_in() -> None:
    with (
        Double(lambda call: call.answer(401, WWW_Authenticate="Basic")) as double,
        pytest.raises(PermissionDenied) as caught,
    ):
        client_of(double).check()
    assert caught.value.hint == f"onggi login {double.address}"


def test_what_is_no_registry() -> None:
    with (
        Double(lambda call: call.answer(404, b"<html>")) as double,
        pytest.raises(Unsupported, match="not a registry"),
    ):
        client_of(double).check()


# --- pages ------------------------------------------------------------------------------------


def test_pages_are_followed() -> None:
    def script(call: Call) -> None:
        if probe_or(call):
            return
        if "last" in call.path:
            call.answer(200, b'{"name":"a","tags":["c"]}')
        else:
            link = '</v2/a/tags/list?last=b&n=2>; rel="next"'
            call.answer(200, b'{"name":"a","tags":["a","b"]}', Link=link)

    with Double(script) as double:
        assert list(client_of(double).repository("a").tags()) == ["a", "b", "c"]


def test_pages_that_go_in_a_circle_end() -> None:
    def script(call: Call) -> None:
        if not probe_or(call):
            link = '</v2/a/tags/list?last=b>; rel="next"'
            call.answer(200, b'{"tags":["a"]}', Link=link)

    with Double(script) as double, pytest.raises(Unavailable, match="circle"):
        list(client_of(double).repository("a").tags())
    assert len(double.asked) == 2


def test_pages_without_end_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onggi.image.registry.pages.MAX_PAGES", 20)

    def script(call: Call) -> None:
        if not probe_or(call):
            link = f'</v2/_catalog?last={call.number}>; rel="next"'
            call.answer(200, b'{"repositories":["a"]}', Link=link)

    with Double(script) as double, pytest.raises(Unavailable, match="more than 20 pages"):
        list(client_of(double).catalog())
    assert len(double.asked) == 20


def test_pages_on_another_host_are_not_fetched() -> None:
    with doubles(Double(manifests, host="127.0.0.2"), Double(manifests)) as (other, _):

        def script(call: Call) -> None:
            if not probe_or(call):
                call.answer(200, b'{"tags":["a"]}', Link=f'<{other.url}/x>; rel="next"')

        with Double(script) as double, pytest.raises(Unavailable, match="on another host"):
            list(client_of(double).repository("a").tags())
    assert other.seen == []


# --- proxies ----------------------------------------------------------------------------------


def tunnel_to(target: Double, word: str) -> Callable[[Call], None]:
    """A proxy: whoever says `word` is connected to `target`, whatever is asked for."""

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def script(call: Call) -> None:
        if call.headers.get("proxy-authorization") != word:
            call.answer(407)
            return
        call.raw(b"HTTP/1.1 200 Connection established\r\n\r\n")
        ours = call.handler.connection
        with socket.create_connection((target.host, target.port)) as theirs:
            back = threading.Thread(target=pump, args=(theirs, ours))
            back.start()
            pump(ours, theirs)
            back.join()

    return script


def test_a_proxy_sees_only_where_a_tls_registry_is(
    certificates: Certificates, tmp_path: Path
) -> None:
    """The name is checked against the certificate behind the tunnel, where the login goes too."""
    word = "Basic " + base64.b64encode(b"me:hush").decode()
    behind = "registry.test"
    settings = ImageSettings(certificate_directories=(str(tmp_path),))
    place = tmp_path / behind
    place.mkdir()
    (place / "ca.crt").write_bytes(certificates.ca.read_bytes())
    with (
        Double(manifests, tls=certificates) as registry,
        Double(tunnel_to(registry, word)) as proxy,
    ):
        environment = {"HTTPS_PROXY": f"http://me:hush@{proxy.address}"}
        with pytest.raises(FailedPrecondition, match="not valid for .registry") as caught:
            client_of(behind, settings, environment=environment).check()
        assert "use the name that it is for" in str(caught.value.hint)
        assert registry.seen == []
        listed = ImageSettings(insecure_registries=(behind,), certificate_directories=())
        client = client_of(behind, listed, environment=environment)
        assert client.repository("a").manifest("latest")[0].digest == DIGEST
    assert {call.method for call in proxy.seen} == {"CONNECT"}
    assert {call.path for call in proxy.seen} == {f"{behind}:443"}
    assert all("proxy-authorization" not in map(str.lower, call.headers) for call in registry.seen)
    assert registry.seen[-1].headers["Host"] == behind


def test_a_proxy_is_asked_with_its_password_and_never_shown() -> None:
    settings = ImageSettings(insecure_registries=("registry.test:80",), certificate_directories=())

    def script(call: Call) -> None:
        if call.method == "CONNECT":
            call.answer(403)
        elif call.path.startswith("http://registry.test"):
            call.path = call.path.removeprefix("http://registry.test:80")
            manifests(call)
        else:
            call.answer(500)

    with Double(script) as proxy:
        url = f"http://me:hush@{proxy.address}"
        environment = {"HTTP_PROXY": url, "HTTPS_PROXY": url}
        client = client_of("registry.test:80", settings, environment=environment)
        client.repository("a").manifest("latest")
        with pytest.raises(Unavailable) as caught:
            client_of("other.test", settings, environment=environment).check()
    assert proxy.seen[0].method == "CONNECT"
    assert all("proxy-authorization" in call.headers for call in proxy.seen)
    assert "hush" not in str(caught.value)
    assert "the proxy does not connect us" in str(caught.value)
