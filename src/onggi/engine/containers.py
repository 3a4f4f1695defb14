"""The life of containers: create, start, stop, kill, wait, remove.

A change of one container holds its lock. The record says `starting` before anything is made and
`removing` before anything is taken away; `reconcile` finishes what a crash left between the two.
"""

from __future__ import annotations

import asyncio
import os
import signal as signals
import socket
import time
from collections.abc import AsyncIterator

import msgspec

from onggi.engine.api.answers import Created, ExitStatus, Session
from onggi.engine.api.requests import (
    AttachRequest,
    KillRequest,
    Nothing,
    RemoveRequest,
    ResizeRequest,
    RunRequest,
    SignalSession,
    StartRequest,
    StopRequest,
    TerminalSize,
    WaitRequest,
)
from onggi.engine.api.spec import ContainerSpec
from onggi.engine.cleanup import clean_container, clean_run
from onggi.engine.core import Core
from onggi.engine.ends import describe_end
from onggi.engine.names import check_name, new_id, new_name
from onggi.engine.prepare import joined_container, joins, launch, own_id_range
from onggi.engine.records import ContainerRecord
from onggi.engine.signal_names import parse_signal
from onggi.engine.tasks import Task
from onggi.engine.volumes import Volumes
from onggi.errors import EngineError, FailedPrecondition, NotFound
from onggi.image.images import Image
from onggi.kernel.processes import boot_id
from onggi.runtime.failure import explain_failure, explain_warning
from onggi.runtime.steps import Plan
from onggi.sandbox.messages import Exited, Failed
from onggi.sandbox.monitor import Monitor
from onggi.specs.runtime import encode_config

Item = Session | ExitStatus | tuple[Session, int]


class Containers:
    """Containers of one engine; each method is a call of `engine.api`."""

    def __init__(self, core: Core, volumes: Volumes) -> None:
        self._core = core
        self._volumes = volumes

    # -- making ------------------------------------------------------------------------------

    async def create(self, spec: ContainerSpec, _fds: list[int]) -> Created:
        """Write the record of a new container; nothing runs yet."""
        record, _, warnings = await self._create(spec)
        return Created(id=record.id, name=record.name, warnings=warnings)

    async def _create(self, spec: ContainerSpec) -> tuple[ContainerRecord, Image, tuple[str, ...]]:
        core = self._core
        core.check_open()
        name = check_name(spec.name, "container") if spec.name else ""
        image = await self._image(spec.image)
        joined_container(core, spec)
        container_id = new_id()
        mounts, made = self._volumes.for_container(spec, image.config.config)
        try:
            record = ContainerRecord(
                id=container_id,
                name=name or new_name(core.records.names),
                spec=msgspec.structs.replace(spec, mounts=mounts),
                image_id=image.id,
                chain_ids=image.chain_ids,
                created_ns=time.time_ns(),
                volumes=made,
            )
            core.records.insert_container(record)
        except EngineError:
            self._volumes.discard(made)
            raise
        core.events.publish(
            "container", "create", record.id, name=record.name, image=spec.image, **spec.labels
        )
        return record, image, ()

    async def _image(self, name: str) -> Image:
        """The image, unpacked. Found in memory as a rule: no thread, no disk."""
        core = self._core
        image = core.images.resolve(name)
        if not all(map(core.images.snapshots.exists, image.chain_ids)):
            await asyncio.to_thread(core.images.unpack, image)
        return image

    async def run(self, request: RunRequest, _fds: list[int]) -> AsyncIterator[Item]:
        """Create and start. A start that fails leaves nothing behind."""
        record, image, _ = await self._create(request.spec)
        try:
            task, warnings, attached = await self._start(
                record, image, request.size, request.attach, request.attach_stdin
            )
        except BaseException:
            await self._discard(record.id)
            raise
        async for item in self._session(record, task, warnings, attached):
            yield item

    async def start(self, request: StartRequest, _fds: list[int]) -> AsyncIterator[Item]:
        """Start a created or ended container; one that runs already is left as it is."""
        core = self._core
        record = core.records.find_container(request.target)
        running = core.running(record.id)
        if running is not None and not request.attach:
            yield Session(id=record.id, name=record.name, session=record.id, pid=running.pid)
            return
        image = await self._image(record.image_id)
        async with core.lock(record.id):
            record = core.records.find_container(record.id)
            if core.running(record.id) is not None:
                raise FailedPrecondition(f"container {record.name} is running already")
            task, warnings, attached = await self._start(
                record, image, request.size, request.attach, request.attach_stdin
            )
        async for item in self._session(record, task, warnings, attached):
            yield item

    async def _session(
        self,
        record: ContainerRecord,
        task: Task,
        warnings: tuple[str, ...],
        attached: socket.socket | None,
    ) -> AsyncIterator[Item]:
        end = self._core.ends[record.id]
        session = Session(
            id=record.id, name=record.name, session=record.id, pid=task.pid, warnings=warnings
        )
        if attached is None:
            yield session
            return
        yield session, attached.detach()
        yield await asyncio.shield(end)

    # -- starting ----------------------------------------------------------------------------

    async def _start(
        self,
        record: ContainerRecord,
        image: Image,
        size: TerminalSize,
        attach: bool,
        attach_stdin: bool,
    ) -> tuple[Task, tuple[str, ...], socket.socket | None]:
        """Start the record's container; on failure everything made for the run is gone again."""
        core = self._core
        core.check_open()
        own = own_id_range(record.spec, joined_container(core, record.spec))
        record = msgspec.structs.replace(
            record,
            state="starting",
            boot_id=boot_id(),
            id_base=core.ranges.lend() if own else None,
            exit=None,
            killed_by="",
        )
        core.records.update_container(record)
        ours, theirs = socket.socketpair() if attach else (None, None)
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
        except BaseException:
            if ours is not None:
                ours.close()
            await self._undo_start(record)
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

    async def _undo_start(self, record: ContainerRecord) -> None:
        await clean_run(self._core, record)
        if record.id in self._core.records.containers:
            undone = msgspec.structs.replace(record, state="created", id_base=None)
            self._core.records.update_container(undone)

    # -- ending ------------------------------------------------------------------------------

    def ended(self, container_id: str, event: Exited | None) -> None:
        """The first process has ended: record it, tell everybody, clean up behind their backs."""
        core = self._core
        core.tasks.pop(container_id, None)
        record = core.records.containers[container_id]
        try:
            oom = core.cgroup(container_id).oom()
        except EngineError:
            oom = None
        status = describe_end(event, oom, record.killed_by)
        removing = record.spec.auto_remove or record.state == "removing"
        record = msgspec.structs.replace(
            record,
            state="removing" if removing else "exited",
            name="" if removing else record.name,
            pid=0,
            exit=status,
            finished_ns=status.finished_ns or time.time_ns(),
        )
        name = core.records.containers[container_id].name
        core.records.update_container(record)
        if status.oom_killed:
            core.events.publish("container", "oom", container_id, name=name)
        core.events.publish("container", "die", container_id, name=name, exitCode=str(status.code))
        end = core.ends.pop(container_id, None)
        if end is not None and not end.done():
            end.set_result(status)
        core.background(self._clean(record, name))

    async def _clean(self, record: ContainerRecord, name: str) -> None:
        core = self._core
        # One turn of the loop first: whoever waits for the exit is answered before.
        await asyncio.sleep(0)
        async with core.lock(record.id):
            if record.state != "removing":
                await clean_run(core, record)
                return
            await clean_container(core, record)
        core.events.publish("container", "destroy", record.id, name=name)

    async def stop(self, request: StopRequest, _fds: list[int]) -> Nothing:
        """Ask the process to end, and kill it when it has not after the timeout."""
        core = self._core
        record = core.records.find_container(request.target)
        task = core.running(record.id)
        if task is None:
            return Nothing()
        end = core.ends[record.id]
        number = parse_signal(request.signal or record.spec.stop_signal or "TERM")
        timeout_s = record.spec.stop_timeout_s if request.timeout_s is None else request.timeout_s
        self._signal(record, task, number, "onggi stop")
        if number != signals.SIGKILL:
            done, _ = await asyncio.wait([end], timeout=timeout_s if timeout_s >= 0 else None)
            if not done:
                self._signal(record, task, signals.SIGKILL, "onggi stop, after its timeout")
        await asyncio.shield(end)
        return Nothing()

    async def kill(self, request: KillRequest, _fds: list[int]) -> Nothing:
        """Send a signal to the first process.

        Raises:
            FailedPrecondition: it does not run. InvalidArgument: no such signal.
        """
        record = self._core.records.find_container(request.target)
        task = self._core.running(record.id)
        if task is None:
            raise FailedPrecondition(
                f"container {record.name} does not run", hint="onggi ps lists those that do"
            )
        self._signal(record, task, parse_signal(request.signal), "onggi kill")
        return Nothing()

    def _signal(self, record: ContainerRecord, task: Task, number: int, who: str) -> None:
        """Remember who, before the process can end of it."""
        core = self._core
        current = core.records.containers[record.id]
        core.records.update_container(msgspec.structs.replace(current, killed_by=who))
        task.signal(number)
        core.events.publish(
            "container", "kill", record.id, name=record.name, signal=str(int(number))
        )

    async def signal_session(self, request: SignalSession, _fds: list[int]) -> Nothing:
        """Pass a signal from an attached terminal on."""
        self._session_task(request.session).signal(request.signal)
        return Nothing()

    async def resize(self, request: ResizeRequest, _fds: list[int]) -> Nothing:
        """Tell a session's terminal its size."""
        self._session_task(request.session).monitor.resize(request.rows, request.columns)
        return Nothing()

    def _session_task(self, session: str) -> Task:
        task = self._core.tasks.get(session)
        if task is None:
            raise NotFound(f"no such session: {session[:12]}")
        return task

    async def attach(self, request: AttachRequest, _fds: list[int]) -> AsyncIterator[Item]:
        """Join the streams of a running container."""
        core = self._core
        record = core.records.find_container(request.target)
        task = core.running(record.id)
        if task is None:
            raise FailedPrecondition(
                f"container {record.name} does not run",
                hint=f"start it with onggi start -a {record.name}",
            )
        ours, theirs = socket.socketpair()
        with theirs:
            task.monitor.attach(
                theirs.fileno(),
                stdin=request.stdin and record.spec.stdin_open,
                stdout=request.stdout,
                stderr=request.stderr,
            )
        async for item in self._session(record, task, (), ours):
            yield item

    async def wait(self, request: WaitRequest, _fds: list[int]) -> ExitStatus:
        """Wait for the end of a container, or for its removal."""
        core = self._core
        record = core.records.find_container(request.target)
        end = core.ends.get(record.id)
        status = record.exit or ExitStatus(code=0)
        if end is not None:
            status = await asyncio.shield(end)
        elif request.condition == "next-exit":
            while (end := core.ends.get(record.id)) is None:
                await asyncio.sleep(0.02)
            status = await asyncio.shield(end)
        if request.condition == "removed" and record.id in core.records.containers:
            await core.gone.setdefault(record.id, asyncio.Event()).wait()
        return status

    # -- removing ----------------------------------------------------------------------------

    async def remove(self, request: RemoveRequest, _fds: list[int]) -> Nothing:
        """Remove a container; its name is free when this returns, the rest goes in the background.

        Raises:
            FailedPrecondition: it runs and `force` is not set.
        """
        core = self._core
        record = core.records.find_container(request.target)
        if core.running(record.id) is not None and not request.force:
            raise FailedPrecondition(
                f"container {record.name} is running",
                hint=f"stop it first, or use onggi rm -f {record.name}",
            )
        await self._discard(record.id, volumes=request.volumes)
        return Nothing()

    async def _discard(self, container_id: str, *, volumes: bool = True) -> None:
        """Begin the removal; a run ends first, and its end goes on with the removal."""
        core = self._core
        record = core.records.containers.get(container_id)
        if record is None or record.state == "removing":
            return
        name = record.name
        kept = record.volumes if volumes else ()
        record = msgspec.structs.replace(record, state="removing", name="", volumes=kept)
        core.records.update_container(record)
        task = core.running(container_id)
        if task is not None:
            end = core.ends[container_id]
            task.signal(signals.SIGKILL)
            await asyncio.shield(end)
        else:
            core.background(self._clean(record, name))


def _spawn(core: Core, record: ContainerRecord, plan: Plan) -> Monitor:
    """Spawn the monitor, with the container's v2 cgroup lent to it where there is one."""
    v2 = core.cgroup(record.id).open_v2()
    if v2 is None:
        return Monitor.spawn(core.keel, plan)
    try:
        return Monitor.spawn(core.keel, plan, (v2,))
    finally:
        os.close(v2)
