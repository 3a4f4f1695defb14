"""What every content store promises."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from pathlib import Path

import pytest

from onggi.errors import DataLoss, FailedPrecondition, NotFound, ResourceExhausted, SpecError
from onggi.image.store import ContentStore


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "content"


@pytest.fixture
def store(root: Path) -> ContentStore:
    return ContentStore(str(root))


def test_what_is_put_can_be_read(store: ContentStore, root: Path) -> None:
    blob = store.put(b"hello")
    assert blob.digest == digest(b"hello")
    assert blob.size_bytes == store.size_bytes(blob.digest) == 5
    assert store.read(blob.digest, 5) == b"hello"
    assert list(store.digests()) == [blob.digest]
    assert files(root) == {"oci-layout", "blobs/sha256/" + blob.digest[7:]}


def test_an_empty_blob(store: ContentStore) -> None:
    assert store.read(store.put(b"").digest, 0) == b""


def test_twice_is_the_same(store: ContentStore, root: Path) -> None:
    first = store.put(b"x")
    assert store.put(b"x", first.digest) == first
    assert store.read(first.digest, 10) == b"x"
    assert len(files(root)) == 2


def test_two_ingests_of_one_blob_at_once(store: ContentStore) -> None:
    with store.ingest() as one, store.ingest() as two:
        one.write(b"same")
        two.write(b"same")
        assert one.commit() == two.commit()
    assert store.read(digest(b"same"), 10) == b"same"


def test_a_given_up_ingest_leaves_nothing(store: ContentStore, root: Path) -> None:
    with store.ingest() as ingest:
        ingest.write(b"half")
    assert files(root) == {"oci-layout"}


@pytest.mark.parametrize(
    ("expected", "size"), [(digest(b"other"), 5), (digest(b"hello"), 6), (digest(b"hello"), 4)]
)
def test_wrong_content_is_refused(
    store: ContentStore, root: Path, expected: str, size: int
) -> None:
    with pytest.raises(DataLoss):
        store.put_stream([b"hel", b"lo"], expected, size)
    assert files(root) == {"oci-layout"}


def test_too_long_is_refused_before_it_is_written(store: ContentStore) -> None:
    with store.ingest(digest(b"x"), 3) as ingest:
        ingest.write(b"123")
        with pytest.raises(DataLoss, match="longer"):
            ingest.write(b"4")


def test_damage_is_found_at_reading(store: ContentStore) -> None:
    blob = store.put(b"precious")
    with open(store.path(blob.digest), "r+b") as file:
        file.write(b"P")
    with pytest.raises(DataLoss):
        store.read(blob.digest, 100)
    with store.open(blob.digest) as reader:
        assert reader.read(100) == b"Precious"
        with pytest.raises(DataLoss):
            reader.read(100)
    store.put(b"precious")
    assert store.read(blob.digest, 100) == b"precious"


def test_another_size_is_found_at_opening_and_repaired_by_ingest(store: ContentStore) -> None:
    blob = store.put(b"precious")
    os.truncate(store.path(blob.digest), 3)
    with pytest.raises(DataLoss):
        store.open(blob.digest, 8)
    store.put(b"precious")
    assert store.read(blob.digest, 100) == b"precious"


def test_reading_is_bounded(store: ContentStore) -> None:
    blob = store.put(b"12345")
    with pytest.raises(ResourceExhausted):
        store.read(blob.digest, 4)


def test_missing_and_malformed(store: ContentStore) -> None:
    with pytest.raises(NotFound):
        store.open(digest(b"never"))
    assert store.size_bytes(digest(b"never")) is None
    assert store.delete(digest(b"never")) == 0
    for text in ("sha256:../../etc/passwd", "", digest(b"") + "/x"):
        with pytest.raises(SpecError):
            store.open(text)


def test_delete_frees(store: ContentStore) -> None:
    blob = store.put(b"12345")
    assert store.delete(blob.digest) == 5
    assert list(store.digests()) == []


def test_opening_sweeps_crashed_ingests_and_keeps_running_ones(root: Path) -> None:
    store = ContentStore(str(root))
    with store.ingest() as running:
        running.write(b"still")
        (root / "ingest" / "crashed").write_bytes(b"left behind")
        ContentStore(str(root))
        assert not (root / "ingest" / "crashed").exists()
        assert running.commit().size_bytes == 5


def test_a_lock_is_what_tells_running_from_crashed(root: Path) -> None:
    ContentStore(str(root))
    staged = root / "ingest" / "other-process"
    with open(staged, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        ContentStore(str(root))
        assert staged.exists()
    ContentStore(str(root))
    assert not staged.exists()


def test_a_full_disk_leaves_nothing(
    store: ContentStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(ResourceExhausted):
        store.put(b"x")
    before = store.read_index()
    with pytest.raises(ResourceExhausted):
        store.write_index(b"{}")
    monkeypatch.undo()
    assert store.read_index() == before
    assert files(root) == {"oci-layout"}


def test_index_is_replaced(store: ContentStore) -> None:
    stamp = store.index_stamp()
    assert b'"manifests":[]' in store.read_index()
    store.write_index(b"{}")
    assert store.read_index() == b"{}"
    assert store.index_stamp() != stamp


@pytest.mark.parametrize("content", [b"", b"{}", b'{"imageLayoutVersion":"2.0.0"}'])
def test_a_foreign_layout_is_refused(root: Path, content: bytes) -> None:
    root.mkdir()
    (root / "oci-layout").write_bytes(content)
    with pytest.raises(FailedPrecondition):
        ContentStore(str(root))
