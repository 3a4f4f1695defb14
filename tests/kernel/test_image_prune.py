"""Which images go, in what order, and that a full disk does not keep any of them."""

from __future__ import annotations

import contextlib
import datetime
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from image_health import BASE, fill, layer_tar, make, noise, open_store
from onggi.errors import DataLoss, ResourceExhausted
from onggi.image.durable import MAX_DEPTH, delete_tree
from onggi.image.fsck import check
from onggi.image.images import ImageStore
from onggi.image.prune import Filters, enforce_limit, prune, touch
from onggi.image.repair import repair
from onggi.image.usage import disk_usage, take_inventory
from onggi.specs.image import Platform


@pytest.fixture
def images(tmp_path: Path) -> ImageStore:
    return open_store(tmp_path / "root")


def names(images: ImageStore) -> set[str]:
    return {name.rpartition("/")[2] for image in images.list() for name in image.names}


def unix_ns(text: str) -> int:
    return int(datetime.datetime.fromisoformat(text).timestamp() * 1e9)


def test_only_the_nameless_go_unless_every(images: ImageStore) -> None:
    fill(images)
    images.untag("app:1")
    (used,) = (image for image in images.list() if not image.names)
    pruned = prune(images, in_use=used.chain_ids, users={used.id})
    assert pruned.images == () and pruned.freed_bytes == 0
    pruned = prune(images, in_use=(), users=())
    assert pruned.images == (used.target.digest,)
    assert pruned.freed_bytes > 0
    assert names(images) == {"other:1", "other:2"}
    pruned = prune(images, in_use=(), users=(), every=True)
    assert set(pruned.untagged) == {"docker.io/library/other:1", "docker.io/library/other:2"}
    assert list(images.content.digests()) == images.snapshots.layers() == []


FILTERS = {
    "until": (Filters(until_ns=unix_ns("2024-01-01T00:00:00Z")), {"old:1", "undated:1"}),
    "label": (Filters(labels=("team",)), {"old:1", "new:1"}),
    "label with a value": (Filters(labels=("team=a",)), {"old:1"}),
    "both labels": (Filters(labels=("team=a", "other")), set()),
    "without": (Filters(without=("team=a",)), {"new:1", "undated:1"}),
    "without a key": (Filters(without=("team",)), {"undated:1"}),
    "not dangling": (Filters(dangling=False), {"old:1", "new:1", "undated:1"}),
    "dangling": (Filters(dangling=True), set()),
    "nothing": (Filters(), {"old:1", "new:1", "undated:1"}),
}


@pytest.mark.parametrize("case", FILTERS)
def test_filters(images: ImageStore, case: str) -> None:
    filters, gone = FILTERS[case]
    for name, created, labels in (
        ("old:1", "2020-05-06T07:08:09.123456789Z", {"team": "a"}),
        ("new:1", "2025-05-06T07:08:09Z", {"team": "b"}),
        ("undated:1", None, None),
    ):
        make(images, name, layers=[BASE], created=created, labels=labels, unpack=False)
    before = names(images)
    prune(images, in_use=(), users=(), every=True, filters=filters)
    assert names(images) == before - gone


def test_images_for_other_machines_go_too(images: ImageStore) -> None:
    with contextlib.suppress(Exception):
        make(images, "far:1", layers=[BASE], platform=Platform("s390x", "linux"), unpack=False)
    prune(images, in_use=(), users=(), every=True, filters=Filters(labels=("x",)))
    assert list(images.content.digests())
    prune(images, in_use=(), users=(), every=True)
    assert list(images.content.digests()) == []


def test_damage_stops_before_anything_goes(images: ImageStore) -> None:
    fill(images)
    make(images, layers=[(layer_tar("nameless"), "gzip")])
    Path(images.content.path(images.resolve("app:1").manifest_digest)).write_bytes(b"{}")
    index = images.content.read_index()
    with pytest.raises(DataLoss):
        prune(images, in_use=(), users=())
    assert images.content.read_index() == index
    prune(images, in_use=(), users=(), every=True)  # the damaged one too: nobody uses it
    assert check(images) == ()


def test_beside_somebody_who_brings_content(images: ImageStore) -> None:
    fill(images)
    with images.lease():
        pruned = prune(images, in_use=(), users=(), every=True)
        assert pruned.deferred and pruned.freed_bytes == 0
        assert list(images.content.digests())
    images.collect(in_use=())
    assert list(images.content.digests()) == []


def used_at(images: ImageStore, name: str, at_s: int) -> None:
    image = images.resolve(name)
    for digest in (image.target.digest, image.manifest_digest):
        os.utime(images.content.path(digest), (at_s, at_s))


@pytest.fixture
def six(images: ImageStore) -> ImageStore:
    """Six images of 100 kB each over a common layer, the last one used longest ago."""
    for number in range(6):
        make(images, f"n{number}:1", layers=[BASE, (layer_tar(f"n{number}", 100_000), "none")])
        used_at(images, f"n{number}:1", 1_000_000 - number)
    return images


def size_of(images: ImageStore) -> int:
    return sum(take_inventory(images.root, uppers=False).totals.values())


def test_a_limit_takes_the_longest_unused(six: ImageStore) -> None:
    limit = size_of(six) - 250_000
    assert enforce_limit(six, 0, in_use=(), users=()).images == ()
    assert enforce_limit(six, size_of(six), in_use=(), users=()).images == ()
    touch(six, six.resolve("n5:1"))
    used = six.resolve("n4:1")
    pruned = enforce_limit(six, limit, in_use=used.chain_ids, users={used.id})
    assert set(pruned.untagged) == {"docker.io/library/n3:1", "docker.io/library/n2:1"}
    assert size_of(six) <= limit
    assert check(six) == ()


def test_a_limit_takes_garbage_first(six: ImageStore) -> None:
    six.content.put(noise("garbage", 300_000))
    assert enforce_limit(six, size_of(six) - 250_000, in_use=(), users=()).untagged == ()
    assert names(six) == {f"n{number}:1" for number in range(6)}


def test_a_limit_that_cannot_be_kept_leaves_what_is_used(six: ImageStore) -> None:
    used = six.resolve("n0:1")
    enforce_limit(six, 1, in_use=used.chain_ids, users={used.id})
    assert names(six) == {"n0:1"}
    assert check(six) == ()


def test_containers_own_files_do_not_count(six: ImageStore) -> None:
    limit = size_of(six)
    upper = Path(six.snapshots.prepare("box", six.resolve("n0:1").chain_ids).upper)
    (upper / "fs/big").write_bytes(noise("big", 500_000))
    assert enforce_limit(six, limit, in_use=(), users=()).images == ()


def test_touch_says_when_an_image_was_used(images: ImageStore) -> None:
    make(images, "a:1", layers=[BASE], indexed=True)
    used_at(images, "a:1", 1000)
    assert disk_usage(images).images[0].last_used_s == 1000
    touch(images, images.resolve("a:1"))
    assert disk_usage(images).images[0].last_used_s == pytest.approx(time.time(), abs=60)


# A full disk.


@contextlib.contextmanager
def mounted(tmp_path: Path, filesystem: str, size_bytes: int) -> Iterator[Path]:
    """A small filesystem of its own."""
    place = tmp_path / "mnt"
    place.mkdir()
    if filesystem == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "none", place]
    else:
        disk = tmp_path / "disk"
        disk.touch()
        os.truncate(disk, size_bytes)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-N", "2000", disk], check=True)
        command = ["mount", "-o", "loop", disk, place]
    made = subprocess.run(command, check=False, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no {filesystem} can be mounted: {made.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@contextlib.contextmanager
def opened(path: Path, form: str) -> Iterator[ImageStore]:
    """A store whose mounts do not outlive the block."""
    images = open_store(path, form)
    with contextlib.closing(images.snapshots):
        yield images


def fill_up(place: Path) -> None:
    """Take all space that is left, to the last block."""
    with open(place / "ballast", "ab", buffering=0) as file:
        for piece in (1 << 20, 1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    if file.write(b"\0" * piece) < piece:
                        break
        with contextlib.suppress(OSError):
            os.fsync(file.fileno())


def is_full(place: Path) -> bool:
    try:
        (place / "probe").write_bytes(b"x" * 4096)
    except OSError:
        return True
    finally:
        (place / "probe").unlink(missing_ok=True)
    return False


@pytest.mark.parametrize("form", ["overlay", "erofs"])
@pytest.mark.parametrize("filesystem", ["tmpfs", "ext4"])
def test_on_a_full_disk_everything_that_frees_works(
    tmp_path: Path, filesystem: str, form: str
) -> None:
    with (
        mounted(tmp_path, filesystem, 16 << 20) as place,
        opened(place / "root", form) as images,
    ):
        for name in ("a:1", "b:1", "c:1", "d:1"):
            make(images, name, layers=[BASE, (layer_tar(name[0], 200_000), "gzip")])
        fill_up(place)
        assert is_full(place)
        with pytest.raises(ResourceExhausted):
            make(images, "e:1", layers=[(layer_tar("e", 500_000), "none")])
        assert all(d.harmless for d in check(images))
        images.remove("a:1", in_use=())
        fill_up(place)
        with contextlib.suppress(ResourceExhausted):
            images.tag("b:1", "b:longer-than-before")
        images.untag("b:1")
        fill_up(place)
        prune(images, in_use=(), users=())
        assert all(d.harmless for d in check(images))
        fill_up(place)
        victim = Path(images.content.path(images.resolve("c:1").layers[1].digest))
        with open(victim, "r+b") as file:
            file.write(b"damaged")
        repair(images, in_use=())
        fill_up(place)
        assert prune(images, in_use=(), users=(), every=True).freed_bytes > 0
        assert list(images.content.digests()) == images.snapshots.layers() == []


@pytest.mark.parametrize("filesystem", ["tmpfs", "ext4"])
def test_a_disk_that_fills_up_at_any_point(tmp_path: Path, filesystem: str) -> None:
    """Space runs out after every further 4 % of a store that is being filled."""
    size = 8 << 20
    with (
        mounted(tmp_path, filesystem, size) as place,
        opened(place / "root", "overlay") as images,
    ):
        for step in range(25):
            os.statvfs(place)
            with contextlib.suppress(ResourceExhausted):
                for number in range(step):
                    make(
                        images,
                        f"n{number}:{step}",
                        layers=[(layer_tar(f"{step}.{number}", size // 50), "none")],
                    )
            fill_up(place)
            found = check(images)
            assert all(d.harmless for d in found), (step, found)
            for image in images.list()[:1]:
                images.remove(image.names[0], in_use=())
            prune(images, in_use=(), users=(), every=True)
            assert images.list() == ()
            assert all(each.repaired for each in repair(images, in_use=()))
            (place / "ballast").unlink()
            images.content.keep_reserve()


@pytest.mark.parametrize("depth", [2, MAX_DEPTH + 3])
def test_directories_are_deleted_on_a_full_disk(tmp_path: Path, depth: int) -> None:
    """Deleting may move directories; no directory may have to grow for it."""
    with mounted(tmp_path, "ext4", 16 << 20) as place:
        bottom = place.joinpath("tree", *("d" for _ in range(depth)))
        for number in range(400):
            (bottom / ("x" * 100 + str(number))).mkdir(parents=True)
            (bottom / ("x" * 100 + str(number)) / "file").touch()
        fill_up(place)
        root = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            delete_tree(root, "tree")
        finally:
            os.close(root)
        assert sorted(os.listdir(place)) == ["ballast", "lost+found"]


def test_directories_deeper_than_any_path(tmp_path: Path) -> None:
    top = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    fd = os.dup(top)
    for _ in range(600):
        os.mkdir("deep" * 10, dir_fd=fd)
        os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
        below = os.open("deep" * 10, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    try:
        delete_tree(top, "deep" * 10)
    finally:
        os.close(top)
    assert os.listdir(tmp_path) == ["file"]


def test_pruning_beside_pulls(images: ImageStore) -> None:
    """Whoever holds a lease finds its content whole, however often somebody prunes."""
    stop = threading.Event()
    failed: list[BaseException] = []

    def sweeper() -> None:
        try:
            while not stop.is_set():
                prune(images, in_use=(), users=())
        except BaseException as error:  # noqa: BLE001 - handed to the test
            failed.append(error)

    worker = threading.Thread(target=sweeper)
    worker.start()
    try:
        for number in range(15):
            make(images, f"n{number % 3}:1", layers=[BASE, (layer_tar(f"{number}"), "gzip")])
    finally:
        stop.set()
        worker.join()
    assert failed == []
    assert names(images) == {"n0:1", "n1:1", "n2:1"}
    prune(images, in_use=(), users=())
    assert check(images) == ()
