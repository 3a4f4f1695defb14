"""Sessions on a real terminal (a pty): raw and back, sizes, detach keys."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from faces.cli_rig import Rig, rig


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path / "r") as found:
        yield found


class Screen:
    """A command on a pty of its own; `master` is the user's side."""

    def __init__(self, found: Rig, *argv: str) -> None:
        self.master, self.slave = pty.openpty()
        self.size(24, 80)
        self.before = termios.tcgetattr(self.slave)
        command = [sys.executable, "-m", "onggi", "--root", found.root, *argv]
        self.process = subprocess.Popen(
            command, stdin=self.slave, stdout=self.slave, stderr=self.slave, start_new_session=True
        )
        self.seen = b""

    def size(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read_until(self, text: bytes) -> None:
        while text not in self.seen:
            data = os.read(self.master, 4096)
            assert data, self.seen
            self.seen += data

    def type(self, data: bytes) -> None:
        os.write(self.master, data)

    def wait_raw(self) -> None:
        wait_for(lambda: not termios.tcgetattr(self.slave)[3] & termios.ECHO)

    def restored(self) -> bool:
        return termios.tcgetattr(self.slave) == self.before

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        os.close(self.master)
        os.close(self.slave)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_raw_while_it_runs_and_restored_after(running: Rig) -> None:
    with Screen(running, "run", "-it", "cat") as screen:
        screen.wait_raw()
        screen.type(b"\x03\x1a\r")  # ctrl-c, ctrl-z, enter: bytes like any other
        screen.read_until(b"\x03\x1a\r")
        screen.type(b"\x10\x11")
        assert screen.process.wait(10) == 0
        assert screen.restored()


def test_detach_keys_leave_it_running(running: Rig) -> None:
    with Screen(running, "run", "-it", "cat") as screen:
        screen.wait_raw()
        screen.type(b"a\x10b")  # a ctrl-p that begins no sequence goes on to the container
        screen.read_until(b"a\x10b")
        screen.type(b"\x10")
        screen.type(b"\x11")
        assert screen.process.wait(10) == 0
    assert running.engine.ended.wait(5)


def test_other_detach_keys(running: Rig) -> None:
    with Screen(running, "run", "-it", "--detach-keys", "ctrl-x,x", "cat") as screen:
        screen.wait_raw()
        screen.type(b"\x10\x11")
        screen.read_until(b"\x10\x11")
        screen.type(b"\x18x")
        assert screen.process.wait(10) == 0
        assert screen.restored()


def test_size_at_the_start_and_when_it_changes(running: Rig) -> None:
    with Screen(running, "run", "-it", "resized") as screen:
        screen.read_until(b"24x80")
        screen.size(40, 100)
        screen.process.send_signal(signal.SIGWINCH)
        screen.read_until(b"40x100")
        assert screen.process.wait(10) == 0
        assert screen.restored()
    size = next(r for name, r in running.engine.asked if name == "run").size
    assert (size.rows, size.columns) == (24, 80)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_restored_when_it_is_told_to_die(running: Rig, number: signal.Signals) -> None:
    with Screen(running, "run", "-it", "cat") as screen:
        screen.wait_raw()
        screen.process.send_signal(number)
        assert screen.process.wait(10) == -number
        assert screen.restored()


def test_restored_when_the_engine_goes_away(running: Rig) -> None:
    with Screen(running, "exec", "-it", "cat", "sh") as screen:
        screen.wait_raw()
        running.stop()
        assert screen.process.wait(10) == 125
        assert screen.restored()


def test_hanging_up_ends_the_command(running: Rig) -> None:
    screen = Screen(running, "run", "-it", "cat")
    with screen:
        screen.wait_raw()
        os.close(screen.slave)
        os.close(screen.master)
        screen.process.wait(10)
        screen.master, screen.slave = os.pipe()
    assert running.engine.ended.wait(5)


def test_a_table_fits_the_terminal(running: Rig) -> None:
    with Screen(running, "ps", "-a") as screen:
        screen.size(24, 80)
        assert screen.process.wait(10) == 0
        screen.read_until(b"box")
        for line in screen.seen.decode().splitlines():
            assert len(line) <= 80
