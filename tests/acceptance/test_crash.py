"""The engine may die at any instant: containers run on, and its successor knows everything."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from acceptance import wire_rig as wire
from acceptance.rig import Onggi, alive, kill_engine, left_behind, until
from acceptance.wire_rig import records_of
from onggi.errors import EngineError
from onggi.faces.cli.client import Client

SEED = int(os.environ.get("ONGGI_SEED", "20261123"))
KILLS = int(os.environ.get("ONGGI_KILLS", "30"))


def lines_of(onggi: Onggi, name: str) -> list[int]:
    return [int(line) for line in onggi.out("logs", name).splitlines()]


def test_twenty_containers_outlive_the_engine(own_onggi: Onggi) -> None:
    onggi, calls = own_onggi, wire.client(own_onggi)
    running = [f"on-{n}" for n in range(15)]
    for name in running:
        wire.run(calls, "sh", "-c", wire.COUNT, name=name)
    wire.run(calls, "sh", "-c", f"trap 'exit 0' TERM; {wire.COUNT}", name="well")
    wire.run(calls, "sh", "-c", f"trap 'exit 3' TERM; {wire.COUNT}", name="badly")
    wire.run(calls, "sh", "-c", wire.COUNT, name="killed")
    wire.run(calls, "sh", "-c", wire.COUNT, name="unwatched")
    hog = "x=a; while :; do x=$x$x; done"
    wire.run(
        calls,
        *("sh", "-c", f"trap '{hog}' TERM; {wire.COUNT}"),
        name="oom",
        resources={"memory_bytes": 16 << 20, "memory_swap_bytes": 16 << 20},
    )
    ended = ["well", "badly", "killed", "oom", "unwatched"]
    pids = {name: onggi.pid(name) for name in [*running, *ended]}
    ids = {name: onggi.inspect(name)["Id"] for name in ended}
    before = {name: lines_of(onggi, name)[-1] for name in running}

    pid = wire.engine_pid(onggi)
    assert pid is not None
    kill_engine(pid)
    os.kill(wire.monitor_pid(onggi, ids["unwatched"]), signal.SIGKILL)
    for name in ("well", "badly", "oom"):
        os.kill(pids[name], signal.SIGTERM)
    for name in ("killed", "unwatched"):
        os.kill(pids[name], signal.SIGKILL)
    for name in ended:
        until(lambda name=name: not alive(pids[name]), f"{name} has ended")  # type: ignore[misc]
    assert all(alive(pids[name]) for name in running)
    assert wire.engine_pid(onggi) is None

    shown = dict(
        line.split("=", 1)
        for line in onggi.out("ps", "-a", "--format", "{{.Names}}={{.State}}").splitlines()
    )
    assert shown == {**dict.fromkeys(running, "running"), **dict.fromkeys(ended, "exited")}
    assert onggi.out("wait", "well", "badly", "killed", "oom").split() == ["0", "3", "137", "137"]
    assert onggi.inspect("oom")["State"]["OOMKilled"] is True
    assert onggi.inspect("killed")["State"]["OOMKilled"] is False
    assert {name: onggi.pid(name) for name in running} == {n: pids[n] for n in running}
    assert onggi.inspect("unwatched")["State"]["ExitCode"] is None
    assert onggi.out("wait", "unwatched") == "unknown"

    for name in running:
        until(lambda name=name: lines_of(onggi, name)[-1] > before[name] + 20, "it counts on")  # type: ignore[misc]
        onggi.run("kill", name)
        onggi.run("wait", name)
        numbers = lines_of(onggi, name)
        assert numbers == list(range(1, len(numbers) + 1))


class Load(threading.Thread):
    """One user who goes on and on: every kind of command, and never asks about the engine. What
    was interrupted is removed in a later round."""

    def __init__(self, calls: Client, number: int) -> None:
        super().__init__()
        self._calls = calls
        self._number = number
        self._ended = threading.Event()
        self.rounds = 0
        self.defects: list[str] = []
        self._left: list[str] = []

    def run(self) -> None:
        while not self._ended.is_set():
            name = f"u{self._number}-{self.rounds}"
            network, published = f"n{self._number}", ({"container_port": 80},)
            self._try(_call, "networks.create", name=network)
            volume = {"kind": "volume", "target": "/data"}
            self._try(wire.run, "sleep", "1000", name=name, ports=published, mounts=(volume,))
            self._try(_call, "networks.connect", container=name, endpoint={"network": network})
            self._try(_exec, name)
            self._try(_call, "containers.update", target=name, publish=published)
            self._try(_call, "networks.disconnect", network=network, container=name)
            self._try(_call, "containers.stop", target=name, timeout_s=0)
            self._try(wire.start, name)
            self._try(wire.run, "true", auto_remove=True)
            self._left = [left for left in (*self._left, name) if not self._removed(left)]
            self._try(_call, "networks.remove", name=network)
            self.rounds += 1

    def _removed(self, name: str) -> bool:
        request = {"target": name, "force": True, "volumes": True}
        error = self._try(_call, "containers.remove", **request)
        return error is None or error.kind == "NotFound"

    def _try(
        self, what: Callable[..., object], *arguments: str, **fields: object
    ) -> EngineError | None:
        error = wire.quietly(what, self._calls, *arguments, **fields)
        # A network whose container could not be removed just before is in conflict.
        expected = ("Unavailable", "NotFound", "AlreadyExists", "FailedPrecondition", "Conflict")
        if error is not None and error.kind not in expected:
            self.defects.append(f"{error.kind}: {error}")
        # One that was killed before it was ready has not said a word; what says why is a defect.
        if "could not start: " in str(error) and "without a word" not in str(error):
            self.defects.append(str(error))
        return error

    def end(self) -> None:
        self._ended.set()
        self.join()


def _call(calls: Client, call: str, /, **fields: object) -> None:
    calls.call(call, fields)


def _exec(calls: Client, name: str) -> None:
    with calls.open("containers.exec", {"target": name, "command": ["true"]}) as call:
        list(call.items())


@pytest.mark.timeout(120 + 5 * KILLS)
def test_killed_at_any_instant_nothing_leaks(own_onggi: Onggi) -> None:
    onggi, calls = own_onggi, wire.client(own_onggi)
    chance = random.Random(SEED)
    load = [Load(calls, number) for number in range(3)]
    for user in load:
        user.start()
    for _ in range(KILLS):
        until(lambda: wire.engine_pid(onggi), "an engine listens")
        time.sleep(chance.uniform(0, 0.15))
        pid = wire.engine_pid(onggi)
        if pid is not None:
            kill_engine(pid)
    for user in load:
        user.end()
    print(f"{KILLS} kills, {sum(user.rounds for user in load)} rounds of the load")
    assert [defect for user in load for defect in user.defects] == []
    assert sum(user.rounds for user in load) > 0

    assert_sound(onggi, calls)
    ids = [row["id"] for row in calls.call("containers.list", {"all": True})]
    for container_id in ids:
        wire.remove(calls, container_id)
    until(lambda: not left_behind(onggi), lambda: f"nothing is left: {left_behind(onggi)}")
    until(lambda: not wire.strangers(onggi), lambda: f"nobody is left: {wire.strangers(onggi)}")
    until(lambda: len(wire.engines(onggi)) == 1, "one engine is left of those that were started")
    assert calls.call("containers.list", {"all": True}) == []
    assert records_of(onggi) == []


def assert_sound(onggi: Onggi, calls: Client) -> None:
    """Records and kernel say the same: who runs has a process, who does not has none."""
    until(
        lambda: all(r.state in ("created", "running", "exited") for r in records_of(onggi)),
        lambda: f"all is settled: {[(r.id[:12], r.state) for r in records_of(onggi)]}",
    )
    records = records_of(onggi)
    running = {record.id for record in records if record.state == "running"}
    assert all(alive(record.pid) for record in records if record.state == "running")
    assert all(record.config for record in records if record.state == "running")

    def made() -> dict[str, set[str]]:
        return {
            "cgroups": {Path(path).name for path in wire.cgroups(onggi)},
            "directories": {path.name for path in onggi.root.glob("run/tasks/*")},
        }

    until(
        lambda: all(names == running for names in made().values()),
        lambda: f"there is exactly what belongs to {running}: {made()}",
    )
    ranges = [record.id_base for record in records if record.state == "running"]
    assert len(set(ranges)) == len(ranges)
    assert {row["id"] for row in calls.call("containers.list", {"all": True})} == {
        record.id for record in records
    }


def test_an_attached_client_goes_on_without_the_engine(own_onggi: Onggi) -> None:
    script = "trap 'echo bye; exit 5' TERM; echo here; while :; do usleep 10000; done"
    with wire.command(own_onggi, "run", "--name", "on", "busybox", "sh", "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        pid = own_onggi.pid("on")
        own_onggi.kill_engine()
        os.kill(pid, signal.SIGTERM)
        out, err = process.communicate(timeout=20)
    assert (out, err, process.returncode) == ("bye\n", "", 5)


def test_a_client_who_cannot_know_the_end_says_so(own_onggi: Onggi) -> None:
    script = "trap 'exit 5' TERM; echo here; while :; do usleep 10000; done"
    words = ("run", "--rm", "--name", "on", "busybox", "sh", "-c", script)
    with wire.command(own_onggi, *words) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        pid = own_onggi.pid("on")
        own_onggi.kill_engine()
        os.kill(pid, signal.SIGTERM)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 125
    assert "is not known" in wire.one_line(err)


@pytest.mark.parametrize("words", [
    ("wait", "on"),
    ("logs", "-f", "on"),
    ("events",),
    ("stop", "-t", "100", "on"),
], ids=lambda words: words[0])  # fmt: skip
def test_a_client_of_a_killed_engine_explains(own_onggi: Onggi, words: tuple[str, ...]) -> None:
    calls = wire.client(own_onggi)
    wire.run(calls, "sleep", "1000", name="on")
    engine = wire.engine_pid(own_onggi)
    assert engine is not None
    before = wire.settled_descriptors(engine)
    with wire.command(own_onggi, *words) as process:
        until(lambda: wire.descriptors(engine) > before, "the client is connected")
        kill_engine(engine)
        _, err = process.communicate(timeout=20)
    assert process.returncode != 0
    assert "the engine went away before it answered" in wire.one_line(err)


def test_commands_at_once_start_one_engine(own_onggi: Onggi) -> None:
    own_onggi.run("engine", "stop")
    until(lambda: not wire.engines(own_onggi), "the engine has ended")
    with contextlib.ExitStack() as stack:
        several = [stack.enter_context(wire.command(own_onggi, "ps", "-q")) for _ in range(6)]
        said = [process.communicate(timeout=30) for process in several]
    assert said == [("", "")] * 6
    assert [process.returncode for process in several] == [0] * 6
    assert len(wire.engines(own_onggi)) == 1


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "engine stop"])
def test_containers_run_on_when_the_engine_ends(own_onggi: Onggi, how: str) -> None:
    calls = wire.client(own_onggi)
    wire.run(calls, "sh", "-c", wire.COUNT, name="on")
    pid, engine = own_onggi.pid("on"), wire.engine_pid(own_onggi)
    assert engine is not None
    if how == "engine stop":
        own_onggi.run("engine", "stop")
    else:
        os.kill(engine, signal.Signals[how])
    until(lambda: not alive(engine), "the engine has ended")
    assert not (own_onggi.root / "run/onggi.sock").exists()
    assert alive(pid)
    assert own_onggi.out("ps", "--format", "{{.Names}}={{.State}}") == "on=running"
    assert own_onggi.pid("on") == pid
    assert own_onggi.run("engine", "status").returncode == 0
    own_onggi.run("stop", "-t", "0", "on")
    numbers = lines_of(own_onggi, "on")
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_stopped_engine_is_not_started_to_be_asked(own_onggi: Onggi) -> None:
    own_onggi.run("engine", "stop")
    until(lambda: not wire.engines(own_onggi), "the engine has ended")
    asked = own_onggi.run("engine", "status", check=False)
    assert asked.returncode == 1
    assert "not running" in asked.stdout
    assert own_onggi.run("engine", "stop").stdout == "not running\n"
    assert wire.engines(own_onggi) == []


def test_after_a_reboot_what_ran_has_ended_and_nobody_knows_how(own_onggi: Onggi) -> None:
    calls = wire.client(own_onggi)
    wire.run(calls, "sleep", "1000", name="on")
    wire.run(calls, "sleep", "1000", name="temporary", auto_remove=True)
    wire.run(calls, "sh", "-c", "exit 4", name="done")
    assert wire.wait(calls, "done")["code"] == 4
    own_onggi.kill_engine()
    forge_boot(own_onggi)
    shown = own_onggi.out("ps", "-a", "--format", "{{.Names}}={{.State}}").splitlines()
    assert sorted(shown) == ["done=exited", "on=exited"]
    state = own_onggi.inspect("on")["State"]
    assert state["ExitCode"] is None
    assert "unknown" in state["Error"]
    assert own_onggi.out("wait", "on", "done").split() == ["unknown", "4"]
    until(lambda: not wire.cgroups(own_onggi), "what is left of the run is gone")
    own_onggi.run("start", "on")
    assert alive(own_onggi.pid("on"))


def forge_boot(onggi: Onggi) -> None:
    """Make every record say that it is of another boot of the host."""
    with contextlib.closing(sqlite3.connect(onggi.root / "data/records.sqlite")) as database:
        for record in records_of(onggi):
            other = msgspec.structs.replace(record, boot_id="00000000-0000-0000-0000-000000000000")
            database.execute(
                "UPDATE containers SET record=? WHERE id=?", (msgspec.json.encode(other), record.id)
            )
        database.commit()


def test_a_removal_that_was_interrupted_is_finished(own_onggi: Onggi) -> None:
    calls = wire.client(own_onggi)
    wire.run(calls, "sleep", "1000", name="alive")
    wire.run(calls, "true", name="ended")
    wire.wait(calls, "ended")
    pid = own_onggi.pid("alive")
    own_onggi.kill_engine()
    with contextlib.closing(sqlite3.connect(own_onggi.root / "data/records.sqlite")) as database:
        for record in records_of(own_onggi):
            removing = msgspec.structs.replace(record, state="removing", name="")
            database.execute(
                "UPDATE containers SET name=NULL, record=? WHERE id=?",
                (msgspec.json.encode(removing), record.id),
            )
        database.commit()
    assert own_onggi.out("ps", "-aq") == ""
    until(lambda: not alive(pid), "the container's process has ended")
    until(lambda: not left_behind(own_onggi), "nothing is left")
    until(lambda: records_of(own_onggi) == [], "no record is left")


def test_what_no_record_names_is_removed(own_onggi: Onggi) -> None:
    calls = wire.client(own_onggi)
    wire.run(calls, "sleep", "1000", name="lost")
    pid = own_onggi.pid("lost")
    own_onggi.kill_engine()
    with contextlib.closing(sqlite3.connect(own_onggi.root / "data/records.sqlite")) as database:
        database.execute("DELETE FROM containers")
        database.commit()
    assert own_onggi.out("ps", "-aq") == ""
    until(lambda: not alive(pid), "the stranger is gone")
    until(lambda: not left_behind(own_onggi), "nothing is left")


def test_an_exec_outlives_the_engine_and_ends_with_its_container(own_onggi: Onggi) -> None:
    wire.run(wire.client(own_onggi), "sleep", "1000", name="on")
    script = "echo here; while :; do usleep 10000; done"
    with wire.command(own_onggi, "exec", "on", "sh", "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        own_onggi.kill_engine()
        own_onggi.run("rm", "-f", "on")
        _, err = process.communicate(timeout=20)
    assert process.returncode == 125
    assert "is not known" in wire.one_line(err)
    until(lambda: not left_behind(own_onggi), "nothing is left")
    until(lambda: not wire.strangers(own_onggi), "no process is left")
