"""Images by name and id, removal, archives; all on the real filesystem."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from image_tars import END, member, pieces
from onggi.errors import Conflict, DataLoss, FailedPrecondition, InvalidArgument, NotFound
from onggi.image.archive import export, import_rootfs, load, save
from onggi.image.compare import write_layer
from onggi.image.images import Image, ImageStore
from onggi.image.layers import store_directory
from onggi.image.tar_reader import TarReader
from onggi.specs.image import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    ContainerConfig,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    Platform,
    RootFs,
    encode_document,
)

BASE = member(b"./", b"5", mode=0o755) + member(b"etc/passwd", data=b"root") + END
NEXT = member(b"etc/more", data=b"more") + member(b"etc/.wh.passwd") + END
HOST = Platform("amd64", "linux")


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@pytest.fixture
def images(tmp_path: Path) -> ImageStore:
    return ImageStore(str(tmp_path / "root"), platform=HOST)


def put(images: ImageStore, document: Any, media_type: str) -> Descriptor:
    blob = images.content.put(encode_document(document))
    return Descriptor(media_type, blob.digest, blob.size_bytes)


def manifest_of(
    images: ImageStore, layers: list[bytes], platform: Platform = HOST, **config: Any
) -> Descriptor:
    blobs = [images.content.put(layer) for layer in layers]
    document = ImageConfig(
        platform.architecture,
        platform.os,
        RootFs(diff_ids=tuple(blob.digest for blob in blobs)),
        config=ContainerConfig(**config),
    )
    descriptors = tuple(Descriptor(OCI_LAYER, blob.digest, blob.size_bytes) for blob in blobs)
    return put(
        images,
        Manifest(2, put(images, document, OCI_CONFIG), descriptors, OCI_MANIFEST),
        OCI_MANIFEST,
    )


def make(
    images: ImageStore, *names: str, layers: list[bytes] | None = None, **config: Any
) -> Image:
    return images.add(manifest_of(images, layers or [BASE], **config), names)


def packed(write: Callable[[int], object]) -> bytes:
    fd = os.memfd_create("archive")
    try:
        write(fd)
        os.lseek(fd, 0, os.SEEK_SET)
        with open(fd, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(fd)


def loaded(images: ImageStore, data: bytes) -> tuple[Image, ...]:
    fd = os.memfd_create("archive")
    try:
        os.write(fd, data)
        os.lseek(fd, 0, os.SEEK_SET)
        return load(images, fd)
    finally:
        os.close(fd)


def test_resolves_by_every_form(images: ImageStore) -> None:
    image = make(images, "app:1", "host:5000/a/b", cmd=("x",))
    assert image.names == ("docker.io/library/app:1", "host:5000/a/b:latest")
    assert image.config.config == ContainerConfig(cmd=("x",))
    assert image.short_name == "app:1"
    for text in (
        "app:1",
        "docker.io/library/app:1",
        "host:5000/a/b",
        f"app@{image.manifest_digest}",
        image.id,
        image.id[7:],
        image.id[7:11],
        image.manifest_digest,
        image.manifest_digest[:20],
    ):
        assert images.resolve(text) == image


@pytest.mark.parametrize("text", ["app", "app:2", "other/app:1", "0" * 64, "sha256:" + "0" * 64])
def test_not_found_says_how_to_get_one(images: ImageStore, text: str) -> None:
    make(images, "app:1")
    with pytest.raises(NotFound) as caught:
        images.resolve(text)
    assert "onggi pull" in str(caught.value)
    assert "onggi image bootstrap" in str(caught.value)
    assert "onggi load" in str(caught.value)


def test_malformed_and_too_short(images: ImageStore) -> None:
    image = make(images, "app:1")
    with pytest.raises(InvalidArgument):
        images.resolve("App")
    with pytest.raises(NotFound):
        images.resolve(image.id[7:10])


def test_a_name_is_preferred_to_an_id(images: ImageStore) -> None:
    first = make(images, "x:1")
    named = make(images, first.id[7:13], layers=[NEXT])
    assert images.resolve(first.id[7:13]) == named


def test_an_ambiguous_prefix(images: ImageStore) -> None:
    """Two configurations whose digests begin alike are found by trying, without storing them."""
    seen: dict[str, int] = {}
    for number in range(100_000):
        document = ImageConfig(
            HOST.architecture,
            HOST.os,
            RootFs(diff_ids=(digest(BASE),)),
            config=ContainerConfig(cmd=(str(number),)),
        )
        prefix = digest(encode_document(document))[7:11]
        if prefix in seen:
            break
        seen[prefix] = number
    for cmd in (seen[prefix], number):
        make(images, cmd=(str(cmd),))
    with pytest.raises(Conflict, match="several images"):
        images.resolve(prefix)


def test_names_move_and_the_old_image_stays_nameless(images: ImageStore) -> None:
    old = make(images, "app")
    new = make(images, "app", layers=[NEXT])
    assert images.resolve("app") == new
    assert images.resolve(old.id).names == ()
    assert [image.id for image in images.list()] == [new.id, old.id]
    images.untag("app")
    assert images.resolve(new.id).names == ()
    with pytest.raises(NotFound):
        images.untag("app")


def test_adding_twice_is_the_same(images: ImageStore) -> None:
    assert make(images, "a") == make(images, "a")
    index = images.content.read_index()
    make(images, "a")
    assert images.content.read_index() == index


def test_tag(images: ImageStore) -> None:
    image = make(images, "a")
    assert images.tag("a", "b:2").names == ("docker.io/library/a:latest", "docker.io/library/b:2")
    assert images.resolve("b:2").id == image.id
    assert len(images.list()) == 1
    with pytest.raises(InvalidArgument):
        images.tag("a", f"b@{image.id}")


def test_names_are_standard_annotations(images: ImageStore, tmp_path: Path) -> None:
    make(images, "app:1")
    (entry,) = json.loads((tmp_path / "root/content/index.json").read_bytes())["manifests"]
    assert entry["annotations"] == {
        "io.containerd.image.name": "docker.io/library/app:1",
        "org.opencontainers.image.ref.name": "1",
    }


def test_missing_content_is_not_registered(images: ImageStore) -> None:
    target = manifest_of(images, [BASE])
    images.content.delete(digest(BASE))
    with pytest.raises(NotFound):
        images.add(target, ("a",))
    assert images.list() == ()


def test_damaged_content_is_told_and_hides_no_other(images: ImageStore) -> None:
    good, bad = make(images, "good"), make(images, "bad", layers=[NEXT])
    with open(images.content.path(bad.manifest_digest), "r+b") as file:
        file.write(b"[")
    fresh = ImageStore(images.root, platform=HOST)
    with pytest.raises(DataLoss):
        fresh.resolve("bad")
    assert fresh.list() == (good,)
    with pytest.raises(DataLoss):
        fresh.collect(in_use=())
    fresh.remove("bad", in_use=())
    assert fresh.resolve("good") == good


def test_unpack_and_export(images: ImageStore) -> None:
    image = make(images, "a", layers=[BASE, NEXT])
    assert images.unpack(image) == images.unpack(image) == image.chain_ids
    out: list[bytes] = []
    export(images.snapshots.lowers(image.chain_ids), out.append)
    reader = TarReader(pieces(b"".join(out)))
    assert {e.name: reader.read_data(10) for e in reader} == {
        b"./": b"",
        b"etc/": b"",
        b"etc/more": b"more",
    }


def test_a_damaged_layer_is_not_unpacked(images: ImageStore) -> None:
    image = make(images, "a")
    with open(images.content.path(digest(BASE)), "r+b") as file:
        file.seek(600)
        file.write(b"x")
    with pytest.raises((DataLoss, InvalidArgument)):
        images.unpack(image)
    assert images.snapshots.layers() == []


def test_an_image_for_another_platform(images: ImageStore) -> None:
    image = images.add(manifest_of(images, [BASE], Platform("s390x", "linux")), ("a",))
    with pytest.raises(FailedPrecondition, match=r"linux/s390x.*linux/amd64"):
        images.unpack(image)


def test_an_index_leads_to_the_manifest_for_this_host(images: ImageStore) -> None:
    platforms = [Platform("arm64", "linux", "v8"), HOST]
    manifests = []
    for platform in platforms:
        target = manifest_of(images, [BASE], platform)
        manifests.append(Descriptor(OCI_MANIFEST, target.digest, target.size, platform=platform))
    image = images.add(put(images, Index(2, tuple(manifests), OCI_INDEX), OCI_INDEX), ("a",))
    assert image.manifest_digest == manifests[1].digest
    assert image.platform == HOST
    assert images.resolve(f"a@{image.target.digest}") == image
    images.collect(in_use=())
    assert images.content.size_bytes(manifests[0].digest) is not None
    only_arm = put(images, Index(2, (manifests[0],), OCI_INDEX), OCI_INDEX)
    foreign = images.add(only_arm, ("b",))
    assert foreign.platform.architecture == "arm64"
    with pytest.raises(FailedPrecondition, match=r"linux/arm64.*linux/amd64"):
        images.unpack(foreign)


def test_remove_deletes_what_nothing_needs(images: ImageStore) -> None:
    one = make(images, "one")
    two = make(images, "two", layers=[BASE, NEXT])
    images.unpack(one)
    images.unpack(two)
    removed = images.remove("two", in_use=())
    assert removed.untagged == ("docker.io/library/two:latest",)
    assert digest(NEXT) in removed.deleted
    assert two.id in removed.deleted
    assert removed.layers == (two.chain_ids[1],)
    assert images.resolve("one") == one
    assert images.unpack(one) == one.chain_ids
    images.remove("one", in_use=())
    assert list(images.content.digests()) == []
    assert images.snapshots.layers() == []
    with pytest.raises(NotFound):
        images.remove("one", in_use=())


def test_layers_in_use_stay_with_those_below(images: ImageStore) -> None:
    two = make(images, "two", layers=[BASE, NEXT])
    images.unpack(two)
    assert images.remove("two", in_use=[two.chain_ids[1]]).layers == ()
    assert images.snapshots.layers() == sorted(two.chain_ids)
    assert len(images.collect(in_use=()).layers) == 2


def test_remove_one_of_several_names(images: ImageStore) -> None:
    image = make(images, "a", "b")
    assert images.remove("a", in_use=()).deleted == ()
    assert images.resolve("b").names == ("docker.io/library/b:latest",)
    images.tag("b", "c")
    with pytest.raises(Conflict, match="several names"):
        images.remove(image.id, in_use=())
    assert len(images.remove(image.id, in_use=(), force=True).untagged) == 2
    assert images.list() == ()


def test_nothing_is_deleted_while_content_comes_in(images: ImageStore) -> None:
    image = make(images, "a")
    other = ImageStore(images.root, platform=HOST)
    with other.lease():
        fresh = other.content.put(b"not named yet")
        assert images.remove("a", in_use=()).deferred
        assert images.content.size_bytes(fresh.digest) == 13
    assert image.id in images.collect(in_use=()).deleted


def test_two_stores_at_once_lose_no_name(images: ImageStore) -> None:
    target = manifest_of(images, [BASE])
    other = ImageStore(images.root, platform=HOST)

    def add(store: ImageStore, prefix: str) -> None:
        for number in range(15):
            store.add(target, (f"{prefix}{number}",))

    threads = [
        threading.Thread(target=add, args=pair)
        for pair in ((images, "a"), (other, "b"), (images, "c"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(images.resolve("a0").names) == 45


def test_import_is_reproducible_and_keeps_the_configuration(images: ImageStore) -> None:
    config = ContainerConfig(cmd=("sh",), labels={"b": "2", "a": "1"})
    made = [
        import_rootfs(images, io.BytesIO(BASE).read, name, config=config) for name in ("x", "y")
    ]
    assert made[0].id == made[1].id
    assert made[0].manifest == made[1].manifest
    assert made[1].config.config == config
    assert images.unpack(made[1]) == (digest(BASE),)


def test_commit_of_an_upper(images: ImageStore) -> None:
    image = make(images, "a")
    rootfs = images.snapshots.prepare("c", images.unpack(image))
    Path(rootfs.upper, "fs/new").write_text("hi")
    one = store_directory(images.content, os.path.join(rootfs.upper, "fs"))
    two = store_directory(images.content, os.path.join(rootfs.upper, "fs"), "zstd")
    assert one.diff_id == two.diff_id
    for layer in (one, two):
        with images.content.open(layer.descriptor.digest) as blob:
            chain = images.snapshots.apply(image.chain_ids[-1], blob.read, layer.diff_id)
    assert Path(images.snapshots.layer_path(chain), "new").read_text() == "hi"


@pytest.mark.parametrize("whole", [False, True], ids=["layer", "merged"])
def test_a_tree_in_use_is_archived_without_what_vanishes(tmp_path: Path, whole: bool) -> None:
    top = tmp_path / "fs"
    for name in ("first/file", "gone/below", "kept/file"):
        (top / name).parent.mkdir(parents=True)
        (top / name).write_text(name)
    (top / "gone-too").write_text("")
    (top / "swapped").mkdir()
    archive = bytearray()

    def write(data: bytes) -> None:
        if top.joinpath("gone").exists() and archive:  # the names are known, `first` is written
            shutil.rmtree(top / "gone")
            (top / "gone-too").unlink()
            (top / "swapped").rmdir()
            (top / "swapped").write_text("a file by now")
        archive.extend(data)

    fd = os.open(top, os.O_PATH | os.O_DIRECTORY)
    try:
        export([str(top)], write) if whole else write_layer(fd, write)
    finally:
        os.close(fd)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        kinds = {member.name: member.isdir() for member in tar}
    first = {".": True, "first": True, "first/file": False}
    assert kinds == {**first, "kept": True, "kept/file": False, "swapped": False}


def test_save_and_load(images: ImageStore, tmp_path: Path) -> None:
    one = make(images, "app:1", "app:2", layers=[BASE, NEXT])
    two = make(images, "other")
    data = packed(lambda fd: save(images, [one, two], fd))
    assert packed(lambda fd: save(images, [one, two], fd)) == data
    there = ImageStore(str(tmp_path / "there"), platform=HOST)
    assert loaded(there, data) == (one, two)
    assert there.unpack(there.resolve("app:2")) == one.chain_ids


def test_what_was_loaded_has_the_names_of_its_archive(images: ImageStore) -> None:
    image = make(images, "app:1", layers=[BASE])
    data = packed(lambda fd: save(images, [image], fd))
    images.tag(image.id, "mine:1")
    assert [one.names for one in loaded(images, data)] == [("docker.io/library/app:1",)]
    assert len(images.resolve("mine:1").names) == 2


def test_saved_archives_are_what_docker_reads(images: ImageStore) -> None:
    image = make(images, "app:1", layers=[BASE, NEXT])
    with tarfile.open(fileobj=io.BytesIO(packed(lambda fd: save(images, [image], fd)))) as tar:
        (entry,) = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
        assert entry["RepoTags"] == ["app:1"]
        assert entry["Config"] == f"blobs/sha256/{image.id[7:]}"
        layers = [tar.extractfile(name).read() for name in entry["Layers"]]  # type: ignore[union-attr]
        assert layers == [BASE, NEXT]
        assert json.load(tar.extractfile("oci-layout")) == {"imageLayoutVersion": "1.0.0"}  # type: ignore[arg-type]


def docker_archive(*, links: bool = False) -> bytes:
    """As Docker before 25 wrote it, with a layer shared through a symlink."""
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["sh"], "Volumes": None},
            "rootfs": {"type": "layers", "diff_ids": [digest(BASE), digest(NEXT), digest(BASE)]},
        }
    ).encode()
    name = digest(config)[7:] + ".json"
    third = (
        member(b"c/layer.tar", b"2", link=b"../a/layer.tar")
        if links
        else member(b"c/layer.tar", data=BASE)
    )
    listed = [
        {
            "Config": name,
            "RepoTags": ["old:1"],
            "Layers": ["a/layer.tar", "b/layer.tar", "c/layer.tar"],
        }
    ]
    return (
        member(b"a/", b"5")
        + member(b"a/VERSION", data=b"1.0")
        + member(b"a/json", data=b"{}")
        + member(b"a/layer.tar", data=BASE)
        + member(b"b/layer.tar", data=NEXT)
        + third
        + member(name.encode(), data=config)
        + member(b"manifest.json", data=json.dumps(listed).encode())
        + member(b"repositories", data=b"{}")
        + END
    )


@pytest.mark.parametrize("links", [False, True])
def test_loads_old_docker_archives(images: ImageStore, links: bool) -> None:
    (image,) = loaded(images, docker_archive(links=links))
    assert image.names == ("docker.io/library/old:1",)
    assert image.config.config is not None
    assert image.config.config.cmd == ("sh",)
    assert images.unpack(image) == image.chain_ids


def test_an_archive_is_loaded_whole_or_not_at_all(images: ImageStore) -> None:
    good = docker_archive()
    listed = json.dumps(
        [
            {"Config": "a/x", "RepoTags": ["good:1"], "Layers": ["l"]},
            {"Config": "a/x", "RepoTags": ["bad:1"], "Layers": ["l", "l"]},
        ]
    ).encode()
    config = encode_document(ImageConfig("amd64", "linux", RootFs(diff_ids=(digest(BASE),))))
    data = member(b"a/x", data=config) + member(b"l", data=BASE)
    with pytest.raises(DataLoss, match="bad:1"):
        loaded(images, data + member(b"manifest.json", data=listed) + END)
    assert images.list() == ()
    assert loaded(images, good)[0].names == ("docker.io/library/old:1",)


BAD_ARCHIVES = {
    "empty": END,
    "no image": BASE,
    "config is missing": member(b"manifest.json", data=b'[{"Config":"x","Layers":[]}]') + END,
    "config outside": member(b"manifest.json", data=b'[{"Config":"/etc/passwd","Layers":[]}]')
    + END,
    "links in a circle": member(b"x", b"2", link=b"y")
    + member(b"y", b"2", link=b"x")
    + member(b"manifest.json", data=b'[{"Config":"x","Layers":[]}]')
    + END,
    "manifest of another shape": member(b"manifest.json", data=b'{"Config":1}') + END,
    "two manifests": member(b"manifest.json", data=b"[]") * 2 + END,
    "a device": member(b"x", b"3") + END,
    "a blob of other content": member(b"blobs/sha256/" + b"0" * 64, data=b"x") + END,
    "a blob with a path for a name": member(b"blobs/sha256/../../x", data=b"x") + END,
    "no manifest in the index": member(b"oci-layout", data=b"{}")
    + member(b"index.json", data=b'{"schemaVersion":2,"manifests":[]}')
    + END,
    "a huge manifest.json": member(b"manifest.json", data=b" " * (5 << 20)) + END,
}


@pytest.mark.parametrize("data", BAD_ARCHIVES.values(), ids=BAD_ARCHIVES.keys())
def test_bad_archives_are_refused(images: ImageStore, tmp_path: Path, data: bytes) -> None:
    with pytest.raises((InvalidArgument, DataLoss)):
        loaded(images, data)
    assert images.list() == ()
    assert os.listdir(tmp_path) == ["root"]
    assert os.listdir(tmp_path / "root/content/ingest") == []
