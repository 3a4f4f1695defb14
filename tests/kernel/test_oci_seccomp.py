"""Filters of a configuration: every action, operator and flag on the real kernel; the agent."""

from __future__ import annotations

import array
import errno
import fcntl
import json
import os
import platform
import socket
import struct
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from kernel.oci_rig import NEEDS_ROOT_AND_BUSYBOX, Bundle, bundle

pytestmark = [
    NEEDS_ROOT_AND_BUSYBOX,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="host feature missing: x86_64"),
]
__all__ = ["bundle"]

_RECEIVE, _SEND = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_RECV, SECCOMP_IOCTL_NOTIF_SEND
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
_ANSWER = struct.Struct("=Qqii")


class Agent:
    """Takes one listener, and answers each call that it is asked about with an errno."""

    def __init__(self, path: Path, answer: int) -> None:
        self.answer = answer
        self.document: dict[str, Any] = {}
        self.asked: list[int] = []
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        self.socket.listen()
        self.socket.settimeout(20)
        self.thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Agent:
        self.thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.thread.join(20)
        self.socket.close()
        assert not self.thread.is_alive()

    def _serve(self) -> None:
        connection, _ = self.socket.accept()
        connection.settimeout(20)
        with connection:
            data, fds, _, _ = socket.recv_fds(connection, 65536, 4)
            while more := connection.recv(65536):
                data += more
        self.document = json.loads(data)
        (listener,) = fds
        try:
            while True:
                self._answer_one(listener)
        except OSError as error:
            assert error.errno in (errno.ENOENT, errno.EBADF), error  # nobody is left to ask
        finally:
            os.close(listener)

    def _answer_one(self, listener: int) -> None:
        from select import POLLHUP, POLLIN, poll

        waiting = poll()
        waiting.register(listener, POLLIN)
        ((_, events),) = waiting.poll(20_000)
        if events & POLLHUP or not events & POLLIN:
            raise OSError(errno.ENOENT, "the container is gone")
        question = array.array("B", bytes(_NOTIFICATION.size))
        fcntl.ioctl(listener, _RECEIVE, question)
        number, pid, *_ = _NOTIFICATION.unpack(question)
        self.asked.append(pid)
        fcntl.ioctl(listener, _SEND, _ANSWER.pack(number, 0, -self.answer, 0))


def notify(bundle: Bundle, path: Path, *names: str, **more: Any) -> None:
    bundle.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": str(path),
        "listenerMetadata": "about it",
        "syscalls": [{"names": list(names), "action": "SCMP_ACT_NOTIFY"}],
        **more,
    }


@pytest.mark.parametrize("privileges", ["kept", "none new"])
def test_an_agent_gets_the_listener_and_who_asks(
    bundle: Bundle, tmp_path: Path, privileges: str
) -> None:
    bundle.process["noNewPrivileges"] = privileges == "none new"
    bundle.config["annotations"] = {"a": "b"}
    notify(bundle, tmp_path / "agent", "mkdir", "mkdirat")
    with Agent(tmp_path / "agent", errno.EDQUOT) as agent:
        done = bundle.run("mkdir /tmp/x; echo $?; cat /proc/self/status")
    assert done.stdout.startswith("1\n"), (done.stdout, done.stderr)
    assert os.strerror(errno.EDQUOT) in done.stderr
    assert "Seccomp:\t2" in done.stdout
    document = agent.document
    assert document["fds"] == ["seccompFd"]
    assert document["metadata"] == "about it"
    state = document["state"]
    assert (state["id"], state["bundle"]) == (bundle.name, str(bundle.directory))
    assert state["annotations"] == {"a": "b"}
    assert document["pid"] == state["pid"] > 1
    assert len(agent.asked) == 1


def test_the_application_has_neither_listener_nor_socket(bundle: Bundle, tmp_path: Path) -> None:
    notify(bundle, tmp_path / "agent", "mkdir")
    with Agent(tmp_path / "agent", errno.EPERM):
        assert bundle.out("ls /proc/self/fd").split() == ["0", "1", "2", "3"]


def test_an_agent_may_have_the_application_itself(bundle: Bundle, tmp_path: Path) -> None:
    """The very execve is asked about: nothing of ours waits for an answer before."""
    notify(bundle, tmp_path / "agent", "execve")
    with Agent(tmp_path / "agent", errno.EACCES) as agent:
        done = bundle.run("echo never")
    assert done.returncode != 0
    assert "never" not in done.stdout
    assert agent.asked


def test_an_agent_that_goes_away_leaves_nobody_waiting(bundle: Bundle, tmp_path: Path) -> None:
    """Calls that it would have answered are answered with ENOSYS, by the kernel."""
    notify(bundle, tmp_path / "agent", "mkdir")

    def take_and_leave() -> None:
        connection, _ = listening.accept()
        _, fds, _, _ = socket.recv_fds(connection, 65536, 4)
        for fd in (*fds, connection.detach()):
            os.close(fd)

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "agent"))
        listening.listen()
        thread = threading.Thread(target=take_and_leave)
        thread.start()
        done = bundle.run("mkdir /tmp/x; echo $?")
        thread.join(20)
    assert done.stdout == "1\n"
    assert os.strerror(errno.ENOSYS) in done.stderr


def test_nobody_at_the_agents_socket(bundle: Bundle, tmp_path: Path) -> None:
    notify(bundle, tmp_path / "nobody", "mkdir")
    assert "nobody listens there" in bundle.refused()


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, "$.linux.seccomp.defaultAction"),
        ({"listenerPath": ""}, "$.linux.seccomp.listenerPath"),
        (
            {"syscalls": [{"names": ["sendmsg"], "action": "SCMP_ACT_NOTIFY"}]},
            "$.linux.seccomp.syscalls[0].action",
        ),
    ],
)
def test_listeners_that_cannot_be(bundle: Bundle, change: dict[str, Any], path: str) -> None:
    notify(bundle, Path("/agent"), "mkdir", **change)
    assert path in bundle.refused()


ERRNO = {"action": "SCMP_ACT_ERRNO", "errnoRet": errno.EXDEV}
UMASKED = 0o77


@pytest.mark.parametrize(
    ("op", "value", "two", "denied"),
    [
        ("SCMP_CMP_EQ", 0o77, 0, True),
        ("SCMP_CMP_EQ", 0o76, 0, False),
        ("SCMP_CMP_NE", 0o76, 0, True),
        ("SCMP_CMP_LT", 0o77, 0, False),
        ("SCMP_CMP_LE", 0o77, 0, True),
        ("SCMP_CMP_GT", 0o77, 0, False),
        ("SCMP_CMP_GE", 0o77, 0, True),
        ("SCMP_CMP_MASKED_EQ", 0o70, 0o70, True),
        ("SCMP_CMP_MASKED_EQ", 0o100, 0o100, False),
    ],
)
def test_every_operator(bundle: Bundle, op: str, value: int, two: int, denied: bool) -> None:
    argument = {"index": 1, "value": value, "valueTwo": two, "op": op}
    bundle.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["chmod"], **ERRNO, "args": [argument]}],
    }
    done = bundle.run("touch /tmp/f; busybox chmod 077 /tmp/f; echo $?")
    assert done.stdout == f"{int(denied)}\n", done.stderr
    assert (os.strerror(errno.EXDEV) in done.stderr) is denied


@pytest.mark.parametrize(
    ("action", "code"),
    [
        ("SCMP_ACT_KILL", 128 + 31),
        ("SCMP_ACT_KILL_THREAD", 128 + 31),
        ("SCMP_ACT_KILL_PROCESS", 128 + 31),
        ("SCMP_ACT_TRAP", 128 + 31),
        ("SCMP_ACT_ERRNO", 1),
        ("SCMP_ACT_TRACE", 1),
        ("SCMP_ACT_LOG", 0),
        ("SCMP_ACT_ALLOW", 0),
    ],
)
def test_every_action(bundle: Bundle, action: str, code: int) -> None:
    default = "SCMP_ACT_LOG" if action == "SCMP_ACT_ALLOW" else "SCMP_ACT_ALLOW"
    bundle.linux["seccomp"] = {
        "defaultAction": default,
        "syscalls": [{"names": ["mkdir"], "action": action}],
    }
    assert bundle.run("mkdir /tmp/d; echo $?").stdout == f"{code}\n"


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["SECCOMP_FILTER_FLAG_TSYNC"],
        ["SECCOMP_FILTER_FLAG_LOG"],
        ["SECCOMP_FILTER_FLAG_SPEC_ALLOW"],
        ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
    ],
)
def test_every_flag(bundle: Bundle, flags: list[str]) -> None:
    bundle.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "flags": flags,
        "syscalls": [{"names": ["mkdir"], **ERRNO}],
    }
    assert bundle.run("mkdir /tmp/d; echo $?").stdout == "1\n"


def test_a_flag_for_the_listener(bundle: Bundle, tmp_path: Path) -> None:
    flags = ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]
    notify(bundle, tmp_path / "agent", "mkdir", flags=flags)
    with Agent(tmp_path / "agent", errno.EPERM) as agent:
        assert bundle.run("mkdir /tmp/x; echo $?").stdout == "1\n"
    assert agent.asked
