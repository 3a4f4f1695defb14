"""The life of containers: create, start, stop, kill, wait, remove.

A change of one container holds its lock. The record says `starting` before anything is made and
`removing` before anything is taken away; `reconcile` finishes what a crash left between the two.
"""

from __future__ import annotations

import asyncio
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
    WaitRequest,
)
from onggi.engine.api.spec import ContainerSpec
from onggi.engine.cleanup import begin_removal
from onggi.engine.compose import with_image
from onggi.engine.core import Core
from onggi.engine.names import check_name, new_id, new_name
from onggi.engine.prepare import joined_container
from onggi.engine.records import ContainerRecord
from onggi.engine.runs import Runs
from onggi.engine.signal_names import parse_signal
from onggi.engine.tasks import Task
from onggi.engine.volume_content import fill
from onggi.engine.volumes import Volumes
from onggi.errors import EngineError, FailedPrecondition, NotFound
from onggi.image.images import Image
from onggi.image.platforms import check_platform
from onggi.image.prune import touch

Item = Session | ExitStatus | tuple[Session, int]


class Containers:
    """Containers of one engine; each method is a call of `engine.api`."""

    def __init__(self, core: Core, runs: Runs, volumes: Volumes) -> None:
        self._core = core
        self._runs = runs
        self._volumes = volumes

    # -- making ------------------------------------------------------------------------------

    async def create(self, spec: ContainerSpec, _fds: list[int]) -> Created:
        """Write the record of a new container; nothing runs yet."""
        record, _ = await self._create(spec)
        return Created(id=record.id, name=record.name)

    async def _create(
        self, spec: ContainerSpec, *, starting: bool = False
    ) -> tuple[ContainerRecord, Image]:
        """A new container's record, stored; `starting`: its run begins with it."""
        core = self._core
        core.check_open()
        name = check_name(spec.name, "container") if spec.name else ""
        image = await self._image(spec.image)
        joined_container(core, spec)
        container_id = new_id()
        spec = with_image(spec, image.config.config)
        mounts, made = self._volumes.for_container(spec, image.config.config)
        try:
            for path, target in self._volumes.to_fill(mounts):
                lowers = core.images.snapshots.lowers(image.chain_ids)
                await asyncio.to_thread(fill, path, lowers, target)
            record = ContainerRecord(
                id=container_id,
                name=name or new_name(core.records.names),
                spec=msgspec.structs.replace(spec, mounts=mounts),
                image_id=image.id,
                chain_ids=image.chain_ids,
                created_ns=time.time_ns(),
                volumes=made,
            )
            record = self._runs.begin(record) if starting else record
            try:
                core.records.insert_container(record)
            except EngineError:
                core.ranges.give_back(record.id)
                raise
        except EngineError:
            self._volumes.discard(made)
            raise
        core.events.publish(
            "container", "create", record.id, spec.labels, name=record.name, image=spec.image
        )
        return record, image

    async def _image(self, name: str) -> Image:
        """The image, unpacked. Found in memory as a rule: no thread, no disk."""
        core = self._core
        image = core.images.resolve(name)
        check_platform(image.short_name, image.platform, core.images.platform)
        if not all(map(core.images.snapshots.exists, image.chain_ids)):
            await asyncio.to_thread(core.images.unpack, image)
        touch(core.images, image)
        return image

    async def run(self, request: RunRequest, _fds: list[int]) -> AsyncIterator[Item]:
        """Create and start. A start that fails leaves nothing behind."""
        record, image = await self._create(request.spec, starting=True)
        try:
            async with self._core.lock(record.id):
                task, warnings, attached = await self._runs.start(
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
            await self._runs.tidy(record)
            record = self._runs.begin(record)
            core.records.update_container(record)
            task, warnings, attached = await self._runs.start(
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

    # -- ending ------------------------------------------------------------------------------

    async def stop(self, request: StopRequest, _fds: list[int]) -> Nothing:
        """Ask the process to end, and kill it when it has not after the timeout."""
        core = self._core
        record = core.records.find_container(request.target)
        async with core.lock(record.id):
            # Not while it starts: then it would run on afterwards.
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
        core.records.update_container(
            msgspec.structs.replace(current, killed_by=who, killed_with=number)
        )
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
        """Begin the removal; a run ends first, and its end goes on with the removal.

        One that is just starting is taken away by its start, which finds what the record says.
        """
        core = self._core
        record = core.records.containers.get(container_id)
        if record is None or record.state == "removing":
            return
        name, starting = record.name, record.state == "starting"
        record = begin_removal(core, record, volumes=volumes)
        task = core.running(container_id)
        if task is not None:
            end = core.ends[container_id]
            task.signal(signals.SIGKILL)
            await asyncio.shield(end)
        elif not starting:
            core.background(self._runs.clean(record, name))
