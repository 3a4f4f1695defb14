"""A monitor from spawn to exit record, with and without its engine."""

from __future__ import annotations

import os
import platform
import select
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.monitor_rig import PATIENCE_S, Client, Task, expect, plan, wait_event, wait_until
from onggi.errors import Unavailable
from onggi.kernel.processes import boot_id, start_time_ticks
from onggi.runtime.steps import Execute, Plan, SetHostname
from onggi.sandbox.keel import Keel
from onggi.sandbox.messages import Closed, Exited, Failed, Started
from onggi.sandbox.monitor import Monitor
from onggi.sandbox.records import read_exit_record, read_state
from onggi.sandbox.stream import Stream


@pytest.fixture(scope="module")
def keel() -> Iterator[Keel]:
    with Keel() as program:
        yield program


def test_started_and_exited_agree_with_state_and_record(keel: Keel, tmp_path: Path) -> None:
    with Task(keel, tmp_path / "run", "read line; exit 7", stdin=1) as task:
        started = task.start()
        state = read_state(task.run_dirfd)
        assert state is not None
        assert (state.monitor_pid, state.pid) == (task.monitor_pid, started.pid)
        assert state.start_time == started.start_time == start_time_ticks(started.pid)
        assert state.boot_id == boot_id()
        assert read_exit_record(task.run_dirfd) is None
        task.monitor.close_stdin()
        exited = task.finish()
        record = read_exit_record(task.run_dirfd)
        assert record is not None
        assert (exited.code, exited.signal, exited.core_dumped) == (7, 0, False)
        assert (record.pid, record.code, record.signal, record.core) == (started.pid, 7, 0, 0)
        assert record.started_ns == started.realtime_ns
        assert (record.exited_ns, record.runtime_ns) == (exited.realtime_ns, exited.runtime_ns)
        assert record.dropped_log_lines == 0
        assert sorted(os.listdir(task.directory)) == ["exit", "state"]


@pytest.mark.skipif(
    platform.machine() != "x86_64" or os.environ.get("ONGGI_KEEL", "").endswith("-asan"),
    reason="host feature missing: a keel with its own C library (x86-64, not sanitized)",
)
def test_a_monitor_is_small(keel: Keel, tmp_path: Path) -> None:
    """All of it, its program's pages included, as if no other monitor shared them."""
    with Task(
        keel, tmp_path / "run", "exec sleep 60", log_dir=str(tmp_path), log_name="log"
    ) as task:
        task.start()
        rollup = Path(f"/proc/{task.monitor_pid}/smaps_rollup").read_text()
        (resident,) = (line.split()[1] for line in rollup.splitlines() if line.startswith("Rss:"))
        assert int(resident) <= 400


def test_signal_is_told_as_a_signal(keel: Keel, tmp_path: Path) -> None:
    with Task(keel, tmp_path / "run", "kill -TERM $$") as task:
        task.start()
        exited = task.finish()
        assert (exited.code, exited.signal) == (-1, signal.SIGTERM)


def test_pidfd_is_the_application(keel: Keel, tmp_path: Path) -> None:
    with Task(keel, tmp_path / "run", "exec sleep 60") as task:
        started = task.start()
        assert started.pidfd is not None
        signal.pidfd_send_signal(started.pidfd, signal.SIGKILL)
        assert task.finish().signal == signal.SIGKILL


def test_monitor_is_apart_from_its_engine(keel: Keel, tmp_path: Path) -> None:
    with Task(keel, tmp_path / "run", "exec sleep 60") as task:
        task.start()
        pid = task.monitor_pid
        assert pid is not None
        assert os.getsid(pid) == pid
        assert Path(f"/proc/{pid}/comm").read_text() == "keel:monitor\n"
        assert os.readlink(f"/proc/{pid}/exe").startswith("/memfd:keel")
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        assert not any("memfd:plan" in link for link in links)


def test_failed_step_is_named_and_nothing_is_left(keel: Keel, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    nowhere = Execute(arguments=("/nowhere",), environment=(), candidates=("/nowhere",))
    steps = (*plan(directory, "").steps[:-1], nowhere)
    with Monitor.spawn(keel, Plan(steps=steps)) as monitor:
        monitor.go()
        failed = expect(monitor, Failed)
        assert (failed.step_index, failed.opcode) == (2, Execute.opcode)
        assert os.strerror(failed.errno) == "No such file or directory"
        assert failed.facts["path"] == "/nowhere"
        assert isinstance(wait_event(monitor), Closed)
        wait_until(monitor.reap)
    assert os.listdir(directory) == []


def test_unknown_run_directory_is_a_failure(keel: Keel, tmp_path: Path) -> None:
    with Monitor.spawn(keel, plan(tmp_path / "absent", "true")) as monitor:
        failed = expect(monitor, Failed)
        assert failed.step_index == 0
        assert "absent" in failed.detail
        wait_until(monitor.reap)


def test_engine_gone_before_go_starts_nothing(keel: Keel, tmp_path: Path) -> None:
    task = Task(keel, tmp_path / "run", f"touch {tmp_path}/ran")
    task.close()
    assert not (tmp_path / "ran").exists()
    assert os.listdir(task.directory) == []


def test_monitor_that_ends_before_it_is_asked_says_why(keel: Keel, tmp_path: Path) -> None:
    with Monitor.spawn(keel, plan(tmp_path / "absent", "true")) as monitor:
        wait_until(monitor.reap)
        theirs, ours = socket.socketpair()
        with theirs, ours:
            monitor.attach(theirs.fileno(), stdin=True, stdout=True, stderr=True)
        monitor.go()
        assert "absent" in expect(monitor, Failed).detail
        expect(monitor, Closed)
        with pytest.raises(Unavailable):
            monitor.resize(1, 1)


def test_what_a_killed_monitor_told_is_not_lost(keel: Keel, tmp_path: Path) -> None:
    """The kernel answers ECONNRESET first when a socket dies with messages unread."""
    with Task(keel, tmp_path / "run", "exec sleep 60") as task:
        task.monitor.go()
        wait_until(lambda: read_state(task.run_dirfd) is not None)
        assert select.select([task.monitor], [], [], PATIENCE_S)[0]
        assert task.monitor_pid is not None
        os.kill(task.monitor_pid, signal.SIGSTOP)
        task.monitor.resize(1, 1)
        os.kill(task.monitor_pid, signal.SIGKILL)
        wait_until(task.monitor.reap)
        task.started = expect(task.monitor, Started)
        expect(task.monitor, Closed)


def test_as_many_descriptors_as_slots(keel: Keel, tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with Monitor.spawn(keel, plan(tmp_path, "true"), borrowed=[fd] * 255) as monitor:
            monitor.go()
            started = expect(monitor, Started)
            assert started.pidfd is not None
            os.close(started.pidfd)
            assert expect(monitor, Exited).code == 0
            wait_until(monitor.reap)
        with pytest.raises(ValueError, match="256 descriptors do not fit"):
            Monitor.spawn(keel, plan(tmp_path, "true"), borrowed=[fd] * 256)
    finally:
        os.close(fd)


def test_successor_takes_over(keel: Keel, tmp_path: Path) -> None:
    with Task(keel, tmp_path / "run", "read line; exit 3", stdin=1) as task:
        started = task.start()
        task.monitor.close()
        with task.connect() as successor, task.connect() as another:
            successor.request_info()
            again = expect(successor, Started)
            assert again.pidfd is not None
            os.close(again.pidfd)
            assert (again.pid, again.start_time) == (started.pid, started.start_time)
            client = Client.attached(successor, stdin=True, stdout=True, stderr=True)
            client.socket.sendall(b"go on\n")
            assert expect(successor, Exited).code == 3
            assert expect(another, Exited).code == 3
            assert isinstance(wait_event(another), Closed)
            client.close()
        with pytest.raises(Unavailable, match="no monitor answers"):
            task.connect()


def test_both_engine_and_successor_are_told(keel: Keel, tmp_path: Path) -> None:
    with Task(keel, tmp_path / "run", "read line; exit 4", stdin=1) as task:
        task.start()
        successor = task.connect()
        task.monitor.close_stdin()
        assert task.finish().code == 4
        assert expect(successor, Exited).code == 4


def test_socket_is_private_and_deep_paths_work(keel: Keel, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.parent.mkdir()
    with Task(keel, deep, "exec sleep 60") as task:
        task.start()
        mode = os.stat("monitor.sock", dir_fd=task.run_dirfd).st_mode
        assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o600)
        task.connect().request_info()


def test_killed_monitor_is_seen_and_its_directory_can_be_used_again(
    keel: Keel, tmp_path: Path
) -> None:
    with Task(keel, tmp_path / "run", "exec sleep 60") as task:
        task.start()
        assert task.monitor_pid is not None
        os.kill(task.monitor_pid, signal.SIGKILL)
        expect(task.monitor, Closed)
        wait_until(task.monitor.reap)
        assert read_exit_record(task.run_dirfd) is None
        with pytest.raises(Unavailable):
            task.connect()
    with Task(keel, tmp_path / "run", "exit 5") as task:
        task.start()
        assert task.finish().code == 5


def test_directory_of_a_living_monitor_is_refused(keel: Keel, tmp_path: Path) -> None:
    with Task(keel, tmp_path / "run", "exec sleep 60") as task:
        task.start()
        with Monitor.spawn(keel, plan(task.directory, "true")) as second:
            assert "monitor.sock" in expect(second, Failed).detail
            wait_until(second.reap)
        task.connect().request_info()


def test_die_with_engine(keel: Keel, tmp_path: Path) -> None:
    with Task(keel, tmp_path / "run", "exec sleep 60", die_with_engine=1) as task:
        task.start()
        task.monitor.close()
        wait_until(task.monitor.reap)
        record = read_exit_record(task.run_dirfd)
        assert record is not None
        assert (record.code, record.signal) == (-1, signal.SIGKILL)


def test_exec_without_a_record_leaves_no_files(keel: Keel, tmp_path: Path) -> None:
    with Task(keel, tmp_path / "run", "exit 0", record_name="") as task:
        task.start()
        assert task.finish().code == 0
        assert os.listdir(task.directory) == []


def test_signals_of_the_engine_are_not_the_applications(keel: Keel, tmp_path: Path) -> None:
    with Task(keel, tmp_path / "run", "grep -E 'Sig(Ign|Blk)' /proc/self/status") as task:
        client = task.attach()
        task.start()
        text = client.read_all()[Stream.STDOUT].decode()
        task.finish()
    blocked, ignored = (int(line.split()[1], 16) for line in text.splitlines())
    assert (blocked, ignored) == (0, 0)


def test_borrowed_descriptors_arrive_whatever_their_numbers(keel: Keel, tmp_path: Path) -> None:
    """dup2 in sequence must not overwrite a source that is still to be placed."""
    (tmp_path / "run").mkdir()
    fds = [os.open(tmp_path, os.O_RDONLY) for _ in range(12)]
    try:
        with Monitor.spawn(keel, plan(tmp_path / "run", "true"), borrowed=fds[::-1]) as monitor:
            wait_until(lambda: len(os.listdir(f"/proc/{monitor.pid}/fd")) >= 17)
            for number in range(5, 5 + 12):
                assert os.readlink(f"/proc/{monitor.pid}/fd/{number}") == str(tmp_path)
            monitor.close()
            wait_until(monitor.reap)
    finally:
        for fd in fds:
            os.close(fd)


def test_optional_step_is_only_warned_about(keel: Keel, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    too_long = SetHostname(name="x" * 100, optional=True)
    with Monitor.spawn(keel, plan(directory, "exit 6", too_long)) as monitor:
        monitor.go()
        events = [wait_event(monitor) for _ in range(3)]
        assert [type(event).__name__ for event in events] == ["Warned", "Started", "Exited"]
        assert isinstance(events[1], Started)
        assert events[1].pidfd is not None
        os.close(events[1].pidfd)
        wait_until(monitor.reap)
