"""Restart policies, and the engine that comes back: waits, reboots, what a user says meanwhile."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from acceptance import rig
from acceptance import wire_rig as wire
from acceptance.rig import Onggi, alive, until
from onggi.engine.records import ContainerRecord
from onggi.faces.cli.client import Client

#: Restarts after which the wait is long enough to look at: 1.6 s.
ENOUGH = 4


def policy(name: str, maximum: int = 0) -> dict[str, object]:
    return {"restart": {"policy": name, "maximum": maximum}, "network": "none"}


def state(calls: Client, name: str) -> str:
    return str(calls.call("containers.inspect", {"target": name})["State"]["Status"])


def count(calls: Client, name: str) -> int:
    return int(calls.call("containers.inspect", {"target": name})["RestartCount"])


@pytest.fixture
def waiting(onggi: Onggi) -> Iterator[str]:
    """A container that waits to be restarted for a second and more."""
    calls = wire.client(onggi)
    wire.run(calls, "sh", "-c", "exit 7", name="w", **policy("always"))
    until(lambda: count(calls, "w") >= ENOUGH, "it was restarted so often")
    until(lambda: 0.05 < ended_for_s(onggi, "w") < 0.5, "it has just ended once more, and waits")
    yield "w"
    with contextlib.suppress(Exception):
        wire.remove(calls, "w")


def ended_for_s(onggi: Onggi, name: str) -> float:
    """How long ago its last run ended; 0 while it runs."""
    (row,) = [
        r for r in wire.client(onggi).call("containers.list", {"all": True}) if r["name"] == name
    ]
    ended_ns = row.get("finished_ns", 0)
    return time.time() - ended_ns / 1e9 if ended_ns else 0.0


def test_one_that_waits_is_shown_and_not_removed(onggi: Onggi, waiting: str) -> None:
    assert onggi.out("ps", "--format", "{{.State}} {{.Status}}").startswith(
        "restarting Restarting (7)"
    )
    assert onggi.out("ps", "-q", "--filter", "status=restarting") != ""
    seen = onggi.inspect(waiting)
    assert seen["State"]["Restarting"] is True
    assert seen["HostConfig"]["RestartPolicy"] == {"Name": "always", "MaximumRetryCount": 0}
    refused = onggi.run("rm", waiting, check=False)
    assert "about to be restarted" in refused.stderr
    assert "rm -f" in refused.stderr
    for verb in ("pause", "attach"):
        assert onggi.run(verb, waiting, check=False).returncode != 0
    onggi.run("rm", "-f", waiting)
    assert onggi.out("ps", "-aq") == ""


@pytest.mark.parametrize("verb", ["stop", "kill"])
def test_a_stop_ends_the_wait(onggi: Onggi, waiting: str, verb: str) -> None:
    with wire.command(onggi, "wait", waiting) as told:
        until(lambda: told.poll() is None, "it waits too")
        onggi.run(verb, waiting)
        out, _ = told.communicate(timeout=20)
    assert out == "7\n"
    calls = wire.client(onggi)
    tries = count(calls, waiting)
    assert state(calls, waiting) == "exited"
    time.sleep(0.2)
    assert (state(calls, waiting), count(calls, waiting)) == ("exited", tries)


def test_a_start_meanwhile_starts_it_now_and_counts_anew(onggi: Onggi, waiting: str) -> None:
    calls = wire.client(onggi)
    wire.start(calls, waiting)
    assert count(calls, waiting) <= 1
    until(lambda: count(calls, waiting) >= 2, "its policy goes on")


def test_an_update_ends_the_wait(onggi: Onggi, waiting: str) -> None:
    onggi.run("update", "--restart", "no", waiting)
    assert state(wire.client(onggi), waiting) == "exited"


def test_a_policy_for_one_that_has_ended_holds_from_its_next_start(onggi: Onggi) -> None:
    calls = wire.client(onggi)
    wire.run(calls, "sh", "-c", "test -e /once && sleep 600; touch /once", name="a", network="none")
    wire.wait(calls, "a")
    onggi.run("update", "--restart", "always", "a")
    assert state(calls, "a") == "exited"
    wire.start(calls, "a")
    pid = onggi.pid("a")
    os.kill(pid, signal.SIGKILL)
    until(lambda: onggi.pid("a") not in (0, pid), "it is back")
    wire.remove(calls, "a")


def test_a_signal_that_means_no_end_leaves_the_policy_alone(onggi: Onggi) -> None:
    calls = wire.client(onggi)
    script = "trap 'exit 3' HUP; while :; do usleep 10000; done"
    wire.run(calls, "sh", "-c", script, name="a", **policy("unless-stopped"))
    pid = onggi.pid("a")
    until(lambda: "1" in signals_caught(pid), "it has set its trap")
    onggi.run("kill", "-s", "HUP", "a")
    until(lambda: onggi.pid("a") not in (0, pid), "it is back")
    onggi.run("kill", "-s", "TERM", "a", "-s", "KILL")
    until(lambda: state(calls, "a") == "exited", "it stays ended")
    wire.remove(calls, "a")


def signals_caught(pid: int) -> str:
    """The mask of caught signals as bits, the lowest last."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = int(status.split("SigCgt:")[1].split()[0], 16)
    return format(mask & 1, "b")


def test_a_restart_that_cannot_start_is_tried_again(onggi: Onggi, tmp_path: Path) -> None:
    calls, source = wire.client(onggi), tmp_path / "source"
    source.mkdir()
    bind = {"kind": "bind", "source": str(source), "target": "/s"}
    script = "while test -e /s/on; do usleep 10000; done"
    (source / "on").touch()
    wire.run(calls, "sh", "-c", script, name="a", mounts=[bind], **policy("always"))
    source.rename(tmp_path / "away")
    (tmp_path / "away/on").unlink()
    until(lambda: count(calls, "a") >= 2, "it is tried again and again")
    assert str(source) in onggi.inspect("a")["State"]["Error"]
    source.mkdir()
    (source / "on").touch()
    until(lambda: state(calls, "a") == "running", "it runs when it can")
    wire.remove(calls, "a")


def test_a_restart_keeps_one_with_rm(onggi: Onggi) -> None:
    calls = wire.client(onggi)
    made = wire.run(calls, "sh", "-c", "echo >>/count; sleep 600", name="a", auto_remove=True,
                    network="none")  # fmt: skip
    onggi.run("restart", "-t", "0", "a")
    assert onggi.inspect("a")["Id"] == made
    until(lambda: onggi.out("exec", "a", "cat", "/count") == "\n", "its files are kept")
    onggi.run("stop", "-t", "0", "a")
    assert onggi.out("ps", "-aq") == ""


def test_rm_and_a_policy_contradict_each_other(onggi: Onggi) -> None:
    calls = wire.client(onggi)
    error = wire.quietly(wire.run, calls, "true", auto_remove=True, **policy("always"))
    assert error is not None
    assert error.kind == "InvalidArgument"


# -- the machine starts anew, the engine dies ----------------------------------------------------


def edit(onggi: Onggi, change: Callable[[ContainerRecord], ContainerRecord]) -> None:
    """Change every record of a root whose engine has ended."""
    until(lambda: not wire.engines(onggi), "the engine has ended")
    with contextlib.closing(sqlite3.connect(onggi.root / "data/records.sqlite")) as database:
        rows = database.execute("SELECT id, record FROM containers").fetchall()
        for container_id, blob in rows:
            record = change(msgspec.json.decode(blob, type=ContainerRecord))
            database.execute(
                "UPDATE containers SET record=? WHERE id=?",
                (msgspec.json.encode(record), container_id),
            )
        database.commit()


def test_a_boot_starts_what_is_to_run(own_onggi: Onggi) -> None:
    """A reboot is made by another boot id in the records, of containers that ended with it."""
    onggi, calls = own_onggi, wire.client(own_onggi)
    script = "test -e /again && sleep 600; touch /again; exit {}"
    for name, words, fields in (
        ("always", script.format(0), policy("always")),
        ("unless", "sleep 600", policy("unless-stopped")),
        ("stopped", "sleep 600", policy("unless-stopped")),
        ("stopped-always", "sleep 600", policy("always")),
        ("failed", script.format(4), policy("no")),
        ("well", script.format(0), policy("no")),
        ("plain", "sleep 600", policy("no")),
    ):
        wire.run(calls, "sh", "-c", words, name=name, **fields)
    wire.wait(calls, "failed")
    wire.wait(calls, "well")
    calls.call("containers.stop", {"target": "stopped", "timeout_s": 0})
    calls.call("containers.stop", {"target": "stopped-always", "timeout_s": 0})
    until(lambda: state(calls, "always") == "running", "always runs")
    onggi.run("engine", "stop")
    for name in ("always", "unless", "plain"):
        kill_all(onggi, name)

    def rebooted(record: ContainerRecord) -> ContainerRecord:
        record = msgspec.structs.replace(record, boot_id="earlier")
        if record.name in ("failed", "well"):
            restart = msgspec.structs.replace(record.spec.restart, policy="on-failure")
            spec = msgspec.structs.replace(record.spec, restart=restart)
            record = msgspec.structs.replace(record, spec=spec, stopped_by_user=False)
        return record

    edit(onggi, rebooted)
    onggi.run("engine", "start")
    up = ("always", "unless", "stopped-always", "failed")
    until(lambda: all(state(calls, n) == "running" for n in up), "those that are to run do")
    assert {state(calls, n) for n in ("stopped", "well", "plain")} == {"exited"}
    assert onggi.inspect("plain")["State"]["ExitCode"] is None


def kill_all(onggi: Onggi, name: str) -> None:
    """End a container and its monitor while no engine lives, as a power cut does."""
    with_record = []

    def find(record: ContainerRecord) -> ContainerRecord:
        if record.name == name:
            with_record.append(record)
        return record

    edit(onggi, find)
    (record,) = with_record
    monitor = wire.monitor_pid(onggi, record.id)
    for pid in (monitor, record.pid):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(record.pid), "it has ended")


def guards(onggi: Onggi) -> list[int]:
    return rig.guards(os.path.realpath(onggi.root).encode())


def kill_alone(pid: int) -> None:
    """SIGKILL to an engine and not to its guard."""
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid), "the engine is gone")


def test_a_dead_engine_comes_back_for_its_containers(own_onggi: Onggi) -> None:
    onggi, calls = own_onggi, wire.client(own_onggi)
    assert guards(onggi) == []  # nobody needs one yet
    wire.run(calls, "sleep", "600", name="a", **policy("always"))
    until(lambda: len(guards(onggi)) == 1, "a guard waits")
    before = wire.engine_pid(onggi)
    pid = onggi.pid("a")
    assert before is not None
    kill_alone(before)
    os.kill(pid, signal.SIGKILL)
    until(lambda: wire.engine_pid(onggi) not in (None, before), "its successor listens")
    until(lambda: onggi.pid("a") not in (0, pid), "and goes on with what it owes")
    assert len(wire.engines(onggi)) == 1
    wire.remove(calls, "a")
    last = wire.engine_pid(onggi)
    assert last is not None
    kill_alone(last)  # now nobody needs one
    until(lambda: guards(onggi) == [], "the guard is gone")
    assert wire.engines(onggi) == []


def test_a_guard_is_small_and_replaced(own_onggi: Onggi) -> None:
    onggi, calls = own_onggi, wire.client(own_onggi)
    wire.run(calls, "sleep", "600", name="a", network="none")
    until(lambda: len(guards(onggi)) == 1, "a guard waits")
    (guard,) = guards(onggi)
    rows = Path(f"/proc/{guard}/smaps_rollup").read_text().splitlines()
    private = sum(int(row.split()[1]) for row in rows if row.startswith("Private_"))
    assert 0 < private < 1024
    assert not [target for target in opened(guard) if str(onggi.root) in target]
    os.kill(guard, signal.SIGKILL)
    until(lambda: guards(onggi) not in ([], [guard]), "another one waits")
    assert not alive(guard)


def opened(pid: int) -> list[str]:
    return [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]


def test_a_stop_is_a_stop(own_onggi: Onggi) -> None:
    onggi, calls = own_onggi, wire.client(own_onggi)
    wire.run(calls, "sleep", "600", name="a", **policy("always"))
    until(lambda: len(guards(onggi)) == 1, "a guard waits")
    onggi.run("engine", "stop")
    until(lambda: not wire.engines(onggi), "the engine has ended")
    assert guards(onggi) == []
    onggi.run("engine", "start")
    until(lambda: len(guards(onggi)) == 1, "and a guard again")


def test_a_root_that_is_gone_gets_no_engine(tmp_path: Path) -> None:
    with rig.engine(tmp_path / "root") as onggi:
        calls = wire.client(onggi)
        wire.run(calls, "sleep", "600", name="a", network="none")
        until(lambda: len(guards(onggi)) == 1, "a guard waits")
        before = wire.engine_pid(onggi)
        assert before is not None
        aside = tmp_path / "aside"
        onggi.root.rename(aside)
        os.kill(before, signal.SIGKILL)
        until(lambda: guards(onggi) == [], "the guard is gone")
        assert not wire.engines(onggi)
        assert not onggi.root.exists()
        aside.rename(onggi.root)


def test_the_unit_for_systemd_is_one() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    unit = Path(__file__).parents[2] / "docs/onggi.service"
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    complaints = [row for row in done.stderr.splitlines() if "is not executable" not in row]
    assert not [row for row in complaints if "onggi.service" in row], done.stderr
