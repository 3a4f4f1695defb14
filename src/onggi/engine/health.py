"""Health checks: execs in running containers, at their times, whose exit codes count.

One timer for each container that has a check, nothing for the others; times are monotonic. What the
results mean is `conditions`' matter. Source: docker-run(1) --health-*.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Awaitable, Callable

import msgspec

from onggi.engine.api.requests import ExecRequest
from onggi.engine.conditions import (
    KEPT_OUTPUT_BYTES,
    NO_CODE,
    Check,
    Condition,
    Result,
    Status,
    check_of,
)
from onggi.engine.core import Core
from onggi.engine.execs import Execs, end_session
from onggi.engine.records import ContainerRecord
from onggi.engine.tasks import Task
from onggi.errors import DataLoss, EngineError
from onggi.sandbox.stream import StreamDecoder

log = logging.getLogger(__name__)
#: Checks that are being started at a time: the engine answers others meanwhile.
_STARTING = 2
_READ_BYTES = 65536
_END_S = 1.0


class Health:
    """The health of one engine's containers. `act`: carries `on_failure` out."""

    def __init__(
        self, core: Core, execs: Execs, act: Callable[[str, str], Awaitable[None]]
    ) -> None:
        self._core = core
        self._execs = execs
        self._act = act
        self._watches: dict[str, _Watch] = {}
        self._gate = asyncio.Semaphore(_STARTING)

    def watch(self, record: ContainerRecord) -> None:
        """A container runs, or was taken over: check it from here on, if it has a check."""
        self.forget(record.id)
        check = check_of(record.spec.health)
        if check is not None and not self._core.stopping.is_set():
            watch = self._watches[record.id] = _Watch(self._core, record, check)
            if record.state != "paused":
                self._schedule(record.id, watch)

    def forget(self, container_id: str) -> None:
        """It has ended, or is gone."""
        watch = self._watches.pop(container_id, None)
        if watch is not None:
            watch.rest()

    def condition(self, container_id: str) -> Condition | None:
        """How it does; None without a check, and while it does not run."""
        watch = self._watches.get(container_id)
        return watch.condition if watch is not None else None

    def pause(self, container_id: str) -> None:
        """It stands still: a check under way does not count, and none follows."""
        watch = self._watches.get(container_id)
        if watch is not None:
            watch.rest()

    def resume(self, container_id: str) -> None:
        """It goes on, and so do its checks."""
        watch = self._watches.get(container_id)
        if watch is not None:
            watch.rest()
            watch.over = self._core.loop.create_future()
            self._schedule(container_id, watch)

    def close(self) -> None:
        """Check no more; the next engine goes on."""
        for container_id in list(self._watches):
            self.forget(container_id)

    # -- checking ----------------------------------------------------------------------------

    def _schedule(self, container_id: str, watch: _Watch) -> None:
        wait_s = watch.check.wait_s(watch.condition.status, watch.age_s())
        watch.timer = self._core.loop.call_later(wait_s, self._due, container_id, watch)

    def _due(self, container_id: str, watch: _Watch) -> None:
        if not self._core.stopping.is_set():
            self._core.background(self._check(container_id, watch))

    async def _check(self, container_id: str, watch: _Watch) -> None:
        over = watch.over
        record = self._core.records.containers.get(container_id)
        if record is None or over.done():
            return
        age_s = watch.age_s()
        result = await self._probe(record, watch.check, over)
        if result is None or over.done():
            return
        before, watch.condition = (
            watch.condition,
            watch.condition.after(result, watch.check, age_s),
        )
        # Before what follows from it: that may end this watch.
        self._schedule(container_id, watch)
        if watch.condition.status != before.status:
            self._changed(container_id, watch.check, watch.condition.status)

    def _changed(self, container_id: str, check: Check, status: Status) -> None:
        core = self._core
        record = core.records.containers[container_id]
        core.records.update_container(msgspec.structs.replace(record, health=status))
        core.tell(record, f"health_status: {status}")
        if status == "unhealthy" and check.on_failure != "none":
            log.warning("container %s is unhealthy: %s", record.name, check.on_failure)
            core.background(self._react(container_id, check.on_failure))

    async def _react(self, container_id: str, what: str) -> None:
        try:
            await self._act(container_id, what)
        except EngineError as error:
            log.warning("%s of unhealthy %s: %s", what, container_id[:12], error)

    async def _probe(
        self, record: ContainerRecord, check: Check, over: asyncio.Future[None]
    ) -> Result | None:
        """Make one check; None when it was broken off."""
        started_ns = time.time_ns()
        output = _Output(self._core.loop)
        code, late = NO_CODE, True
        try:
            task = await self._begin(record, check, output, over)
            if task is not None:
                await asyncio.wait(
                    (task.exited, over),
                    timeout=check.timeout_s,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if task.exited.done():
                    await output.end()
                    code, late = _code(task), False
                else:
                    await self._break_off(record, task, over)
            if over.done():
                return None
            if late:
                output.add(f"health check exceeded timeout ({check.timeout_s:g}s)".encode())
        except EngineError as error:
            output.add(str(error).encode())
        finally:
            output.close()
        return Result(started_ns, time.time_ns(), code, output.text())

    async def _begin(
        self, record: ContainerRecord, check: Check, output: _Output, over: asyncio.Future[None]
    ) -> Task | None:
        """Start it; None: not within the check's time, or broken off.

        Raises:
            EngineError: it cannot be started.
        """
        async with self._gate:
            if over.done():
                return None
            starting = self._core.loop.create_task(self._execute(record, check, output.open()))
            await asyncio.wait(
                (starting, over), timeout=check.timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
        if starting.done():
            return starting.result()
        # It hangs in the kernel, in a cgroup that stands still for instance.
        starting.add_done_callback(_end_late)
        return None

    async def _execute(self, record: ContainerRecord, check: Check, stream: socket.socket) -> Task:
        with stream:
            return await self._execs.begin(
                ExecRequest(target=record.id, command=check.command), stream
            )

    async def _break_off(
        self, record: ContainerRecord, task: Task, over: asyncio.Future[None]
    ) -> None:
        """End the check with all that it has started; a paused container's ends when it goes on."""
        await asyncio.to_thread(end_session, self._core.cgroup(record.id), task.pid)
        await asyncio.wait((task.exited, over), timeout=_END_S, return_when=asyncio.FIRST_COMPLETED)


def _end_late(starting: asyncio.Task[Task]) -> None:
    if not starting.cancelled() and starting.exception() is None:
        starting.result().signal(signal.SIGKILL)


def _code(task: Task) -> int:
    event = task.exited.result()
    if event is None:
        return NO_CODE
    return 128 + event.signal if event.signal else event.code


class _Watch:
    """One container's checks: where they have got to."""

    def __init__(self, core: Core, record: ContainerRecord, check: Check) -> None:
        self.check = check
        known: Status = record.health or "starting"
        self.condition = Condition(known)
        self.timer: asyncio.TimerHandle | None = None
        #: Done: the check that is under way does not count.
        self.over: asyncio.Future[None] = core.loop.create_future()
        # One that an earlier engine started has an age already.
        age_s = max(0.0, (time.time_ns() - record.started_ns) / 1e9)
        self._begun_s = time.monotonic() - age_s

    def age_s(self) -> float:
        """Seconds since the container was started."""
        return time.monotonic() - self._begun_s

    def rest(self) -> None:
        """No check from here on, and one under way is broken off."""
        if self.timer is not None:
            self.timer.cancel()
        if not self.over.done():
            self.over.set_result(None)


class _Output:
    """What a check writes: the beginning is kept, the rest is read and dropped."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ours: socket.socket | None = None
        self._decoder = StreamDecoder()
        self._kept = bytearray()
        self._more = False
        self._ended: asyncio.Future[None] = loop.create_future()

    def open(self) -> socket.socket:
        """The end to write to; the caller's to close."""
        self._ours, theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._loop.add_reader(self._ours.fileno(), self._readable)
        return theirs

    def _readable(self) -> None:
        assert self._ours is not None
        try:
            data = self._ours.recv(_READ_BYTES)
            pieces = self._decoder.feed(data)
        except BlockingIOError:
            return
        except (OSError, DataLoss):
            data, pieces = b"", []
        for piece in pieces:
            self.add(piece.data)
        if not data:
            self.close()

    def add(self, data: bytes) -> None:
        """Keep it as far as there is room; the engine's own words come last, on a line."""
        room = KEPT_OUTPUT_BYTES - len(self._kept)
        self._kept += data[:room]
        self._more = self._more or len(data) > room

    async def end(self) -> None:
        """Everything is read, or what is left is not the check's own."""
        await asyncio.wait((self._ended,), timeout=_END_S)

    def text(self) -> str:
        """What was kept."""
        return self._kept.decode("utf-8", "replace") + ("..." if self._more else "")

    def close(self) -> None:
        """Read no more."""
        if self._ours is not None:
            self._loop.remove_reader(self._ours.fileno())
            self._ours.close()
            self._ours = None
        if not self._ended.done():
            self._ended.set_result(None)
