"""The resident process: started on demand, once, and ended cleanly. Its engine is a fake."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from onggi.errors import FailedPrecondition, Unavailable
from onggi.faces import resident
from onggi.faces.cli import spawn
from onggi.faces.cli.client import Client
from onggi.faces.cli.main import main

_SCRIPT = str(Path(__file__).parent / "cli_fake_resident.py")


class Home:
    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.client = Client(f"{root}/run/onggi.sock", self.root)

    @property
    def starts(self) -> list[int]:
        path = Path(self.root, "data/starts")
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def pid(self) -> int:
        return int(self.client.call("engine.status", {})["pid"])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    monkeypatch.setattr(
        spawn, "command", lambda root: [sys.executable, "-P", _SCRIPT, "--root", str(root)]
    )
    found = Home(tmp_path / "root")
    yield found
    for pid in found.starts:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def alive(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG) == (0, 0)
    except ChildProcessError:
        return False


def wait_dead(pid: int) -> None:
    deadline = time.monotonic() + 10
    while alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_first_call_starts_it_and_the_next_finds_it(home: Home) -> None:
    first = home.pid()
    assert home.pid() == first
    assert home.starts == [first]
    assert os.getsid(first) == first
    assert os.readlink(f"/proc/{first}/cwd") == "/"


def test_it_keeps_nothing_of_the_command_that_started_it(home: Home) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    os.environ["SECRET_OF_MINE"] = "x"
    try:
        pid = home.pid()
    finally:
        del os.environ["SECRET_OF_MINE"]
        os.close(writer)
        os.close(reader)
    links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1, 2)]
    assert links == ["/dev/null", "/dev/null", f"{home.root}/data/engine.log"]
    environ = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"SECRET_OF_MINE" not in environ
    assert b"MALLOC_ARENA_MAX=1" in environ


def test_commands_at_once_start_one(home: Home) -> None:
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(home.pid())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == 4
    assert home.starts == found[:1]


def test_killed_it_is_started_again(home: Home) -> None:
    first = home.pid()
    os.kill(first, signal.SIGKILL)
    wait_dead(first)
    assert os.path.exists(f"{home.root}/run/onggi.sock")  # stale, and replaced
    assert home.pid() != first


def test_stop_ends_it_and_takes_the_socket_away(
    home: Home, capfd: pytest.CaptureFixture[str]
) -> None:
    pid = home.pid()
    assert main(["--root", home.root, "engine", "status"]) == 0
    assert str(pid) in capfd.readouterr().out
    assert main(["--root", home.root, "engine", "stop"]) == 0
    wait_dead(pid)
    assert not os.path.exists(f"{home.root}/run/onggi.sock")
    assert main(["--root", home.root, "engine", "status"]) == 1
    assert main(["--root", home.root, "version"]) == 0
    assert home.starts == [pid]


def test_sigterm_ends_it(home: Home) -> None:
    pid = home.pid()
    os.kill(pid, signal.SIGTERM)
    wait_dead(pid)
    with pytest.raises(Unavailable):
        home.client.call("engine.status", {}, start=False)


def test_what_it_says_when_it_cannot_start_is_passed_on(home: Home) -> None:
    os.makedirs(f"{home.root}/data", mode=0o711)
    Path(home.root, "data/broken").touch()
    with pytest.raises(Unavailable, match="the records are broken — mend them"):
        home.pid()


def test_modes(home: Home) -> None:
    home.pid()

    def mode(name: str) -> int:
        return os.stat(f"{home.root}/{name}").st_mode & 0o777

    assert mode("data") == 0o711
    assert mode("run") == 0o711
    assert mode("run/onggi.sock") == 0o660
    assert mode("run/engine.lock") == 0o600
    assert mode("data/engine.log") == 0o600


def test_a_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d"
    path.mkdir()
    os.chown(path, 12345, 12345)
    with pytest.raises(FailedPrecondition, match="12345"):
        resident.open_directory(str(path), 0o711)


def test_a_directory_that_others_write_to_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d"
    path.mkdir()
    path.chmod(0o777)
    with pytest.raises(FailedPrecondition, match="written by others"):
        resident.open_directory(str(path), 0o711)
    (tmp_path / "l").symlink_to(path)
    with pytest.raises(FailedPrecondition, match="not a directory"):
        resident.open_directory(str(tmp_path / "l"), 0o711)


def test_a_large_log_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "engine.log"
    with path.open("wb") as file:
        file.truncate(10_000_001)
    os.close(resident.open_log(str(path)))
    assert path.stat().st_size == 0
    assert (tmp_path / "engine.log.1").stat().st_size == 10_000_001


def test_bad_arguments_to_the_resident(capfd: pytest.CaptureFixture[str]) -> None:
    assert resident.main(["--rot"]) == 125
    assert "usage" in capfd.readouterr().err
