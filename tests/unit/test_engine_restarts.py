"""Who is started again, and after what wait: pure, and with a loop whose clock the test moves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from onggi.engine.api.answers import ExitStatus
from onggi.engine.api.spec import ContainerSpec, RestartSpec
from onggi.engine.core import Core
from onggi.engine.records import ContainerRecord
from onggi.engine.restarts import Pace, Restarts, check_restart, wanted, wanted_after_boot
from onggi.errors import InvalidArgument, NotFound

BOOT = "this-boot"


def record(
    policy: str = "always", maximum: int = 0, code: int | None = 1, **fields: Any
) -> ContainerRecord:
    spec = ContainerSpec(image="i", restart=RestartSpec(cast(Any, policy), maximum))
    base: dict[str, Any] = {"state": "exited", "started_ns": 1, "boot_id": BOOT}
    return ContainerRecord(
        id="c" * 64, name="n", spec=spec, image_id="i", chain_ids=(), created_ns=0,
        exit=ExitStatus(code=code), **{**base, **fields},
    )  # fmt: skip


def test_the_wait_doubles_up_to_a_minute_and_starts_anew_after_a_steady_run() -> None:
    pace, wait_s, waits = Pace(), 0.0, []
    for _ in range(12):
        wait_s = pace.next_s(wait_s, ran_s=9.9)
        waits.append(wait_s)
    assert waits[:4] == pytest.approx([0.1, 0.2, 0.4, 0.8])
    assert waits[-3:] == [51.2, 60.0, 60.0]
    assert pace.next_s(60.0, ran_s=10.0) == 0.1


@pytest.mark.parametrize(
    ("policy", "code", "expected"),
    [
        ("no", 1, False), ("no", 0, False),
        ("always", 0, True), ("always", 1, True), ("always", None, True),
        ("unless-stopped", 0, True), ("unless-stopped", 137, True),
        ("on-failure", 0, False), ("on-failure", 1, True), ("on-failure", None, True),
    ],
)  # fmt: skip
def test_what_a_policy_wants(policy: str, code: int | None, expected: bool) -> None:
    assert wanted(record(policy), code) is expected
    assert not wanted(record(policy, stopped_by_user=True), code)
    assert not wanted(record(policy, state="removing"), code)


def test_on_failure_counts_its_tries() -> None:
    assert wanted(record("on-failure", 3, restarts=2), 1)
    assert not wanted(record("on-failure", 3, restarts=3), 1)
    assert wanted(record("on-failure", 0, restarts=1000), 1)


@pytest.mark.parametrize(
    ("policy", "stopped", "code", "expected"),
    [
        ("no", False, 1, False),
        ("always", False, None, True), ("always", True, 0, True),
        ("unless-stopped", False, None, True), ("unless-stopped", True, 0, False),
        ("on-failure", False, None, False), ("on-failure", False, 0, False),
        ("on-failure", False, 2, True), ("on-failure", True, 2, False),
    ],
)  # fmt: skip
def test_what_a_policy_wants_after_a_reboot(
    policy: str, stopped: bool, code: int | None, expected: bool
) -> None:
    assert wanted_after_boot(record(policy, code=code, stopped_by_user=stopped)) is expected


@pytest.mark.parametrize(
    "spec",
    [
        ContainerSpec(image="i", auto_remove=True, restart=RestartSpec("always")),
        ContainerSpec(image="i", restart=RestartSpec("always", 3)),
        ContainerSpec(image="i", restart=RestartSpec("on-failure", -1)),
    ],
)
def test_policies_that_contradict_themselves_are_refused(spec: ContainerSpec) -> None:
    with pytest.raises(InvalidArgument):
        check_restart(spec)


class Bench:
    """Restarts over a core of records and a loop whose timers the test lets come due."""

    def __init__(self, *records: ContainerRecord) -> None:
        self.containers = {r.id: r for r in records}
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.tries: list[str] = []
        self.error: Exception | None = None
        self.changes = 0
        core = SimpleNamespace(
            loop=self, background=self._run, boot_id=BOOT,
            stopping=SimpleNamespace(is_set=lambda: False),
            records=SimpleNamespace(containers=self.containers, update_container=self._update),
        )  # fmt: skip
        self.restarts = Restarts(cast(Core, core), self._start)
        self.restarts.changed = self._changed

    def _changed(self) -> None:
        self.changes += 1

    def _update(self, changed: ContainerRecord) -> None:
        self.containers[changed.id] = changed

    def _run(self, work: Any) -> None:
        asyncio.run(work)

    def call_later(self, wait_s: float, call: Callable[..., None], *arguments: Any) -> Any:
        due = (wait_s, lambda: call(*arguments))
        self.timers.append(due)
        return SimpleNamespace(cancel=lambda: self.timers.remove(due))

    async def _start(self, container_id: str) -> None:
        self.tries.append(container_id)
        if self.error is not None:
            raise self.error
        begun = msgspec.structs.replace(self.containers[container_id], started_ns=time.time_ns())
        self.containers[container_id] = begun
        self.restarts.started(begun)

    def due(self) -> float:
        """Let the one timer come due; its wait."""
        ((wait_s, call),) = self.timers
        self.timers.clear()
        call()
        return wait_s


def test_one_that_ends_again_and_again_waits_longer_and_is_counted() -> None:
    one = record()
    bench = Bench(one)
    bench.restarts.resume()
    waits = []
    for _ in range(4):
        assert bench.restarts.waits(one.id)
        waits.append(bench.due())
        assert not bench.restarts.waits(one.id)
        bench.restarts.ended(bench.containers[one.id], ExitStatus(code=0))
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8])
    assert bench.containers[one.id].restarts == 4


def test_ends_before_the_records_are_reconciled_wait_for_that() -> None:
    one = record()
    bench = Bench(one)
    bench.restarts.ended(one, ExitStatus(code=1))
    assert bench.timers == []
    bench.restarts.resume()
    assert len(bench.timers) == 1


def test_a_start_that_fails_counts_as_a_failure() -> None:
    one = record("on-failure", 2)
    bench = Bench(one)
    bench.error = NotFound("no such image")
    bench.restarts.resume()
    assert bench.due() == pytest.approx(0.1)
    assert bench.due() == pytest.approx(0.2)
    assert bench.timers == []
    ended = bench.containers[one.id]
    assert ended.restarts == 2
    assert ended.exit is not None
    assert (ended.exit.code, ended.exit.explanation) == (125, "no such image")


def test_a_user_who_takes_over_ends_the_wait() -> None:
    one = record()
    bench = Bench(one)
    bench.restarts.resume()
    before = bench.changes
    bench.restarts.forget(one.id)
    assert bench.timers == []
    assert not bench.restarts.any
    assert bench.changes == before + 1


def test_a_boot_starts_anew() -> None:
    one = record("unless-stopped", boot_id="an-earlier-boot", restarts=7, code=None)
    stopped = msgspec.structs.replace(one, id="d" * 64, stopped_by_user=True)
    bench = Bench(one, stopped)
    bench.restarts.resume()
    assert len(bench.timers) == 1
    bench.due()
    assert bench.tries == [one.id]
    assert bench.containers[one.id].restarts == 1
