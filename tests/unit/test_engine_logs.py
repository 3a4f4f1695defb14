"""Reading rotated logs: every line once and in order, whatever the writer does meanwhile."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from onggi.engine.logs import LogReader, parse_time_ns


class Writer:
    """Writes as keel does (keel/log.c): appends whole lines, rotates by renames."""

    def __init__(self, path: Path, files: int) -> None:
        self.path, self.files, self.count = path, files, 0
        self.fd = self._open()

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, lines: int = 1) -> None:
        for _ in range(lines):
            self.count += 1
            entry = {"log": f"{self.count}\n", "stream": "stdout", "time": "2026-01-01T00:00:00Z"}
            os.write(self.fd, json.dumps(entry).encode() + b"\n")

    def rotate(self) -> Iterator[None]:
        """Rotate; yields between any two of its calls."""
        if self.files <= 1:
            os.ftruncate(self.fd, 0)
            return
        for number in range(self.files - 1, 0, -1):
            older, newer = f"{self.path}.{number}", f"{self.path}.{number - 1}"
            source = newer if number > 1 else str(self.path)
            if os.path.exists(source):
                os.rename(source, older)
                yield
        fresh = self._open()
        yield
        os.close(self.fd)
        self.fd = fresh

    def close(self) -> None:
        os.close(self.fd)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    made = Writer(tmp_path / "log", 5)
    yield made
    made.close()


@pytest.fixture
def reader(writer: Writer) -> Iterator[LogReader]:
    made = LogReader(str(writer.path), writer.files)
    yield made
    made.close()


def numbers(reader: LogReader) -> list[int]:
    return [int(line.log) for line in reader.lines()]


def rotate(writer: Writer) -> None:
    for _ in writer.rotate():
        pass


def test_all_files_are_read_oldest_first(writer: Writer, reader: LogReader) -> None:
    for _ in range(4):
        writer.write(10)
        rotate(writer)
    writer.write(3)
    assert numbers(reader) == list(range(1, 44))
    assert numbers(reader) == []


def test_what_comes_is_read_once(writer: Writer, reader: LogReader) -> None:
    assert numbers(reader) == []
    writer.write(2)
    assert numbers(reader) == [1, 2]
    writer.write()
    rotate(writer)
    writer.write()
    assert numbers(reader) == [3, 4]


def test_several_rotations_between_two_looks_lose_nothing(
    writer: Writer, reader: LogReader
) -> None:
    writer.write(2)
    assert numbers(reader) == [1, 2]
    for _ in range(3):
        writer.write(2)
        rotate(writer)
    writer.write()
    assert numbers(reader) == list(range(3, 10))


def test_a_rotation_while_old_files_are_read_loses_nothing(
    writer: Writer, reader: LogReader
) -> None:
    for _ in range(2):
        writer.write(3)
        rotate(writer)
    writer.write(3)
    lines = reader.lines()
    seen = [int(next(lines).log) for _ in range(2)]
    rotate(writer)
    writer.write(2)
    rotate(writer)
    writer.write()
    seen += [int(line.log) for line in lines]
    assert seen == list(range(1, 13))


@pytest.mark.parametrize("seed", range(30))
def test_whatever_the_interleaving(writer: Writer, reader: LogReader, seed: int) -> None:
    chance = random.Random(seed)
    seen: list[int] = []
    lines: Iterator[object] | None = None
    rotation: Iterator[None] | None = None
    rotations_since_look = 0
    for _ in range(300):
        act = chance.choice(("write", "write", "rotate", "read", "read"))
        if act == "write" and rotation is None:
            writer.write()
        elif act == "rotate" and (rotation or rotations_since_look < 2):
            rotations_since_look += rotation is None
            rotation = rotation or writer.rotate()
            if next(rotation, "done") == "done":
                rotation = None
        else:
            lines = lines or reader.lines()
            line = next(lines, None)
            if line is None:
                lines, rotations_since_look = None, 0
            else:
                seen.append(int(line.log))  # type: ignore[attr-defined]
    while rotation is not None and next(rotation, "done") != "done":
        continue
    seen += [int(line.log) for line in lines or ()]  # type: ignore[attr-defined]
    seen += numbers(reader)
    assert seen == list(range(1, writer.count + 1))


def test_a_log_of_one_file_goes_on_after_it_was_emptied(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "log", 1)
    reader = LogReader(str(tmp_path / "log"), 1)
    writer.write(5)
    assert numbers(reader) == [1, 2, 3, 4, 5]
    rotate(writer)
    writer.write(2)
    assert numbers(reader) == [6, 7]
    reader.close()
    writer.close()


def test_half_a_line_waits_for_its_end(writer: Writer, reader: LogReader) -> None:
    whole = b'{"log":"1\\n","stream":"stdout","time":"2026-01-01T00:00:00Z"}\n'
    os.write(writer.fd, whole[:20])
    assert numbers(reader) == []
    os.write(writer.fd, whole[20:])
    assert numbers(reader) == [1]


@pytest.mark.parametrize("damage", [b"\0" * 40, b"{", b'{"log":5}', b"\xff\xfe", b"[]", b""])
def test_a_damaged_line_is_shown_as_such(writer: Writer, reader: LogReader, damage: bytes) -> None:
    writer.write()
    os.write(writer.fd, damage + b"\n")
    writer.write()
    lines = list(reader.lines())
    assert [line.log for line in lines[::2]] == ["1\n", "2\n"]
    assert "a damaged line" in lines[1].log
    assert lines[1].stream == "stderr"


def test_no_log_is_no_line_and_no_descriptor(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    reader = LogReader(str(tmp_path / "none"), 5)
    assert numbers(reader) == []
    writer = Writer(tmp_path / "none", 5)
    writer.write(2)
    rotate(writer)
    writer.write(2)
    assert numbers(reader) == [1, 2, 3, 4]
    reader.close()
    reader.close()
    writer.close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(("text", "expected"), [
    ("1970-01-01T00:00:00Z", 0),
    ("1970-01-01T00:00:01.5Z", 1_500_000_000),
    ("2026-11-23T20:15:00.000000001Z", 1_795_464_900_000_000_001),
    ("2026-11-23T20:15:00.123456789Z", 1_795_464_900_123_456_789),
])  # fmt: skip
def test_times_have_nanoseconds(text: str, expected: int) -> None:
    assert parse_time_ns(text) == expected
