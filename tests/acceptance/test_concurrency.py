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
                if error.kind not in ("AlreadyExists", "NotFound", "FailedPrecondition"):
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
    users = [User(calls, number, 60) for number in range(8)]
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
