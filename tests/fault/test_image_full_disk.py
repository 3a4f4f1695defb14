"""A store on a disk that is full, or nearly: what does not fit is refused and leaves nothing, and
removing, pruning and checking still work and give space back.

The disk is an ext4 of 256 MB in a file. ONGGI_FULL_STEPS says how many of the hundred levels.
"""

from __future__ import annotations

import gzip
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from acceptance import wire_rig as wire
from acceptance.rig import until
from fault.image_rig import (
    FORMS,
    CountingRegistry,
    Shelf,
    configure,
    damage_of,
    engine_at,
    need_form,
    pulled,
    store_of,
)
from image_health import open_store
from onggi.errors import NotFound, ResourceExhausted
from onggi.image.fsck import check
from onggi.image.images import ImageStore
from onggi.image.prune import prune
from onggi.image.pull import pull
from onggi.image.repair import repair
from onggi.image.settings import ImageSettings
from onggi.specs.image import Descriptor
from source_double import HOST, SourceDouble, layer_tar

DISK_BYTES = 256 << 20
STEPS = int(os.environ.get("ONGGI_FULL_STEPS", "7"))
SMALL, SPARE, BIG = "local/small:1", "local/spare:1", "local/big:1"

pytestmark = pytest.mark.timeout(60 + 20 * STEPS)


class Images:
    """Three images in memory: one to keep, one to remove, and one that does not fit on the disk."""

    def __init__(self) -> None:
        self.source = SourceDouble()

        def image(*tars: bytes) -> Descriptor:
            return self.source.image(tars, pack=lambda tar: gzip.compress(tar, 0, mtime=0))

        base = layer_tar("base", 500_000)
        self.roots: dict[str, Descriptor] = {
            SMALL: image(base, layer_tar("small", 500_000)),
            SPARE: image(base, layer_tar("spare", 5_000_000)),
            BIG: image(base, *(layer_tar(f"big{n}", 13_000_000) for n in range(10))),
        }

    def pull(self, images: ImageStore, name: str) -> None:
        """Bring one in."""
        self.source.root_descriptor = self.roots[name]
        pull(images, self.source, (name,))


@pytest.fixture(scope="module")
def made() -> Images:
    return Images()


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    need_form(request.param, tmp_path)
    return str(request.param)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small ext4 of the test's own."""
    file, place = tmp_path / "disk.ext4", tmp_path / "disk"
    place.mkdir()
    with file.open("wb") as empty:
        empty.truncate(DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", file], check=True)
    done = subprocess.run(["mount", "-o", "loop", file, place], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no loop devices on this host: {done.stderr.decode()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
        file.unlink()


def free_bytes(disk: Path) -> int:
    status = os.statvfs(disk)
    return status.f_bavail * status.f_frsize


@contextmanager
def filled(disk: Path, leave_bytes: int) -> Iterator[None]:
    """While it lasts, only so much is free; 0 is not a byte."""
    filler = disk / "filler"
    fd = os.open(filler, os.O_WRONLY | os.O_CREAT)
    try:
        # The file's own extents take some blocks too.
        os.posix_fallocate(fd, 0, free_bytes(disk) - max(leave_bytes, 1 << 20))
        if not leave_bytes:
            _fill_up(fd)
        yield
    finally:
        os.close(fd)
        filler.unlink()
        os.sync()


def _fill_up(fd: int) -> None:
    os.lseek(fd, 0, os.SEEK_END)
    for size in (1 << 20, 4096, 1):
        try:
            while True:
                os.write(fd, bytes(size))
        except OSError:
            os.fsync(fd)


def levels() -> list[int]:
    """Percent of what the store leaves that stay free: 0 to 99, some of them."""
    return sorted({99 * n // max(1, STEPS - 1) for n in range(STEPS)})


def test_at_every_level(form: str, disk: Path, made: Images) -> None:
    for level in levels():
        images = open_store(disk / "store", form)
        made.pull(images, SMALL)
        made.pull(images, SPARE)
        images.snapshots.close()
        with filled(disk, free_bytes(disk) * level // 100):
            reopened = ImageStore(
                str(disk / "store"),
                platform=HOST,
                settings=ImageSettings(snapshotter=form),  # type: ignore[arg-type]
            )
            _one_level(reopened, disk, made, f"{level} % free")
            reopened.snapshots.close()
    images = open_store(disk / "store", form)
    repair(images, in_use=())
    made.pull(images, SPARE)
    assert check(images) == ()
    images.snapshots.close()


def _one_level(images: ImageStore, disk: Path, made: Images, where: str) -> None:
    free_before = free_bytes(disk)
    names = {name for image in images.list() for name in image.names}
    assert names == {f"docker.io/{SMALL}", f"docker.io/{SPARE}"}, where
    with pytest.raises(ResourceExhausted):
        made.pull(images, BIG)
    assert {name for image in images.list() for name in image.names} == names, where
    with pytest.raises(NotFound):
        images.resolve(BIG)
    for place in ("content/ingest", "snapshots/staging", "content/partial"):
        assert not os.listdir(Path(images.root, place)), where
    assert damage_of(check(images)) == [], where
    images.collect(in_use=())
    # The file system itself may keep a little: directories do not shrink.
    assert free_bytes(disk) >= free_before - (256 << 10), where
    assert damage_of(check(images)) == [], where

    before = free_bytes(disk)
    removed = images.remove(SPARE, in_use=())
    assert removed.untagged and removed.deleted, where
    os.sync()
    assert free_bytes(disk) >= before + 9_500_000, where
    assert damage_of(check(images)) == [], where
    prune(images, in_use=(), users=(), every=True)
    assert images.list() == (), where
    assert check(images) == (), where


def test_the_engine_on_a_full_disk(form: str, disk: Path, tmp_path: Path) -> None:
    """Its own records are on the disk too; it is also started there."""
    root = disk / "engine"
    configure(root, form)
    shelf = Shelf(tmp_path)
    shelf.add("1", "a")
    shelf.add("2", "b", size_bytes=5_000_000)
    shelf.add("3", *(f"big{n}" for n in range(3)), size_bytes=5_000_000)
    with CountingRegistry(shelf) as registry:
        pulled(store_of(root), form, registry, "1", "2").snapshots.close()
        one, two, three = (registry.name(tag) for tag in ("1", "2", "3"))
        with engine_at(root) as onggi:
            onggi.run("images")
            with filled(disk, 0):
                said = onggi.run("pull", three, check=False)
                assert said.returncode != 0 and "o space left" in said.stderr, said.stderr
                onggi.run("image", "fsck")
                assert set(onggi.out("images", "--format", "{{.Repository}}:{{.Tag}}").split()) == {
                    one,
                    two,
                }
            onggi.run("engine", "stop")
            until(lambda: not wire.engines(onggi), "the engine is gone")
            with filled(disk, 0):
                onggi.run("info")
                onggi.run("image", "fsck")
                onggi.run("image", "fsck", "--repair")
                before = free_bytes(disk)
                onggi.run("rmi", two)
                os.sync()
                assert free_bytes(disk) >= before + 9_500_000
                onggi.run("image", "fsck")
                onggi.run("run", "--rm", one, "true")
                onggi.run("image", "prune", "-a", "-f")
                assert onggi.out("image", "fsck") == "the store is whole"
            onggi.run("pull", three)
            onggi.run("run", "--rm", three, "ls", "/data")
