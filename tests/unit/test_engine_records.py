"""The engine's memory: what is stored is there after a restart, and a full disk stops nothing."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest

from onggi.engine.api.answers import ExitStatus
from onggi.engine.api.spec import ContainerSpec, MountSpec
from onggi.engine.records import SCHEMA_VERSION, ContainerRecord, Records, VolumeRecord
from onggi.errors import AlreadyExists, DataLoss, InvalidArgument, NotFound, ResourceExhausted


def record(number: int, name: str = "", **more: Any) -> ContainerRecord:
    spec = ContainerSpec(image="busybox", mounts=(MountSpec("tmpfs", "/x"),))
    fields: dict[str, Any] = {"spec": spec, "image_id": "i", "chain_ids": ("c",), "created_ns": 1}
    return ContainerRecord(id=f"{number:064x}", name=name or f"n{number}", **{**fields, **more})


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "records.sqlite")


def after_a_kill(path: str) -> Records:
    """The records as the next engine finds them when this one ended here."""
    copy = Path(path).parent / "copy" / str(len(list(Path(path).parent.glob("copy/*"))))
    copy.mkdir(parents=True)
    for file in Path(path).parent.glob("records.sqlite*"):
        shutil.copy(file, copy)
    return Records(str(copy / "records.sqlite"))


def test_what_is_stored_is_there_after_a_restart(path: str) -> None:
    first = Records(path)
    stored = record(1, "one", exit=ExitStatus(code=None, explanation="lost"), config=b'{"a":1}')
    first.insert_container(stored)
    first.insert_container(record(2, "two"))
    changed = record(2, "renamed", state="running", pid=7, id_base=65536)
    first.update_container(changed)
    first.put_volume(VolumeRecord("v", 5, {"a": "b"}, anonymous=True))
    again = after_a_kill(path)
    assert again.containers == {stored.id: stored, changed.id: changed}
    assert again.names == {"one": stored.id, "renamed": changed.id}
    assert again.volumes == {"v": VolumeRecord("v", 5, {"a": "b"}, anonymous=True)}
    again.delete_container(stored.id)
    again.delete_container(stored.id)
    again.delete_volume("v")
    again.close()
    first.close()
    last = Records(again.path)
    assert list(last.containers) == [changed.id]
    assert last.volumes == {}
    last.close()


def test_a_name_has_one_holder_and_is_free_once_removal_begins(path: str) -> None:
    records = Records(path)
    first = record(1, "same")
    records.insert_container(first)
    with pytest.raises(AlreadyExists, match="'same' is taken by container 000000000000"):
        records.insert_container(record(2, "same"))
    assert list(records.containers) == [first.id]
    records.update_container(record(1, " ", state="removing"))
    records.update_container(msgspec.structs.replace(first, state="removing", name=""))
    records.insert_container(record(2, "same"))
    records.delete_container(first.id)
    assert records.names == {"same": record(2).id}
    records.close()


def test_a_container_is_found_by_name_id_or_unique_prefix(path: str) -> None:
    records = Records(path)
    one = record(0xA << 252, "one")
    two = record((0xA << 252) + (1 << 200), "abc")
    gone = msgspec.structs.replace(record(0xB << 252, "gone"), state="removing", name="")
    for stored in (one, two, gone):
        records.insert_container(stored)
    assert records.find_container("one") == one
    assert records.find_container("abc") == two, "a name goes before a prefix"
    assert records.find_container(one.id) == one
    assert records.find_container(two.id[:30]) == two
    with pytest.raises(InvalidArgument, match="beginning of several"):
        records.find_container("a0")
    for absent in ("", "nosuch", "b", gone.id, "%", "one2"):
        with pytest.raises(NotFound, match="no such container"):
            records.find_container(absent)
    records.close()


def full(connection: sqlite3.Connection) -> None:
    """Let the database grow no further."""
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count={pages}")


def test_a_full_disk_refuses_what_is_new_and_delays_what_has_happened(path: str) -> None:
    records = Records(path)
    records.insert_container(record(1, "one"))
    records.insert_container(record(3, "three"))
    full(records._db)
    with pytest.raises(ResourceExhausted, match=r"full.* — free some space"):
        records.insert_container(record(2, "two", config=b"x" * 50_000))
    assert "two" not in records.names
    ended = record(1, "", state="exited", config=b"x" * 50_000)
    records.update_container(ended)
    records.delete_container(record(3).id)
    assert records.containers == {ended.id: ended}
    assert after_a_kill(path).containers != records.containers, "it is late on disk"
    with pytest.raises(NotFound):
        records.find_container(record(3).id)
    with pytest.raises(ResourceExhausted):
        records.put_volume(VolumeRecord("v", 1))
    assert records.volumes == {}
    records._db.execute("PRAGMA max_page_count=1000000")
    records.put_volume(VolumeRecord("v", 1))
    assert after_a_kill(path).containers == {ended.id: ended}
    records.close()


def test_what_is_late_is_written_when_it_closes(path: str) -> None:
    records = Records(path)
    records.insert_container(record(1, "one"))
    full(records._db)
    ended = record(1, "one", state="exited", config=b"x" * 50_000)
    records.update_container(ended)
    records._db.execute("PRAGMA max_page_count=1000000")
    records.close()
    assert Records(path).containers == {ended.id: ended}


@pytest.mark.parametrize(
    "content", [b"no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 5000]
)
def test_a_damaged_file_is_named(path: str, content: bytes) -> None:
    Path(path).write_bytes(content)
    with pytest.raises(DataLoss, match=r"records\.sqlite.* — restore it from a copy"):
        Records(path)


def test_a_damaged_record_is_named(path: str) -> None:
    records = Records(path)
    records.insert_container(record(1))
    records._db.execute("UPDATE containers SET record='{\"id\":5}'")
    records.close()
    with pytest.raises(DataLoss, match="containers, is damaged"):
        Records(path)


def test_a_later_version_is_refused_and_left_alone(path: str) -> None:
    records = Records(path)
    records._db.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    records.close()
    before = Path(path).read_bytes()
    with pytest.raises(DataLoss, match="use the newer onggi"):
        Records(path)
    assert Path(path).read_bytes() == before
