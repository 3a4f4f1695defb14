"""Ends that somebody asks for: stop, kill, restart, and what befalls an unhealthy container.

A stop or a kill by a user holds against restart policies until a user starts the container again;
it is noted before the signal is sent. A paused container is let go on, or it could not end.
Source: docker-stop(1), docker-kill(1), docker-restart(1).
"""

from __future__ import annotations

import asyncio
import signal as signals
from collections.abc import Awaitable, Callable

import msgspec

from onggi.engine.api.changes import RestartRequest
from onggi.engine.api.requests import (
    KillRequest,
    Nothing,
    SignalSession,
    StopRequest,
)
from onggi.engine.core import Core
from onggi.engine.pausing import thaw
from onggi.engine.records import ContainerRecord
from onggi.engine.runs import Runs
from onggi.engine.signal_names import parse_signal
from onggi.engine.tasks import Task
from onggi.errors import FailedPrecondition, NotFound

#: Signals by which people mean an end.
_ENDING = frozenset((signals.SIGKILL, signals.SIGTERM, signals.SIGINT, signals.SIGQUIT))
_HEALTH = "its health check"


class Ending:
    """Ends of one engine's containers. `start`: starts one anew, by its id."""

    def __init__(self, core: Core, runs: Runs, start: Callable[[str], Awaitable[None]]) -> None:
        self._core = core
        self._runs = runs
        self._start = start

    async def stop(self, request: StopRequest, _fds: list[int]) -> Nothing:
        """Ask the process to end, and kill it when it has not after the timeout.

        Raises:
            InvalidArgument: no such signal.
        """
        await self._stop(request, "onggi stop")
        return Nothing()

    async def _stop(self, request: StopRequest, who: str) -> None:
        core = self._core
        record = core.records.find_container(request.target)
        number = parse_signal(request.signal or record.spec.stop_signal or "TERM")
        async with core.lock(record.id):
            # Not while it starts: then it would run on afterwards.
            record = core.records.find_container(record.id)
            task = core.running(record.id)
            if task is None:
                self._leave(record)
                return
            end = core.ends[record.id]
            self._send(record, task, number, who, ends=True)
        timeout_s = record.spec.stop_timeout_s if request.timeout_s is None else request.timeout_s
        if number != signals.SIGKILL:
            done, _ = await asyncio.wait([end], timeout=timeout_s if timeout_s >= 0 else None)
            if not done:
                self._send(record, task, signals.SIGKILL, f"{who}, after its timeout", ends=True)
        await asyncio.shield(end)
        core.tell(record, "stop")

    async def kill(self, request: KillRequest, _fds: list[int]) -> Nothing:
        """Send a signal to the first process. One that waits to be restarted waits no longer.

        Raises:
            FailedPrecondition: it does not run. InvalidArgument: no such signal.
        """
        core = self._core
        record = core.records.find_container(request.target)
        number = parse_signal(request.signal)
        task = core.running(record.id)
        if task is not None:
            self._send(record, task, number, "onggi kill", ends=_means_end(record, number))
        elif core.restarts.waits(record.id):
            self._leave(record)
        else:
            raise FailedPrecondition(
                f"container {record.name} does not run", hint="onggi ps lists those that do"
            )
        return Nothing()

    async def signal_session(self, request: SignalSession, _fds: list[int]) -> Nothing:
        """Pass a signal from an attached terminal on.

        Raises:
            NotFound: no such session.
        """
        task = self._core.tasks.get(request.session)
        if task is None:
            raise NotFound(f"no such session: {request.session[:12]}")
        record = self._core.records.containers.get(request.session)
        if record is not None and _means_end(record, request.signal):
            self._note(record, stopped_by_user=True)
            task.signal(request.signal)
            thaw(self._core, record.id)
        else:
            task.signal(request.signal)
        return Nothing()

    async def restart(self, request: RestartRequest, _fds: list[int]) -> Nothing:
        """End a container as `stop` does, and start it again; one that does not run is started.

        Raises:
            EngineError: it cannot be started.
        """
        await self._restart(request, "onggi restart")
        return Nothing()

    async def _restart(self, request: RestartRequest, who: str) -> None:
        core = self._core
        record = core.records.find_container(request.target)
        stop = StopRequest(target=record.id, timeout_s=request.timeout_s, signal=request.signal)
        with self._runs.kept(record.id):
            await self._stop(stop, who)
            await self._start(record.id)
        core.tell(record, "restart")

    async def react(self, container_id: str, what: str) -> None:
        """Carry out what is to happen to an unhealthy container: restart, stop or kill.

        After a kill its restart policy decides.

        Raises:
            EngineError: it cannot be started again.
        """
        task = self._core.running(container_id)
        if task is None:
            return
        if what == "restart":
            await self._restart(RestartRequest(target=container_id), _HEALTH)
        elif what == "stop":
            await self._stop(StopRequest(target=container_id), _HEALTH)
        else:
            record = self._core.records.containers[container_id]
            self._note(record, killed_by=_HEALTH, killed_with=int(signals.SIGKILL))
            task.signal(signals.SIGKILL)

    def _send(
        self, record: ContainerRecord, task: Task, number: int, who: str, *, ends: bool
    ) -> None:
        """Remember who, before the process can end of it."""
        core = self._core
        current = core.records.containers[record.id]
        self._note(
            current,
            killed_by=who,
            killed_with=int(number),
            stopped_by_user=ends or current.stopped_by_user,
        )
        task.signal(number)
        if ends:
            thaw(core, record.id)
        core.tell(record, "kill", signal=str(int(number)))

    def _leave(self, record: ContainerRecord) -> None:
        """One that waits to be restarted stays as it is."""
        if self._core.restarts.waits(record.id):
            self._note(record, stopped_by_user=True)
            self._core.restarts.forget(record.id)

    def _note(self, record: ContainerRecord, **fields: object) -> None:
        records = self._core.records
        current = records.containers[record.id]
        records.update_container(msgspec.structs.replace(current, **fields))


def _means_end(record: ContainerRecord, number: int) -> bool:
    return number in _ENDING or number == parse_signal(record.spec.stop_signal or "TERM")
