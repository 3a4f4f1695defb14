"""What the crash, cycle and concurrency tests share: calls without the command line's start-up,
and looks at the engine's process and at what a root still has on this host."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import sqlite3
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from acceptance.rig import Onggi, alive, instance, kill_engine, until
from onggi.engine.records import ContainerRecord
from onggi.errors import EngineError
from onggi.faces.cli.client import Client
from onggi.faces.cli.place import SocketAddress

__all__ = ["kill_engine"]
COUNT = "i=0; while :; do i=$((i+1)); echo $i; usleep 10000; done"


def client(onggi: Onggi) -> Client:
    """Calls to this root's engine; the first one starts it."""
    return Client(f"{onggi.root}/run/onggi.sock", str(onggi.root))


def run(client_: Client, *command: str, **spec: Any) -> str:
    """`run -d`; the container's id."""
    fields = {"image": "busybox", "command": command, **spec}
    with client_.open("containers.run", {"spec": fields}) as call:
        return str(next(iter(call.items())).value["id"])


def start(client_: Client, target: str) -> None:
    """`start`."""
    with client_.open("containers.start", {"target": target}) as call:
        for _ in call.items():
            pass


def remove(client_: Client, target: str) -> None:
    """`rm -f`."""
    client_.call("containers.remove", {"target": target, "force": True})


def wait(client_: Client, target: str, condition: str = "stopped") -> dict[str, Any]:
    """`wait`."""
    status: dict[str, Any] = client_.call(
        "containers.wait", {"target": target, "condition": condition}
    )
    return status


def engine_pid(onggi: Onggi) -> int | None:
    """Who listens on the root's socket; nothing is asked of it and none is started."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            with SocketAddress(f"{onggi.root}/run/onggi.sock") as address:
                sock.connect(address)
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        pid, _, _ = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(pid)


def engines(onggi: Onggi) -> list[int]:
    """Every resident process of this root."""
    root = os.path.realpath(onggi.root).encode()
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and alive(int(entry.name)):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if b"onggi.faces.resident" in words and root in words:
                    found.append(int(entry.name))
    return found


def monitor_pid(onggi: Onggi, container_id: str) -> int:
    """The container's monitor."""
    state = (onggi.root / "run/tasks" / container_id / "state").read_bytes()
    return int(json.loads(state)["monitor_pid"])


def strangers(onggi: Onggi) -> list[str]:
    """Processes other than the engine and its own that hold something below the root, as
    `pid comm path`; monitors are the engine's children only until it dies, and count."""
    root = f"{os.path.realpath(onggi.root)}/"
    mine = {os.getpid(), *engines(onggi)}
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) in mine:
            continue
        with contextlib.suppress(OSError):
            if b"onggi.faces.warm" in (entry / "cmdline").read_bytes() and engines(onggi):
                continue
            for fd in (entry / "fd").iterdir():
                target = os.readlink(fd)
                if target.startswith(root):
                    comm = (entry / "comm").read_text().strip()
                    found.append(f"{entry.name} {comm} {target}")
                    break
    return found


def records_of(onggi: Onggi) -> list[ContainerRecord]:
    """What is in the database, read from a copy: while an engine lives nobody else opens it."""
    with tempfile.TemporaryDirectory() as place:
        for file in (onggi.root / "data").glob("records.sqlite*"):
            shutil.copy(file, place)
        with contextlib.closing(sqlite3.connect(f"{place}/records.sqlite")) as database:
            rows = database.execute("SELECT record FROM containers").fetchall()
    return [msgspec.json.decode(blob, type=ContainerRecord) for (blob,) in rows]


def cgroups(onggi: Onggi) -> list[str]:
    """Cgroups of this root's containers."""
    name = instance(onggi)
    places = [
        *Path("/sys/fs/cgroup").glob(f"*/{name}/*"),
        *Path("/sys/fs/cgroup").glob(f"{name}/*"),
    ]
    return [str(place) for place in places if place.is_dir()]


def descriptors(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def settled_descriptors(pid: int) -> int:
    """How many descriptors a process keeps: what it has in several looks one after another."""
    counts: list[int] = []

    def settled() -> bool:
        counts.append(descriptors(pid))
        return len(counts) >= 8 and len(set(counts[-8:])) == 1

    until(settled, "the number of descriptors stays")
    return counts[-1]


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def command(onggi: Onggi, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command that goes on beside the test; killed at the end if it has not ended."""
    process = subprocess.Popen(
        onggi.words(*arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def one_line(said: str) -> str:
    """The one line that a command said; anything more or less fails the test."""
    lines = said.splitlines()
    assert len(lines) == 1, said
    assert lines[0].startswith("onggi: "), said
    assert "Traceback" not in said
    return lines[0]


def quietly(call: Any, *arguments: Any, **fields: Any) -> EngineError | None:
    """Make a call whose engine may go away or refuse; the error, if there was one."""
    try:
        call(*arguments, **fields)
    except EngineError as error:
        return error
    return None


def made_things(onggi: Onggi) -> set[str]:
    """Ids of the containers that have a cgroup or a snapshot."""
    snapshots = onggi.root.glob("data/image/snapshots/active/*")
    return {Path(path).name for path in cgroups(onggi)} | {path.name for path in snapshots}
