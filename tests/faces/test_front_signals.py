"""Signals, terminals and deaths: a command behind the front ends and stops as any other."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from faces.front_rig import Rig, alive, build, child_pid, children_of, eventually, state_of, warm


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(os.environ.get("ONGGI_FRONT") or build(tmp_path_factory.mktemp("front")))


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, front: Path) -> Iterator[Rig]:
    with warm(tmp_path_factory.mktemp("root"), front) as found:
        yield found


_TIOCGPTN = 0x80045430


class Terminal:
    """A front as a shell's foreground job on a terminal of its own; `pid` is the front."""

    def __init__(self, rig: Rig, *words: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            argv = [str(word) for word in rig.argv(*words)]
            os.execv(argv[0], argv)
        self.seen = b""

    def until(self, wanted: bytes) -> bytes:
        while wanted not in self.seen:
            assert select.select([self.fd], [], [], 10)[0], self.seen
            self.seen += os.read(self.fd, 4096)
        found, self.seen = self.seen.split(wanted, 1)
        return found

    def child(self) -> int:
        self.until(b"pid ")
        return int(self.until(b"\r\n"))

    def type(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def ended(self) -> int:
        status = os.waitpid(self.pid, 0)[1]
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR2])
def test_a_fatal_signal_ends_both_by_it(rig: Rig, number: int) -> None:
    with rig.start("wait") as process:
        child = child_pid(process)
        process.send_signal(number)
        assert process.wait() == -number
        assert not alive(child)


def test_interrupt_is_an_exit_code(rig: Rig) -> None:
    with rig.start("wait") as process:
        child_pid(process)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130


def test_signals_reach_the_commands_handlers(rig: Rig) -> None:
    with rig.start("catch") as process:
        child_pid(process)
        assert process.stdout is not None
        for number in (signal.SIGUSR1, signal.SIGWINCH, signal.SIGHUP, signal.SIGTERM):
            process.send_signal(number)
            assert process.stdout.readline().split()[0] == number.name.encode()
        assert process.wait() == 9


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_killed_command_kills_its_front_alike(rig: Rig, number: int) -> None:
    with rig.start("wait") as process:
        os.kill(child_pid(process), number)
        assert process.wait() == -number


def test_under_nohup_the_command_is_deaf_too(rig: Rig) -> None:
    with rig.start("wait", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) as job:
        child_pid(job)
        job.send_signal(signal.SIGHUP)
        job.send_signal(signal.SIGTERM)
        assert job.wait() == -signal.SIGTERM


def test_a_killed_front_ends_its_command(rig: Rig) -> None:
    with rig.start("wait") as process:
        child = child_pid(process)
        process.kill()
    eventually(lambda: not alive(child))
    eventually(lambda: len(children_of(rig.pid)) == 1)


def test_a_killed_front_ends_a_stopped_command(rig: Rig) -> None:
    with rig.start("wait") as process:
        child = child_pid(process)
        os.kill(child, signal.SIGSTOP)
        eventually(lambda: state_of(process.pid) == "T")
        process.kill()
    eventually(lambda: not alive(child))


def test_a_killed_front_ends_even_a_deaf_command(rig: Rig) -> None:
    with rig.start("deaf") as process:
        child = child_pid(process)
        process.kill()
    eventually(lambda: not alive(child))
    eventually(lambda: len(children_of(rig.pid)) == 1)


def test_a_lost_front_is_not_a_hangup_for_a_container(rig: Rig) -> None:
    # A session passes SIGHUP on; what tells it of a killed front must be something else.
    with rig.start("catch") as process:
        child = child_pid(process)
        process.kill()
        eventually(lambda: not alive(child))
        assert process.stdout is not None
        assert process.stdout.read() == b""


def test_control_c(rig: Rig) -> None:
    terminal = Terminal(rig, "wait")
    child = terminal.child()
    terminal.type(b"\x03")
    assert terminal.ended() == 130
    eventually(lambda: not alive(child))
    terminal.close()


def _into_foreground() -> None:
    """What a shell does for a job, before it runs it."""
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)


def test_control_z_and_back(rig: Rig) -> None:
    # A shell, so that the job's group is not orphaned and may be stopped.
    shell, fd = pty.fork()
    if shell == 0:
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        job = subprocess.Popen(rig.argv("wait"), preexec_fn=_into_foreground)  # noqa: PLW1509
        stopped = os.waitpid(job.pid, os.WUNTRACED)[1]
        os.tcsetpgrp(0, os.getpgrp())
        os.write(1, b"stopped %d\n" % (os.WIFSTOPPED(stopped) and os.WSTOPSIG(stopped)))
        os.read(0, 1)
        os.tcsetpgrp(0, job.pid)
        os.killpg(job.pid, signal.SIGCONT)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(job.pid, 0)[1]))
    terminal = Terminal.__new__(Terminal)
    terminal.pid, terminal.fd, terminal.seen = shell, fd, b""
    child = terminal.child()
    terminal.type(b"\x1a")
    terminal.until(b"stopped %d\r\n" % signal.SIGTSTP)
    eventually(lambda: state_of(child) == "T")
    terminal.type(b"\n")
    eventually(lambda: state_of(child) == "S")
    terminal.type(b"\x03")
    assert terminal.ended() == 130
    terminal.close()


def test_raw_mode_and_back(rig: Rig) -> None:
    terminal = Terminal(rig, "raw")
    before = termios.tcgetattr(terminal.fd)
    terminal.child()
    assert termios.tcgetattr(terminal.fd)[3] & termios.ECHO == 0
    terminal.type(b"\x03z")
    # ISIG is off: control-c is a byte for whoever reads.
    terminal.until(b"read b'\\x03")
    os.kill(terminal.pid, signal.SIGINT)
    terminal.ended()
    assert termios.tcgetattr(terminal.fd) == before
    terminal.close()


def test_raw_mode_is_left_when_the_front_is_killed(rig: Rig) -> None:
    terminal = Terminal(rig, "raw")
    # Held open, the terminal outlives its session.
    number = struct.unpack("I", fcntl.ioctl(terminal.fd, _TIOCGPTN, bytes(4)))[0]
    held = os.open(f"/dev/pts/{number}", os.O_RDWR | os.O_NOCTTY)
    before = termios.tcgetattr(held)
    child = terminal.child()
    os.kill(terminal.pid, signal.SIGKILL)
    terminal.ended()
    eventually(lambda: not alive(child))
    assert termios.tcgetattr(held)[3] == before[3]
    os.close(held)
    terminal.close()


def test_resizing(rig: Rig) -> None:
    terminal = Terminal(rig, "catch")
    terminal.child()
    fcntl.ioctl(terminal.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 132, 0, 0))
    terminal.until(b"SIGWINCH (132, 50)")
    os.kill(terminal.pid, signal.SIGTERM)
    assert terminal.ended() == 9
    terminal.close()


def test_a_terminal_that_is_closed(rig: Rig) -> None:
    terminal = Terminal(rig, "wait")
    child = terminal.child()
    terminal.close()
    assert terminal.ended() == -signal.SIGHUP
    assert not alive(child)


def test_a_killed_warm_process_harms_no_command(front: Path, tmp_path: Path) -> None:
    with warm(tmp_path, front) as rig, rig.start("catch") as process:
        child_pid(process)
        (spare,) = eventually(lambda: [p for p in children_of(rig.pid) if state_of(p) == "S"][1:])
        rig.kill_warm()
        eventually(lambda: not alive(spare))
        process.send_signal(signal.SIGUSR1)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 9


def test_a_loss_that_nobody_saw(front: Path, tmp_path: Path) -> None:
    with warm(tmp_path, front) as rig, rig.start("wait", stderr=subprocess.PIPE) as process:
        child = child_pid(process)
        rig.kill_warm()
        os.kill(child, signal.SIGKILL)
        assert process.wait() == 125
        assert process.stderr is not None
        assert b"how it ended is not known" in process.stderr.read()


def test_the_engines_end_waits_for_commands(front: Path, tmp_path: Path) -> None:
    with warm(tmp_path, front) as rig:
        with rig.start("catch") as process:
            child = child_pid(process)
            rig.end_engine()
            # No more commands, and no spare: but this one goes on, and is still watched.
            eventually(lambda: rig.run("exit", "0").stdout.startswith(b"plain"))
            eventually(lambda: [p for p in children_of(rig.pid) if alive(p)] == [child])
            os.kill(child, signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        rig.close()
        assert state_of(rig.pid) == ""
