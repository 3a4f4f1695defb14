"""Containers on a terminal: its size, keys, signals, leaving and coming back; and the person's own
terminal as it was, however it ends."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance import kernel_side
from acceptance.rig import Onggi, until
from acceptance.screen import screen

DETACH = "\x10\x11"  # ctrl-p ctrl-q


@pytest.fixture(autouse=True)
def _nothing_stays(onggi: Onggi) -> Iterator[None]:
    yield
    left = onggi.out("ps", "-aq").split()
    if left:
        onggi.run("rm", "-f", *left)


def test_a_shell_on_a_terminal(onggi: Onggi) -> None:
    with screen(onggi, "run", "--rm", "-it", "busybox", "sh") as shell:
        shell.expect("# ")
        assert shell.is_raw()
        shell.type(
            "tty; test -t 0 -a -t 1 -a -t 2 && echo all; echo $TERM; stat -c %u /dev/pts/0\n"
        )
        shell.expect("/dev/pts/0\r\nall\r\nxterm\r\n0\r\n")
        # /dev/tty, the console and its ioctls are the container's own terminal.
        shell.type("echo mine > /dev/tty; echo console > /dev/console; ls /dev/pts\n")
        shell.expect("mine\r\n")
        shell.expect("console\r\n")
        shell.expect("0     ptmx\r\n")
        shell.type("exit 7\n")
        assert shell.ended() == 7
        assert shell.is_restored()


def test_the_size_and_its_changes(onggi: Onggi) -> None:
    script = "stty size; trap 'echo now $(stty size)' WINCH; echo up; while :; do sleep 0.02; done"
    words = ("run", "-it", "--name", "sized", "busybox", "sh", "-c", script)
    with screen(onggi, *words, rows=33, columns=111) as shell:
        shell.expect("33 111\r\n")
        shell.expect("up")
        shell.resize(44, 122)
        shell.expect("now 44 122")
        shell.type(DETACH)
        assert shell.ended() == 0
    # Another window has another size.
    with screen(onggi, "attach", "sized", rows=25, columns=81) as shell:
        shell.expect("now 25 81")


def test_a_terminal_without_a_window(onggi: Onggi) -> None:
    script = "test -t 0 -a -t 1 -a -t 2 && stty -a | head -n 1"
    done = onggi.run("run", "--rm", "-t", "busybox", "sh", "-c", script)
    assert re.search(r"rows 0; columns 0;|line = 0;", done.stdout)
    assert done.stdout.endswith("\r\n")


def test_leave_and_come_back(onggi: Onggi) -> None:
    words = ("run", "-it", "--name", "left", "busybox", "sh")
    with screen(onggi, *words) as shell:
        shell.expect("# ")
        shell.type("kept=here\n")
        shell.expect("# ")
        shell.type(DETACH)
        assert shell.ended() == 0
        assert shell.is_restored()
    assert onggi.inspect("left")["State"]["Running"] is True
    with screen(onggi, "attach", "left") as shell:
        until(shell.is_raw, "it is attached")
        shell.type("echo still $kept\n")
        shell.expect("still here\r\n")
        # The keys alone, or others after the first, are the application's.
        shell.type("echo a\x10b | od -c | head -n 1\n")
        shell.type("exit 5\n")
        assert shell.ended() == 5
        assert shell.is_restored()
    assert onggi.out("wait", "left") == "5"


def test_keys_of_ones_own_to_leave(onggi: Onggi) -> None:
    words = ("run", "-it", "--detach-keys", "ctrl-x,q", "--name", "left", "busybox", "cat")
    with screen(onggi, *words) as shell:
        until(shell.is_raw, "it is attached")
        shell.type(DETACH + "still\n")
        shell.expect("still\r\n")
        shell.type("\x18q")
        assert shell.ended() == 0
        assert shell.is_restored()
    assert onggi.inspect("left")["State"]["Running"] is True


def test_ctrl_c_reaches_the_application(onggi: Onggi) -> None:
    script = "trap 'echo caught; exit 9' INT; echo up; while :; do sleep 0.02; done"
    with screen(onggi, "run", "--rm", "-it", "busybox", "sh", "-c", script) as shell:
        shell.expect("up\r\n")
        shell.type("\x03")
        shell.expect("caught\r\n")
        assert shell.ended() == 9
        assert shell.is_restored()


def test_job_control_inside(onggi: Onggi) -> None:
    with screen(onggi, "run", "--rm", "-it", "busybox", "sh") as shell:
        shell.expect("# ")
        shell.type("sleep 1000\n")
        shell.expect("sleep 1000\r\n")
        until(lambda: "sleep 1000" in onggi.out("top", onggi.out("ps", "-q")), "it sleeps")
        shell.type("\x1a")  # ctrl-z
        shell.expect("Stopped")
        shell.type("kill %1\n")
        shell.expect("# ")
        shell.type("exit\nexit\n")
        shell.ended()
        assert shell.is_restored()


def test_the_end_of_input_ends_a_shell(onggi: Onggi) -> None:
    with screen(onggi, "run", "--rm", "-it", "busybox", "sh") as shell:
        shell.expect("# ")
        shell.type("\x04")
        assert shell.ended() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_terminal_is_restored_when_the_command_is_killed(
    onggi: Onggi, number: signal.Signals
) -> None:
    with screen(onggi, "run", "-it", "--name", "stays", "busybox", "cat") as shell:
        until(shell.is_raw, "it is attached")
        shell.process.send_signal(number)
        assert shell.ended() == -number
        assert shell.is_restored()
    assert onggi.inspect("stays")["State"]["Running"] is True


def test_a_hang_up_leaves_the_container_running(onggi: Onggi) -> None:
    with screen(onggi, "run", "-it", "--name", "stays", "busybox", "cat") as shell:
        until(shell.is_raw, "it is attached")
        shell.process.kill()
        shell.process.wait()
    assert onggi.inspect("stays")["State"]["Running"] is True
    with screen(onggi, "attach", "stays") as shell:
        until(shell.is_raw, "it is attached")
        shell.type("again\n")
        shell.expect("again\r\nagain\r\n")


def test_two_before_one_terminal(onggi: Onggi) -> None:
    onggi.run("run", "-dit", "--name", "shared", "busybox", "sh")
    with screen(onggi, "attach", "shared") as one, screen(onggi, "attach", "shared") as two:
        until(one.is_raw, "one is attached")
        until(two.is_raw, "two is attached")
        one.type("echo $((40 + 2))\n")
        one.expect("42\r\n")
        two.expect("42\r\n")
        two.type("exit 3\n")
        assert one.ended() == two.ended() == 3
        assert one.is_restored()
        assert two.is_restored()


def test_exec_on_a_terminal(onggi: Onggi) -> None:
    onggi.run("run", "-d", "--name", "box", "busybox", "sleep", "1000")
    with screen(onggi, "exec", "-it", "-u", "user", "box", "sh", rows=35, columns=105) as shell:
        shell.expect("$ ")
        shell.type("stty size; id -un; stat -c %U $(tty); echo $TERM\n")
        shell.expect("35 105\r\nuser\r\nuser\r\nxterm\r\n")
        shell.resize(20, 70)
        until(lambda: _sizes_of(onggi, "box") == "20 70", "the exec has the new size")
        shell.type("\x03exit 4\n")
        assert shell.ended() == 4
        assert shell.is_restored()
    assert onggi.inspect("box")["State"]["Running"] is True


def _sizes_of(onggi: Onggi, container: str) -> str:
    """What another process of the container sees on the exec's terminal."""
    return onggi.out("exec", container, "sh", "-c", "stty size < /dev/pts/0", check=False)


def test_leaving_an_exec_lets_it_run(onggi: Onggi) -> None:
    onggi.run("run", "-d", "--name", "box", "busybox", "sleep", "1000")
    with screen(onggi, "exec", "-it", "box", "cat") as shell:
        until(shell.is_raw, "it is attached")
        shell.type(DETACH)
        assert shell.ended() == 0
        assert shell.is_restored()
    assert " cat" in onggi.out("top", "box")


def test_a_terminal_of_the_containers_own(onggi: Onggi) -> None:
    # Not the person's: nothing typed into the container's terminal can reach a shell of the host.
    with screen(onggi, "run", "-it", "--name", "own", "busybox", "sh") as shell:
        shell.expect("# ")
        pid = onggi.pid("own")
        theirs, ours = os.stat(f"/proc/{pid}/fd/0"), os.fstat(shell.slave)
        assert (theirs.st_dev, theirs.st_rdev) != (ours.st_dev, ours.st_rdev)
        base = kernel_side.uid_range(pid).start
        assert theirs.st_uid == base
        assert Path(f"/proc/{pid}/fd/0").readlink() == Path("/dev/pts/0")
        assert kernel_side.namespace(pid, "mount") != kernel_side.namespace("self", "mount")
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        assert fields[3] == fields[2] == str(pid)  # it leads its session, in its own group
        shell.type("exit\n")
        assert shell.ended() == 0


def test_input_that_is_no_terminal(onggi: Onggi) -> None:
    done = onggi.run(
        "run", "--rm", "-it", "busybox", "sh", stdin=b"echo $((2 + 3))\nexit 6\n", check=False
    )
    assert done.returncode in (6, 125)
    assert ("5\r\n" in done.stdout) if done.returncode == 6 else ("terminal" in done.stderr)
