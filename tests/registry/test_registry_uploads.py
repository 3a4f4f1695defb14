"""Uploads: whole, in pieces, broken and resumed, mounted, cancelled; deleting; referrers."""

from __future__ import annotations

import json
import re
from urllib.parse import urlsplit

import pytest

from onggi.errors import DataLoss, EngineError, NotFound, PermissionDenied, Unavailable, Unsupported
from onggi.image.registry.client import Credentials
from onggi.image.registry.referrers import is_referrers_tag, referrers_tag
from onggi.image.settings import ImageSettings
from onggi.specs.image import OCI_INDEX, OCI_MANIFEST, digest_of
from registry_double import (
    MANIFEST,
    Call,
    Double,
    OneWay,
    Stream,
    client_of,
    described,
)

DATA = bytes(range(256)) * 2000
DIGEST = digest_of(DATA)


class Uploads:
    """A registry that takes one blob, and keeps what has come of it.

    `breaks`: the numbers of the requests with a body that break off in the middle.
    """

    def __init__(self, *breaks: int, minimum: str = "", status: int = 0) -> None:
        self.held = b""
        self.stored: dict[str, bytes] = {}
        self.bodies = 0
        self.breaks = breaks
        self.minimum = minimum
        self.status = status
        self.cancelled = 0

    def __call__(self, call: Call) -> None:
        url = urlsplit(call.path)
        if call.path == "/v2/":
            call.answer(200)
        elif call.method == "POST":
            more = {"OCI_Chunk_Min_Length": self.minimum} if self.minimum else {}
            call.answer(202, Location="/v2/a/blobs/uploads/1?state=0", **more)
        elif call.method == "DELETE":
            self.cancelled += 1
            call.answer(204)
        elif call.method == "GET":
            call.answer(204, **self.place())
        elif self.take(call, url.query):
            if call.method == "PATCH":
                call.answer(202, **self.place())
            else:
                self.finish(call, url.query)

    def place(self) -> dict[str, str]:
        end = max(len(self.held) - 1, 0)
        state = f"/v2/a/blobs/uploads/1?state={len(self.held)}"
        return {"Location": state, "Range": f"0-{end}"}

    def take(self, call: Call, query: str) -> bool:
        length = int(call.headers.get("Content-Length", 0))
        if not length:
            return True
        self.bodies += 1
        if "Content-Range" in call.headers:
            start = int(call.headers["Content-Range"].partition("-")[0])
            if start != len(self.held):
                call.read(length)
                call.answer(416, **self.place())
                return False
        if self.bodies in self.breaks:
            self.held += call.read(length // 3)
            if self.status:
                call.read(length - length // 3)
                call.answer(self.status)
            else:
                call.drop()
            return False
        self.held += call.read(length)
        return True

    def finish(self, call: Call, query: str) -> None:
        digest = query.rpartition("digest=")[2]
        if digest_of(self.held) != digest:
            body = {"errors": [{"code": "DIGEST_INVALID", "message": "no"}]}
            call.answer(400, json.dumps(body).encode())
            return
        self.stored[digest] = self.held
        call.answer(201, Docker_Content_Digest=digest, Location="/v2/a/blobs/" + digest)


def upload(registry: Uploads, stream: object = None, chunk_bytes: int = 0) -> Double:
    with Double(registry, reads_bodies=False) as double:
        client = client_of(double)
        client.repository("a").upload(
            described(DATA),
            stream or Stream(DATA),
            chunk_bytes=chunk_bytes,  # type: ignore[arg-type]
        )
        client.close()
    return double


def methods(double: Double) -> str:
    return " ".join(call.method for call in double.seen if call.path != "/v2/")


def test_a_blob_goes_in_one_request() -> None:
    registry = Uploads()
    double = upload(registry, OneWay(DATA))
    assert registry.stored == {DIGEST: DATA}
    assert methods(double) == "POST PUT"
    assert double.seen[-1].path == f"/v2/a/blobs/uploads/1?state=0&digest={DIGEST}"


def test_a_blob_goes_in_pieces() -> None:
    registry = Uploads()
    double = upload(registry, OneWay(DATA), 200_000)
    assert registry.stored == {DIGEST: DATA}
    assert methods(double) == "POST PATCH PATCH PATCH PUT"
    ranges = [call.headers.get("Content-Range") for call in double.seen if call.method == "PATCH"]
    assert ranges == ["0-199999", "200000-399999", "400000-511999"]


def test_the_least_size_of_a_piece_is_the_registrys() -> None:
    assert methods(upload(Uploads(minimum="300000"), chunk_bytes=10)) == "POST PATCH PATCH PUT"
    # absurd ones are answered with one request
    assert methods(upload(Uploads(minimum="9" * 18), chunk_bytes=10)) == "POST PUT"


@pytest.mark.parametrize("status", [0, 500, 503])
def test_a_broken_piece_is_resumed_where_the_registry_is(status: int) -> None:
    registry = Uploads(2, 4, status=status)
    double = upload(registry, OneWay(DATA), 200_000)
    assert registry.stored == {DIGEST: DATA}
    assert methods(double).count("GET") == 2
    assert registry.cancelled == 0


@pytest.mark.parametrize("status", [0, 502])
def test_a_broken_request_is_resumed_when_the_stream_can_go_back(status: int) -> None:
    registry = Uploads(1, 2, status=status)
    double = upload(registry)
    assert registry.stored == {DIGEST: DATA}
    assert methods(double) == "POST PUT GET PATCH GET PATCH PUT"


def test_a_broken_request_of_a_stream_that_cannot_is_an_error_and_cancelled() -> None:
    registry = Uploads(1)
    with pytest.raises(Unavailable):
        upload(registry, OneWay(DATA))
    assert (registry.stored, registry.cancelled) == ({}, 1)


def test_an_upload_that_never_gets_on_ends() -> None:
    class Stuck(Uploads):
        def take(self, call: Call, query: str) -> bool:
            call.drop()
            return False

    for chunk_bytes in (0, 100_000):
        registry = Stuck()
        with pytest.raises(Unavailable):
            upload(registry, None, chunk_bytes)
        assert registry.cancelled == 1


class Forgets(Uploads):
    """A registry that loses the session when a request breaks off, as docker-registry 2 does."""

    def __call__(self, call: Call) -> None:
        if call.method == "POST":
            self.held = b""
        if call.method == "GET" and call.path != "/v2/":
            call.answer(404)
        else:
            super().__call__(call)


@pytest.mark.parametrize("chunk_bytes", [0, 100_000])
def test_a_lost_upload_begins_again_if_the_stream_can(chunk_bytes: int) -> None:
    registry = Forgets(1)
    upload(registry, Stream(DATA), chunk_bytes)
    assert registry.stored == {DIGEST: DATA}
    with pytest.raises(Unavailable):
        upload(Forgets(1), OneWay(DATA), chunk_bytes)


def test_an_upload_that_is_lost_every_time_ends() -> None:
    with pytest.raises(Unavailable, match="has lost the upload"):
        upload(Forgets(*range(100)), Stream(DATA))


def test_an_upload_that_breaks_at_every_byte_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry that takes a little each time could keep us for ever."""
    monkeypatch.setattr("onggi.image.registry.upload.MAX_BREAKS", 5)

    class Crawls(Uploads):
        def take(self, call: Call, query: str) -> bool:
            self.held += call.read(10)
            call.drop()
            return False

    registry = Crawls()
    with pytest.raises(Unavailable):
        upload(registry)
    assert len(registry.held) == 10 * 6


def test_a_registry_that_claims_to_have_more_than_was_sent_is_not_believed() -> None:
    class Boasts(Uploads):
        def place(self) -> dict[str, str]:
            return {**super().place(), "Range": "0-99999999"}

    with pytest.raises(DataLoss, match="more than were sent"):
        upload(Boasts(), None, 100_000)


@pytest.mark.parametrize("data", [DATA[:-1], DATA + b"x"], ids=["short", "long"])
@pytest.mark.parametrize("chunk_bytes", [0, 100_000])
def test_a_stream_that_is_not_what_it_should_be_is_not_stored(
    data: bytes, chunk_bytes: int
) -> None:
    registry = Uploads()
    with pytest.raises(DataLoss, match="ends 1 bytes early|longer than"):
        upload(registry, OneWay(data), chunk_bytes)
    assert (registry.stored, registry.cancelled) == ({}, 1)


def test_wrong_content_is_refused_by_the_registry() -> None:
    with pytest.raises(DataLoss):
        upload(Uploads(), OneWay(DATA[::-1]))


def test_an_upload_to_another_host_goes_there_without_credentials() -> None:
    storage_script = Uploads()
    with Double(storage_script, host="127.0.0.2", reads_bodies=False) as storage:

        def script(call: Call) -> None:
            if "Authorization" not in call.headers:
                call.answer(401, WWW_Authenticate="Basic")
            else:
                call.answer(202, Location=f"{storage.url}/v2/a/blobs/uploads/1?x=1")

        with Double(script) as double:
            client = client_of(double, keychain=lambda _: Credentials("me", "hush"))
            client.repository("a").upload(described(DATA), Stream(DATA))
    assert storage_script.stored == {DIGEST: DATA}
    assert all("Authorization" not in call.headers for call in storage.seen)


def test_an_upload_to_a_plain_host_elsewhere_is_refused() -> None:
    def script(call: Call) -> None:
        if call.path == "/v2/":
            call.answer(200)
        else:
            call.answer(202, Location="http://192.0.2.1/upload")

    with Double(script) as double, pytest.raises(PermissionDenied, match="upload location"):
        client_of(double).repository("a").upload(described(DATA), Stream(DATA))


def test_an_upload_without_a_location_is_refused() -> None:
    with Double(lambda call: call.answer(202)) as double:
        repository = client_of(double).repository("a")
        with pytest.raises(Unavailable, match="without a location"):
            repository.upload(described(DATA), Stream(DATA))


@pytest.mark.parametrize(
    ("status", "mounted"), [(201, True), (202, False), (403, False), (404, False), (405, False)]
)
def test_a_mount_is_taken_or_left(status: int, mounted: bool) -> None:
    def script(call: Call) -> None:
        if call.path == "/v2/":
            call.answer(200)
        elif call.method == "POST":
            call.answer(status, Location="/v2/b/blobs/uploads/7")
        else:
            call.answer(204)

    with Double(script) as double:
        assert client_of(double).repository("b").mount(DIGEST, "a/x") is mounted
    asked = [f"POST /v2/b/blobs/uploads/?mount={DIGEST}&from=a/x"]
    asked += ["DELETE /v2/b/blobs/uploads/7"] if status == 202 else []
    assert double.asked == asked


def test_a_manifest_is_put_and_its_subject_noted() -> None:
    def script(call: Call) -> None:
        if call.path.endswith("noted"):
            call.answer(201, OCI_Subject=DIGEST)
        else:
            call.answer(201, Docker_Content_Digest=digest_of(call.body))

    with Double(script) as double:
        repository = client_of(double).repository("a")
        assert repository.put_manifest("noted", MANIFEST, OCI_MANIFEST) is True
        assert repository.put_manifest(digest_of(MANIFEST), MANIFEST, OCI_MANIFEST) is False
        with pytest.raises(EngineError, match="digest is"):
            repository.put_manifest(DIGEST, MANIFEST, OCI_MANIFEST)
    assert double.seen[-1].headers["Content-Type"] == OCI_MANIFEST
    assert double.seen[-1].body == MANIFEST


def test_a_manifest_that_was_stored_as_something_else_is_noticed() -> None:
    with Double(lambda call: call.answer(201, Docker_Content_Digest=DIGEST)) as double:
        repository = client_of(double).repository("a")
        with pytest.raises(DataLoss):
            repository.put_manifest("t", MANIFEST, OCI_MANIFEST)


def test_deleting() -> None:
    def script(call: Call) -> None:
        if call.path == "/v2/":
            call.answer(200)
        else:
            call.answer(405 if "blobs" in call.path else 404 if "gone" in call.path else 202)

    with Double(script) as double:
        repository = client_of(double).repository("a")
        repository.delete("manifests", "tag")
        repository.delete("manifests", DIGEST)
        with pytest.raises(Unsupported):
            repository.delete("blobs", DIGEST)
        with pytest.raises(NotFound):
            repository.delete("manifests", "gone")
        with pytest.raises(EngineError):
            repository.delete("blobs", "../../x")


def test_names_never_leave_their_place_in_a_path() -> None:
    client = client_of("127.0.0.1:1", ImageSettings())
    for name in ("..", "a/../b", "a?x", "A", "a/blobs/uploads/?"):
        with pytest.raises(EngineError):
            client.repository(name)
    for reference in ("..", "../x", "a/b", "a?b", "sha256:short"):
        with pytest.raises(EngineError):
            client.repository("a").manifest(reference)


def index_of(*types: str) -> bytes:
    manifests = [
        {"mediaType": OCI_MANIFEST, "digest": DIGEST, "size": 5, "artifactType": kind}
        for kind in types
    ]
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}).encode()


def test_referrers_by_the_registrys_call_are_filtered_here_too() -> None:
    def script(call: Call) -> None:
        if call.path == "/v2/":
            call.answer(200)
        elif "page" in call.path:
            call.answer(200, index_of("text/b"), Content_Type=OCI_INDEX)
        else:
            link = f'</v2/a/referrers/{DIGEST}?page=2>; rel="next"'
            call.answer(200, index_of("text/a", "text/b"), Content_Type=OCI_INDEX, Link=link)

    with Double(script) as double:
        repository = client_of(double).repository("a")
        assert len(repository.referrers(DIGEST).manifests) == 3
        found = repository.referrers(DIGEST, "text/b").manifests
    assert [d.artifact_type for d in found] == ["text/b", "text/b"]
    assert f"GET /v2/a/referrers/{DIGEST}?artifactType=text%2Fb" in double.asked


def test_referrers_by_tag_where_the_registry_has_no_such_call() -> None:
    tag = f"/v2/a/manifests/sha256-{DIGEST[7:]}"

    def script(call: Call) -> None:
        if call.path == tag:
            call.answer(200, index_of("text/a", "text/b"), Content_Type=OCI_INDEX)
        else:
            call.answer(404)

    with Double(script) as double:
        repository = client_of(double).repository("a")
        found = repository.referrers(DIGEST, "text/a").manifests
    assert [d.artifact_type for d in found] == ["text/a"]
    with Double(lambda call: call.answer(404)) as double:
        assert client_of(double).repository("a").referrers(DIGEST).manifests == ()


def test_tags_that_stand_for_referrers_are_no_images() -> None:
    tag = referrers_tag(DIGEST)
    assert is_referrers_tag(tag)
    assert is_referrers_tag(f"{tag}.sig")
    assert not any(map(is_referrers_tag, ("1", "sha256-1", f"{tag}-1", f"v{tag}", "latest")))


def test_ranges_are_read_strictly() -> None:
    from onggi.image.registry.upload import _RANGE

    assert re.fullmatch(_RANGE, "bytes=0-5") and re.fullmatch(_RANGE, "0-5")
    assert not re.fullmatch(_RANGE, "5-9")
