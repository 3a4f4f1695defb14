"""Mirrors: asked first for reading, never trusted with the registry's credentials, never needed."""

from __future__ import annotations

import pytest

from onggi.errors import NotFound
from onggi.image.registry.client import Credentials
from onggi.image.settings import ImageSettings, RegistrySettings
from onggi.specs.image import OCI_MANIFEST, digest_of
from registry_double import MANIFEST, Call, Double, client_of, described, doubles

BLOB = b"content" * 100
ME = Credentials("me", "hush")


def good(call: Call) -> None:
    if "/manifests/" in call.path:
        call.answer(200, MANIFEST, Content_Type=OCI_MANIFEST)
    elif "/blobs/" in call.path:
        call.answer(200, BLOB)
    else:
        call.answer(200)


def bad(call: Call) -> None:
    call.answer(200) if call.path == "/v2/" else call.answer(404)


def settings(own: Double, *mirrors: Double, prefix: str = "") -> ImageSettings:
    registry = RegistrySettings(mirrors=tuple(m.address + prefix for m in mirrors))
    return ImageSettings(registries={own.address: registry}, certificate_directories=())


def test_a_mirror_is_asked_first_and_alone() -> None:
    with doubles(Double(good), Double(good)) as (own, mirror):
        repository = client_of(own, settings(own, mirror, prefix="/copy/of")).repository("a")
        repository.manifest("latest")
        with repository.open_blob(described(BLOB)) as stream:
            assert stream.read(5) == BLOB[:5]
    assert own.seen == []
    assert mirror.asked == [
        "GET /v2/copy/of/a/manifests/latest",
        f"GET /v2/copy/of/a/blobs/{digest_of(BLOB)}",
    ]


def test_what_a_mirror_lacks_comes_from_the_next_and_last_from_the_registry() -> None:
    with doubles(Double(good), Double(bad), Double(bad)) as (own, first, second):
        client_of(own, settings(own, first, second)).repository("a").manifest("latest")
    assert [len(d.asked) for d in (first, second, own)] == [1, 1, 1]


def test_a_wrong_manifest_of_a_mirror_is_not_taken() -> None:
    def wrong(call: Call) -> None:
        call.answer(200, MANIFEST + b" ", Content_Type=OCI_MANIFEST)

    with doubles(Double(good), Double(wrong)) as (own, mirror):
        digest = digest_of(MANIFEST)
        _, data = client_of(own, settings(own, mirror)).repository("a").manifest(digest)
    assert data == MANIFEST


def test_a_dead_mirror_rests() -> None:
    with Double(good) as mirror:
        pass
    with Double(good) as own:
        client = client_of(own, settings(own, mirror))
        for _ in range(3):
            client.repository("a").manifest("latest")
        assert client._mirrors[0].rests


def test_a_blob_asked_for_again_comes_from_elsewhere() -> None:
    """The first one was not what its digest says, or nobody would ask again."""
    with doubles(Double(good), Double(good)) as (own, mirror):
        repository = client_of(own, settings(own, mirror)).repository("a")
        for _ in range(3):
            with repository.open_blob(described(BLOB)) as stream:
                stream.read(5)
    assert [len(mirror.asked), len(own.asked)] == [1, 2]


def test_credentials_go_to_the_one_they_are_for() -> None:
    def asks(call: Call) -> None:
        if "Authorization" not in call.headers:
            call.answer(401, WWW_Authenticate='Basic realm="x"')
        else:
            good(call)

    with doubles(Double(asks), Double(asks)) as (own, mirror):
        repository = client_of(
            own, settings(own, mirror), lambda name: ME if name == own.address else None
        ).repository("a")
        repository.manifest("latest")
    assert all("Authorization" not in call.headers for call in mirror.seen)
    assert "Authorization" in own.seen[-1].headers


def test_a_mirror_has_credentials_of_its_own() -> None:
    def asks(call: Call) -> None:
        if "Authorization" not in call.headers:
            call.answer(401, WWW_Authenticate='Basic realm="x"')
        else:
            good(call)

    with doubles(Double(good), Double(asks)) as (own, mirror):
        repository = client_of(
            own, settings(own, mirror), lambda name: ME if name == mirror.address else None
        ).repository("a")
        repository.manifest("latest")
    assert own.seen == []
    assert "Authorization" in mirror.seen[-1].headers


def test_writing_goes_to_the_registry_itself() -> None:
    def takes(call: Call) -> None:
        call.answer(200) if call.path == "/v2/" else call.answer(201)

    with doubles(Double(takes), Double(takes)) as (own, mirror):
        repository = client_of(own, settings(own, mirror)).repository("a")
        repository.put_manifest("t", MANIFEST, OCI_MANIFEST)
    assert mirror.seen == []


def test_the_registrys_own_words_are_the_error() -> None:
    with doubles(Double(bad), Double(bad)) as (own, mirror):
        repository = client_of(own, settings(own, mirror)).repository("a")
        with pytest.raises(NotFound, match=own.address):
            repository.manifest("latest")
