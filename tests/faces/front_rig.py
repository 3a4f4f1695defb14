"""A front beside a plain command line that only says so, and a warm process for it to find."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PLAIN_CODE = 77
_WARM = str(Path(__file__).with_name("front_command.py"))
_DEADLINE_S = 10.0


def build(directory: Path, target: str = "") -> Path:
    """The front, compiled once per test run; `ONGGI_FRONT` names another (a sanitized one)."""
    out = directory / "front"
    arguments = [f"OUT={out}", f"BUILD={directory}/objects"]
    if target:
        arguments.append(f"{directory}/objects/{target}")
        out = directory / "objects" / target
    subprocess.run(["make", "-s", "-C", str(ROOT / "front"), *arguments], check=True)
    return out


def eventually(condition: Callable[[], Any]) -> Any:
    """What `condition` says once it is true."""
    deadline = time.monotonic() + _DEADLINE_S
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.005)
    raise AssertionError("it did not come true in time")


def alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    return state_of(pid) not in ("", "Z", "X")


def state_of(pid: int) -> str:
    """The letter of /proc/PID/stat; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def children_of(pid: int) -> list[int]:
    """Zombies included."""
    return [int(x) for x in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Rig:
    """`root` for --root, `front` to run; `pid` of the warm process, `lifeline` to end it."""

    def __init__(self, root: Path, front: Path, *words: str) -> None:
        self.root = root
        self.bin = root / "bin"
        self.bin.mkdir()
        self.front = self.bin / "onggi"
        self.front.write_bytes(front.read_bytes())
        plain = self.bin / "onggi-python"
        plain.write_text(f'#!/bin/sh\necho plain "$@"\nexit {PLAIN_CODE}\n')
        for program in (self.front, plain):
            program.chmod(0o755)
        (root / "run").mkdir()
        self.socket = str(root / "run" / "warm.sock")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.socket)
        self.listener.listen(128)
        reader, self.lifeline = os.pipe2(os.O_CLOEXEC)
        high = fcntl.fcntl(self.listener.fileno(), fcntl.F_DUPFD_CLOEXEC, 20)
        living = fcntl.fcntl(reader, fcntl.F_DUPFD_CLOEXEC, 20)
        self.pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-X", "utf8", _WARM, *words],
            {"PYTHONPATH": str(ROOT / "src")},
            file_actions=[(os.POSIX_SPAWN_DUP2, high, 3), (os.POSIX_SPAWN_DUP2, living, 4)],
            setsid=True,
        )
        for fd in (high, living, reader):
            os.close(fd)
        self.listener.close()
        self.reaped = False

    def argv(self, *words: str | bytes) -> list[str | bytes]:
        return [str(self.front), "--root", str(self.root), *words]

    def run(self, *words: str | bytes, **options: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            self.argv(*words), check=False, capture_output=True, timeout=30, **options
        )

    def start(self, *words: str, **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.argv(*words), stdout=subprocess.PIPE, **options)

    def end_engine(self) -> None:
        """What the warm process sees when the engine ends."""
        if self.lifeline >= 0:
            os.close(self.lifeline)
            self.lifeline = -1

    def close(self) -> None:
        self.end_engine()
        if not self.reaped:
            with contextlib.suppress(ChildProcessError):
                eventually(lambda: os.waitpid(self.pid, os.WNOHANG)[0])
        self.reaped = True

    def kill_warm(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.reaped = True


@contextlib.contextmanager
def warm(root: Path, front: Path, *words: str) -> Iterator[Rig]:
    rig = Rig(root, front, *words)
    try:
        yield rig
    finally:
        rig.close()


def child_pid(process: subprocess.Popen[bytes]) -> int:
    """The first line of a command that says its pid."""
    assert process.stdout is not None
    word, pid = process.stdout.readline().split()
    assert word == b"pid"
    return int(pid)
