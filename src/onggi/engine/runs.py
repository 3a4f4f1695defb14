"""One run of a container: from `starting` to the day its first process has ended.

The record is written before anything is made; a start that fails leaves nothing; an end is recorded
and told first, and cleaned up behind everybody's back.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time

import msgspec

from onggi.engine.api.answers import ExitStatus
from onggi.engine.api.requests import TerminalSize
from onggi.engine.cleanup import begin_removal, clean_container, clean_run, remove_cgroup
from onggi.engine.core import Core
from onggi.engine.ends import describe_end
from onggi.engine.prepare import joined_container, joins, launch, own_id_range
from onggi.engine.records import ContainerRecord
from onggi.engine.tasks import Task
from onggi.errors import Conflict, EngineError, StartFailed
from onggi.image.images import Image
from onggi.runtime.failure import explain_failure, explain_warning
from onggi.runtime.steps import Plan
from onggi.sandbox.messages import Exited, Failed
from onggi.sandbox.monitor import Monitor
from onggi.specs.runtime import encode_config

_END_S = 2.0


class Runs:
    """The runs of one engine's containers."""

    def __init__(self, core: Core) -> None:
        self._core = core
        #: Containers whose last run has ended and is not cleaned up.
        self._untidy: set[str] = set()

    def begin(self, record: ContainerRecord) -> ContainerRecord:
        """The record of a container that is about to start, with ids lent to it; not stored.

        Raises:
            EngineError: no ids are free, or what it joins does not run.
        """
        core = self._core
        core.check_open()
        own = own_id_range(record.spec, joined_container(core, record.spec))
        return msgspec.structs.replace(
            record,
            state="starting",
            boot_id=core.boot_id,
            id_base=core.ranges.lend(record.id) if own else None,
            exit=None,
            killed_by="",
        )

    async def start(
        self,
        record: ContainerRecord,
        image: Image,
        size: TerminalSize,
        attach: bool,
        attach_stdin: bool,
    ) -> tuple[Task, tuple[str, ...], socket.socket | None]:
        """Start a container that `begin` has prepared and whose lock is held.

        On failure everything made for the run is gone again, and the record says why.
        """
        core = self._core
        ours, theirs = socket.socketpair() if attach else (None, None)
        task: Task | None = None
        try:
            with joins(core, record) as joined:
                made = launch(core, record, image, size, joined)
                monitor = _spawn(core, record, made.plan)
                task = Task(monitor, core.loop)
                if theirs is not None:
                    monitor.attach(
                        theirs.fileno(),
                        stdin=attach_stdin and record.spec.stdin_open,
                        stdout=True,
                        stderr=True,
                    )
                monitor.go()
                outcome = await task.started
            if isinstance(outcome, Failed):
                raise explain_failure(outcome, made.plan, str(image.platform))
            if core.records.containers[record.id].state == "removing":
                raise Conflict(f"container {record.name} was removed while it started")
        except BaseException as error:
            if ours is not None:
                ours.close()
            await self._undo_start(record, error, task)
            raise
        finally:
            if theirs is not None:
                theirs.close()
        self._running(record, task, encode_config(made.config))
        warnings = made.warnings + tuple(explain_warning(w, made.plan) for w in task.warnings)
        return task, warnings, ours

    def _running(self, record: ContainerRecord, task: Task, config: bytes) -> None:
        """Note that the process runs, and what to do when it ends."""
        core = self._core
        record = msgspec.structs.replace(
            record,
            state="running",
            pid=task.pid,
            started_ns=time.time_ns(),
            finished_ns=0,
            config=config,
        )
        core.records.update_container(record)
        self.adopt(record.id, task)
        core.events.publish(
            "container", "start", record.id, name=record.name, image=record.spec.image
        )

    def adopt(self, container_id: str, task: Task) -> None:
        """Watch a running task; also for one that an earlier engine started."""
        core = self._core
        core.tasks[container_id] = task
        core.ends[container_id] = core.loop.create_future()
        task.exited.add_done_callback(lambda future: self.ended(container_id, future.result()))

    async def _undo_start(
        self, record: ContainerRecord, error: BaseException, task: Task | None
    ) -> None:
        core = self._core
        if task is not None:
            await remove_cgroup(core, record.id)
            # The monitor's directory is its own until it has ended, which it does now.
            await asyncio.wait((task.exited,), timeout=_END_S)
        await clean_run(core, record)
        current = core.records.containers[record.id]
        if current.state == "removing":
            core.background(self.clean(current, record.name))
            return
        code = error.exit_code if isinstance(error, StartFailed) else 125
        undone = msgspec.structs.replace(
            record,
            state="exited" if record.started_ns else "created",
            id_base=None,
            exit=ExitStatus(code=code, explanation=str(error)),
        )
        core.records.update_container(undone)

    def ended(self, container_id: str, event: Exited | None) -> None:
        """The first process has ended: record it, tell everybody, clean up behind their backs."""
        core = self._core
        core.tasks.pop(container_id, None)
        record = core.records.containers[container_id]
        try:
            oom = core.cgroup(container_id).oom()
        except EngineError:
            oom = None
        ours = event is not None and event.signal == record.killed_with
        status = describe_end(event, oom, record.killed_by if ours else "")
        name = record.name or record.former_name
        record = msgspec.structs.replace(
            record,
            state="removing" if record.state == "removing" else "exited",
            pid=0,
            exit=status,
            finished_ns=status.finished_ns or time.time_ns(),
        )
        core.records.update_container(record)
        if record.spec.auto_remove and record.state != "removing":
            record = begin_removal(core, record)
        if status.oom_killed:
            core.events.publish("container", "oom", container_id, name=name)
        core.events.publish("container", "die", container_id, name=name, exitCode=str(status.code))
        end = core.ends.pop(container_id, None)
        if end is not None and not end.done():
            end.set_result(status)
        self._untidy.add(container_id)
        core.background(self.clean(record, name))

    async def tidy(self, record: ContainerRecord) -> None:
        """Take away what the last run has left, unless that is done. Hold the lock."""
        if record.id in self._untidy:
            self._untidy.discard(record.id)
            await clean_run(self._core, record)

    async def clean(self, record: ContainerRecord, name: str) -> None:
        """Take away what the run, or the whole container, has left."""
        core = self._core
        # One turn of the loop first: whoever waits for the exit is answered before.
        await asyncio.sleep(0)
        async with core.lock(record.id):
            if record.state != "removing":
                await self.tidy(record)
                return
            self._untidy.discard(record.id)
            await clean_container(core, record)
        core.events.publish("container", "destroy", record.id, name=name)


def _spawn(core: Core, record: ContainerRecord, plan: Plan) -> Monitor:
    """Spawn the monitor, with the container's v2 cgroup lent to it where there is one."""
    v2 = core.cgroup(record.id).open_v2()
    if v2 is None:
        return Monitor.spawn(core.keel, plan)
    try:
        return Monitor.spawn(core.keel, plan, (v2,))
    finally:
        os.close(v2)
