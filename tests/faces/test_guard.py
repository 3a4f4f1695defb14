"""The guard alone: when it becomes the engine, with what, and when it does not."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import onggi

PROGRAM = Path(onggi.__file__).parent / "bin/guard"
#: In an engine's place: says how it was called.
ENGINE = """#!{python} -S
import json, os, sys
said = {{"argv": sys.argv[1:], "revivals": os.environ.get("ONGGI_REVIVALS", "")}}
said["pid"] = os.getpid()
with open({said!r} + ".new", "w") as file: json.dump(said, file)
os.rename({said!r} + ".new", {said!r})
"""


class Root:
    """A root with a lock and a log, and a guard on a pipe."""

    def __init__(self, place: Path) -> None:
        self.lock, self.log, self.said = place / "lock", place / "log", place / "said"
        self.lock.touch()
        self.log.touch()
        self.engine = place / "engine"
        self.engine.write_text(ENGINE.format(python=sys.executable, said=str(self.said)))
        self.engine.chmod(0o755)
        self.pipe = -1

    def guard(self, revivals: str = "") -> subprocess.Popen[bytes]:
        reader, self.pipe = os.pipe()
        script = 'exec 3<&"$1"; shift; exec "$@"'
        words = [str(PROGRAM), str(self.engine), str(self.lock), str(self.log), "/the root"]
        process = subprocess.Popen(
            ["bash", "-c", script, "sh", str(reader), *words],
            pass_fds=(reader,),
            env={**os.environ, "ONGGI_REVIVALS": revivals},
        )
        os.close(reader)
        return process

    def die(self, word: bytes) -> None:
        """The engine's last word, and its end."""
        if word:
            os.write(self.pipe, word)
        os.close(self.pipe)


@pytest.fixture
def root(tmp_path: Path) -> Root:
    if not PROGRAM.exists() or shutil.which("bash") is None:
        pytest.skip("needs the program guard (make build) and bash")
    return Root(tmp_path)


@contextlib.contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.kill()
        process.wait()


def stamps(count: int) -> str:
    """That many engines have come back just now."""
    now_ms = int(time.clock_gettime(time.CLOCK_BOOTTIME) * 1000)
    return "".join(f"{now_ms - 100 + n}," for n in range(count))


def test_it_becomes_the_engine_that_died_with_containers(root: Root) -> None:
    guard = root.guard()
    root.die(b"101")
    assert guard.wait(timeout=20) == 0
    said = json.loads(root.said.read_text())
    assert said["argv"] == ["-P", "-m", "onggi.faces.resident", "--root", "/the root"]
    assert said["pid"] == guard.pid
    assert len(said["revivals"].strip(",").split(",")) == 1
    assert "successor" in root.log.read_text()


@pytest.mark.parametrize("word", [b"", b"0", b"10", b"1110"])
def test_an_engine_that_nobody_needs_stays_dead(root: Root, word: bytes) -> None:
    guard = root.guard()
    root.die(word)
    assert guard.wait(timeout=20) == 0
    assert not root.said.exists()


def test_another_engine_that_was_faster_is_left_alone(root: Root) -> None:
    guard = root.guard()
    with root.lock.open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        root.die(b"1")
        assert guard.wait(timeout=20) == 0
    assert not root.said.exists()


@pytest.mark.parametrize("what", ["lock", "log", "both"])
def test_a_root_that_was_removed_gets_no_engine(root: Root, what: str) -> None:
    guard = root.guard(stamps(1))
    _started(guard)
    for path in {"lock": [root.lock], "log": [root.log], "both": [root.lock, root.log]}[what]:
        path.unlink()
    root.die(b"1")
    assert guard.wait(timeout=20) == 0
    assert not root.said.exists()


def test_a_stop_meanwhile_is_heard(root: Root) -> None:
    guard = root.guard(stamps(2))
    _started(guard)
    root.die(b"1")
    os.utime(root.lock)
    assert guard.wait(timeout=20) == 0
    assert not root.said.exists()


def test_engines_that_die_at_once_come_back_six_times_a_minute(root: Root) -> None:
    guard = root.guard(stamps(6))
    with ended(guard):
        root.die(b"1")
        with pytest.raises(subprocess.TimeoutExpired):
            guard.wait(timeout=0.3)
        assert not root.said.exists()


def test_what_is_long_ago_does_not_count(root: Root) -> None:
    guard = root.guard("1,2,3,4,5,6,")
    root.die(b"1")
    assert guard.wait(timeout=20) == 0
    stamp = json.loads(root.said.read_text())["revivals"]
    assert len(stamp.strip(",").split(",")) == 1
    guard = root.guard(stamps(1))
    root.die(b"1")
    assert guard.wait(timeout=20) == 0
    assert len(json.loads(root.said.read_text())["revivals"].strip(",").split(",")) == 2


def _started(guard: subprocess.Popen[bytes]) -> None:
    """Return when it has looked at the lock and waits for words."""
    deadline = time.monotonic() + 20
    while Path(f"/proc/{guard.pid}/comm").read_text() != "onggi-guard\n":
        assert time.monotonic() < deadline
        time.sleep(0.002)
