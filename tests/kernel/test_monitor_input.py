"""What a client sends to a container: stdin, its end, and a terminal with its size."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.monitor_rig import Task
from onggi.runtime.steps import OpenTerminal
from onggi.sandbox.keel import Keel
from onggi.sandbox.stream import Stream

#: On the host's own devpts: these tasks have no namespaces.
TERMINAL = OpenTerminal(bind_console=0)


@pytest.fixture(scope="module")
def keel() -> Iterator[Keel]:
    with Keel() as program:
        yield program


def test_half_close_ends_stdin(keel: Keel, tmp_path: Path) -> None:
    with Task(keel, tmp_path / "run", "cat; echo end", stdin=1) as task:
        client = task.attach(stdin=True)
        task.start()
        client.socket.sendall(b"hello\n")
        client.socket.shutdown(socket.SHUT_WR)
        assert client.read_all() == {Stream.STDOUT: b"hello\nend\n"}
        task.finish()


def test_detaching_leaves_stdin_open(keel: Keel, tmp_path: Path) -> None:
    with Task(keel, tmp_path / "run", "cat", stdin=1) as task:
        first = task.attach(stdin=True)
        task.start()
        first.socket.sendall(b"one ")
        first.read_until(b"one ")
        first.close()
        second = task.attach(stdin=True)
        second.socket.sendall(b"two")
        second.read_until(b"two")
        task.monitor.close_stdin()
        assert task.finish().code == 0


def test_without_stdin_there_is_only_the_null_device(keel: Keel, tmp_path: Path) -> None:
    with Task(keel, tmp_path / "run", "readlink /proc/self/fd/0; cat") as task:
        client = task.attach(stdin=True)
        task.start()
        assert client.read_all() == {Stream.STDOUT: b"/dev/null\n"}
        task.finish()


def test_much_input_arrives_whole(keel: Keel, tmp_path: Path) -> None:
    data = bytes(range(256)) * 8000
    with Task(keel, tmp_path / "run", "sha256sum", stdin=1) as task:
        sender, reader = task.attach(stdin=True, stdout=False, stderr=False), task.attach()
        task.start()
        thread = threading.Thread(target=lambda: (sender.socket.sendall(data), sender.close()))
        thread.start()
        digest = reader.read_all()[Stream.STDOUT].split()[0].decode()
        thread.join()
        task.finish()
    assert digest == hashlib.sha256(data).hexdigest()


def test_input_that_nobody_reads_does_not_hold_up_the_end(keel: Keel, tmp_path: Path) -> None:
    with Task(keel, tmp_path / "run", "exec 0<&-; echo closed", stdin=1) as task:
        client = task.attach(stdin=True)
        client.socket.sendall(b"x" * 100_000)
        task.start()
        assert client.read_all() == {Stream.STDOUT: b"closed\n"}
        assert task.finish().code == 0


def test_terminal_echoes_and_has_the_clients_size(keel: Keel, tmp_path: Path) -> None:
    script = "stty size; read line; stty size; echo got $line; tty >&2"
    with Task(keel, tmp_path / "run", script, TERMINAL, terminal=1) as task:
        client = task.attach(stdin=True)
        task.monitor.resize(31, 101)
        task.start()
        client.read_until(b"31 101\r\n")
        task.monitor.resize(41, 121)
        client.socket.sendall(b"word\r")
        output = client.read_all()
        assert list(output) == [Stream.STDOUT]
        assert output[Stream.STDOUT].startswith(b"word\r\n41 121\r\ngot word\r\n/dev/pts/")
        assert task.finish().code == 0


def test_terminal_outlives_a_moment_without_anyone_on_it(keel: Keel, tmp_path: Path) -> None:
    """The master must not hang up for good when the application closes and reopens its terminal."""
    script = "t=$(tty); exec </dev/null >/dev/null 2>&1; sleep 0.05; exec >$t; echo back"
    with Task(keel, tmp_path / "run", script, TERMINAL, terminal=1) as task:
        client = task.attach()
        task.start()
        assert client.read_all() == {Stream.STDOUT: b"back\r\n"}
        task.finish()


def test_control_character_interrupts(keel: Keel, tmp_path: Path) -> None:
    script = "trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.01; done"
    with Task(keel, tmp_path / "run", script, TERMINAL, terminal=1) as task:
        client = task.attach(stdin=True)
        task.start()
        client.read_until(b"ready\r\n")
        client.socket.sendall(b"\x03")
        assert b"caught\r\n" in client.read_all()[Stream.STDOUT]
        assert task.finish().code == 3
