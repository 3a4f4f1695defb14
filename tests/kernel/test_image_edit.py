"""New images from old ones, and what images share; on the real filesystem."""

from __future__ import annotations

import gzip
import io
import json
import os
import stat
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from image_tars import END, member
from onggi.errors import FailedPrecondition, InvalidArgument, NotFound
from onggi.image.commit import commit_container
from onggi.image.edit import append_layer, flatten, mutate, rebase
from onggi.image.images import Image, ImageStore
from onggi.image.lineage import image_tree, sizes
from onggi.image.validate import validate
from onggi.specs.image import (
    DOCKER_CONFIG,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    ContainerConfig,
    Descriptor,
    History,
    Platform,
    digest_of,
)

HOST = Platform("amd64", "linux")
THEN, NOW = "2020-01-01T00:00:00Z", "2024-05-06T07:08:09Z"
ROOT = member(b"./", b"5", mode=0o755)
BASE = ROOT + member(b"etc/", b"5", mode=0o755) + member(b"etc/os", data=b"one") + END
NEWER = ROOT + member(b"etc/", b"5", mode=0o755) + member(b"etc/os", data=b"two") + END
APP = member(b"app", data=b"app", mode=0o755) + END
LAST = member(b"etc/.wh.os") + member(b"etc/more", data=b"more") + END


@pytest.fixture
def images(tmp_path: Path) -> ImageStore:
    return ImageStore(str(tmp_path / "root"), platform=HOST)


def make(
    images: ImageStore, name: str, *layers: bytes, docker: bool = False, **fields: Any
) -> Image:
    """An image with a field in each document that nobody knows."""
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": THEN,
        "config": {"Cmd": ["sh"], "Env": ["A=1"], "Healthcheck": {"Test": ["NONE"]}, "Odd": 1},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
        "history": [{"created": THEN, "created_by": f"layer {n}"} for n in range(len(layers))],
        "odd": {"x": [1]},
    } | fields
    config = {key: value for key, value in config.items() if value is not None}

    def put(data: bytes, media_type: str) -> dict[str, Any]:
        blob = images.content.put(data)
        return {"mediaType": media_type, "digest": blob.digest, "size": blob.size_bytes}

    packed = [gzip.compress(layer, mtime=0) for layer in layers]
    kinds = (DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER_GZIP)
    kinds = kinds if docker else (OCI_MANIFEST, OCI_CONFIG, OCI_LAYER_GZIP)
    manifest = {
        "schemaVersion": 2,
        "mediaType": kinds[0],
        "config": put(json.dumps(config).encode(), kinds[1]),
        "layers": [put(layer, kinds[2]) for layer in packed],
        "odd": True,
    }
    fields = put(json.dumps(manifest).encode(), kinds[0])
    target = Descriptor(fields["mediaType"], fields["digest"], fields["size"])
    return images.add(target, (name,))


def document(images: ImageStore, digest: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(images.content.read(digest, 1 << 20))
    return found


def steps(image: Image) -> list[tuple[str | None, bool]]:
    return [(step.created_by, step.empty_layer) for step in image.config.history or ()]


def files(images: ImageStore, image: Image) -> dict[str, bytes]:
    """The regular files of the merged view."""
    from onggi.image.merged import MergedView

    with MergedView(images.snapshots.lowers(images.unpack(image))) as view:
        return {
            os.fsdecode(node.path): view.read_file(os.fsdecode(node.path), 1000)
            for node, _ in view.walk()
            if stat.S_ISREG(node.status.st_mode)
        }


def sound(images: ImageStore, image: Image) -> bool:
    return validate(images, image.target) == []


def test_mutate(images: ImageStore) -> None:
    old = make(images, "old", BASE)
    new = mutate(
        images,
        old,
        "new",
        changes=['CMD ["app"]', "ENV B=2", "LABEL x=y"],
        annotations={"a": "1"},
        author="me",
    )
    assert new.names == ("docker.io/library/new:latest",)
    assert new.config.config is not None
    assert new.config.config.cmd == ("app",)
    assert new.config.config.env == ("A=1", "B=2")
    assert new.config.config.labels == {"x": "y"}
    assert new.config.author == "me"
    assert new.created == THEN
    assert new.layers == old.layers
    assert steps(new) == [
        ("layer 0", False),
        ('CMD ["app"]', True),
        ("ENV B=2", True),
        ("LABEL x=y", True),
    ]
    assert document(images, new.manifest_digest)["annotations"] == {"a": "1"}
    assert images.resolve("old") == old
    assert sound(images, new)
    bare = mutate(images, new, "new", annotations={"a": None}, created=NOW)
    assert "annotations" not in document(images, bare.manifest_digest)
    assert bare.created == NOW


def test_what_nobody_knows_is_kept(images: ImageStore) -> None:
    old = make(images, "old", BASE)
    for new in (
        mutate(images, old, changes=["USER x"]),
        append_layer(images, old, None, io.BytesIO(APP).read),
        flatten(images, old),
    ):
        config = document(images, new.id)
        assert config["odd"] == {"x": [1]}
        assert config["config"]["Odd"] == 1
        assert config["config"]["Healthcheck"] == {"Test": ["NONE"]}
        assert document(images, new.manifest_digest)["odd"] is True


def test_mutate_without_a_name_or_change(images: ImageStore) -> None:
    old = make(images, "old", BASE)
    new = mutate(images, old)
    assert new.names == ()
    assert new.config == old.config
    assert images.resolve(new.id).manifest_digest == new.manifest_digest


def test_another_platform(images: ImageStore) -> None:
    new = mutate(images, make(images, "old", BASE), platform=Platform("arm64", "linux", "v8"))
    assert new.platform == Platform("arm64", "linux", "v8")


def test_what_fails_registers_nothing(images: ImageStore) -> None:
    old = make(images, "old", BASE)
    with pytest.raises(InvalidArgument):
        mutate(images, old, "new", changes=["RUN x"])
    with pytest.raises(InvalidArgument):
        mutate(images, old, "New")
    with pytest.raises(InvalidArgument):
        append_layer(images, old, "new", io.BytesIO(b"x" * 2000).read)
    with pytest.raises(NotFound):
        images.resolve("new")
    assert os.listdir(Path(images.content.root, "ingest")) == []


@pytest.mark.parametrize("packed", [True, False])
def test_append(images: ImageStore, packed: bool) -> None:
    old = make(images, "old", BASE)
    data = gzip.compress(LAST) if packed else LAST
    new = append_layer(images, old, "new", io.BytesIO(data).read, comment="mine")
    again = append_layer(images, old, "again", io.BytesIO(data).read, comment="mine")
    assert new.manifest == again.manifest
    assert new.layers[:1] == old.layers
    assert new.config.diff_ids == (digest_of(BASE), digest_of(LAST))
    assert new.config.history is not None
    assert new.config.history[1] == History(THEN, "append", comment="mine")
    assert files(images, new) == {"etc/more": b"more"}
    assert sound(images, new)


def test_append_in_other_compressions(images: ImageStore) -> None:
    old = make(images, "old", BASE)
    zstd = append_layer(images, old, None, io.BytesIO(APP).read, compression="zstd")
    plain = append_layer(images, old, None, io.BytesIO(APP).read, compression="none")
    assert zstd.layers[1].media_type == OCI_LAYER_ZSTD
    assert plain.layers[1].media_type == OCI_LAYER
    assert zstd.id == plain.id
    assert sound(images, zstd)
    assert sound(images, plain)


def test_docker_images_become_oci_images(images: ImageStore) -> None:
    new = mutate(images, make(images, "old", BASE, APP, docker=True), changes=["USER x"])
    manifest = document(images, new.manifest_digest)
    assert manifest["mediaType"] == new.manifest.media_type == OCI_MANIFEST
    assert manifest["config"]["mediaType"] == OCI_CONFIG
    assert {layer["mediaType"] for layer in manifest["layers"]} == {OCI_LAYER_GZIP}
    assert sound(images, new)


def test_rebase(images: ImageStore) -> None:
    base = mutate(images, make(images, "base", BASE), "base", changes=["ENV A=1"])
    app = append_layer(images, base, "app", io.BytesIO(APP).read)
    app = mutate(images, app, "app", changes=['CMD ["app"]'])
    newer = make(images, "newer", NEWER, LAST)
    new = rebase(images, app, "app", base, newer)
    assert new.config.diff_ids == (digest_of(NEWER), digest_of(LAST), digest_of(APP))
    assert files(images, new) == {"etc/more": b"more", "app": b"app"}
    assert new.config.config == app.config.config
    assert steps(new) == [
        ("layer 0", False),
        ("layer 1", False),
        ("ENV A=1", True),
        ("append", False),
        ('CMD ["app"]', True),
    ]
    annotations = document(images, new.manifest_digest)["annotations"]
    assert annotations == {
        "org.opencontainers.image.base.digest": newer.manifest_digest,
        "org.opencontainers.image.base.name": "docker.io/library/newer:latest",
    }
    assert sound(images, new)
    with pytest.raises(FailedPrecondition, match="does not start with"):
        rebase(images, new, "app", base, newer)


def test_rebase_without_histories(images: ImageStore) -> None:
    base = make(images, "base", BASE, history=None)
    newer = make(images, "newer", NEWER, history=None)
    with_history = make(images, "a", BASE, APP)
    without = make(images, "b", BASE, APP, history=None)
    assert steps(rebase(images, with_history, None, base, newer)) == [
        (None, False),
        ("layer 1", False),
    ]
    assert rebase(images, without, None, base, newer).config.history is None
    other = make(images, "other", NEWER, architecture="arm64")
    with pytest.raises(FailedPrecondition, match="arm64"):
        rebase(images, without, None, base, other)


def test_flatten(images: ImageStore) -> None:
    old = make(images, "old", BASE, APP, LAST)
    new = flatten(images, old, "flat")
    assert files(images, new) == files(images, old) == {"etc/more": b"more", "app": b"app"}
    assert len(new.layers) == 1
    assert steps(new) == [("flatten", False)]
    assert new.config.config == old.config.config
    assert new.created == THEN
    assert sound(images, new)
    twin = make(images, "twin", BASE, APP, LAST)
    assert flatten(images, twin).manifest == new.manifest


# Commit.


def upper(images: ImageStore, image: Image, key: str = "c") -> Path:
    return Path(images.snapshots.prepare(key, images.unpack(image)).upper, "fs")


def test_commit(images: ImageStore) -> None:
    image = make(images, "old", BASE)
    fs = upper(images, image)
    (fs / "new").write_text("hi")
    os.chown(fs / "new", 1000, 1000)
    (fs / "etc").mkdir()
    os.mknod(fs / "etc/os", stat.S_IFCHR | 0o600, 0)
    new = commit_container(
        images,
        image,
        str(fs),
        "new",
        config=ContainerConfig(cmd=("run",), env=("A=2",)),
        author="me",
        message="why",
        changes=["USER x"],
        created=NOW,
    )
    assert files(images, new) == {"new": b"hi"}
    assert new.config.config == ContainerConfig(cmd=("run",), env=("A=2",), user="x")
    assert new.config.history is not None
    assert new.config.history[-1] == History(NOW, "run", "me", "why")
    assert (new.created, new.config.author) == (NOW, "me")
    assert new.layers[0] == image.layers[0]
    assert os.stat(images.snapshots.lowers(images.unpack(new))[0] + "/new").st_uid == 1000
    assert sound(images, new)


def test_commit_of_nothing_adds_no_layer(images: ImageStore) -> None:
    image = make(images, "old", BASE)
    fs = upper(images, image)
    new = commit_container(images, image, str(fs), "new", message="no files")
    assert new.layers == image.layers
    assert steps(new) == [("layer 0", False), ("sh", True)]
    assert sound(images, new)
    fs.chmod(0o700)
    changed = commit_container(images, image, str(fs), "new")
    assert len(changed.layers) == 2
    root = images.snapshots.lowers(images.unpack(changed))[0]
    assert stat.S_IMODE(os.stat(root).st_mode) == 0o700


# What images share.


def test_tree(images: ImageStore) -> None:
    base = make(images, "base", BASE)
    app = append_layer(images, base, "app", io.BytesIO(APP).read)
    last = append_layer(images, base, "last", io.BytesIO(LAST).read)
    make(images, "other", NEWER)
    images.unpack(app)
    nodes = image_tree(images)
    shown = [(node.depth, node.images, node.created_by) for node in nodes]
    assert shown == [
        (0, ("docker.io/library/base:latest",), "layer 0"),
        (1, ("docker.io/library/app:latest",), "append"),
        (1, ("docker.io/library/last:latest",), "append"),
        (0, ("docker.io/library/other:latest",), "layer 0"),
    ]
    assert [node.chain_id for node in nodes[:3]] == [*app.chain_ids, last.chain_ids[1]]
    assert nodes[1].parent == nodes[2].parent == nodes[0].chain_id
    assert nodes[0].size_bytes == base.layers[0].size
    assert nodes[0].disk_bytes > 0
    assert nodes[2].disk_bytes == 0


def test_a_tree_of_many_layers(images: ImageStore) -> None:
    layers = [member(b"f", data=b"%d" % number) + END for number in range(500)]
    make(images, "deep", *layers)
    assert [node.depth for node in image_tree(images)] == list(range(500))


def test_sizes(images: ImageStore) -> None:
    base = make(images, "base", BASE)
    app = append_layer(images, base, "app", io.BytesIO(APP).read)
    own = app.size_bytes - sum(layer.size for layer in app.layers)
    found = sizes(images, app)
    assert found.unique_bytes == own + app.layers[1].size
    assert found.shared_bytes == app.layers[0].size
    assert (found.unique_disk_bytes, found.shared_disk_bytes) == (0, 0)
    images.unpack(app)
    found = sizes(images, app)
    assert found.unique_disk_bytes > 0
    assert found.shared_disk_bytes > 0
    alone = sizes(images, base)
    assert alone.shared_bytes == base.layers[0].size
    images.remove("app", in_use=())
    alone = sizes(images, base)
    assert (alone.unique_bytes, alone.shared_bytes) == (base.size_bytes, 0)


def test_holes_of_a_container_stay_holes(images: ImageStore, tmp_path: Path) -> None:
    """A database of 1 GB with two pages in it is a layer of a few kilobytes, for others too."""
    image = make(images, "old", BASE)
    fs = upper(images, image)
    for name, pieces in {"end": [(0, 4096), (1 << 20, 8192)], "tail": [(1 << 20, 4096)]}.items():
        with open(fs / name, "wb") as file:
            for offset, length in pieces:
                file.seek(offset)
                file.write(b"x" * length)
            if name == "tail":
                file.truncate(1 << 30)
    with open(fs / "empty", "wb") as file:
        file.truncate(5 << 20)
    new = commit_container(images, image, str(fs), "new", compression="none")
    assert new.layers[1].size < 100_000
    assert sound(images, new)
    top = Path(images.snapshots.lowers(images.unpack(new))[0])
    archive = images.content.path(new.layers[1].digest)
    subprocess.run(["tar", "-C", tmp_path, "-xf", archive], check=True)
    with tarfile.open(archive) as python:
        for name in ("end", "tail", "empty"):
            size = os.stat(fs / name).st_size
            for where in (fs, top, tmp_path):
                assert os.stat(where / name).st_size == size
                assert os.stat(where / name).st_blocks * 512 < 100_000
                with open(where / name, "rb") as file:
                    file.seek(1 << 20)
                    assert file.read(5000) == expected(name)
            assert python.getmember(name).size == size


def expected(name: str) -> bytes:
    if name == "end":
        return b"x" * 5000
    return b"x" * 4096 + bytes(904) if name == "tail" else bytes(5000)
