"""The life of containers: create, start, attach, wait, remove; ends are in `ending`.

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
    Nothing,
    RemoveRequest,
    ResizeRequest,
    RunRequest,
    StartRequest,
    WaitRequest,
)
from onggi.engine.api.spec import ContainerSpec
from onggi.engine.cleanup import begin_removal
from onggi.engine.compose import with_image
from onggi.engine.conditions import with_image_health
from onggi.engine.core import Core
from onggi.engine.device_nodes import with_directories
from onggi.engine.names import check_name, new_id, new_name
from onggi.engine.networks import Networks
from onggi.engine.pausing import thaw
from onggi.engine.prepare import joined_container
from onggi.engine.records import ContainerRecord
from onggi.engine.resources import check_host
from onggi.engine.restarts import check_restart
from onggi.engine.runs import Runs
from onggi.engine.tasks import Task
from onggi.engine.volume_content import fill
from onggi.engine.volumes import Volumes
from onggi.errors import Conflict, FailedPrecondition, NotFound
from onggi.image.images import Image
from onggi.image.platforms import check_platform
from onggi.image.prune import touch
from onggi.kernel.cgroups.cpuset import online

Item = Session | ExitStatus | tuple[Session, int]
_LOOK_S = 0.02


class Containers:
    """Containers of one engine; each method is a call of `engine.api`."""

    def __init__(self, core: Core, runs: Runs, volumes: Volumes, networks: Networks) -> None:
        self._core = core
        self._networks = networks
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
        image = await self._image(spec.image)
        with core.claimed(image.chain_ids):
            # Whoever deletes images takes their names away first, and looks at the claims then.
            if core.images.resolve(spec.image).id != image.id:
                raise Conflict(f"image {spec.image} was replaced at this moment", hint="try again")
            return await self._create_of(image, spec, starting=starting)

    async def _create_of(
        self, image: Image, spec: ContainerSpec, *, starting: bool
    ) -> tuple[ContainerRecord, Image]:
        core = self._core
        name = check_name(spec.name, "container") if spec.name else ""
        joined_container(core, spec)
        container_id = new_id()
        check_restart(spec)
        check_host(spec.resources, *online())
        spec = msgspec.structs.replace(spec, devices=with_directories(spec.devices))
        spec = with_image_health(with_image(spec, image.config.config), image.config.config)
        mounts, made = self._volumes.for_container(container_id, spec, image.config.config)
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
            places = self._networks.places(spec, container_id)
            record = msgspec.structs.replace(record, endpoints=places)
            try:
                record = self._runs.begin(record, image) if starting else record
                core.records.insert_container(record)
            except BaseException:
                self._runs.give_back(record)
                raise
        except BaseException:
            self._volumes.discard(made)
            raise
        core.tell(record, "create")
        return record, image

    async def _image(self, name: str) -> Image:
        """The image, unpacked. Found in memory as a rule: no thread, no disk."""
        core = self._core
        try:
            image = core.images.resolve(name)
            check_platform(image.short_name, image.platform, core.images.platform)
            if not all(map(core.images.snapshots.exists, image.chain_ids)):
                await asyncio.to_thread(core.images.unpack, image)
        except NotFound:
            core.images.resolve(name)  # removed meanwhile: says so, for a name goes first
            raise
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
        """Start a created or ended container; one that runs already is left as it is.

        Raises:
            FailedPrecondition: it is paused, or to be attached and runs. EngineError: it cannot be
            started.
        """
        record, task, warnings, attached = await self._start(request)
        async for item in self._session(record, task, warnings, attached):
            yield item

    async def start_anew(self, container_id: str) -> None:
        """Start a container for a user; nobody is attached.

        Raises: as `start`.
        """
        await self._start(StartRequest(target=container_id))

    async def start_again(self, container_id: str) -> None:
        """Start a container for its restart policy, if it still waits for that.

        Raises:
            EngineError: it cannot be started.
        """
        core = self._core
        record = core.records.find_container(container_id)
        image = await self._image(record.image_id)
        async with core.lock(container_id):
            if core.restarts.waits(container_id) and core.running(container_id) is None:
                record = core.records.find_container(container_id)
                request = StartRequest(target=container_id)
                await self._begin(record, image, request, restarts=record.restarts)

    async def _start(
        self, request: StartRequest
    ) -> tuple[ContainerRecord, Task, tuple[str, ...], socket.socket | None]:
        core = self._core
        record = core.records.find_container(request.target)
        image = await self._image(record.image_id)
        async with core.lock(record.id):
            record = core.records.find_container(record.id)
            task = core.running(record.id)
            if record.state == "paused":
                raise FailedPrecondition(
                    f"container {record.name} is paused", hint=f"onggi unpause {record.name}"
                )
            if task is not None and request.attach:
                raise FailedPrecondition(f"container {record.name} is running already")
            if task is not None:
                return record, task, (), None
            started = await self._begin(record, image, request, restarts=0)
            core.restarts.forget(record.id)
        return record, *started

    async def _begin(
        self, record: ContainerRecord, image: Image, request: StartRequest, *, restarts: int
    ) -> tuple[Task, tuple[str, ...], socket.socket | None]:
        """Start a container that does not run and whose lock is held."""
        await self._runs.tidy(record)
        record = self._core.records.find_container(record.id)  # it may be removed meanwhile
        record = self._runs.begin(msgspec.structs.replace(record, restarts=restarts), image)
        self._core.records.update_container(record)
        return await self._runs.start(
            record, image, request.size, request.attach, request.attach_stdin
        )

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

    # -- sessions ----------------------------------------------------------------------------

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
        if record.state == "paused":
            raise FailedPrecondition(
                f"container {record.name} is paused", hint=f"onggi unpause {record.name}"
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
        """Wait for the end of a container's run, or for its removal. One that its restart policy
        is about to start again is not at its end."""
        core = self._core
        record = core.records.find_container(request.target)
        status = record.exit or ExitStatus(code=0)
        later = request.condition == "next-exit"
        while record.id in core.records.containers:
            end = core.ends.get(record.id)
            if end is not None:
                status = await asyncio.shield(end)
                break
            if not later and not core.restarts.waits(record.id):
                status = core.records.containers[record.id].exit or status
                break
            await asyncio.sleep(_LOOK_S)
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
        waits = core.restarts.waits(record.id)
        if (waits or core.running(record.id) is not None) and not request.force:
            raise FailedPrecondition(
                f"container {record.name} is {'about to be restarted' if waits else 'running'}",
                hint=f"stop it first, or use onggi rm -f {record.name}",
            )
        await self._discard(record.id, volumes=request.volumes)
        return Nothing()

    def _end(self, container_id: str, task: Task) -> None:
        """Kill the first process, by its cgroup where a signal does not get through."""
        try:
            task.signal(signals.SIGKILL)
        except OSError:
            self._core.cgroup(container_id).kill()

    async def _discard(self, container_id: str, *, volumes: bool = True) -> None:
        """Begin the removal; a run ends first, and its end goes on with the removal.

        One that is just starting is taken away by its start, which finds what the record says.
        """
        core = self._core
        record = core.records.containers.get(container_id)
        if record is None or record.state == "removing":
            return
        name, starting = record.name, record.state == "starting"
        core.restarts.forget(container_id)
        thaw(core, container_id)
        record = begin_removal(core, core.records.containers[container_id], volumes=volumes)
        task = core.running(container_id)
        if task is not None:
            end = core.ends[container_id]
            self._end(container_id, task)
            await asyncio.shield(end)
        elif not starting:
            core.background(self._runs.clean(record, name))
