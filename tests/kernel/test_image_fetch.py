"""Blobs from a source that misbehaves into a store on the real filesystem."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from onggi.errors import Conflict, DataLoss, NotFound, ResourceExhausted, Unavailable
from onggi.image import partial as partials
from onggi.image.fetch import Fetcher
from onggi.image.origins import MAX_ORIGINS, Origins
from onggi.image.partial import sweep_partials, try_partial
from onggi.image.store import ContentStore
from onggi.image.transports.crew import Cancellation
from onggi.image.transports.steady import Patience
from onggi.specs.image import OCI_LAYER, Descriptor
from source_double import Faults, SourceDouble, digest, noise

QUICK = Patience(attempts=3, delay_s=0.001)
SIZE = 1_000_000


@pytest.fixture
def content(tmp_path: Path) -> ContentStore:
    return ContentStore(str(tmp_path / "content"))


@pytest.fixture
def source() -> SourceDouble:
    return SourceDouble()


def fetch(content: ContentStore, source: SourceDouble, blob: Descriptor, **named: object) -> bool:
    return Fetcher(content, source, patience=QUICK).fetch(blob, **named)  # type: ignore[arg-type]


def left_over(content: ContentStore) -> list[str]:
    directory = Path(content.root, "partial")
    return sorted(p.name for p in directory.iterdir()) if directory.exists() else []


def stored(content: ContentStore, blob: Descriptor) -> bytes:
    return content.read(blob.digest, 1 << 30, blob.size)


@pytest.mark.parametrize("size", [0, 1, 65536, SIZE])
def test_a_blob_arrives(content: ContentStore, source: SourceDouble, size: int) -> None:
    blob = source.put(noise(size), OCI_LAYER)
    assert fetch(content, source, blob)
    assert stored(content, blob) == noise(size)
    assert left_over(content) == []
    assert os.stat(content.path(blob.digest)).st_mode & 0o777 == 0o644
    assert not fetch(content, source, blob)
    assert source.given[blob.digest] == size


def test_a_partial_file_is_private(content: ContentStore, source: SourceDouble) -> None:
    blob = source.put(noise(SIZE), OCI_LAYER)
    source.faults[blob.digest] = Faults(always_break=1000)
    with pytest.raises(Unavailable, match=f"of {SIZE} bytes"):
        fetch(content, source, blob)
    path = Path(content.root, "partial", blob.digest[7:])
    assert path.stat().st_mode & 0o777 == 0o600
    assert content.size_bytes(blob.digest) is None


def test_it_goes_on_where_the_line_broke(content: ContentStore, source: SourceDouble) -> None:
    blob = source.put(noise(SIZE), OCI_LAYER)
    source.faults[blob.digest] = Faults(breaks=[100_000, 70_000, 0, 500])
    fetch(content, source, blob)
    assert [offset for _, offset in source.asked] == [0, 100_000, 170_000, 170_000, 170_500]
    assert source.given[blob.digest] == SIZE


def test_a_source_without_ranges(content: ContentStore, source: SourceDouble) -> None:
    blob = source.put(noise(SIZE), OCI_LAYER)
    source.faults[blob.digest] = Faults(breaks=[100_000, 50_000, 300_000], ignore_offset=True)
    fetch(content, source, blob)
    assert stored(content, blob) == noise(SIZE)


def test_many_breaks_are_borne_while_there_is_progress(
    content: ContentStore, source: SourceDouble
) -> None:
    blob = source.put(noise(SIZE), OCI_LAYER)
    source.faults[blob.digest] = Faults(always_break=70_000)
    fetch(content, source, blob)
    assert len(source.asked) == SIZE // 70_000 + 1


def test_little_progress_is_none(content: ContentStore, source: SourceDouble) -> None:
    blob = source.put(noise(SIZE), OCI_LAYER)
    source.faults[blob.digest] = Faults(always_break=1)
    with pytest.raises(Unavailable, match="broke off after 3 of"):
        fetch(content, source, blob)
    assert left_over(content) == [blob.digest[7:]]


def test_the_next_takes_what_was_there(content: ContentStore, source: SourceDouble) -> None:
    blob = source.put(noise(SIZE), OCI_LAYER)
    source.faults[blob.digest] = Faults(breaks=[600_000, 0, 0, 0])
    with pytest.raises(Unavailable):
        fetch(content, source, blob)
    fetch(ContentStore(content.root), source, blob)
    assert source.asked[-1] == (blob.digest, 600_000)
    assert source.given[blob.digest] == SIZE


def test_garbage_in_a_partial_file_costs_a_download(
    content: ContentStore, source: SourceDouble
) -> None:
    blob = source.put(noise(SIZE), OCI_LAYER)
    with try_partial(content, blob.digest) as partial:  # type: ignore[union-attr]
        partial.append(bytes(5000))
    fetch(content, source, blob)
    assert stored(content, blob) == noise(SIZE)
    assert [offset for _, offset in source.asked] == [5000, 0]


@pytest.mark.parametrize("there", [SIZE, SIZE + 1])
def test_a_partial_file_that_is_whole_or_too_long(
    content: ContentStore, source: SourceDouble, there: int
) -> None:
    blob = source.put(noise(SIZE), OCI_LAYER)
    with try_partial(content, blob.digest) as partial:  # type: ignore[union-attr]
        partial.append((noise(SIZE) + b"x")[:there])
    fetch(content, source, blob)
    assert source.given[blob.digest] == (0 if there == SIZE else SIZE)
    assert stored(content, blob) == noise(SIZE)


def test_wrong_content_leaves_nothing(content: ContentStore, source: SourceDouble) -> None:
    blob = source.put(noise(SIZE), OCI_LAYER)
    source.faults[blob.digest] = Faults(content=bytes(SIZE))
    with pytest.raises(DataLoss, match=blob.digest):
        fetch(content, source, blob)
    assert left_over(content) == [] and list(content.digests()) == []


def test_an_endless_blob_is_cut(content: ContentStore, source: SourceDouble) -> None:
    blob = source.put(noise(1000), OCI_LAYER)
    source.faults[blob.digest] = Faults(content=noise(999), endless=True)
    with pytest.raises(DataLoss, match="longer than the 1000 bytes"):
        fetch(content, source, blob)
    assert source.given[blob.digest] < 2000
    assert left_over(content) == []


def test_a_short_blob(content: ContentStore, source: SourceDouble) -> None:
    blob = source.put(noise(SIZE), OCI_LAYER)
    source.faults[blob.digest] = Faults(content=noise(SIZE)[:-1])
    with pytest.raises(DataLoss, match="ended after 999999 of 1000000"):
        fetch(content, source, blob)
    assert left_over(content) == []


def test_a_mirror_may_be_wrong(content: ContentStore, source: SourceDouble) -> None:
    blob = source.put(noise(SIZE), OCI_LAYER)
    source.faults[blob.digest] = faults = Faults(content=bytes(SIZE))

    def second(_: Descriptor) -> None:
        if source.asked:
            faults.content = None

    source.on_open = second
    source.mirrors = 1  # type: ignore[attr-defined]
    fetch(content, source, blob)
    assert stored(content, blob) == noise(SIZE)


def test_what_a_source_refuses_is_not_asked_again(
    content: ContentStore, source: SourceDouble
) -> None:
    blob = source.put(noise(10), OCI_LAYER)
    source.faults[blob.digest] = Faults(error=NotFound("gone"))
    with pytest.raises(NotFound, match="gone"):
        fetch(content, source, blob)
    assert len(source.asked) == 1


def test_damage_is_mended_when_asked(content: ContentStore, source: SourceDouble) -> None:
    blob = source.put(noise(SIZE), OCI_LAYER)
    fetch(content, source, blob)
    with open(content.path(blob.digest), "r+b") as file:
        file.write(b"\xff" * 10)
    assert not fetch(content, source, blob)
    assert Fetcher(content, source, verify=True).fetch(blob)
    assert stored(content, blob) == noise(SIZE)
    os.truncate(content.path(blob.digest), 10)
    assert fetch(content, source, blob)
    assert stored(content, blob) == noise(SIZE)


def test_a_full_disk_keeps_nothing(
    content: ContentStore, source: SourceDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = source.put(noise(SIZE), OCI_LAYER)

    def full(_fd: int, _data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(partials, "write_all", full)
    with pytest.raises(ResourceExhausted):
        fetch(content, source, blob)
    assert left_over(content) == []


def test_threads_fetch_a_blob_once(content: ContentStore) -> None:
    sources = [SourceDouble(str(n), delay_s=0.002) for n in range(8)]
    blobs = [[s.put(noise(SIZE, f"{n}"), OCI_LAYER) for n in range(3)] for s in sources]
    seen: list[tuple[str, int]] = []

    def report(stage: str, done: int = 0, total: int = 0, item: str = "") -> None:
        seen.append((stage, done))

    def work(number: int) -> None:
        fetcher = Fetcher(content, sources[number], report)
        for blob in blobs[number]:
            fetcher.fetch(blob)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    for blob in blobs[0]:
        assert sum(source.given[blob.digest] for source in sources) == SIZE
        assert stored(content, blob)
    assert {stage for stage, _ in seen} <= {"downloading", "already here"}


def test_who_waits_takes_over_when_the_first_fails(content: ContentStore) -> None:
    first, second = SourceDouble("first"), SourceDouble("second")
    blob = first.put(noise(SIZE), OCI_LAYER)
    second.put(noise(SIZE), OCI_LAYER)
    gate = first.gate = threading.Event()
    first.gate_at = 400_000
    first.faults[blob.digest] = Faults(breaks=[400_000, 0, 0, 0, 0, 0])
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(fetch, content, first, blob)
        wait_for(lambda: first.given[blob.digest] >= 400_000)
        two = pool.submit(fetch, content, second, blob)
        time.sleep(0.01)
        gate.set()
        with pytest.raises(Unavailable):
            one.result(20)
        two.result(20)
    assert second.asked == [(blob.digest, 400_000)]


def test_a_follower_reads_what_is_there_so_far(content: ContentStore, source: SourceDouble) -> None:
    blob = source.put(noise(SIZE), OCI_LAYER)
    gate = source.gate = threading.Event()
    source.gate_at = 300_000
    source.faults[blob.digest] = Faults(breaks=[300_000])
    fetcher = Fetcher(content, source, patience=QUICK)
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(fetcher.fetch, blob)
        with fetcher.follow(blob) as reader:
            head = b""
            while len(head) < 300_000:
                head += reader.read(1 << 20)
            assert not done.done() and content.size_bytes(blob.digest) is None
            gate.set()
            rest = b"".join(iter(lambda: reader.read(70_000), b""))
        done.result(20)
    assert head + rest == noise(SIZE)


def test_a_follower_fails_with_the_download(content: ContentStore, source: SourceDouble) -> None:
    blob = source.put(noise(SIZE), OCI_LAYER)
    source.faults[blob.digest] = Faults(always_break=5)
    fetcher = Fetcher(content, source, patience=QUICK)
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(fetcher.fetch, blob)
        with fetcher.follow(blob) as reader, pytest.raises(Unavailable, match="did not arrive"):
            while reader.read(1 << 20):
                pass
        with pytest.raises(Unavailable, match="broke off"):
            fetching.result(20)


def test_cancelling_ends_waits(content: ContentStore, source: SourceDouble) -> None:
    blob = source.put(noise(SIZE), OCI_LAYER)
    cancellation = Cancellation()
    fetcher = Fetcher(content, source, cancellation=cancellation)
    partial = try_partial(content, blob.digest)
    assert partial is not None
    with ThreadPoolExecutor(2) as pool, partial:
        waiting = pool.submit(fetcher.fetch, blob)
        following = pool.submit(lambda: fetcher.follow(blob).read(10))
        time.sleep(0.05)
        cancellation.cancel(ValueError("elsewhere"))
        for future in (waiting, following):
            with pytest.raises((Conflict, Unavailable)):
                future.result(20)
    assert source.asked == []


def test_sweeping_spares_what_is_in_use_or_young(content: ContentStore) -> None:
    names = [digest(bytes([n])) for n in range(3)]
    for name in names:
        with try_partial(content, name) as partial:  # type: ignore[union-attr]
            partial.append(b"x" * 5000)
    old = time.time() - 100_000
    for name in names[:2]:
        os.utime(Path(content.root, "partial", name[7:]), (old, old))
    with try_partial(content, names[0]):  # type: ignore[union-attr]
        assert sweep_partials(content) >= 5000
    assert left_over(content) == sorted(name[7:] for name in (names[0], names[2]))
    sweep_partials(content, 0)
    assert left_over(content) == []


def test_sweeping_beside_downloads(content: ContentStore) -> None:
    source = SourceDouble()
    blobs = [source.put(noise(100_000, str(n)), OCI_LAYER) for n in range(30)]
    stop = threading.Event()

    def sweep() -> None:
        while not stop.is_set():
            sweep_partials(content, 0)

    with ThreadPoolExecutor(4) as pool:
        sweeping = pool.submit(sweep)
        list(pool.map(lambda blob: fetch(content, source, blob), blobs))
        stop.set()
        sweeping.result(20)
    assert all(stored(content, blob) for blob in blobs)


def test_origins_are_few_and_sorted_by_age(content: ContentStore) -> None:
    origins = Origins(content.root)
    name = digest(b"")
    assert origins.of(name) == []
    for number in range(MAX_ORIGINS + 3):
        origins.record(name, f"r{number % 2}.io/a{number}")
        origins.record(name, f"r{number % 2}.io/a{number}")
    assert len(origins.of(name)) == MAX_ORIGINS
    assert origins.of(name)[-1] == f"r0.io/a{MAX_ORIGINS + 2}"
    assert all(o.startswith("r1.io/") for o in origins.of(name, "r1.io"))
    origins.forget(name)
    origins.forget(name)
    assert origins.of(name) == []


PULLER = """
import sys
sys.path[:0] = [sys.argv[1]]
from onggi.image.fetch import Fetcher
from onggi.image.store import ContentStore
from onggi.specs.image import OCI_LAYER
from source_double import SourceDouble, noise
source = SourceDouble(delay_s=float(sys.argv[3]))
blob = source.put(noise({size}), OCI_LAYER)
def report(stage, done=0, total=0, item=""):
    print(stage, done, flush=True)
Fetcher(ContentStore(sys.argv[2]), source, report).fetch(blob)
print("given", source.given[blob.digest], flush=True)
"""


def start(content: ContentStore, size: int, delay_s: float) -> subprocess.Popen[str]:
    tests = str(Path(__file__).parent.parent)
    program = PULLER.replace("{size}", str(size))
    return subprocess.Popen(
        [sys.executable, "-c", program, tests, content.root, str(delay_s)],
        stdout=subprocess.PIPE,
        text=True,
    )


def wait_for(condition: object) -> None:
    deadline = time.monotonic() + 20
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize("chunks", [1, 4, 9])
def test_kill_and_resume_in_another_process(
    content: ContentStore, source: SourceDouble, chunks: int
) -> None:
    size = 12 << 18
    blob = source.put(noise(size), OCI_LAYER)
    process = start(content, size, 0.03)
    assert process.stdout is not None
    for _ in range(chunks):
        assert process.stdout.readline().startswith("downloading")
    process.send_signal(signal.SIGKILL)
    process.wait(20)
    process.stdout.close()
    there = os.stat(Path(content.root, "partial", blob.digest[7:])).st_size
    assert chunks << 18 <= there < size
    fetch(content, source, blob)
    assert source.asked == [(blob.digest, there)]
    assert stored(content, blob) == noise(size)
    assert left_over(content) == []


def test_two_processes_fetch_once(content: ContentStore, source: SourceDouble) -> None:
    size = 8 << 18
    process = start(content, size, 0.03)
    assert process.stdout is not None
    process.stdout.readline()
    blob = source.put(noise(size), OCI_LAYER)
    stages: set[str] = set()

    def report(stage: str, done: int = 0, total: int = 0, item: str = "") -> None:
        stages.add(stage)

    Fetcher(content, source, report).fetch(blob)
    out = process.communicate(timeout=20)[0]
    assert f"given {size}" in out
    assert stages == {"waiting"}
    assert source.asked == []
    assert stored(content, blob) == noise(size)
