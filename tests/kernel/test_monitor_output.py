"""What a container writes: into the log and to its clients, all of it, once, in order."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from kernel.monitor_rig import Task, log_entries, log_files, log_text
from onggi.kernel import syscalls
from onggi.sandbox.keel import Keel
from onggi.sandbox.records import read_exit_record
from onggi.sandbox.stream import Stream


@pytest.fixture(scope="module")
def keel() -> Iterator[Keel]:
    with Keel() as program:
        yield program


@pytest.fixture
def small_filesystem(tmp_path: Path) -> Iterator[Path]:
    target = tmp_path / "small"
    target.mkdir()
    with syscalls.fsopen("tmpfs") as fs:
        syscalls.fsconfig_string(fs, "size", "256k")
        syscalls.fsconfig_create(fs)
        with syscalls.fsmount(fs) as mount:
            syscalls.move_mount(mount, -100, str(target))
    yield target
    syscalls.umount2(str(target))


def with_log(directory: Path, **more: object) -> dict[str, object]:
    directory.mkdir(exist_ok=True)
    return {"log_dir": str(directory), "log_name": "log", **more}


def test_log_has_dockers_form(keel: Keel, tmp_path: Path) -> None:
    with Task(keel, tmp_path / "run", "echo out; echo err >&2", **with_log(tmp_path)) as task:
        task.start()
        task.finish()
    entries = sorted(log_entries(tmp_path), key=lambda entry: entry["stream"])
    assert [(e["log"], e["stream"]) for e in entries] == [("err\n", "stderr"), ("out\n", "stdout")]
    for entry in entries:
        assert list(entry) == ["log", "stream", "time"]
        assert entry["time"].endswith("Z")
        assert (
            abs(datetime.now().timestamp() - datetime.fromisoformat(entry["time"]).timestamp()) < 60
        )


def test_five_megabytes_through_rotation_without_gap_or_duplicate(
    keel: Keel, tmp_path: Path
) -> None:
    supervise = with_log(tmp_path / "log", log_max_bytes=1_000_000, log_max_files=100)
    with Task(keel, tmp_path / "run", "seq 1 780000", **supervise) as task:
        client = task.attach()
        task.start()
        output = client.read_all()[Stream.STDOUT]
        task.finish()
    expected = "".join(f"{n}\n" for n in range(1, 780_001))
    assert len(expected) > 5_000_000
    assert output.decode() == expected
    files = log_files(tmp_path / "log")
    assert len(files) > 5
    assert all(path.stat().st_size <= 1_000_000 for path in files)
    assert log_text(tmp_path / "log") == expected


def test_rotation_keeps_only_so_many_files(keel: Keel, tmp_path: Path) -> None:
    supervise = with_log(tmp_path / "log", log_max_bytes=10_000, log_max_files=3)
    with Task(keel, tmp_path / "run", "seq 1 5000", **supervise) as task:
        task.start()
        task.finish()
    assert [path.name for path in log_files(tmp_path / "log")] == ["log.2", "log.1", "log"]
    assert log_text(tmp_path / "log").endswith("\n4999\n5000\n")


def test_garbage_is_repaired_in_the_log_and_untouched_for_clients(
    keel: Keel, tmp_path: Path
) -> None:
    garbage = os.urandom(200_000)
    (tmp_path / "garbage").write_bytes(garbage)
    with Task(
        keel, tmp_path / "run", f"cat {tmp_path}/garbage", **with_log(tmp_path / "log")
    ) as task:
        client = task.attach()
        task.start()
        assert client.read_all() == {Stream.STDOUT: garbage}
        task.finish()
    text = log_text(tmp_path / "log")
    assert "\ufffd" in text
    assert text.encode().replace("\ufffd".encode(), b"") == bytes(
        garbage.decode("utf-8", "ignore").replace("\ufffd", ""), "utf-8"
    )


def test_log_is_continued_by_the_next_task(keel: Keel, tmp_path: Path) -> None:
    for word in ("one", "two"):
        with Task(keel, tmp_path / "run", f"echo {word}", **with_log(tmp_path / "log")) as task:
            task.start()
            task.finish()
    assert log_text(tmp_path / "log") == "one\ntwo\n"


def test_full_disk_stops_neither_the_container_nor_its_clients(
    keel: Keel, tmp_path: Path, small_filesystem: Path
) -> None:
    supervise = with_log(small_filesystem, log_max_bytes=0)
    with Task(keel, tmp_path / "run", "seq 1 100000; exit 8", **supervise) as task:
        client = task.attach()
        task.start()
        output = client.read_all()[Stream.STDOUT]
        assert task.finish().code == 8
        record = read_exit_record(task.run_dirfd)
    assert output.endswith(b"\n100000\n")
    entries = list(log_entries(small_filesystem))
    assert record is not None
    assert record.dropped_log_lines > 0
    assert len(entries) + record.dropped_log_lines == 100_000


def test_two_clients_see_the_same(keel: Keel, tmp_path: Path) -> None:
    with Task(keel, tmp_path / "run", "seq 1 1000; echo bad >&2") as task:
        both, only_errors = task.attach(), task.attach(stdout=False)
        task.start()
        expected = "".join(f"{n}\n" for n in range(1, 1001)).encode()
        assert both.read_all() == {Stream.STDOUT: expected, Stream.STDERR: b"bad\n"}
        assert only_errors.read_all() == {Stream.STDERR: b"bad\n"}
        task.finish()


def test_slow_client_slows_the_container_and_loses_nothing(keel: Keel, tmp_path: Path) -> None:
    marker = tmp_path / "written"
    size = 4_000_000
    script = f"head -c {size} /dev/zero; touch {marker}"
    with Task(keel, tmp_path / "run", script) as task:
        slow, fast = task.attach(), task.attach()
        task.start()
        fast.socket.recv(1)
        # The pipe, one chunk and the sockets' buffers hold far less than what is written.
        before = slow.socket.recv(1)
        assert not marker.exists()
        fast.close()
        decoder_rest = before + b"".join(iter(lambda: slow.socket.recv(1 << 16), b""))
        assert decoder_rest.count(b"\0") >= size
        assert marker.exists()
        task.finish()


def test_client_that_vanishes_is_forgotten(keel: Keel, tmp_path: Path) -> None:
    with Task(keel, tmp_path / "run", "read go; seq 1 200000", stdin=1) as task:
        gone, stays = task.attach(stdin=True), task.attach(stdin=True)
        task.start()
        gone.close()
        stays.socket.sendall(b"go\n")
        assert stays.read_all()[Stream.STDOUT].endswith(b"\n200000\n")
        assert task.finish().code == 0


def test_client_that_never_reads_does_not_hold_up_the_end(keel: Keel, tmp_path: Path) -> None:
    with Task(keel, tmp_path / "run", "head -c 250000 /dev/zero") as task:
        stalled = task.attach()
        task.start()
        assert task.finish().code == 0
        assert len(stalled.read_all()[Stream.STDOUT]) == 250_000


def test_process_left_behind_does_not_hold_up_the_end(keel: Keel, tmp_path: Path) -> None:
    with Task(keel, tmp_path / "run", "sleep 60 & echo $!") as task:
        client = task.attach()
        task.start()
        left = int(client.read_all()[Stream.STDOUT])
        try:
            assert task.finish().code == 0
        finally:
            os.kill(left, signal.SIGKILL)


def test_attach_in_the_middle_gets_what_follows(keel: Keel, tmp_path: Path) -> None:
    with Task(keel, tmp_path / "run", "echo before; read go; echo after", stdin=1) as task:
        first = task.attach()
        task.start()
        first.read_until(b"before\n")
        late = task.attach(stdin=True)
        late.socket.sendall(b"go\n")
        assert late.read_all() == {Stream.STDOUT: b"after\n"}
        task.finish()
