"""What tells two images apart, and what a container changed, on real overlays too."""

from __future__ import annotations

import gzip
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec import structs

from image_tars import END, member
from onggi.image.difference import (
    Aspect,
    FieldChange,
    FileChange,
    compare_images,
    container_changes,
    field_changes,
    file_changes,
)
from onggi.image.images import Image, ImageStore
from onggi.image.merged import MergedView
from onggi.kernel.syscalls import (
    fsconfig_create,
    fsconfig_string,
    fsmount,
    fsopen,
    move_mount,
    umount2,
)
from onggi.specs.image import (
    OCI_CONFIG,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    ContainerConfig,
    Descriptor,
    Healthcheck,
    ImageConfig,
    Manifest,
    Platform,
    RootFs,
    digest_of,
    encode_document,
)

Fill = Callable[[Path], object]

HOST = Platform("amd64", "linux")
ROOT = member(b"./", b"5", mode=0o755)
BASE = ROOT + member(b"etc/", b"5", mode=0o755) + member(b"etc/os", data=b"one") + END
APP = member(b"app", data=b"app", mode=0o755) + END
LAST = member(b"etc/.wh.os") + member(b"etc/more", data=b"more") + END


@pytest.fixture
def images(tmp_path: Path) -> ImageStore:
    return ImageStore(str(tmp_path / "root"), platform=HOST)


def make(images: ImageStore, *layers: bytes, **config: object) -> Image:
    def put(data: bytes, media_type: str) -> Descriptor:
        blob = images.content.put(data)
        return Descriptor(media_type, blob.digest, blob.size_bytes)

    document = ImageConfig(
        "amd64",
        "linux",
        RootFs(diff_ids=tuple(digest_of(layer) for layer in layers)),
        config=ContainerConfig(**config),  # type: ignore[arg-type]
    )
    described = put(encode_document(document), OCI_CONFIG)
    stored = tuple(put(gzip.compress(layer, mtime=0), OCI_LAYER_GZIP) for layer in layers)
    manifest = Manifest(2, described, stored, OCI_MANIFEST)
    return images.add(put(encode_document(manifest), OCI_MANIFEST))


def trees(
    tmp_path: Path, old: Callable[[Path], object], new: Callable[[Path], object]
) -> list[FileChange]:
    """What differs between two directories that the arguments fill."""
    places = []
    for name, fill in (("old", old), ("new", new)):
        path = tmp_path / name
        path.mkdir(mode=0o755)
        fill(path)
        places.append([str(path)])
    with MergedView(places[0]) as one, MergedView(places[1]) as two:
        return list(file_changes(one, two))


def test_images(images: ImageStore) -> None:
    before = make(images, BASE, APP, cmd=("a",))
    after = make(images, BASE, LAST, cmd=("b",))
    found = compare_images(images, before, after)
    assert found.files == (
        FileChange("/app", "removed"),
        FileChange("/etc/more", "added"),
        FileChange("/etc/os", "removed"),
    )
    assert not found.more
    assert found.fields == (FieldChange("config.Cmd", '["a"]', '["b"]'),)
    assert found.shared_layers == (digest_of(BASE),)
    assert found.layers_before == (digest_of(APP),)
    assert found.layers_after == (digest_of(LAST),)
    same = compare_images(images, before, before)
    assert (same.files, same.fields, same.layers_before) == ((), (), ())


def test_the_number_of_files_is_bounded(images: ImageStore) -> None:
    many = b"".join(member(b"%03d" % number) for number in range(20)) + END
    before, after = make(images, BASE), make(images, BASE, many)
    found = compare_images(images, before, after, maximum_files=5)
    assert len(found.files) == 5
    assert found.more
    assert not compare_images(images, before, after, maximum_files=20).more


def test_the_same_content_in_other_inodes_is_no_change(tmp_path: Path) -> None:
    def fill(path: Path) -> None:
        (path / "d").mkdir()
        (path / "d/f").write_bytes(b"x" * 3_000_000)
        (path / "l").symlink_to("nowhere")
        os.mkfifo(path / "p")
        os.mknod(path / "n", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        os.setxattr(path / "d/f", "user.a", b"1")

    assert trees(tmp_path, fill, fill) == []


def aspects(
    tmp_path: Path, old: Callable[[Path], object], new: Callable[[Path], object]
) -> tuple[Aspect, ...]:
    """How a thing of the name `x` differs."""
    (change,) = trees(tmp_path, lambda p: old(p / "x"), lambda p: new(p / "x"))
    assert (change.path, change.kind) == ("/x", "changed")
    return change.aspects


def written(data: bytes, mode: int = 0o644) -> Fill:
    def fill(path: Path) -> None:
        path.write_bytes(data)
        path.chmod(mode)

    return fill


def test_content_and_size(tmp_path: Path) -> None:
    assert aspects(tmp_path, written(b"one"), written(b"two")) == (
        Aspect("content", digest_of(b"one"), digest_of(b"two")),
    )
    (tmp_path / "again").mkdir()
    assert aspects(tmp_path / "again", written(b"one"), written(b"")) == (
        Aspect("size", "3", "0"),
        Aspect("content", digest_of(b"one"), digest_of(b"")),
    )


def test_mode_owner_and_attributes(tmp_path: Path) -> None:
    def other(path: Path) -> None:
        written(b"", 0o4755)(path)
        os.setxattr(path, "user.a", b"\1")
        os.chown(path, 5, 6)
        path.chmod(0o4755)

    assert aspects(tmp_path, written(b""), other) == (
        Aspect("mode", "0644", "4755"),
        Aspect("owner", "0:0", "5:6"),
        Aspect("xattr user.a", "", "01"),
    )


def test_type(tmp_path: Path) -> None:
    changes = trees(
        tmp_path,
        lambda p: ((p / "x").mkdir(mode=0o644), (p / "x/y").write_bytes(b"")),
        lambda p: written(b"")(p / "x"),
    )
    assert changes == [
        FileChange("/x", "changed", (Aspect("type", "directory", "file"),)),
        FileChange("/x/y", "removed"),
    ]


def test_targets_and_devices(tmp_path: Path) -> None:
    def fill(number: int) -> Fill:
        def fill(path: Path) -> None:
            (path / "l").symlink_to(f"/to/{number}")
            os.mknod(path / "n", stat.S_IFCHR | 0o600, os.makedev(1, number))

        return fill

    assert trees(tmp_path, fill(3), fill(5)) == [
        FileChange("/l", "changed", (Aspect("target", "/to/3", "/to/5"),)),
        FileChange("/n", "changed", (Aspect("device", "1:3", "1:5"),)),
    ]


def test_times_when_asked(tmp_path: Path) -> None:
    for name, at in (("old", 1), ("new", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_bytes(b"")
        os.utime(tmp_path / name / "f", ns=(at, at))
        os.utime(tmp_path / name, ns=(0, 0))
    with MergedView([str(tmp_path / "old")]) as one, MergedView([str(tmp_path / "new")]) as two:
        assert list(file_changes(one, two)) == []
        assert list(file_changes(one, two, times=True)) == [
            FileChange("/f", "changed", (Aspect("mtime", "1", "2"),))
        ]


def test_trees_of_other_shapes_stay_in_step(tmp_path: Path) -> None:
    """Names that sort otherwise as whole paths: `a/b` and `a.b`, `a` and `a-`."""
    names = ["a/b/c", "a/b.c", "a.b/c", "a-/x", "b", "a/z/z/z", "0", "a/b/d/e"]

    def fill(kept: list[str]) -> Fill:
        def fill(path: Path) -> None:
            for name in kept:
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                (path / name).write_bytes(b"")

        return fill

    for at, gone in enumerate(names):
        place = tmp_path / str(at)
        place.mkdir()
        kept = [name for name in names if name != gone]
        changes = trees(place, fill(names), fill(kept))
        assert {change.kind for change in changes} == {"removed"}
        assert f"/{gone}" in [change.path for change in changes]
        lost = {f"/{path.relative_to(place / 'old')}" for path in (place / "old").rglob("*")} - {
            f"/{path.relative_to(place / 'new')}" for path in (place / "new").rglob("*")
        }
        assert {change.path for change in changes} == lost


def test_a_link_is_never_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    found = aspects(
        tmp_path, lambda p: p.symlink_to("../secret"), lambda p: p.symlink_to("/etc/passwd")
    )
    assert found == (Aspect("target", "../secret", "/etc/passwd"),)


def test_configurations() -> None:
    before = ImageConfig(
        "amd64",
        "linux",
        RootFs(),
        config=ContainerConfig(
            env=("A=1", "B=2"), labels={"x": "1", "y": "2"}, healthcheck=Healthcheck(retries=1)
        ),
    )
    after = structs.replace(
        before,
        architecture="arm64",
        config=ContainerConfig(
            env=("B=3", "A=1"),
            labels={"y": "2", "z": ""},
            healthcheck=Healthcheck(retries=2),
            user="u",
        ),
    )
    assert field_changes(before, after) == (
        FieldChange("architecture", '"amd64"', '"arm64"'),
        FieldChange("config.Env.B", '"2"', '"3"'),
        FieldChange("config.Healthcheck", '{"Retries":1}', '{"Retries":2}'),
        FieldChange("config.Labels.x", '"1"', None),
        FieldChange("config.Labels.z", None, '""'),
        FieldChange("config.User", None, '"u"'),
    )


# Containers.


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[tuple[Path, str, tuple[str, ...]]]:
    """A mounted overlay over two layers; its upper, and the layers."""
    for name in ("low", "mid", "up", "work", "at"):
        (tmp_path / name).mkdir()
    for name in ("d/a", "d/sub/deep", "etc/os", "gone"):
        (tmp_path / "low" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "low" / name).write_bytes(b"low")
    (tmp_path / "low/link").symlink_to("d")
    (tmp_path / "mid/d").mkdir()
    (tmp_path / "mid/d/b").write_bytes(b"mid")
    layers = (str(tmp_path / "mid"), str(tmp_path / "low"))
    with fsopen("overlay") as fs:
        fsconfig_string(fs, "lowerdir", ":".join(layers))
        fsconfig_string(fs, "upperdir", str(tmp_path / "up"))
        fsconfig_string(fs, "workdir", str(tmp_path / "work"))
        fsconfig_create(fs)
        with fsmount(fs) as mount:
            move_mount(mount, -100, str(tmp_path / "at"))
    try:
        yield tmp_path / "at", str(tmp_path / "up"), layers
    finally:
        umount2(str(tmp_path / "at"))


def test_container_changes(overlay: tuple[Path, str, tuple[str, ...]]) -> None:
    at, up, layers = overlay
    assert container_changes(up, layers) == []
    (at / "new").mkdir()
    (at / "new/file").write_bytes(b"")
    (at / "gone").unlink()
    (at / "d/sub/deep").write_bytes(b"changed")
    (at / "etc/os").chmod(0o600)
    assert container_changes(up, layers) == [
        ("C", "/d"),
        ("C", "/d/sub"),
        ("C", "/d/sub/deep"),
        ("C", "/etc"),
        ("C", "/etc/os"),
        ("D", "/gone"),
        ("A", "/new"),
        ("A", "/new/file"),
    ]


def test_a_directory_that_was_made_anew(overlay: tuple[Path, str, tuple[str, ...]]) -> None:
    at, up, layers = overlay
    (at / "d/sub/deep").unlink()
    (at / "d/sub").rmdir()
    (at / "d/a").unlink()
    (at / "d/b").unlink()
    (at / "d").rmdir()
    (at / "d/sub").mkdir(parents=True)
    (at / "d/b").write_bytes(b"")
    assert container_changes(up, layers) == [
        ("C", "/d"),
        ("D", "/d/a"),
        ("C", "/d/b"),
        ("C", "/d/sub"),
        ("D", "/d/sub/deep"),
    ]


def test_a_directory_in_the_place_of_a_link(overlay: tuple[Path, str, tuple[str, ...]]) -> None:
    """What the link led to is not what was there."""
    at, up, layers = overlay
    (at / "link").unlink()
    (at / "link").mkdir()
    (at / "link/a").write_bytes(b"")
    assert container_changes(up, layers) == [("C", "/link"), ("A", "/link/a")]
    (at / "new").write_bytes(b"")
    (at / "new").unlink()
    assert container_changes(up, layers) == [("C", "/link"), ("A", "/link/a")]
