"""NOTIFY_SOCKET of a caller: what a container tells about itself, and what of it arrives."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faces.oci_rig import DEADLINE_S, NEEDS_ROOT_AND_BUSYBOX, Runtime, eventually

pytestmark = NEEDS_ROOT_AND_BUSYBOX


class Manager:
    """Who waits for the caller, as systemd does."""

    def __init__(self, place: str) -> None:
        self.path = f"{place}/s"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.settimeout(DEADLINE_S)

    def hear(self) -> bytes:
        """One datagram; descriptors that come along are closed."""
        return self.socket.recv(4096)

    def heard_nothing(self) -> bool:
        self.socket.settimeout(0.3)
        with pytest.raises(TimeoutError):
            self.socket.recv(4096)
        self.socket.settimeout(DEADLINE_S)
        return True


@pytest.fixture
def manager() -> Iterator[Manager]:
    place = tempfile.mkdtemp(prefix="nt")
    manager = Manager(place)
    yield manager
    manager.socket.close()
    shutil.rmtree(place)


@pytest.fixture
def runtime(tmp_path: Path, manager: Manager) -> Iterator[Runtime]:
    runtime = Runtime(tmp_path)
    runtime.environment["NOTIFY_SOCKET"] = manager.path
    yield runtime
    runtime.clean()
    assert runtime.leftovers() == []


def started(runtime: Runtime, container: str, *words: str) -> subprocess.Popen[bytes]:
    """A `start`, or another command, that goes on until the container is ready."""
    return subprocess.Popen(
        [*runtime.words, "--root", str(runtime.root), *(words or ("start", container))],
        env=runtime.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def tell(pid: int, place: str, data: bytes, fds: tuple[int, ...] = ()) -> None:
    """Say something as a process of the container would: by the path that it sees."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as teller:
        teller.connect(f"/proc/{pid}/root{place}/notify")
        socket.send_fds(teller, [data], list(fds))


def test_start_waits_until_the_container_is_ready(runtime: Runtime, manager: Manager) -> None:
    container = runtime.create("a", runtime.bundle("/bin/sleep", "1000"))
    start = started(runtime, container)
    pid = runtime.wait(container, "running")["pid"]
    eventually(lambda: Path(f"/proc/{pid}/root{manager.path}/notify").exists())
    tell(pid, manager.path, b"STATUS=soon\nMAINPID=1")
    assert manager.heard_nothing()
    assert start.poll() is None
    tell(pid, manager.path, b"FDSTORE=1\nREADY=1\nMAINPID=1\n", (0,))
    assert manager.hear() == b"READY=1"
    assert manager.hear() == f"MAINPID={pid}".encode()
    assert manager.hear() == b"BARRIER=1"
    assert start.wait(DEADLINE_S) == 0
    runtime.call("delete", "--force", container)


def test_the_container_knows_its_socket(runtime: Runtime, manager: Manager) -> None:
    script = f"echo $NOTIFY_SOCKET; ls {manager.path}; echo x > {manager.path}/f || echo refused"
    words = ("run", "-b", str(runtime.bundle("/bin/sh", "-c", script)), runtime.name("a"))
    said = runtime.call(*words).stdout.split()
    assert said == [f"{manager.path}/notify", "notify", "refused"]
    assert manager.heard_nothing()


def test_run_in_the_foreground_tells_and_stays(runtime: Runtime, manager: Manager) -> None:
    container = runtime.name("a")
    bundle = runtime.bundle("/bin/sleep", "1000")
    run = started(runtime, container, "run", "-b", str(bundle), container)
    eventually((runtime.root / container / "state.json").exists)
    pid = runtime.wait(container, "running")["pid"]
    tell(pid, manager.path, b"READY=1")
    assert manager.hear() == b"READY=1"
    assert run.poll() is None
    runtime.call("kill", container, "KILL")
    assert run.wait(DEADLINE_S) == 128 + signal.SIGKILL


@pytest.mark.parametrize("detached", [False, True])
def test_who_ends_without_a_word_is_not_waited_for(runtime: Runtime, detached: bool) -> None:
    bundle = runtime.bundle("/bin/true")
    if detached:
        runtime.call("run", "--detach", "-b", str(bundle), runtime.name("a"))
    else:
        runtime.call("start", runtime.create("a", bundle))


def test_a_waiting_start_is_in_nobodys_way(runtime: Runtime) -> None:
    container = runtime.create("a", runtime.bundle("/bin/sleep", "1000"))
    start = started(runtime, container)
    runtime.wait(container, "running")
    runtime.call("delete", "--force", container)
    assert start.wait(DEADLINE_S) == 0


def test_a_manager_that_is_away_is_told_of(runtime: Runtime, manager: Manager) -> None:
    container = runtime.create("a", runtime.bundle("/bin/sleep", "1000"))
    os.unlink(manager.path)
    start = subprocess.Popen(
        [*runtime.words, "--root", str(runtime.root), "start", container],
        env=runtime.environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    pid = runtime.wait(container, "running")["pid"]
    eventually(lambda: Path(f"/proc/{pid}/root{manager.path}/notify").exists())
    tell(pid, manager.path, b"READY=1")
    _, said = start.communicate(timeout=DEADLINE_S)
    assert start.returncode == 0
    assert f"NOTIFY_SOCKET={manager.path}: No such file or directory".encode() in said


def test_without_the_variable_there_is_no_socket(runtime: Runtime) -> None:
    del runtime.environment["NOTIFY_SOCKET"]

    def own(config: dict[str, Any]) -> None:
        config["process"]["env"].append("NOTIFY_SOCKET=/its/own")

    bundle = runtime.bundle("/bin/sh", "-c", "echo $NOTIFY_SOCKET", change=own)
    assert runtime.call("run", "-b", str(bundle), runtime.name("a")).stdout == "/its/own\n"
