"""The monitor's records: read back as values, and nothing else is taken for one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from onggi.errors import DataLoss, EngineError
from onggi.kernel.processes import boot_id
from onggi.sandbox.records import ExitRecord, StateRecord, read_exit_record, read_state

STATE = {"monitor_pid": 3, "pid": 4, "start_time": 5, "boot_id": "B"}
EXIT = {
    "pid": 4,
    "code": 0,
    "signal": 0,
    "core": 0,
    "started_ns": 1,
    "exited_ns": 2,
    "runtime_ns": 3,
    "boot_id": "B",
    "dropped_log_lines": 0,
}


@pytest.fixture
def dirfd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def test_records_are_read_back(dirfd: int, tmp_path: Path) -> None:
    (tmp_path / "state").write_text(json.dumps(STATE))
    (tmp_path / "exit-1").write_text(json.dumps(EXIT))
    assert read_state(dirfd, boot_id="B") == StateRecord(3, 4, 5, "B")
    assert read_exit_record(dirfd, "exit-1", boot_id="B") == ExitRecord(4, 0, 0, 0, 1, 2, 3, "B", 0)


def test_no_record(dirfd: int) -> None:
    assert read_state(dirfd) is None
    assert read_exit_record(dirfd) is None


def test_record_of_another_boot_is_none(dirfd: int, tmp_path: Path) -> None:
    (tmp_path / "state").write_text(json.dumps(STATE))
    assert read_state(dirfd) is None
    (tmp_path / "state").write_text(json.dumps({**STATE, "boot_id": boot_id()}))
    assert read_state(dirfd) is not None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"\xff",
        b"[" * 4000,
        b"{" + b" " * 5000 + b"}",
        json.dumps({**EXIT, "code": 256}).encode(),
        json.dumps({**EXIT, "code": -2}).encode(),
        json.dumps({**EXIT, "signal": 65}).encode(),
        json.dumps({**EXIT, "pid": 0}).encode(),
        json.dumps({**EXIT, "exited_ns": "2"}).encode(),
        json.dumps(EXIT)[:-9].encode(),
    ],
)
def test_garbage_is_a_loss(dirfd: int, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "exit").write_bytes(content)
    with pytest.raises(DataLoss):
        read_exit_record(dirfd, boot_id="B")


def test_only_regular_files_are_read(dirfd: int, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "exit")
    with pytest.raises(DataLoss, match="regular"):
        read_exit_record(dirfd)
    (tmp_path / "state").symlink_to("/etc/hostname")
    with pytest.raises(EngineError, match="state"):
        read_state(dirfd)
