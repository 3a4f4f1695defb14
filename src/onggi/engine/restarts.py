"""Restart policies: who is started again, when, and how often.

A container that ended is started again after a wait that doubles from 0.1 s to a minute, and is
short again after a run of ten seconds. What a user stopped stays stopped until a user starts it.
Who waits follows from the records, so that a successor of the engine goes on.
Source: docker-run(1) --restart.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

import msgspec
from msgspec import Struct

from onggi.engine.api.answers import ExitStatus
from onggi.engine.api.spec import ContainerSpec
from onggi.engine.core import Core
from onggi.engine.records import ContainerRecord
from onggi.errors import EngineError, InvalidArgument

log = logging.getLogger(__name__)


class Pace(Struct, frozen=True):
    """Seconds: the first wait, the longest, and how long a run makes the next wait short again."""

    first_s: float = 0.1
    most_s: float = 60.0
    steady_s: float = 10.0

    def next_s(self, last_s: float, ran_s: float) -> float:
        """The wait after a run of `ran_s` that began after a wait of `last_s` (0: none)."""
        if not last_s or ran_s >= self.steady_s:
            return self.first_s
        return min(2 * last_s, self.most_s)


def check_restart(spec: ContainerSpec) -> None:
    """Raises: InvalidArgument: a policy that contradicts itself, or `--rm`."""
    policy, maximum = spec.restart.policy, spec.restart.maximum
    if policy != "no" and spec.auto_remove:
        raise InvalidArgument(
            f"--rm removes at the end what --restart {policy} would start again",
            hint="leave one of them out",
        )
    if maximum < 0 or (maximum and policy != "on-failure"):
        raise InvalidArgument(
            f"restart policy {policy} with at most {maximum} tries",
            hint="only on-failure has a number of tries, 0 or more",
        )


def wanted(record: ContainerRecord, code: int | None) -> bool:
    """Whether a container that has ended with this code is to be started again. None: unknown,
    which is no success."""
    restart = record.spec.restart
    if record.stopped_by_user or record.state == "removing" or restart.policy == "no":
        return False
    if restart.policy != "on-failure":
        return True
    return code != 0 and (not restart.maximum or record.restarts < restart.maximum)


def wanted_after_boot(record: ContainerRecord) -> bool:
    """Whether a container that ended in an earlier boot of the machine is to be started."""
    policy = record.spec.restart.policy
    if policy == "on-failure":
        code = record.exit.code if record.exit else None
        return code is not None and wanted(record, code)
    return policy == "always" or (policy == "unless-stopped" and not record.stopped_by_user)


class Restarts:
    """The containers of one engine that wait to be started again.

    `start` starts one by its id, if it still waits then; a failure counts as a run that ended at
    once. `changed` is called when somebody begins or ceases to wait.
    """

    def __init__(
        self, core: Core, start: Callable[[str], Awaitable[None]], pace: Pace | None = None
    ) -> None:
        self._core = core
        self._start = start
        self._pace = pace or Pace()
        #: How long each waited last; when its present run began.
        self._waits_s: dict[str, float] = {}
        self._begun_s: dict[str, float] = {}
        #: Who waits; None: it is being started.
        self._timers: dict[str, asyncio.TimerHandle | None] = {}
        #: Nobody is started while records and kernel are compared.
        self._open = False
        self.changed: Callable[[], None] = lambda: None

    def waits(self, container_id: str) -> bool:
        """Whether it is about to be started again."""
        return container_id in self._timers

    @property
    def any(self) -> bool:
        """Whether somebody waits."""
        return bool(self._timers)

    def started(self, record: ContainerRecord) -> None:
        """A run has begun, or was taken over."""
        self._timers.pop(record.id, None)
        age_s = max(0.0, (time.time_ns() - record.started_ns) / 1e9)
        self._begun_s[record.id] = time.monotonic() - age_s

    def ended(self, record: ContainerRecord, status: ExitStatus) -> None:
        """A run is over, or a start has failed: start it again in a while, if its policy says so.
        A start that fails has run for no time."""
        now_s = time.monotonic()
        ran_s = now_s - self._begun_s.pop(record.id, now_s)
        if not wanted(record, status.code):
            self.forget(record.id)
        elif self._open:
            self._again(record.id, ran_s)

    def _again(self, container_id: str, ran_s: float) -> None:
        wait_s = self._pace.next_s(self._waits_s.get(container_id, 0.0), ran_s)
        self._waits_s[container_id] = wait_s
        self._timers[container_id] = self._core.loop.call_later(wait_s, self._begin, container_id)
        self.changed()

    def _begin(self, container_id: str) -> None:
        if not self._core.stopping.is_set():
            self._timers[container_id] = None
            self._core.background(self._try(container_id))

    async def _try(self, container_id: str) -> None:
        records = self._core.records
        record = records.containers.get(container_id)
        if record is None or not self.waits(container_id):
            return
        records.update_container(msgspec.structs.replace(record, restarts=record.restarts + 1))
        try:
            await self._start(container_id)
        except EngineError as error:
            log.warning("restarting %s: %s", record.name, error)
            self._failed(container_id, error)

    def _failed(self, container_id: str, error: EngineError) -> None:
        """It could not even begin, else `ended` has been told; and then it waits again."""
        record = self._core.records.containers.get(container_id)
        if record is None or self._timers.get(container_id, self) is not None:
            return
        status = ExitStatus(code=125, explanation=str(error), finished_ns=time.time_ns())
        record = msgspec.structs.replace(record, exit=status)
        self._core.records.update_container(record)
        self.ended(record, status)

    def forget(self, container_id: str) -> None:
        """A user has taken over, or the container is gone: it waits no longer."""
        timer = self._timers.pop(container_id, None)
        if timer is not None:
            timer.cancel()
        self._waits_s.pop(container_id, None)
        self.changed()

    def resume(self) -> None:
        """After a start of the engine: what waited, and what the machine's end has ended, is
        started again. From here on ends have consequences."""
        core = self._core
        self._open = True
        for record in list(core.records.containers.values()):
            if record.state != "exited":
                continue
            code = record.exit.code if record.exit else None
            if record.boot_id == core.boot_id:
                if wanted(record, code):
                    self._again(record.id, 0.0)
            elif wanted_after_boot(record):
                core.records.update_container(msgspec.structs.replace(record, restarts=0))
                self._again(record.id, 0.0)

    def close(self) -> None:
        """Start nothing more; the next engine goes on."""
        for timer in self._timers.values():
            if timer is not None:
                timer.cancel()
