"""Many users at once: no deadlock, no state that cannot be, a name belongs to one at a time."""

from __future__ import annotations

import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from acceptance import wire_rig as wire
from acceptance.rig import Onggi, left_behind, until
from onggi.errors import EngineError
from onggi.faces.cli.client import Client

STATES = {"created", "running", "exited"}


def at_once(*jobs: Callable[[], object]) -> list[object]:
    """Run the jobs at the same moment; each one's answer, or its EngineError."""
    barrier = threading.Barrier(len(jobs))

    def work(job: Callable[[], object]) -> object:
        barrier.wait()
        try:
            return job()
        except EngineError as error:
            return error

    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(work, jobs))


def errors_of(answers: list[object]) -> list[EngineError]:
    return [answer for answer in answers if isinstance(answer, EngineError)]


def states(calls: Client) -> dict[str, str]:
    return {row["name"]: row["state"] for row in calls.call("containers.list", {"all": True})}


class User:
    """Does one thing after another to few names that others use too."""

    NAMES = ("red", "green", "blue")

    def __init__(self, calls: Client, number: int, rounds: int) -> None:
        self._calls = calls
        self._chance = random.Random(number)
        self._rounds = rounds
        self.unexpected: list[str] = []
        self.done = 0

    def run(self) -> None:
        jobs = (self._create, self._run, self._start, self._stop, self._kill, self._remove)
        for _ in range(self._rounds):
            name = self._chance.choice(self.NAMES)
            try:
                self._chance.choice((*jobs, self._exec, self._list))(name)
                self.done += 1
            except EngineError as error:
                if error.kind not in (
                    "AlreadyExists",
                    "NotFound",
                    "FailedPrecondition",
                    "Conflict",
                ):
                    self.unexpected.append(f"{error.kind}: {error}")
            except BaseException as error:
                self.unexpected.append(repr(error))
                raise

    def _create(self, name: str) -> None:
        spec = {"image": "busybox", "command": ["sleep", "1000"], "name": name}
        self._calls.call("containers.create", spec)

    def _run(self, name: str) -> None:
        command = self._chance.choice((("sleep", "1000"), ("true",)))
        wire.run(self._calls, *command, name=name, auto_remove=self._chance.random() < 0.5)

    def _start(self, name: str) -> None:
        wire.start(self._calls, name)

    def _stop(self, name: str) -> None:
        self._calls.call("containers.stop", {"target": name, "timeout_s": 0.0})

    def _kill(self, name: str) -> None:
        self._calls.call("containers.kill", {"target": name})

    def _exec(self, name: str) -> None:
        with self._calls.open("containers.exec", {"target": name, "command": ["true"]}) as call:
            list(call.items())

    def _list(self, _name: str) -> None:
        rows = self._calls.call("containers.list", {"all": True})
        names = [row["name"] for row in rows]
        if len(set(names)) != len(names) or {row["state"] for row in rows} - STATES:
            self.unexpected.append(f"states {[(r['name'], r['state']) for r in rows]}")

    def _remove(self, name: str) -> None:
        identity = self._calls.call("containers.inspect", {"target": name})["Id"]
        wire.remove(self._calls, identity)
        rows = self._calls.call("containers.list", {"all": True})
        if identity in [row["id"] for row in rows]:
            self.unexpected.append(f"{name} is listed after rm has returned")


def test_eight_users_and_three_names(own_onggi: Onggi) -> None:
    calls = wire.client(own_onggi)
    engine = wire.engine_pid(own_onggi)
    users = [User(calls, number, 50) for number in range(8)]
    threads = [threading.Thread(target=user.run, daemon=True) for user in users]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads), "somebody waits for ever"
    assert [said for user in users for said in user.unexpected] == []
    assert sum(user.done for user in users) > 100
    assert wire.engine_pid(own_onggi) == engine
    for name in states(calls):
        wire.remove(calls, name)
    until(lambda: not left_behind(own_onggi), "nothing is left")
    until(lambda: not wire.strangers(own_onggi), "no process is left")


def test_twenty_at_once(onggi: Onggi) -> None:
    calls = wire.client(onggi)
    jobs = [lambda: wire.run(calls, "sleep", "1000") for _ in range(20)]
    ids = at_once(*jobs)
    assert errors_of(ids) == []
    assert len(set(ids)) == 20
    rows = {row["id"]: row for row in calls.call("containers.list", {})}
    assert {row["state"] for row in rows.values()} == {"running"}
    assert set(rows) == set(ids)
    bases = [calls.call("containers.inspect", {"target": i})["Onggi"]["IdBase"] for i in rows]
    assert len(set(bases)) == 20
    removed = at_once(*(lambda i=i: wire.remove(calls, i) for i in rows))  # type: ignore[misc]
    assert errors_of(removed) == []
    assert calls.call("containers.list", {"all": True}) == []


def test_one_name_for_many_is_won_by_one(onggi: Onggi) -> None:
    calls = wire.client(onggi)
    for _ in range(5):
        jobs = [lambda: wire.run(calls, "sleep", "1000", name="one") for _ in range(6)]
        answers = at_once(*jobs)
        assert [error.kind for error in errors_of(answers)] == ["AlreadyExists"] * 5
        assert all("the name 'one' is taken" in str(error) for error in errors_of(answers))
        wire.remove(calls, "one")
    until(lambda: not left_behind(onggi), "nothing is left")


def test_a_name_is_free_when_rm_returns(onggi: Onggi) -> None:
    calls = wire.client(onggi)
    for _ in range(15):
        wire.run(calls, "sleep", "1000", name="again")
        wire.remove(calls, "again")
    assert states(calls) == {}


def test_removed_while_it_starts(onggi: Onggi) -> None:
    calls = wire.client(onggi)
    chance = random.Random(7)
    for _ in range(15):
        spec = {"image": "busybox", "command": ["sleep", "1000"], "name": "early"}
        calls.call("containers.create", spec)
        pause_s = chance.uniform(0, 0.02)

        def remove(pause_s: float = pause_s) -> None:
            time.sleep(pause_s)
            wire.remove(calls, "early")

        started, removed = at_once(lambda: wire.start(calls, "early"), remove)
        assert not isinstance(removed, EngineError), removed
        if isinstance(started, EngineError):
            assert started.kind in ("Conflict", "NotFound"), started
        assert states(calls) == {}
    until(lambda: not left_behind(onggi), "nothing is left")
    until(lambda: not wire.strangers(onggi), "no process is left")


def test_exec_while_it_stops(onggi: Onggi) -> None:
    calls = wire.client(onggi)

    def execute() -> None:
        with calls.open(
            "containers.exec", {"target": "stopping", "command": ["sleep", "1000"]}
        ) as call:
            list(call.items())

    def stop() -> None:
        calls.call("containers.stop", {"target": "stopping", "timeout_s": 0.0})

    for _ in range(8):
        wire.run(calls, "sleep", "1000", name="stopping")
        answers = at_once(execute, execute, stop)
        for error in errors_of(answers):
            assert error.kind in ("FailedPrecondition", "NotFound", "Conflict"), error
        assert states(calls) == {"stopping": "exited"}
        wire.remove(calls, "stopping")
    until(lambda: not left_behind(onggi), "nothing is left")


def test_started_the_moment_it_ends(onggi: Onggi) -> None:
    calls = wire.client(onggi)
    wire.run(calls, "true", name="short")
    for _ in range(25):
        answers = at_once(
            lambda: wire.start(calls, "short"),
            lambda: wire.start(calls, "short"),
            lambda: wire.wait(calls, "short"),
        )
        for error in errors_of(answers):
            assert "is running already" in str(error), error
    status = wire.wait(calls, "short")
    assert status["code"] == 0
    wire.remove(calls, "short")


@pytest.mark.parametrize("words", [
    ("run", "--name", "left", "busybox", "sleep", "1000"),
    ("logs", "-f", "talker"),
    ("exec", "talker", "sleep", "1000"),
    ("attach", "--no-stdin", "talker"),
    ("wait", "talker"),
    ("events",),
    ("stats",),
], ids=lambda words: words[0])  # fmt: skip
def test_a_killed_client_leaves_nothing_open(onggi: Onggi, words: tuple[str, ...]) -> None:
    calls = wire.client(onggi)
    engine = wire.engine_pid(onggi)
    assert engine is not None
    wire.run(calls, "sh", "-c", wire.COUNT, name="talker")
    before = wire.settled_descriptors(engine)
    with wire.command(onggi, *words) as process:
        until(lambda: wire.descriptors(engine) > before, "the client is connected")
        if words[0] == "run":
            until(lambda: states(calls).get("left") == "running", "it runs")
        process.send_signal(signal.SIGKILL)
        process.wait()
    if words[0] == "run":
        assert states(calls)["left"] == "running"
        wire.remove(calls, "left")
    if words[0] == "exec":
        # As with docker, the command goes on without its client and ends with its container.
        wire.remove(calls, "talker")
    until(lambda: wire.descriptors(engine) <= before, "its descriptors are closed")
    for name in states(calls):
        wire.remove(calls, name)


def test_a_killed_terminal_client_leaves_nothing_open(onggi: Onggi) -> None:
    calls = wire.client(onggi)
    engine = wire.engine_pid(onggi)
    assert engine is not None
    before = wire.settled_descriptors(engine)
    words = [
        "script",
        "-qec",
        " ".join(onggi.words("run", "-it", "--name", "tty", "busybox")),
        "/dev/null",
    ]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    with process:
        until(lambda: states(calls).get("tty") == "running", "it runs")
        process.send_signal(signal.SIGKILL)
        process.wait()
    wire.remove(calls, "tty")
    until(lambda: wire.descriptors(engine) <= before, "its descriptors are closed")
