"""Copies between transports: what arrives is what was sent, to the byte, or nothing is."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import pytest

import registry_rig
from onggi.errors import (
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    SpecError,
    Unavailable,
    Unsupported,
)
from onggi.image.discard import is_discarded
from onggi.image.images import ImageStore
from onggi.image.origins import Origins
from onggi.image.platforms import parse_platform
from onggi.image.pull import pull
from onggi.image.settings import ImageSettings
from onggi.image.transports.base import BlobStream
from onggi.image.transports.copy import copy_image
from onggi.image.transports.names import open_sink, open_source, parse_transport
from onggi.image.transports.store import StoreSink, StoreSource
from onggi.image.transports.tree import MAX_DEPTH
from onggi.specs.image import OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor, Manifest
from source_double import HOST, Faults, SourceDouble, digest, layer_tar, noise

ARM = parse_platform("linux/arm64")
SETTINGS = ImageSettings()


class SinkDouble:
    """Content in memory. `failures`: how many times each `put` breaks in the middle."""

    name = "sink"

    def __init__(self, failures: int = 0) -> None:
        self.blobs: dict[str, bytes] = {}
        self.order: list[str] = []
        self.root: Descriptor | None = None
        self.puts: Counter[str] = Counter()
        self._failures = failures
        self._lock = threading.Lock()

    def has(self, descriptor: Descriptor) -> bool:
        return descriptor.digest in self.blobs

    def put(self, descriptor: Descriptor, stream: BlobStream) -> None:
        with self._lock:
            self.puts[descriptor.digest] += 1
            broken = self.puts[descriptor.digest] <= self._failures
        data = stream.read(10) if broken else b"".join(iter(lambda: stream.read(4096), b""))
        if broken:
            raise Unavailable("the registry went away")
        with self._lock:
            self.blobs[descriptor.digest] = data
            self.order.append(descriptor.digest)

    def put_document(self, descriptor: Descriptor, data: bytes) -> None:
        self.blobs[descriptor.digest] = data
        self.order.append(descriptor.digest)

    def finish(self, root: Descriptor, data: bytes) -> None:
        self.put_document(root, data)
        self.root = root

    def close(self) -> None:
        pass


@pytest.fixture
def source() -> SourceDouble:
    return SourceDouble()


@pytest.fixture
def images(tmp_path: Path) -> ImageStore:
    return ImageStore(str(tmp_path / "root"), platform=HOST)


def two(source: SourceDouble) -> tuple[Descriptor, Descriptor, Descriptor]:
    shared = layer_tar("shared")
    amd = source.image([shared, layer_tar("amd")])
    arm = source.image([shared, layer_tar("arm")], ARM)
    return amd, arm, source.index([(arm, ARM), (amd, HOST)])


def test_an_image_to_the_byte(source: SourceDouble) -> None:
    root = source.image([layer_tar("a"), layer_tar("b"), layer_tar("a")])
    sink = SinkDouble()
    assert copy_image(source, sink) == root
    assert sink.blobs == source.blobs and sink.root == root
    assert sink.order[-1] == root.digest
    assert set(sink.puts.values()) == {1}


def test_one_platform_becomes_the_root(source: SourceDouble) -> None:
    amd, arm, _ = two(source)
    sink = SinkDouble()
    assert copy_image(source, sink, platform=HOST).digest == amd.digest
    assert arm.digest not in sink.blobs
    assert copy_image(source, SinkDouble(), platform=ARM).digest == arm.digest
    with pytest.raises(FailedPrecondition, match="is for linux/amd64, linux/arm64, not for"):
        copy_image(source, SinkDouble(), platform=parse_platform("riscv64"))


def test_a_whole_index(source: SourceDouble) -> None:
    amd, arm, index = two(source)
    sink = SinkDouble()
    assert copy_image(source, sink, every_platform=True) == index
    assert sink.blobs == source.blobs
    assert sink.order[-1] == index.digest
    assert {amd.digest, arm.digest} == set(sink.order[-3:-1])
    assert set(sink.puts.values()) == {1}


def test_bytes_are_bytes(source: SourceDouble) -> None:
    config = source.put(b"{}", "application/vnd.oci.empty.v1+json")
    blob = source.put(noise(5000), "application/x-anything", urls=("http://x/",))
    empty = source.put(b"", "text/plain")
    root = source.manifest(Manifest(2, config, (blob, empty), OCI_MANIFEST))
    sink = SinkDouble()
    assert copy_image(source, sink) == root
    assert sink.blobs == source.blobs


def test_urls_are_never_followed(source: SourceDouble) -> None:
    config = source.put(b"{}", "application/vnd.oci.empty.v1+json")
    away = Descriptor(OCI_LAYER_GZIP, digest(b"away"), 4, urls=("http://127.0.0.1/x",))
    source.manifest(Manifest(2, config, (away,), OCI_MANIFEST))
    with pytest.raises(NotFound, match="foreign"):
        copy_image(source, SinkDouble())


@pytest.mark.parametrize(
    "faults",
    [
        Faults(content=b"x" * 500),
        Faults(content=noise(499, "x")),
        Faults(content=noise(499, "x"), endless=True),
    ],
)
def test_a_sink_never_gets_what_is_wrong(source: SourceDouble, faults: Faults) -> None:
    root = source.put(noise(500, "x"), "text/plain")
    config = source.put(b"{}", "text/plain")
    source.manifest(Manifest(2, config, (root,), OCI_MANIFEST))
    source.faults[root.digest] = faults
    sink = SinkDouble()
    with pytest.raises(DataLoss):
        copy_image(source, sink)
    assert root.digest not in sink.blobs and sink.root is None


def test_a_source_that_breaks_is_resumed(source: SourceDouble) -> None:
    source.image([layer_tar("a", 500_000)])
    layer = source.layers()[0]
    source.faults[layer.digest] = Faults(breaks=[100_000, 200_000])
    sink = SinkDouble()
    copy_image(source, sink)
    assert sink.blobs == source.blobs
    assert [o for name, o in source.asked if name == layer.digest] == [0, 100_000, 300_000]


def test_a_sink_that_breaks_is_asked_again(source: SourceDouble) -> None:
    source.image([layer_tar("a")])
    sink = SinkDouble(failures=2)
    copy_image(source, sink)
    assert sink.blobs == source.blobs
    with pytest.raises(Unavailable, match="went away"):
        copy_image(source, SinkDouble(failures=3))


def test_indexes_without_end(source: SourceDouble) -> None:
    inner = source.image([layer_tar("a")])
    for _ in range(MAX_DEPTH + 1):
        inner = source.index([(inner, None)])
    for every in (False, True):
        with pytest.raises(SpecError, match="nested deeper"):
            copy_image(source, SinkDouble(), platform=None, every_platform=every)


def test_too_many_members(source: SourceDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    from onggi.image.transports import tree

    monkeypatch.setattr(tree, "MAX_DOCUMENTS", 2)
    two(source)
    with pytest.raises(ResourceExhausted, match="more than 2 manifests"):
        copy_image(source, SinkDouble(), every_platform=True)


# The store.


def test_into_the_store_and_out(images: ImageStore, source: SourceDouble) -> None:
    root = source.image([layer_tar("a"), layer_tar("b")])
    sink = StoreSink(images, "app:v1")
    copy_image(source, sink)
    assert images.collect(in_use=()).deferred
    sink.close()
    assert images.resolve("app:v1").target.digest == root.digest
    assert images.collect(in_use=()).deleted == ()
    out = SinkDouble()
    reading = StoreSource(images, "app:v1")
    copy_image(reading, out)
    reading.close()
    assert out.blobs == source.blobs


def test_an_index_with_one_member_here(images: ImageStore, source: SourceDouble) -> None:
    amd, arm, _ = two(source)
    pull(images, source, ("app:v1",))
    reading = StoreSource(images, "app:v1")
    out = SinkDouble()
    assert copy_image(reading, out).digest == amd.digest
    with pytest.raises(NotFound, match=f"{arm.digest} \\(linux/arm64\\)"):
        copy_image(reading, SinkDouble(), every_platform=True)
    reading.close()


def test_the_store_takes_no_artifact(images: ImageStore, source: SourceDouble) -> None:
    config = source.put(b"{}", "application/vnd.oci.empty.v1+json")
    source.manifest(Manifest(2, config, (), OCI_MANIFEST))
    sink = StoreSink(images, "app:v1")
    with pytest.raises(Unsupported, match="artifact"):
        copy_image(source, sink)
    sink.close()
    assert images.list() == ()
    images.collect(in_use=())
    assert list(images.content.digests()) == []


def test_a_dropped_blob_is_made_again(images: ImageStore, source: SourceDouble) -> None:
    from onggi.image.discard import discard

    if images.snapshots.form != "erofs":
        pytest.skip(f"layers as erofs: {images.snapshots.form_reason}")
    source.image([layer_tar("a", 50_000)], pack=lambda tar: tar, media_type=OCI_TAR)
    image = pull(images, source, ("app:v1",))
    assert [reason for _, reason in discard(images, image)] == [""]
    assert is_discarded(images.content, image.layers[0].digest)
    asked = len(source.asked)
    pull(images, source, ("app:v1",))
    assert len(source.asked) == asked
    reading = StoreSource(images, "app:v1")
    out = SinkDouble()
    copy_image(reading, out)
    reading.close()
    assert out.blobs == source.blobs


OCI_TAR = "application/vnd.oci.image.layer.v1.tar"


# Every transport, and a real registry.


@pytest.mark.parametrize(
    "place",
    ["oci:{}/layout:v1", "oci-archive:{}/x.tar:v1", "docker-archive:{}/y.tar:app:v1", "dir:{}/d"],
)
def test_there_and_back(
    images: ImageStore, source: SourceDouble, tmp_path: Path, place: str
) -> None:
    source.image([layer_tar("a"), layer_tar("b")])
    pull(images, source, ("app:v1",))
    name = parse_transport(place.format(tmp_path))
    reading = open_source(parse_transport("app:v1"), images, SETTINGS)
    writing = open_sink(name, images, SETTINGS)
    copy_image(reading, writing)
    writing.close()
    reading.close()
    back, out = open_source(name, images, SETTINGS), SinkDouble()
    copy_image(back, out)
    back.close()
    assert {d.digest for d in source.layers()} <= set(out.blobs)


def test_a_registry_round_trip(images: ImageStore, source: SourceDouble, tmp_path: Path) -> None:
    registry_rig.need("docker-registry", "docker-registry")
    amd, arm, index = two(source)
    with registry_rig.start(tmp_path / "registry") as rig:
        push(images, source, f"docker://{rig.address}/team/app:v1", every_platform=True)
        reading = open_source(
            parse_transport(f"docker://{rig.address}/team/app:v1"), images, SETTINGS
        )
        image = pull(images, reading, (f"{rig.address}/team/app:v1",))
        reading.close()
        assert image.target.digest == index.digest and image.manifest_digest == amd.digest
        origin = f"{rig.address}/team/app"
        assert Origins(images.content.root).of(image.layers[0].digest)[-1] == origin
        # A push to a repository beside it moves no layer.
        store = StoreSource(images, f"{rig.address}/team/app:v1")
        stages: list[tuple[str, str]] = []
        sink = open_sink(parse_transport(f"docker://{rig.address}/other/app:v2"), images, SETTINGS)
        copied = copy_image(
            store, sink, report=lambda stage, done=0, total=0, item="": stages.append((stage, item))
        )
        sink.close()
        store.close()
        assert copied.digest == amd.digest
        layers = {layer.digest[7:19] for layer in image.layers}
        assert {item for stage, item in stages if stage == "already there"} >= layers
        by_digest = f"docker://{rig.address}/other/app@{amd.digest}"
        reading = open_source(parse_transport(by_digest), images, SETTINGS)
        out = SinkDouble()
        assert copy_image(reading, out).digest == amd.digest
        reading.close()
        sink = open_sink(
            parse_transport(f"docker://{rig.address}/other/app@{arm.digest}"), images, SETTINGS
        )
        with pytest.raises(InvalidArgument, match="names a digest"):
            copy_image(source, sink, platform=HOST)
        sink.close()


def test_a_referrer_is_listed(images: ImageStore, source: SourceDouble, tmp_path: Path) -> None:
    registry_rig.need("docker-registry", "docker-registry")
    from onggi.image.registry.client import RegistryClient

    subject = source.image([layer_tar("a")])
    config = source.put(b"{}", "application/vnd.oci.empty.v1+json")
    statement = source.put(b"signed", "text/plain")
    with registry_rig.start(tmp_path / "registry") as rig:
        source.root_descriptor = subject
        push(images, source, f"docker://{rig.address}/app:v1")
        for kind in ("a/one", "a/two"):
            referrer = source.manifest(
                Manifest(2, config, (statement,), OCI_MANIFEST, kind, subject)
            )
            push(images, source, f"docker://{rig.address}/app@{referrer.digest}")
        client = RegistryClient(rig.address)
        listed = client.repository("app").referrers(subject.digest).manifests
        client.close()
    assert [entry.artifact_type for entry in listed] == ["a/one", "a/two"]


def push(images: ImageStore, source: SourceDouble, name: str, every_platform: bool = False) -> None:
    sink = open_sink(parse_transport(name), images, SETTINGS)
    copy_image(source, sink, every_platform=every_platform)
    sink.close()
