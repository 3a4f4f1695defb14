"""The warm process as the engine starts it: what it holds, how it is kept, and a whole command."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from faces.front_rig import alive, build, children_of, eventually, state_of
from onggi.faces.resident import bind_socket
from onggi.faces.warm import keeper

_ENGINE = str(Path(__file__).with_name("cli_fake_resident.py"))
#: What no command needs, and what would be paid for as long as the engine runs.
_HEAVY = {
    "argparse", "asyncio", "dataclasses", "enum", "json", "msgspec", "re", "signal", "socket",
    "ssl", "subprocess", "threading", "typing", "random",
}  # fmt: skip


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Installed: beside a plain command line that says so."""
    place = tmp_path_factory.mktemp("bin")
    built = os.environ.get("ONGGI_FRONT") or build(tmp_path_factory.mktemp("front"))
    (place / "onggi").write_bytes(Path(built).read_bytes())
    (place / "onggi-python").write_text("#!/bin/sh\necho plain\nexit 77\n")
    for name in ("onggi", "onggi-python"):
        (place / name).chmod(0o755)
    return place / "onggi"


class Engine:
    """A resident process with a fake engine inside, and its warm process."""

    def __init__(self, root: Path, front: Path) -> None:
        self.root = root
        self.front = front
        environ = {k: v for k, v in os.environ.items() if k != "ONGGI_NO_WARM"}
        self.process = subprocess.Popen(
            [sys.executable, _ENGINE, "--root", str(root)],
            env=environ,
            stderr=subprocess.DEVNULL,
        )
        self.warm_pid = self.next_warm(0)

    def next_warm(self, before: int) -> int:
        def ready() -> int:
            for pid in children_of(self.process.pid):
                # It serves once it has a spare.
                if pid != before and alive(pid) and children_of(pid):
                    return pid
            return 0

        return int(eventually(ready))

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        argv = [self.front, "--root", self.root, *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)


@pytest.fixture
def engine(tmp_path: Path, front: Path) -> Iterator[Engine]:
    found = Engine(tmp_path / "root", front)
    try:
        yield found
    finally:
        with contextlib.suppress(ProcessLookupError):
            found.process.kill()
        found.process.wait()
        eventually(lambda: not alive(found.warm_pid))


def test_commands_through_everything(engine: Engine) -> None:
    version = engine.run("version")
    assert version.returncode == 0, version
    assert "not running" not in version.stdout
    assert engine.run("--version").stdout == version.stdout
    listed = engine.run("ps", "-a")
    assert "box" in listed.stdout
    unknown = engine.run("sp")
    assert (unknown.returncode, unknown.stderr[:7]) == (125, "onggi: ")
    helped = engine.run("run", "--help")
    assert helped.stdout.startswith("Usage: onggi run")


def test_stopping_the_engine_from_a_warm_command(engine: Engine) -> None:
    spares = children_of(engine.warm_pid)
    stopped = engine.run("engine", "stop")
    assert (stopped.returncode, stopped.stderr) == (0, "")
    assert engine.process.wait(timeout=10) == 0
    eventually(lambda: not any(map(alive, [engine.warm_pid, *spares])))
    assert not os.path.exists(engine.root / "run" / "warm.sock")
    assert engine.run("ps").stdout == "plain\n"


def test_a_killed_engine_takes_the_warm_process_along(engine: Engine) -> None:
    spares = children_of(engine.warm_pid)
    engine.process.kill()
    engine.process.wait()
    eventually(lambda: not any(map(alive, [engine.warm_pid, *spares])))
    assert engine.run("ps").stdout == "plain\n"


def links_of(pid: int) -> list[str]:
    """What a process's descriptors are."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


def test_what_a_warm_process_holds(engine: Engine) -> None:
    (spare,) = children_of(engine.warm_pid)
    socket_path = f"{engine.root}/run/warm.sock"
    assert os.stat(socket_path).st_mode & 0o777 == 0o660
    for pid in (engine.warm_pid, spare):
        links = links_of(pid)
        assert not [link for link in links if str(engine.root / "run" / "engine.lock") in link]
        # Nothing of the engine's: no log of its own, no database, no listening socket but one.
        # A command that has just ended may have left its own for a moment.
        eventually(lambda pid=pid: sum(n.startswith("socket:") for n in links_of(pid)) == 2)
    assert os.getsid(engine.warm_pid) == engine.warm_pid
    assert os.getpgid(spare) == spare
    assert b"=" not in Path(f"/proc/{engine.warm_pid}/environ").read_bytes().replace(
        b"PYTHONPATH=", b""
    )


def test_a_killed_warm_process_is_replaced(engine: Engine) -> None:
    os.kill(engine.warm_pid, signal.SIGKILL)
    eventually(lambda: not alive(engine.warm_pid))
    engine.warm_pid = engine.next_warm(engine.warm_pid)
    assert engine.run("version").returncode == 0


def test_a_killed_spare_is_replaced(engine: Engine) -> None:
    (spare,) = children_of(engine.warm_pid)
    os.kill(spare, signal.SIGKILL)
    eventually(lambda: children_of(engine.warm_pid) not in ([spare], []))
    assert state_of(spare) == ""
    assert engine.run("version").returncode == 0


def test_no_heavy_imports() -> None:
    script = (
        "from onggi.faces.warm import __main__ as w; w._preload(); import sys; print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True
    )
    bare = subprocess.run(
        [sys.executable, "-P", "-c", "import sys; print(*sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert not (set(done.stdout.split()) - set(bare.stdout.split())) & _HEAVY


def test_keeper_gives_up_on_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "_FIRST_PAUSE_S", 0.001)
    tries = 0

    def bind() -> socket.socket:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise OSError(28, "no space")
        return bind_socket(str(tmp_path / "warm.sock"))

    async def go() -> int:
        task = asyncio.create_task(keeper.keep_warm(bind))
        while not (tmp_path / "warm.sock").exists():
            await asyncio.sleep(0.001)
        children = children_of(os.getpid())
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return max(children)

    pid = asyncio.run(go())
    assert tries == 4
    assert os.waitpid(pid, 0)[1] == 0


def test_descriptors_of_the_users_shell_are_not_kept() -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    script = "from onggi.faces.warm.descriptors import close_from; close_from(3); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, close_fds=False
    ) as process:
        os.close(writer)
        # The end of the pipe comes while the process lives.
        assert os.read(reader, 1) == b""
        assert process.poll() is None
        process.communicate(b"\n")
    os.close(reader)
