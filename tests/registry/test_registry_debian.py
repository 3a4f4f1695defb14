"""Against Debian's docker-registry: plain, with a password, TLS, client certificates, tokens."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import registry_rig
from onggi.errors import (
    EngineError,
    FailedPrecondition,
    NotFound,
    PermissionDenied,
    Unsupported,
)
from onggi.image.registry.client import Credentials, Keychain, RegistryClient, Repository
from onggi.image.registry.patience import Patience
from onggi.image.settings import ImageSettings
from onggi.specs.image import (
    OCI_CONFIG,
    OCI_MANIFEST,
    Manifest,
    digest_of,
    encode_document,
)
from registry_double import CONFIG, Certificates, OneWay, Stream, described, make_certificates
from registry_rig import PASSWORD, USER, Rig, TokenServer, start

LAYER = hashlib.shake_128(b"layer").digest(3_000_001)
ME = Credentials(USER, PASSWORD)


def keychain(credentials: Credentials) -> Keychain:
    return lambda _name: credentials


def client(
    address: str, credentials: Credentials | None = None, certificates: str = ""
) -> RegistryClient:
    return RegistryClient(
        address,
        ImageSettings(certificate_directories=(certificates,) if certificates else ()),
        keychain(credentials) if credentials else None,
        environment={},
        patience=Patience(first_wait_s=0.01),
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with start(tmp_path_factory.mktemp("plain")) as rig:
        yield rig


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("made"))


def push(repository: Repository, tag: str, *, chunk_bytes: int = 0) -> bytes:
    """An image of one layer."""
    config, layer = described(CONFIG, OCI_CONFIG), described(LAYER)
    repository.upload(config, OneWay(CONFIG))
    repository.upload(layer, OneWay(LAYER), chunk_bytes=chunk_bytes)
    manifest = encode_document(Manifest(2, config, (layer,), OCI_MANIFEST))
    repository.put_manifest(tag, manifest, OCI_MANIFEST)
    return manifest


def pull(repository: Repository, reference: str, offset: int = 0) -> bytes:
    """The layer under a tag."""
    descriptor, data = repository.manifest(reference)
    assert descriptor.digest == digest_of(data)
    with repository.open_blob(described(LAYER), offset) as stream:
        assert stream.offset == offset
        return b"".join(iter(lambda: stream.read(1 << 20), b""))


@pytest.mark.parametrize("chunk_bytes", [0, 1 << 20])
def test_a_round_trip(plain: Rig, chunk_bytes: int) -> None:
    repository = client(plain.address).repository(f"round/trip-{chunk_bytes}")
    manifest = push(repository, "one", chunk_bytes=chunk_bytes)
    assert pull(repository, "one") == LAYER
    assert pull(repository, digest_of(manifest), 1_000_000) == LAYER[1_000_000:]
    assert repository.blob_size_bytes(digest_of(LAYER)) == len(LAYER)
    assert repository.blob_size_bytes(digest_of(b"none")) is None
    found = repository.manifest_descriptor("one")
    assert found is not None and found.digest == digest_of(manifest)
    assert repository.manifest_descriptor("none") is None


def test_what_is_not_there(plain: Rig) -> None:
    repository = client(plain.address).repository("not/there")
    with pytest.raises(NotFound, match="manifest unknown"):
        repository.manifest("latest")
    with pytest.raises(NotFound):
        repository.open_blob(described(b"none"))
    with pytest.raises(NotFound):
        list(repository.tags())
    assert repository.referrers(digest_of(b"none")).manifests == ()


def test_a_manifest_whose_layers_are_missing_is_refused(plain: Rig) -> None:
    repository = client(plain.address).repository("not/whole")
    manifest = Manifest(2, described(CONFIG, OCI_CONFIG), (), OCI_MANIFEST)
    with pytest.raises(NotFound):
        repository.put_manifest("a", encode_document(manifest), OCI_MANIFEST)


def test_tags_and_catalog_in_pages(plain: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onggi.image.registry.client.PAGE_ENTRIES", 2)
    registry = client(plain.address)
    manifest = push(registry.repository("many/tags"), "t0")
    for number in range(1, 5):
        registry.repository("many/tags").put_manifest(f"t{number}", manifest, OCI_MANIFEST)
    for number in range(5):
        assert registry.repository(f"many/r{number}").mount(digest_of(LAYER), "many/tags")
        push(registry.repository(f"many/r{number}"), "t")
    assert sorted(registry.repository("many/tags").tags()) == [f"t{n}" for n in range(5)]
    names = list(registry.catalog())
    assert {f"many/r{n}" for n in range(5)} < set(names)
    assert len(names) == len(set(names))


def test_mount_and_delete(plain: Rig) -> None:
    registry = client(plain.address)
    push(registry.repository("from/here"), "a")
    target = registry.repository("to/there")
    assert target.mount(digest_of(LAYER), "from/here")
    assert target.blob_size_bytes(digest_of(LAYER)) == len(LAYER)
    assert not target.mount(digest_of(b"none"), "from/here")
    target.delete("blobs", digest_of(LAYER))
    assert target.blob_size_bytes(digest_of(LAYER)) is None
    manifest = push(target, "gone")
    with pytest.raises(Unsupported) as caught:
        target.delete("manifests", "gone")
    assert "by its digest" in str(caught.value)
    target.delete("manifests", digest_of(manifest))
    assert target.manifest_descriptor("gone") is None


class Cutter:
    """A wire to a registry that is cut once, after so many bytes from the client."""

    def __init__(self, address: str, after_bytes: int) -> None:
        host, _, port = address.partition(":")
        self._target = (host, int(port))
        self._left: int | None = after_bytes
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        self.cuts = 0
        self._threads: list[threading.Thread] = []
        self._run(self._accept)

    def _run(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            far = socket.create_connection(self._target)
            self._run(self._carry, near, far, True)
            self._run(self._carry, far, near, False)

    def _carry(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        with source:
            try:
                while data := source.recv(65536):
                    if counted and self._left is not None:
                        self._left -= len(data)
                        if self._left < 0:
                            self._left = None
                            self.cuts += 1
                            break
                    target.sendall(data)
            except OSError:
                pass  # the other direction has ended
            for end in (source, target):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # ended already

    def __enter__(self) -> Cutter:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for thread in list(self._threads):
            thread.join(10)


@pytest.mark.parametrize("chunk_bytes", [0, 1 << 20], ids=["whole", "pieces"])
def test_an_upload_over_a_wire_that_is_cut_comes_through(plain: Rig, chunk_bytes: int) -> None:
    """This registry loses an upload that broke off inside a request: it begins again."""
    with Cutter(plain.address, 2_000_000) as wire:
        registry = client(wire.address)
        repository = registry.repository(f"cut/wire-{chunk_bytes}")
        try:
            repository.upload(described(LAYER), Stream(LAYER), chunk_bytes=chunk_bytes)
            assert repository.blob_size_bytes(digest_of(LAYER)) == len(LAYER)
        finally:
            registry.close()
    assert wire.cuts == 1


def test_a_password(tmp_path: Path) -> None:
    with start(tmp_path, password=True) as rig:
        with pytest.raises(PermissionDenied) as caught:
            client(rig.address).check()
        assert caught.value.hint == f"onggi login {rig.address}"
        with pytest.raises(PermissionDenied):
            client(rig.address, Credentials(USER, "wrong")).check()
        registry = client(rig.address, ME)
        registry.check()
        push(registry.repository("a"), "one")
        assert pull(registry.repository("a"), "one") == LAYER


def test_tls_and_client_certificates(tmp_path: Path, certificates: Certificates) -> None:
    with start(tmp_path / "r", tls=certificates, client_certificates=True, password=True) as rig:
        with pytest.raises(FailedPrecondition, match="not trusted"):
            client(rig.address, ME).check()
        place = tmp_path / "certs.d" / rig.address
        place.mkdir(parents=True)
        (place / "ca.crt").write_bytes(certificates.ca.read_bytes())
        with pytest.raises(EngineError):
            client(rig.address, ME, str(tmp_path / "certs.d")).check()
        (place / "client.cert").write_bytes(certificates.client_cert.read_bytes())
        (place / "client.key").write_bytes(certificates.client_key.read_bytes())
        registry = client(rig.address, ME, str(tmp_path / "certs.d"))
        push(registry.repository("a"), "one", chunk_bytes=1 << 20)
        assert pull(registry.repository("a"), "one") == LAYER
        assert registry.peer.base == f"https://{rig.address}"


def test_tokens(tmp_path: Path) -> None:
    registry_rig.need("openssl", "openssl")
    with (
        TokenServer(tmp_path / "tokens") as tokens,
        start(tmp_path / "r", tokens=tokens) as rig,
    ):
        with pytest.raises(PermissionDenied):
            push(client(rig.address).repository("a"), "one")
        with pytest.raises(PermissionDenied):
            client(rig.address, Credentials(USER, "wrong")).check()
        registry = client(rig.address, ME)
        registry.check()
        push(registry.repository("a"), "one")
        assert registry.repository("b").mount(digest_of(LAYER), "a")
        tokens.asked.clear()
        identity = client(rig.address, Credentials(USER, identity_token=TokenServer.IDENTITY))
        assert pull(identity.repository("a"), "one") == LAYER
        assert pull(client(rig.address).repository("a"), "one") == LAYER
        assert [method for method, _, _ in tokens.asked] == ["POST", "GET"]
