"""Cost stays flat: after many containers the host and the engine are as they were before.

Each is in the default network and publishes a port. `ONGGI_CYCLES` sets how many are made; a
release is tested with 10,000.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from acceptance import wire_rig as wire
from acceptance.rig import Onggi, instance, left_behind, until
from onggi.faces.cli.client import Client

CYCLES = int(os.environ.get("ONGGI_CYCLES", "200"))
#: Until then the engine's history of events fills: it is bounded, and each cycle adds six.
WARM_UP = 180
#: The allocator comes to its plateau after some 2,000 cycles; a leak of 1 KiB a cycle is beyond it.
SLACK_BYTES = 1024 * 1024

pytestmark = pytest.mark.timeout(120 + CYCLES)


def cycle(calls: Client, number: int) -> None:
    """Create, start, wait, read the log, remove."""
    spec = {"image": "busybox", "command": ["echo", "hello"], "name": f"c{number}"}
    spec["mounts"] = [{"kind": "volume", "target": "/data"}]  # type: ignore[assignment]
    spec["ports"] = [{"container_port": 80}]  # type: ignore[assignment]
    identity = str(calls.call("containers.create", spec)["id"])
    wire.start(calls, identity)
    assert wire.wait(calls, identity)["code"] == 0
    with calls.open("containers.logs", {"target": identity}) as call:
        assert [item.value["log"] for item in call.items()] == ["hello\n"]
    calls.call("containers.remove", {"target": identity, "volumes": True})


def namespaces() -> set[str]:
    """Every namespace that a process of this host is in."""
    found: set[str] = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                found.update(os.readlink(link) for link in (entry / "ns").iterdir())
            except OSError:
                continue
    return found


def files(root: Path) -> set[str]:
    """Every path below the root, but SQLite's two that come and go."""
    return {str(path) for path in root.rglob("*") if not path.name.endswith(("-wal", "-shm"))}


def rules() -> str:
    """Everything nftables has in the test's network namespace, with each element."""
    return subprocess.run(
        ["nft", "list", "ruleset"], capture_output=True, text=True, check=True
    ).stdout


def children(pid: int) -> set[str]:
    """Ids of a process's children, zombies included."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return {child for task in tasks for child in (task / "children").read_text().split()}


def test_many_containers_leave_nothing(own_onggi: Onggi) -> None:
    calls = wire.client(own_onggi)
    engine = wire.engine_pid(own_onggi)
    assert engine is not None
    for number in range(WARM_UP):
        cycle(calls, number)
    until(lambda: not left_behind(own_onggi), "the warm-up has left nothing")
    before, ruleset = files(own_onggi.root), rules()
    descriptors = wire.settled_descriptors(engine)
    resident = wire.resident_bytes(engine)
    offspring = len(children(engine))

    for number in range(CYCLES):
        cycle(calls, number)

    until(lambda: not left_behind(own_onggi), "nothing is left")
    until(lambda: not wire.strangers(own_onggi), "no process is left")
    assert wire.engine_pid(own_onggi) == engine
    grown = wire.resident_bytes(engine) - resident
    print(f"{CYCLES} cycles: resident {resident} + {grown} bytes, {descriptors} descriptors")
    assert grown < SLACK_BYTES
    assert wire.settled_descriptors(engine) == descriptors
    until(lambda: len(children(engine)) == offspring, "every monitor is collected")
    assert files(own_onggi.root) == before
    assert rules() == ruleset
    assert calls.call("volumes.list", {}) == []
    for pid in ("self", str(engine)):
        mounts = Path(f"/proc/{pid}/mountinfo").read_text()
        assert instance(own_onggi) not in mounts
        assert str(own_onggi.root) not in mounts


def test_a_container_that_ended_has_no_namespace_left(own_onggi: Onggi) -> None:
    calls = wire.client(own_onggi)
    wire.run(calls, "sleep", "1000", name="on")
    pid = own_onggi.pid("on")
    own = {os.readlink(link) for link in Path(f"/proc/{pid}/ns").iterdir()}
    own -= {os.readlink(link) for link in Path("/proc/self/ns").iterdir()}
    assert len(own) >= 7
    assert own <= namespaces()
    wire.remove(calls, "on")
    until(lambda: not own & namespaces(), "its namespaces are gone")
