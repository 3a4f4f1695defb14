"""One run of a container: from `starting` to the day its first process has ended.

The record is written before anything is made; a start that fails leaves nothing; an end is recorded
and told first, and cleaned up behind everybody's back.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator

import msgspec

from onggi.engine.api.answers import ExitStatus
from onggi.engine.api.requests import TerminalSize
from onggi.engine.cleanup import begin_removal, clean_container, clean_run, remove_cgroup
from onggi.engine.core import Core
from onggi.engine.ends import describe_end
from onggi.engine.mount_sources import give_owners, held_sources
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
#: Seconds until what could not be cleaned up is tried again.
_AGAIN_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 30.0)
log = logging.getLogger(__name__)


class Runs:
    """The runs of one engine's containers."""

    def __init__(self, core: Core) -> None:
        self._core = core
        #: Containers whose last run has ended and is not cleaned up.
        self._untidy: set[str] = set()
        #: Containers that outlive the end of their run, whatever they were made with.
        self._kept: set[str] = set()
        #: Told of every run that began, or was taken over, and of every end.
        self.on_start: list[Callable[[ContainerRecord], None]] = []
        self.on_end: list[Callable[[ContainerRecord, ExitStatus], None]] = []

    def begin(self, record: ContainerRecord, image: Image) -> ContainerRecord:
        """The record of a container that is about to start, with ids, addresses and ports lent to
        it; not stored.

        Raises:
            EngineError: none are free, a port is taken, or what it joins does not run.
        """
        core = self._core
        core.check_open()
        own = own_id_range(record.spec, joined_container(core, record.spec))
        record = core.endpoints.lease(record)
        try:
            record = core.publishing.lease(record, image.config.config)
            try:
                id_base = core.ranges.lend(record.id) if own else None
            except BaseException:
                core.publishing.close(record)
                raise
        except BaseException:
            core.endpoints.give_back(record.id, record.endpoints)
            raise
        return msgspec.structs.replace(
            record,
            state="starting",
            boot_id=core.boot_id,
            id_base=id_base,
            exit=None,
            killed_by="",
        )

    def give_back(self, record: ContainerRecord) -> None:
        """Take back what `begin` lent to a container that was not stored after all."""
        core = self._core
        core.ranges.give_back(record.id)
        core.publishing.close(record)
        core.endpoints.give_back(record.id, record.endpoints, forever=True)

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
        if record.spec.auto_remove and record.started_ns:
            _forgive_volatile(core, record)
        try:
            with joins(core, record) as joined, held_sources(core, record) as sources:
                await give_owners(core, record, image, sources)
                made = launch(core, record, image, size, joined, sources)
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
            # The monitor's: by ours a short one would have ended before it started.
            started_ns=task.started_ns,
            finished_ns=0,
            config=config,
            stopped_by_user=False,
            health="",
        )
        core.records.update_container(record)
        core.endpoints.answer(record, task.take_sockets())
        self.adopt(record.id, task)
        core.tell(record, "start")

    def adopt(self, container_id: str, task: Task) -> None:
        """Watch a running task; also for one that an earlier engine started."""
        core = self._core
        core.tasks[container_id] = task
        core.ends[container_id] = core.loop.create_future()
        task.exited.add_done_callback(lambda future: self.ended(container_id, future.result()))
        record = core.records.containers[container_id]
        if record.state != "removing":
            for tell in self.on_start:
                tell(record)

    async def _undo_start(
        self, record: ContainerRecord, error: BaseException, task: Task | None
    ) -> None:
        core = self._core
        if task is not None:
            await remove_cgroup(core, record.id)
            # The monitor's directory is its own until it has ended, which it does now.
            await asyncio.wait((task.exited,), timeout=_END_S)
            task.abandon()
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
        if undone.state == "exited" and undone.exit is not None:
            self._tell_end(undone, undone.exit)

    def ended(self, container_id: str, event: Exited | None) -> None:
        """The first process has ended: record it, tell everybody, clean up behind their backs."""
        core = self._core
        core.tasks.pop(container_id, None)
        record = core.records.containers[container_id]
        try:
            oom = core.cgroup(container_id).oom()
        except (EngineError, OSError):
            oom = None  # why it ended is worth less than that it is told
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
        keep = container_id in self._kept
        if record.spec.auto_remove and not keep and record.state != "removing":
            record = begin_removal(core, record)
        if status.oom_killed:
            core.tell(record, "oom", name=name)
        core.tell(record, "die", name=name, exitCode=str(status.code))
        end = core.ends.pop(container_id, None)
        if end is not None and not end.done():
            end.set_result(status)
        self.leave(record, name)
        self._tell_end(record, status)

    def _tell_end(self, record: ContainerRecord, status: ExitStatus) -> None:
        for tell in self.on_end:
            tell(record, status)

    @contextlib.contextmanager
    def kept(self, container_id: str) -> Iterator[None]:
        """A container whose run ends meanwhile is not removed for it, whatever it was made with."""
        self._kept.add(container_id)
        try:
            yield
        finally:
            self._kept.discard(container_id)

    def leave(self, record: ContainerRecord, name: str) -> None:
        """A run is over: what it left is taken away behind everybody's back."""
        self._untidy.add(record.id)
        self._core.background(self.clean(record, name))

    async def tidy(self, record: ContainerRecord) -> None:
        """Take away what the last run has left, unless that is done. Hold the lock."""
        if record.id in self._untidy:
            await clean_run(self._core, record)
            self._untidy.discard(record.id)

    async def clean(self, record: ContainerRecord, name: str) -> None:
        """Take away what the run, or the whole container, has left; again until it is gone, or
        the engine ends and leaves it to the next one."""
        core = self._core
        # One turn of the loop first: whoever waits for the exit is answered before.
        await asyncio.sleep(0)
        for delay_s in itertools.chain(_AGAIN_S, itertools.repeat(_AGAIN_S[-1])):
            try:
                await self._clean(record)
                break
            except (EngineError, OSError) as error:
                log.warning("cleaning up %s: %s", record.id[:12], error)
            if core.stopping.is_set():
                return
            await asyncio.sleep(delay_s)
        if record.state == "removing":
            core.tell(record, "destroy", name=name)

    async def _clean(self, record: ContainerRecord) -> None:
        core = self._core
        async with core.lock(record.id):
            if record.state != "removing":
                await self.tidy(record)
            elif record.id in core.records.containers:
                await clean_container(core, record)
                self._untidy.discard(record.id)


def _forgive_volatile(core: Core, record: ContainerRecord) -> None:
    """A volatile overlay refuses its next mount, which could follow a crash of the machine: then
    this container would have been removed.

    Source: Documentation/filesystems/overlayfs.rst "Volatile mount".
    """
    upper = core.images.snapshots.upper_path(record.id)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(f"{upper}/work/work/incompat")


def _spawn(core: Core, record: ContainerRecord, plan: Plan) -> Monitor:
    """Spawn the monitor, with the container's v2 cgroup lent to it where there is one."""
    v2 = core.cgroup(record.id).open_v2()
    if v2 is None:
        return Monitor.spawn(core.keel, plan)
    try:
        return Monitor.spawn(core.keel, plan, (v2,))
    finally:
        os.close(v2)
