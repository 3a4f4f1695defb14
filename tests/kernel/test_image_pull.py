"""Pulling from a double into a real store: what is there afterwards, and after what went wrong."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from image_tars import END
from onggi.errors import (
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    SpecError,
    Unavailable,
    Unsupported,
)
from onggi.image.images import Image, ImageStore
from onggi.image.origins import Origins
from onggi.image.platforms import parse_platform
from onggi.image.pull import pull
from onggi.image.settings import ImageSettings
from onggi.specs.image import OCI_CONFIG, OCI_LAYER_ZSTD, OCI_MANIFEST, Descriptor, Manifest
from source_double import HOST, Faults, SourceDouble, digest, layer_tar, noise

NAME = "docker.io/library/app:latest"
ARM = parse_platform("linux/arm64")


@pytest.fixture(params=["auto", "overlay"])
def images(tmp_path: Path, request: pytest.FixtureRequest) -> ImageStore:
    settings = ImageSettings(snapshotter=request.param)
    return ImageStore(str(tmp_path / "root"), platform=HOST, settings=settings)


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(str(tmp_path / "root"), platform=HOST)


@pytest.fixture
def source() -> SourceDouble:
    return SourceDouble()


def lay(source: SourceDouble, count: int = 3, size: int = 200_000) -> Descriptor:
    return source.image([layer_tar(f"file{n}", size) for n in range(count)])


def files(images: ImageStore, image: Image) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for lower in images.snapshots.lowers(image.chain_ids):
        data = Path(lower, "data")
        found |= {path.name: path.read_bytes() for path in data.iterdir()}
    return found


def nothing_visible(images: ImageStore) -> None:
    assert images.list() == ()
    with pytest.raises(NotFound):
        images.resolve(NAME)
    staging = Path(images.root, "snapshots", "staging")
    assert list(staging.iterdir()) == []


def test_an_image_arrives_ready_to_run(images: ImageStore, source: SourceDouble) -> None:
    root = lay(source)
    stages: dict[str, list[str]] = {}

    def report(stage: str, done: int = 0, total: int = 0, item: str = "") -> None:
        stages.setdefault(item, []).append(stage)

    image = pull(images, source, (NAME,), report=report)
    assert image.names == (NAME,) and image.target.digest == root.digest
    assert images.resolve("app").id == image.id
    assert files(images, image) == {f"file{n}": noise(200_000, f"file{n}") for n in range(3)}
    for layer in source.layers():
        seen = stages[layer.digest[7:19]]
        assert seen[0] == "downloading" and seen[-1] == "done"
        assert source.given[layer.digest] == layer.size
    assert os.listdir(Path(images.content.root, "partial")) == []
    assert images.collect(in_use=()).deleted == ()


def test_again_is_cheap(store: ImageStore, source: SourceDouble) -> None:
    lay(source)
    pull(store, source, (NAME,))
    before = dict(source.given)
    stages = set()
    pull(
        store,
        source,
        (NAME,),
        report=lambda stage, done=0, total=0, item="": stages.add(stage),
    )
    assert dict(source.given) == before
    assert stages == {"already here"}


def test_without_unpacking(store: ImageStore, source: SourceDouble) -> None:
    lay(source)
    image = pull(store, source, (NAME,), unpack=False)
    assert store.snapshots.layers() == []
    assert store.unpack(image) == image.chain_ids


def test_a_digest_alone_names_nothing(store: ImageStore, source: SourceDouble) -> None:
    root = lay(source)
    image = pull(store, source, (f"example.org/a/b@{root.digest}",))
    assert image.names == ()
    assert store.resolve(f"example.org/a/b@{root.digest}").id == image.id
    image = pull(store, source, (f"example.org/a/b:v1@{root.digest}",))
    assert image.names == ("example.org/a/b:v1",)


def test_a_digest_is_checked(store: ImageStore, source: SourceDouble) -> None:
    lay(source)
    with pytest.raises(DataLoss, match="was due"):
        pull(store, source, (f"a/b@{digest(b'')}",))
    nothing_visible(store)


def test_origins_are_noted(store: ImageStore, source: SourceDouble) -> None:
    lay(source)
    source.origin = "example.org/a/b"  # type: ignore[attr-defined]
    pull(store, source, (NAME,))
    origins = Origins(store.content.root)
    assert all(origins.of(d.digest) == ["example.org/a/b"] for d in source.layers())


@pytest.mark.parametrize("count", [0, 1, 20])
def test_few_and_many_layers(store: ImageStore, source: SourceDouble, count: int) -> None:
    lay(source, count, 3000)
    image = pull(store, source, (NAME,))
    assert len(image.chain_ids) == len(store.snapshots.layers()) == count


def test_the_same_layer_twice_and_empty_ones(store: ImageStore, source: SourceDouble) -> None:
    one, empty = layer_tar("x"), END
    source.image([one, empty, one, empty, empty])
    image = pull(store, source, (NAME,))
    assert len(set(image.chain_ids)) == 5
    assert len(source.asked) == 2
    assert files_of_top(store, image) == []


def files_of_top(images: ImageStore, image: Image) -> list[str]:
    return os.listdir(images.snapshots.lowers(image.chain_ids)[0])


@pytest.mark.parametrize(
    "annotations",
    [
        {"containerd.io/snapshot/stargz/toc.digest": digest(b"toc")},
        {"io.github.containers.zstd-chunked.manifest-checksum": digest(b"m")},
    ],
)
def test_lazy_formats_are_plain_layers(
    store: ImageStore, source: SourceDouble, annotations: dict[str, str]
) -> None:
    source.image([layer_tar("x")], annotations=annotations)
    assert pull(store, source, (NAME,)).layers[0].annotations == annotations


def test_zstd(store: ImageStore, source: SourceDouble) -> None:
    from onggi.image.compression import compressed

    source.image(
        [layer_tar("x")],
        media_type=OCI_LAYER_ZSTD,
        pack=lambda tar: b"".join(compressed((tar,), "zstd")),
    )
    pull(store, source, (NAME,))


# What goes wrong.


def test_wrong_content_leaves_nothing_visible(images: ImageStore, source: SourceDouble) -> None:
    lay(source)
    bad = source.layers()[1]
    source.faults[bad.digest] = Faults(content=bytes(bad.size))
    with pytest.raises(DataLoss, match=bad.digest):
        pull(images, source, (NAME,))
    nothing_visible(images)
    del source.faults[bad.digest]
    pull(images, source, (NAME,))


def test_a_broken_line_is_the_reason_that_is_told(images: ImageStore, source: SourceDouble) -> None:
    lay(source, 6)
    source.faults[source.layers()[3].digest] = Faults(error=Unavailable("out of order"))
    with pytest.raises(Unavailable, match="out of order"):
        pull(images, source, (NAME,))
    nothing_visible(images)


def test_a_layer_that_is_not_its_diff_id(images: ImageStore, source: SourceDouble) -> None:
    tars = [layer_tar("a"), layer_tar("b")]
    source.image(tars, diff_ids=(digest(tars[0]), digest(b"else")))
    with pytest.raises(DataLoss, match=digest(b"else")):
        pull(images, source, (NAME,))
    nothing_visible(images)
    assert len(source.asked) == 2


def test_a_layer_that_was_made_badly(images: ImageStore, source: SourceDouble) -> None:
    source.image([layer_tar("a"), b"this is no tar" * 100])
    with pytest.raises(InvalidArgument, match="cannot be unpacked") as raised:
        pull(images, source, (NAME,))
    assert "made so" in (raised.value.hint or "")
    nothing_visible(images)


def test_a_blob_damaged_on_disk_is_fetched_again(images: ImageStore, source: SourceDouble) -> None:
    lay(source)
    image = pull(images, source, (NAME,), unpack=False)
    damaged = images.content.path(image.layers[1].digest)
    with open(damaged, "r+b") as file:
        file.seek(5000)
        file.write(b"damage")
    image = pull(images, source, (NAME,))
    assert len(files(images, image)) == 3
    images.content.read(image.layers[1].digest, 1 << 30)
    assert [name for name, _ in source.asked].count(image.layers[1].digest) == 2


def test_damage_behind_an_unpacked_layer_is_found_when_asked(
    store: ImageStore, source: SourceDouble
) -> None:
    lay(source)
    image = pull(store, source, (NAME,))
    for name in (image.id, image.manifest_digest, image.layers[0].digest):
        with open(store.content.path(name), "r+b") as file:
            file.write(b"\0\0\0")
    pull(store, source, (NAME,), verify=True)
    for name in (image.id, image.manifest_digest, image.layers[0].digest):
        store.content.read(name, 1 << 30)


def test_bytes_from_a_crash_that_were_never_written(
    images: ImageStore, source: SourceDouble
) -> None:
    lay(source)
    layer = source.layers()[0]
    partial = Path(images.content.root, "partial")
    partial.mkdir(mode=0o700)
    (partial / layer.digest[7:]).write_bytes(source.blobs[layer.digest][:3000] + bytes(90_000))
    image = pull(images, source, (NAME,))
    assert len(files(images, image)) == 3


@pytest.mark.parametrize(
    ("media_type", "fields", "message"),
    [
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", {}, "foreign"),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", {}, "foreign"),
        (
            "application/vnd.oci.image.layer.v1.tar+gzip",
            {"urls": ("http://169.254.169.254/x",)},
            "foreign",
        ),
        ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", {}, "unknown media type"),
    ],
)
def test_layers_that_are_refused(
    store: ImageStore,
    source: SourceDouble,
    media_type: str,
    fields: dict[str, object],
    message: str,
) -> None:
    source.image([layer_tar("x")], media_type=media_type, **fields)
    with pytest.raises(Unsupported, match=message):
        pull(store, source, (NAME,))
    assert source.asked == []
    nothing_visible(store)


def test_an_artifact_is_no_image(store: ImageStore, source: SourceDouble) -> None:
    config = source.put(b"{}", "application/vnd.oci.empty.v1+json")
    source.manifest(Manifest(2, config, (source.put(b"x", "text/plain"),), OCI_MANIFEST))
    with pytest.raises(Unsupported, match="is an artifact") as raised:
        pull(store, source, (NAME,))
    assert "onggi image copy" in (raised.value.hint or "")


def test_layers_and_diff_ids_must_agree(store: ImageStore, source: SourceDouble) -> None:
    source.image([layer_tar("x")], diff_ids=())
    with pytest.raises(SpecError, match="0 for 1 layers"):
        pull(store, source, (NAME,))
    assert source.asked == []


def test_a_configuration_that_is_none(store: ImageStore, source: SourceDouble) -> None:
    config = source.put(b"[]", OCI_CONFIG)
    source.manifest(Manifest(2, config, (), OCI_MANIFEST))
    with pytest.raises(SpecError):
        pull(store, source, (NAME,))
    nothing_visible(store)


# Platforms.


def two(source: SourceDouble) -> tuple[Descriptor, Descriptor, Descriptor]:
    amd = source.image([layer_tar("amd")])
    arm = source.image([layer_tar("arm")], ARM)
    return amd, arm, source.index([(arm, ARM), (amd, HOST)])


def test_the_member_for_this_host(store: ImageStore, source: SourceDouble) -> None:
    amd, arm, index = two(source)
    image = pull(store, source, (NAME,))
    assert image.target.digest == index.digest and image.manifest_digest == amd.digest
    assert store.content.size_bytes(arm.digest) is None
    assert store.resolve(f"app@{index.digest}").id == image.id
    assert store.collect(in_use=()).deleted == ()


def test_another_platform_is_stored_not_unpacked(store: ImageStore, source: SourceDouble) -> None:
    _, arm, _ = two(source)
    image = pull(store, source, (NAME,), platform=ARM)
    assert image.target.digest == arm.digest
    assert store.snapshots.layers() == []


def test_every_platform(store: ImageStore, source: SourceDouble) -> None:
    amd, arm, index = two(source)
    image = pull(store, source, (NAME,), every_platform=True)
    assert image.target.digest == index.digest and image.manifest_digest == amd.digest
    assert set(source.blobs) == set(store.content.digests())
    assert len(store.snapshots.layers()) == 1
    assert store.collect(in_use=()).deleted == ()
    assert store.content.size_bytes(arm.digest) == arm.size


def test_an_index_with_an_attestation(store: ImageStore, source: SourceDouble) -> None:
    amd = source.image([layer_tar("amd")])
    statement = source.put(b"{}", "application/vnd.in-toto+json")
    config = source.put(b'{"architecture":"unknown","os":"unknown","rootfs":{}}', OCI_CONFIG)
    attestation = source.manifest(Manifest(2, config, (statement,), OCI_MANIFEST))
    source.index([(amd, HOST), (attestation, parse_platform("unknown/unknown"))])
    pull(store, source, (NAME,), every_platform=True)
    assert store.content.read(statement.digest, 10) == b"{}"
    with pytest.raises(FailedPrecondition, match="is for linux/amd64, not for linux/riscv64"):
        pull(store, source, (NAME,), platform=parse_platform("riscv64"))


def test_a_nested_index(store: ImageStore, source: SourceDouble) -> None:
    amd = source.image([layer_tar("amd")])
    inner = source.index([(amd, HOST)])
    source.index([(inner, None)])
    assert pull(store, source, (NAME,)).target.digest == inner.digest


def test_a_manifest_for_another_platform(store: ImageStore, source: SourceDouble) -> None:
    source.image([layer_tar("arm")], ARM)
    with pytest.raises(FailedPrecondition, match="linux/arm64, not for linux/amd64"):
        pull(store, source, (NAME,), platform=HOST)
    assert pull(store, source, (NAME,)).platform == ARM
    assert store.snapshots.layers() == []


# At once.


def test_many_pulls_share_layers(images: ImageStore) -> None:
    tars = [layer_tar(f"shared{n}", 50_000) for n in range(6)]
    sources = []
    for number in range(8):
        source = SourceDouble(str(number), delay_s=0.001)
        source.image([*tars[: 1 + number % 6], layer_tar(f"own{number}")])
        sources.append(source)
    stop = threading.Event()

    def collect() -> None:
        while not stop.is_set():
            images.collect(in_use=())
            time.sleep(0.005)

    with ThreadPoolExecutor(9) as pool:
        collecting = pool.submit(collect)
        pulls = [
            pool.submit(pull, images, source, (f"app{number}:v",))
            for number, source in enumerate(sources)
        ]
        pulled = [done.result(60) for done in pulls]
        stop.set()
        collecting.result(20)
    given: dict[str, int] = {}
    for source in sources:
        for layer in source.layers():
            given[layer.digest] = sum(s.given[layer.digest] for s in sources)
            assert given[layer.digest] == layer.size
    for number, image in enumerate(pulled):
        assert len(files(images, image)) == 2 + number % 6
    assert Path(images.root, "snapshots", "staging").exists()
    assert os.listdir(Path(images.root, "snapshots", "staging")) == []


def test_one_pull_fails_and_the_other_does_not(images: ImageStore) -> None:
    tars = [layer_tar(f"f{n}", 300_000) for n in range(4)]
    good, bad = SourceDouble("good", 0.001), SourceDouble("bad", 0.001)
    good.image(tars)
    bad.image([*tars, layer_tar("own")])
    bad.faults[bad.layers()[4].digest] = Faults(error=Unavailable("gone"))
    with ThreadPoolExecutor(2) as pool:
        failing = pool.submit(pull, images, bad, ("bad:1",))
        working = pool.submit(pull, images, good, ("good:1",))
        with pytest.raises(Unavailable, match="gone"):
            failing.result(30)
        image = working.result(30)
    assert len(files(images, image)) == 4
    assert [i.names for i in images.list()] == [("docker.io/library/good:1",)]


def test_a_report_that_raises_ends_the_pull(images: ImageStore, source: SourceDouble) -> None:
    lay(source)

    def report(stage: str, done: int = 0, total: int = 0, item: str = "") -> None:
        if stage == "downloading" and done > 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(images, source, (NAME,), report=report)
    nothing_visible(images)
    pull(images, source, (NAME,))


PULLER = """
import sys
sys.path[:0] = [sys.argv[1]]
from onggi.image.images import ImageStore
from onggi.image.pull import pull
from source_double import HOST, SourceDouble, layer_tar
source = SourceDouble(delay_s=0.01)
source.image([layer_tar(f"file{n}", 2_000_000) for n in range(4)])
images = ImageStore(sys.argv[2], platform=HOST)
print("begun", flush=True)
pull(images, source, ("app:latest",))
print("given", sum(source.given[layer.digest] for layer in source.layers()), flush=True)
"""


def start(images: ImageStore) -> subprocess.Popen[str]:
    tests = str(Path(__file__).parent.parent)
    return subprocess.Popen(
        [sys.executable, "-c", PULLER, tests, images.root],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def big() -> SourceDouble:
    source = SourceDouble()
    source.image([layer_tar(f"file{n}", 2_000_000) for n in range(4)])
    return source


def test_killed_at_any_moment_it_resumes(images: ImageStore) -> None:
    chance = random.Random(3)
    codes = []
    for _ in range(4):
        process = start(images)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(chance.uniform(0, 0.04))
        process.kill()
        process.communicate()
        codes.append(process.returncode)
    assert codes[0] == -9
    source = big()
    there = sum(path.stat().st_size for path in Path(images.content.root, "partial").glob("*"))
    whole = sum(images.content.size_bytes(d.digest) or 0 for d in source.layers())
    ImageStore(images.root, platform=HOST).snapshots.sweep()
    image = pull(images, source, ("app:latest",))
    total = sum(layer.size for layer in source.layers())
    assert sum(source.given[d.digest] for d in source.layers()) == total - there - whole
    assert there + whole > 0
    assert len(files(images, image)) == 4
    for layer in source.layers():
        images.content.read(layer.digest, 1 << 30, layer.size)
    assert os.listdir(Path(images.content.root, "partial")) == []


def test_two_processes_pull_the_same(images: ImageStore) -> None:
    processes = [start(images) for _ in range(2)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    given = [int(out.split("given ")[1]) for out, _ in outputs]
    assert sum(given) == sum(layer.size for layer in big().layers())
    assert len(files(images, images.resolve("app"))) == 4
