"""Layouts, archives and directories of images: ours, and those of skopeo, umoci and podman."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from image_tars import END, member
from onggi.errors import (
    Conflict,
    DataLoss,
    EngineError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    SpecError,
)
from onggi.image.archive import save
from onggi.image.images import ImageStore
from onggi.image.transports.archives import ArchiveSink, ArchiveSource
from onggi.image.transports.base import Sink, Source
from onggi.image.transports.directory import DirectorySink, DirectorySource
from onggi.image.transports.layout import LayoutSink, LayoutSource
from onggi.specs.image import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    ContainerConfig,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    Platform,
    RootFs,
    digest_of,
    encode_document,
    parse_manifest,
)

BASE = member(b"./", b"5", mode=0o755) + member(b"etc/", b"5", mode=0o755)
BASE += member(b"etc/passwd", data=b"root:x:0:0:root:/:/bin/sh\n") + END
NEXT = member(b"etc/more", data=b"more" * 1000) + END
HOST = Platform("amd64", "linux")


class Made:
    """An image in memory, as a source. `blobs`: its content by digest."""

    name = "memory"

    def __init__(self, *layers: bytes, packed: bool = True, cmd: str = "sh") -> None:
        self.blobs: dict[str, bytes] = {}
        config = ImageConfig(
            "amd64",
            "linux",
            RootFs(diff_ids=tuple(digest_of(layer) for layer in layers)),
            config=ContainerConfig(cmd=(cmd,)),
        )
        stored = [gzip.compress(layer, mtime=0) if packed else layer for layer in layers]
        kind = OCI_LAYER_GZIP if packed else OCI_LAYER
        manifest = Manifest(
            2,
            self.add(encode_document(config), OCI_CONFIG),
            tuple(self.add(layer, kind) for layer in stored),
            OCI_MANIFEST,
        )
        self.target = self.add(encode_document(manifest), OCI_MANIFEST)

    def add(self, data: bytes, media_type: str) -> Descriptor:
        self.blobs[digest_of(data)] = data
        return Descriptor(media_type, digest_of(data), len(data))

    def root(self) -> tuple[Descriptor, bytes]:
        return self.target, self.blobs[self.target.digest]

    def document(self, descriptor: Descriptor) -> bytes:
        return self.blobs[descriptor.digest]

    def open(self, descriptor: Descriptor, offset: int = 0) -> MemoryStream:
        return MemoryStream(self.blobs[descriptor.digest][offset:])

    def close(self) -> None:
        pass


class MemoryStream(io.BytesIO):
    offset = 0

    def __enter__(self) -> MemoryStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture
def opened() -> Iterator[Callable[[Any], Any]]:
    """Closes at the end what a test opened."""
    things: list[Any] = []

    def keep(thing: Any) -> Any:
        things.append(thing)
        return thing

    yield keep
    for thing in things:
        thing.close()


def copied(source: Source, sink: Sink) -> Descriptor:
    """From the leaves up, every platform; both are closed."""
    try:
        root, data = source.root()
        _send(source, sink, data)
        sink.finish(root, data)
    finally:
        source.close()
        sink.close()
    return root


def _send(source: Source, sink: Sink, data: bytes) -> None:
    document = parse_manifest(data)
    if isinstance(document, Index):
        for entry in document.manifests:
            inner = source.document(entry)
            _send(source, sink, inner)
            sink.put_document(entry, inner)
        return
    for blob in (*document.layers, document.config):
        if not sink.has(blob):
            with source.open(blob) as stream:
                sink.put(blob, stream)


def content(source: Source) -> dict[str, bytes]:
    """Everything that a source leads to, by digest; closes it."""
    sink = Collected()
    copied(source, sink)
    return sink.blobs


class Collected:
    name = "memory"

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}

    def has(self, descriptor: Descriptor) -> bool:
        return False

    def put(self, descriptor: Descriptor, stream: Any) -> None:
        data = b"".join(iter(lambda: stream.read(1000), b""))
        assert digest_of(data) == descriptor.digest
        self.blobs[descriptor.digest] = data

    def put_document(self, descriptor: Descriptor, data: bytes) -> None:
        self.blobs[descriptor.digest] = data

    finish = put_document

    def close(self) -> None:
        pass


def tool(name: str, package: str, *arguments: str) -> str:
    """Run a program of another project; its output."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} is missing: install Debian's package {package}")
    done = subprocess.run(
        [name, *arguments], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def skopeo(*arguments: str) -> str:
    return tool("skopeo", "skopeo", *arguments)


KINDS: dict[str, tuple[Callable[[str], Source], Callable[[str], Sink]]] = {
    "oci": (lambda p: LayoutSource(p, "v1"), lambda p: LayoutSink(p, "v1")),
    "oci-archive": (lambda p: ArchiveSource(p, "v1"), lambda p: ArchiveSink(p, "v1")),
    "docker-archive": (
        lambda p: ArchiveSource(p, "app:v1", "docker"),
        lambda p: ArchiveSink(p, "app:v1", "docker"),
    ),
    "dir": (DirectorySource, DirectorySink),
}
NAMES = {"oci": ":v1", "oci-archive": ":v1", "docker-archive": ":app:v1", "dir": ""}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("packed", [True, False])
def test_a_round_trip_keeps_every_byte(tmp_path: Path, kind: str, packed: bool) -> None:
    source, sink = KINDS[kind]
    made = Made(BASE, NEXT, packed=packed)
    path = str(tmp_path / "x")
    assert copied(made, sink(path)) == made.target
    assert content(source(path)) == made.blobs
    left = [name for name in os.listdir(tmp_path) if name != "x"]
    assert left == []
    if os.path.isdir(path):
        assert not [name for name in os.listdir(path) if name.startswith(".")]


@pytest.mark.parametrize("kind", KINDS)
def test_skopeo_reads_what_we_write(tmp_path: Path, kind: str) -> None:
    path = str(tmp_path / "x")
    made = Made(BASE, NEXT)
    copied(made, KINDS[kind][1](path))
    manifest = json.loads(skopeo("inspect", "--raw", f"{kind}:{path}{NAMES[kind]}"))
    if kind != "docker-archive":  # there skopeo makes a manifest of its own
        assert manifest == json.loads(made.root()[1])
    skopeo("copy", f"{kind}:{path}{NAMES[kind]}", f"dir:{tmp_path}/copy")
    source = DirectorySource(f"{tmp_path}/copy")
    root, data = source.root()
    document = parse_manifest(data)
    assert isinstance(document, Manifest)
    assert document.config.digest == parse_config_digest(made)
    assert (root == made.target) == (kind != "docker-archive")
    source.close()


def parse_config_digest(made: Made) -> str:
    document = parse_manifest(made.root()[1])
    assert isinstance(document, Manifest)
    return document.config.digest


@pytest.mark.parametrize("kind", KINDS)
def test_we_read_what_skopeo_writes(tmp_path: Path, kind: str) -> None:
    made = Made(BASE, NEXT)
    copied(made, LayoutSink(f"{tmp_path}/ours", "v1"))
    skopeo("copy", f"oci:{tmp_path}/ours:v1", f"{kind}:{tmp_path}/theirs{NAMES[kind]}")
    found = content(KINDS[kind][0](f"{tmp_path}/theirs"))
    if kind == "docker-archive":  # it holds plain layers
        assert {digest_of(BASE), digest_of(NEXT), parse_config_digest(made)} < set(found)
    else:
        assert found == made.blobs


def test_umoci_unpacks_our_layout(tmp_path: Path) -> None:
    copied(Made(BASE, NEXT), LayoutSink(f"{tmp_path}/ours", "v1"))
    tool("umoci", "umoci", "unpack", "--image", f"{tmp_path}/ours:v1", f"{tmp_path}/bundle")
    rootfs = tmp_path / "bundle/rootfs"
    assert (rootfs / "etc/passwd").read_bytes() == b"root:x:0:0:root:/:/bin/sh\n"
    assert (rootfs / "etc/more").read_bytes() == b"more" * 1000


def test_we_read_what_umoci_makes(tmp_path: Path) -> None:
    layout, image, bundle = f"{tmp_path}/theirs", f"{tmp_path}/theirs:v1", f"{tmp_path}/bundle"
    tool("umoci", "umoci", "init", "--layout", layout)
    tool("umoci", "umoci", "new", "--image", image)
    tool("umoci", "umoci", "unpack", "--image", image, bundle)
    (tmp_path / "bundle/rootfs/hello").write_text("hello")
    tool("umoci", "umoci", "repack", "--image", image, bundle)
    tool("umoci", "umoci", "config", "--image", image, "--config.cmd", "hello")
    source = LayoutSource(layout, "v1")
    document = parse_manifest(source.root()[1])
    assert isinstance(document, Manifest)
    found = content(source)
    assert json.loads(found[document.config.digest])["config"]["Cmd"] == ["hello"]
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(found[document.layers[-1].digest]))) as t:
        assert t.extractfile("hello").read() == b"hello"  # type: ignore[union-attr]


@pytest.mark.parametrize("packed", [True, False])
def test_podman_loads_our_archives(tmp_path: Path, packed: bool) -> None:
    """`load` reads the archive, `inspect` its configuration, without a daemon."""
    made = Made(BASE, NEXT, packed=packed)
    copied(made, ArchiveSink(f"{tmp_path}/x.tar", "app:v1", "docker"))
    with tempfile.TemporaryDirectory() as short:  # podman allows 50 characters
        place = ["--root", f"{short}/root", "--runroot", f"{short}/run"]
        place += ["--tmpdir", f"{short}/tmp", "--storage-driver", "vfs"]
        try:
            tool("podman", "podman", *place, "load", "-q", "-i", f"{tmp_path}/x.tar")
            listed = json.loads(tool("podman", "podman", *place, "images", "--format", "json"))
            assert [image["Names"] for image in listed] == [["docker.io/library/app:v1"]]
            assert listed[0]["Id"] == parse_config_digest(made).removeprefix("sha256:")
        finally:
            tool("podman", "podman", *place, "rmi", "-a", "-f")


def test_saved_archives_are_sources(tmp_path: Path) -> None:
    """`save` writes both forms in one; skopeo and our sources read either."""
    images = ImageStore(str(tmp_path / "root"), platform=HOST)
    for cmd in ("a", "b"):
        made = Made(BASE, NEXT, cmd=cmd)
        for data in made.blobs.values():
            images.content.put(data)
        images.add(made.target, (f"{cmd}:1", f"{cmd}:2"))
    with open(tmp_path / "x.tar", "wb") as file:
        save(images, images.list(), file.fileno())
    for image in images.list():
        for source in (
            ArchiveSource(f"{tmp_path}/x.tar", image.short_name, "docker"),
            ArchiveSource(f"{tmp_path}/x.tar", image.names[1], "oci"),
        ):
            root, _ = source.root()
            assert root.digest == image.manifest_digest
            assert image.id in content(source)
    shown = json.loads(skopeo("inspect", "--config", f"docker-archive:{tmp_path}/x.tar:b:2"))
    assert shown["config"]["Cmd"] == ["b"]


@pytest.mark.parametrize("form", ["oci", "docker"])
def test_archives_are_reproducible(tmp_path: Path, form: Any) -> None:
    """Whatever the order in which content arrives."""
    made = Made(BASE, NEXT)
    digests = list(made.blobs)
    for name, order in (("1", digests), ("2", list(reversed(digests)))):
        sink = ArchiveSink(f"{tmp_path}/{name}", "app:1", form)
        for digest in order:
            if digest != made.target.digest:
                blob = Descriptor("", digest, len(made.blobs[digest]))
                sink.put(blob, MemoryStream(made.blobs[digest]))
        sink.finish(*made.root())
        sink.close()
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


@pytest.mark.parametrize("kind", ["oci", "oci-archive", "dir"])
def test_an_index_of_platforms(tmp_path: Path, kind: str) -> None:
    one, two = Made(BASE, cmd="one"), Made(BASE, NEXT, cmd="two")
    one.blobs |= two.blobs
    index = Index(2, (one.target, two.target), OCI_INDEX)
    one.target = one.add(encode_document(index), OCI_INDEX)
    copied(one, KINDS[kind][1](f"{tmp_path}/x"))
    assert content(KINDS[kind][0](f"{tmp_path}/x")) == one.blobs
    skopeo("copy", "--all", f"{kind}:{tmp_path}/x{NAMES[kind]}", f"dir:{tmp_path}/copy")
    assert content(DirectorySource(f"{tmp_path}/copy")) == one.blobs


def test_a_docker_archive_has_room_for_one_platform(tmp_path: Path) -> None:
    made = Made(BASE)
    made.target = made.add(encode_document(Index(2, (made.target,), OCI_INDEX)), OCI_INDEX)
    with pytest.raises(InvalidArgument, match="one platform"):
        copied(made, ArchiveSink(f"{tmp_path}/x", "", "docker"))
    assert os.listdir(tmp_path) == []


# Several images in one place.


def test_a_layout_of_several_images(tmp_path: Path) -> None:
    path = f"{tmp_path}/x"
    one, two, three = Made(BASE), Made(NEXT), Made(BASE, NEXT)
    copied(one, LayoutSink(path, "one"))
    copied(two, LayoutSink(path, "two"))
    with pytest.raises(Conflict, match="one, two"):
        content(LayoutSource(path))
    with pytest.raises(NotFound, match="three"):
        content(LayoutSource(path, "three"))
    assert content(LayoutSource(path, "one")) == one.blobs
    copied(three, LayoutSink(path, "one"))
    assert content(LayoutSource(path, "one")) == three.blobs
    assert content(LayoutSource(path, "two")) == two.blobs
    index = json.loads((tmp_path / "x/index.json").read_bytes())
    assert len(index["manifests"]) == 2
    copied(one, LayoutSink(path))
    copied(one, LayoutSink(path))
    assert len(json.loads((tmp_path / "x/index.json").read_bytes())["manifests"]) == 3


def test_sinks_at_once_lose_no_tag(tmp_path: Path) -> None:
    made = Made(BASE)

    def add(tag: str) -> None:
        copied(made, LayoutSink(f"{tmp_path}/x", tag))

    threads = [threading.Thread(target=add, args=(f"t{number}",)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    index = json.loads((tmp_path / "x/index.json").read_bytes())
    tags = {
        entry["annotations"]["org.opencontainers.image.ref.name"] for entry in index["manifests"]
    }
    assert tags == {f"t{number}" for number in range(12)}
    assert sorted(os.listdir(tmp_path / "x")) == ["blobs", "index.json", "oci-layout"]


def test_a_store_is_a_layout_too(tmp_path: Path) -> None:
    images = ImageStore(str(tmp_path / "root"), platform=HOST)
    made = Made(BASE)
    for data in made.blobs.values():
        images.content.put(data)
    images.add(made.target, ("app:1",))
    for tag in ("1", "app:1", "docker.io/library/app:1", ""):
        assert content(LayoutSource(images.content.root, tag)) == made.blobs


def test_a_directory_has_one_image(tmp_path: Path) -> None:
    path = f"{tmp_path}/x"
    copied(Made(BASE), DirectorySink(path))
    two = Made(NEXT, BASE)
    copied(two, DirectorySink(path))
    assert content(DirectorySource(path)) == two.blobs
    assert len(os.listdir(path)) == 2 + len(two.blobs) - 1
    (tmp_path / "x/mine").write_text("mine")
    with pytest.raises(FailedPrecondition, match="other files"):
        DirectorySink(path)


def test_an_archive_is_replaced_when_the_image_is_whole(
    tmp_path: Path, opened: Callable[[Any], Any]
) -> None:
    path = f"{tmp_path}/x"
    one, two = Made(BASE), Made(NEXT)
    copied(one, ArchiveSink(path))
    sink = opened(ArchiveSink(path))
    _send(two, sink, two.root()[1])
    assert content(ArchiveSource(path)) == one.blobs
    sink.finish(*two.root())
    assert content(ArchiveSource(path)) == two.blobs


def test_an_archive_to_a_pipe_and_from_one(tmp_path: Path) -> None:
    made = Made(BASE)
    os.mkfifo(tmp_path / "pipe")
    thread = threading.Thread(target=copied, args=(made, ArchiveSink(f"{tmp_path}/pipe")))
    thread.start()
    found = content(ArchiveSource(f"{tmp_path}/pipe"))
    thread.join()
    assert found == made.blobs
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_blob_from_the_middle(tmp_path: Path, opened: Callable[[Any], Any]) -> None:
    made = Made(NEXT, packed=False)
    layer = Descriptor(OCI_LAYER, digest_of(NEXT), len(NEXT))
    for kind, (source, sink) in KINDS.items():
        copied(made, sink(f"{tmp_path}/{kind}"))
        with opened(source(f"{tmp_path}/{kind}")).open(layer, 700) as stream:
            assert stream.offset == 700
            assert b"".join(iter(lambda s=stream: s.read(999), b"")) == NEXT[700:]
        with opened(source(f"{tmp_path}/{kind}")).open(layer, 1 << 40) as stream:
            assert stream.offset == len(NEXT)
            assert stream.read(1) == b""


# Old and compressed archives.


def old_archive() -> bytes:
    """As Docker before 25 wrote it, with a layer shared through a symlink."""
    diff_ids = [digest_of(layer) for layer in (BASE, NEXT, BASE)]
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
    ).encode()
    name = digest_of(config)[7:] + ".json"
    layers = ["a/layer.tar", "b/layer.tar", "c/layer.tar"]
    listed = [{"Config": name, "RepoTags": ["old:1"], "Layers": layers}]
    return (
        member(b"a/", b"5")
        + member(b"a/VERSION", data=b"1.0")
        + member(b"a/layer.tar", data=BASE)
        + member(b"b/layer.tar", data=gzip.compress(NEXT, mtime=0))
        + member(b"c/layer.tar", b"2", link=b"../a/layer.tar")
        + member(name.encode(), data=config)
        + member(b"manifest.json", data=json.dumps(listed).encode())
        + END
    )


@pytest.mark.parametrize("packed", [True, False])
def test_old_docker_archives(tmp_path: Path, packed: bool) -> None:
    data = old_archive()
    (tmp_path / "x").write_bytes(gzip.compress(data) if packed else data)
    for reference in ("", "old:1", "docker.io/library/old:1"):
        source = ArchiveSource(f"{tmp_path}/x", reference, "docker")
        root, manifest = source.root()
        document = parse_manifest(manifest)
        assert isinstance(document, Manifest)
        assert [layer.media_type for layer in document.layers] == [
            OCI_LAYER,
            OCI_LAYER_GZIP,
            OCI_LAYER,
        ]
        assert source.document(root) == manifest
        assert {digest_of(BASE), root.digest} < set(content(source))
    with pytest.raises(NotFound, match="old:2"):
        content(ArchiveSource(f"{tmp_path}/x", "old:2", "docker"))
    with pytest.raises(InvalidArgument, match="docker-archive"):
        content(ArchiveSource(f"{tmp_path}/x"))


def test_the_index_of_an_archive_is_read_without_its_data(tmp_path: Path) -> None:
    """A member of 1 TB, of which the disk has nothing, is skipped at once."""
    made = Made(BASE)
    copied(made, ArchiveSink(f"{tmp_path}/x"))
    data = (tmp_path / "x").read_bytes()
    big = member(b"blobs/sha256/" + b"0" * 64, size_bytes=1 << 40)
    with open(tmp_path / "big", "wb") as file:
        file.write(big)
        file.seek(1 << 40, os.SEEK_CUR)
        file.write(data)
    assert content(ArchiveSource(f"{tmp_path}/big")) == made.blobs


# Hostile ones.


HOSTILE_TARS = {
    "empty": b"",
    "not a tar": b"x" * 2000,
    "no documents": BASE,
    "cut short": old_archive()[:3000],
    "a size beyond the end": member(b"index.json", size_bytes=1 << 50),
    "twice": member(b"index.json", data=b"{}") * 2 + END,
    "a device": member(b"index.json", b"3") + END,
    "config elsewhere": member(b"manifest.json", data=b'[{"Config":"/etc/passwd","Layers":[]}]')
    + END,
    "links in a circle": member(b"x", b"2", link=b"y")
    + member(b"y", b"2", link=b"x")
    + member(b"manifest.json", data=b'[{"Config":"x","Layers":[]}]')
    + END,
    "a digest as a path": member(
        b"index.json",
        data=b'{"schemaVersion":2,"manifests":[{"mediaType":"x","size":1,'
        b'"digest":"sha256:../../etc/passwd"}]}',
    )
    + END,
    "a huge index": member(b"index.json", data=b" " * (5 << 20)) + END,
}


@pytest.mark.parametrize("data", HOSTILE_TARS.values(), ids=HOSTILE_TARS.keys())
@pytest.mark.parametrize("form", ["oci", "docker"])
def test_hostile_archives(tmp_path: Path, data: bytes, form: Any) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises((InvalidArgument, ResourceExhausted)):
        content(ArchiveSource(f"{tmp_path}/x", "", form))


def test_an_endless_tail_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "x", "wb") as file:
        file.write(END)
        file.truncate(1 << 40)
    with pytest.raises(InvalidArgument):
        content(ArchiveSource(f"{tmp_path}/x"))


def test_a_damaged_archive_is_told(tmp_path: Path) -> None:
    made = Made(BASE)
    copied(made, ArchiveSink(f"{tmp_path}/x"))
    data = (tmp_path / "x").read_bytes()
    at = data.index(made.root()[1])
    (tmp_path / "x").write_bytes(data[:at] + b"[" + data[at + 1 :])
    with pytest.raises(DataLoss):
        content(ArchiveSource(f"{tmp_path}/x"))


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    copied(Made(BASE), LayoutSink(f"{tmp_path}/x", "v1"))
    return tmp_path / "x"


@pytest.mark.parametrize("where", ["/etc/passwd", "../../secret", "/dev/zero"])
def test_links_lead_nowhere_outside(tmp_path: Path, layout: Path, where: str) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    for blob in (layout / "blobs/sha256").iterdir():
        blob.unlink()
        blob.symlink_to(where)
    with pytest.raises(EngineError) as caught:
        content(LayoutSource(str(layout)))
    assert isinstance(caught.value, NotFound | FailedPrecondition)


@pytest.mark.parametrize("name", ["index.json", "oci-layout"])
@pytest.mark.timeout(20)
def test_a_fifo_does_not_block(layout: Path, name: str) -> None:
    (layout / name).unlink()
    os.mkfifo(layout / name)
    with pytest.raises(FailedPrecondition):
        content(LayoutSource(str(layout)))


def test_a_layout_that_leads_our_writing_elsewhere(tmp_path: Path, layout: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    shutil.rmtree(layout / "blobs")
    (layout / "blobs").symlink_to("../elsewhere")
    with pytest.raises(EngineError):
        copied(Made(NEXT), LayoutSink(str(layout), "v2"))
    assert os.listdir(tmp_path / "elsewhere") == []


@pytest.mark.parametrize(
    "index",
    [
        b"{",
        b'{"schemaVersion":2,"manifests":[],"layers":[],"config":{}}',
        b" " * (5 << 20),
        b'{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json",'
        b'"size":99999999999,"digest":"sha256:' + b"0" * 64 + b'"}]}',
    ],
)
def test_hostile_indexes(layout: Path, index: bytes) -> None:
    (layout / "index.json").write_bytes(index)
    with pytest.raises((SpecError, ResourceExhausted, NotFound)):
        content(LayoutSource(str(layout)))


def test_not_a_layout(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x/mine").write_text("mine")
    for opening in (LayoutSource, LayoutSink):
        with pytest.raises(FailedPrecondition, match="not an OCI image layout"):
            opening(str(tmp_path / "x"))
    assert os.listdir(tmp_path / "x") == ["mine"]
    with pytest.raises(NotFound):
        LayoutSource(str(tmp_path / "missing"))


WRONG = {
    "other content": b"x" * len(NEXT),
    "too short": NEXT[:-1],
    "too long": NEXT + b"x",
    "nothing": b"",
}


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG.keys())
@pytest.mark.parametrize("kind", KINDS)
def test_sinks_verify(tmp_path: Path, kind: str, data: bytes, opened: Callable[[Any], Any]) -> None:
    sink = opened(KINDS[kind][1](f"{tmp_path}/x"))
    blob = Descriptor(OCI_LAYER, digest_of(NEXT), len(NEXT))
    with pytest.raises(DataLoss):
        sink.put(blob, MemoryStream(data))
    assert not sink.has(blob)
    with pytest.raises(DataLoss):
        sink.put_document(blob, data)
    with pytest.raises(DataLoss):
        sink.finish(blob, data)
    assert not [path for path in tmp_path.rglob("*") if digest_of(NEXT)[7:] in path.name]


@pytest.mark.parametrize("kind", ["oci", "dir"])
def test_a_damaged_blob_in_a_sink_is_mended(tmp_path: Path, kind: str) -> None:
    source, sink = KINDS[kind]
    made = Made(BASE)
    copied(made, sink(f"{tmp_path}/x"))
    for path in (tmp_path / "x").rglob("*"):
        if path.is_file() and len(path.name) == 64:
            path.write_bytes(bytes(path.stat().st_size))
    copied(made, sink(f"{tmp_path}/x"))
    assert content(source(f"{tmp_path}/x")) == made.blobs


def test_what_a_crash_left_is_swept(tmp_path: Path) -> None:
    made = Made(BASE)
    for kind in ("oci", "dir"):
        copied(made, KINDS[kind][1](f"{tmp_path}/{kind}"))
        (tmp_path / kind / ".onggi-0123").write_bytes(b"half")
        copied(made, KINDS[kind][1](f"{tmp_path}/{kind}"))
        assert not (tmp_path / kind / ".onggi-0123").exists()
