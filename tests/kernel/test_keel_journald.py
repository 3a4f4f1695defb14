"""Output as journal entries: the real keel, and a socket that stands for journald's."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kernel.monitor_rig import Task, expect
from onggi.sandbox.keel import Keel
from onggi.sandbox.messages import Failed
from onggi.sandbox.records import read_exit_record

FIELDS = ("CONTAINER_ID=0123456789ab", "CONTAINER_NAME=web", "LABEL=two\nlines", "EMPTY=")
Entry = dict[str, bytes]


@pytest.fixture(scope="module")
def keel() -> Iterator[Keel]:
    with Keel() as program:
        yield program


@contextmanager
def journal(path: Path) -> Iterator[socket.socket]:
    """Where entries arrive."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        sock.settimeout(10)
        yield sock
    path.unlink()


def parse(datagram: bytes) -> Entry:
    """The fields of an entry. Source: systemd.io/JOURNAL_NATIVE_PROTOCOL."""
    entry: Entry = {}
    while datagram:
        line, _, datagram = datagram.partition(b"\n")
        key, equals, value = line.partition(b"=")
        if not equals:
            length = int.from_bytes(datagram[:8], "little")
            value, datagram = datagram[8 : 8 + length], datagram[8 + length :]
            assert datagram[:1] == b"\n"
            datagram = datagram[1:]
        assert key.decode() not in entry
        entry[key.decode()] = value
    return entry


def read(sock: socket.socket, count: int) -> list[Entry]:
    return [parse(sock.recv(1 << 18)) for _ in range(count)]


def task(keel: Keel, directory: Path, script: str, path: Path) -> Task:
    return Task(keel, directory, script, journal_socket=str(path), journal_fields=FIELDS)


def dropped(run: Task) -> int:
    record = read_exit_record(run.run_dirfd)
    assert record is not None
    return record.dropped_log_lines


def test_each_line_is_an_entry_with_the_containers_fields(keel: Keel, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with journal(path) as sock, task(keel, tmp_path / "run", "echo out; echo err >&2", path) as run:
        run.start()
        entries = {entry["MESSAGE"]: entry for entry in read(sock, 2)}
        assert run.finish().code == 0
        assert dropped(run) == 0
        assert {os.path.basename(name) for name in os.listdir(run.directory)} == {"exit", "state"}
    assert entries[b"out"] == {
        "CONTAINER_ID": b"0123456789ab",
        "CONTAINER_NAME": b"web",
        "LABEL": b"two\nlines",
        "EMPTY": b"",
        "MESSAGE": b"out",
        "PRIORITY": b"6",
    }
    assert entries[b"err"] == {**entries[b"out"], "MESSAGE": b"err", "PRIORITY": b"3"}


def test_the_entries_joined_are_the_output(keel: Keel, tmp_path: Path) -> None:
    """Empty lines, bytes that are no text, a line longer than an entry, an end without newline."""
    path = tmp_path / "journal"
    script = r"printf '\n\000\377=\n'; head -c 20000 /dev/zero | tr '\0' x; printf '\nend'"
    with journal(path) as sock, task(keel, tmp_path / "run", script, path) as run:
        client = run.attach()
        run.start()
        entries = read(sock, 5)
        seen = b"".join(client.read_all().values())
        run.finish()
    partial = [entry.get("CONTAINER_PARTIAL_MESSAGE") for entry in entries]
    assert partial == [None, None, b"true", None, b"true"]
    pieces = [e["MESSAGE"] + (b"" if p else b"\n") for e, p in zip(entries, partial, strict=True)]
    assert b"".join(pieces) == seen == b"\n\0\xff=\n" + b"x" * 20000 + b"\nend"
    assert len(entries[2]["MESSAGE"]) == 16 * 1024


def test_many_lines_keep_their_order(keel: Keel, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    script = "i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); done"
    with journal(path) as sock, task(keel, tmp_path / "run", script, path) as run:
        run.start()
        got = [entry["MESSAGE"] for entry in read(sock, 300)]
        run.finish()
        assert dropped(run) == 0
    assert got == [b"line %d" % number for number in range(300)]


def test_a_journal_that_is_away_stops_nothing_and_may_come_back(keel: Keel, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    script = "echo lost; echo lost; echo ready; read x; echo found"
    with Task(
        keel, tmp_path / "run", script, journal_socket=str(path), journal_fields=(), stdin=1
    ) as run:
        client = run.attach(stdin=True)
        run.start()
        client.read_until(b"ready\n")
        with journal(path) as sock:
            client.socket.sendall(b"\n")
            assert read(sock, 1) == [{"MESSAGE": b"found", "PRIORITY": b"6"}]
            assert run.finish().code == 0
        assert dropped(run) == 3


def test_a_journal_that_hangs_is_waited_for_once(keel: Keel, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    lines = 20_000  # far more than its queue takes (net.unix.max_dgram_qlen)
    script = f"yes | head -n {lines}"
    with journal(path) as sock, task(keel, tmp_path / "run", script, path) as run:
        run.start()
        assert run.finish().code == 0
        sock.setblocking(False)
        kept = 0
        while True:
            try:
                sock.recv(4096)
            except BlockingIOError:
                break
            kept += 1
        assert kept > 0
        assert dropped(run) == lines - kept


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/run/" + "x" * 108, ()),
        ("/run/journal", ("_PID=1",)),
        ("/run/journal", ("lower=1",)),
        ("/run/journal", ("1ST=1",)),
        ("/run/journal", ("NOVALUE",)),
        ("/run/journal", ("K" * 65 + "=1",)),
        ("/run/journal", ("LARGE=" + "x" * 8192,)),
    ],
)
def test_what_the_journal_would_not_take_is_refused(
    keel: Keel, tmp_path: Path, path: str, fields: tuple[str, ...]
) -> None:
    with Task(keel, tmp_path / "run", "true", journal_socket=path, journal_fields=fields) as run:
        failed = expect(run.monitor, Failed)
        assert (failed.opcode, failed.call) == (1, "journal")
        assert not os.listdir(run.directory)


def test_a_file_and_a_journal_exclude_each_other(keel: Keel, tmp_path: Path) -> None:
    more = {"log_dir": str(tmp_path), "log_name": "log"}
    with Task(keel, tmp_path / "run", "true", journal_socket="/run/journal", **more) as run:
        failed = expect(run.monitor, Failed)
        assert failed.detail == "a log goes to a file or to a journal, not to both"
