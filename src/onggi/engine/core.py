"""What the rooms of the engine share: one value each of layout, host, records, images, tasks."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Coroutine, Iterator
from typing import TYPE_CHECKING, Any

from onggi.engine.api.answers import ExitStatus
from onggi.engine.endpoints import Endpoints
from onggi.engine.events import Events
from onggi.engine.fabric import Fabric
from onggi.engine.idranges import IdRanges
from onggi.engine.layout import Layout
from onggi.engine.places import Places
from onggi.engine.publishing import Publishing
from onggi.engine.records import ContainerRecord, Records
from onggi.engine.settings import Settings
from onggi.engine.tasks import Task
from onggi.errors import Unavailable
from onggi.image.images import ImageStore
from onggi.image.trash import Trash
from onggi.kernel.cgroups.driver import Cgroup
from onggi.kernel.processes import boot_id
from onggi.runtime.host import HostFacts
from onggi.sandbox.keel import Keel

if TYPE_CHECKING:
    from onggi.engine.health import Health
    from onggi.engine.restarts import Restarts


class Core:
    """Owned by the engine; rooms hold a reference and no copies of what is in it.

    `tasks`: session id (a container's or an exec's) → its live task. `ends`: container id → the
    future of how its present run ends. `gone`: container id → set when nothing of it is left.
    `claims`: layers of containers in the making, see `claimed`.
    """

    def __init__(
        self,
        layout: Layout,
        host: HostFacts,
        records: Records,
        images: ImageStore,
        keel: Keel,
        settings: Settings = Settings(),  # noqa: B008 - a frozen value
    ) -> None:
        self.layout = layout
        self.places = Places(layout)
        self.host = host
        self.records = records
        self.images = images
        self.keel = keel
        self.events = Events()
        #: Where volumes go at once that are removed, until they are deleted.
        self.removed_volumes = Trash(self.places.removed_volumes)
        self.ranges = IdRanges(host.uid_pool, layout.instance)
        self.loop = asyncio.get_running_loop()
        self.started_ns = time.time_ns()
        self.boot_id = boot_id()
        self.tasks: dict[str, Task] = {}
        self.ends: dict[str, asyncio.Future[ExitStatus]] = {}
        self.gone: dict[str, asyncio.Event] = {}
        self.locks: dict[str, asyncio.Lock] = {}
        self.claims: dict[object, tuple[str, ...]] = {}
        self.stopping = asyncio.Event()
        self.settings = settings
        self.fabric = Fabric(layout, self.loop)
        self.endpoints = Endpoints(records, self.fabric)
        self.publishing = Publishing(records, self.fabric, self.endpoints)
        #: Set by the engine, which knows what they act on.
        self.restarts: Restarts
        self.health: Health
        self._background: set[asyncio.Task[None]] = set()

    def cgroup(self, container_id: str) -> Cgroup:
        """The container's cgroup, whether it exists or not."""
        return Cgroup(self.host.cgroups, self.places.cgroup(container_id))

    def lock(self, container_id: str) -> asyncio.Lock:
        """One change of one container at a time."""
        return self.locks.setdefault(container_id, asyncio.Lock())

    def running(self, container_id: str) -> Task | None:
        """The container's live task; None when it does not run."""
        return self.tasks.get(container_id)

    def holders(self) -> list[ContainerRecord]:
        """The containers that hold images and volumes: all but those that are only being removed.

        A command that follows a `run --rm` must find free what that has used.
        """
        return [
            record
            for record in list(self.records.containers.values())
            if record.state != "removing" or record.id in self.tasks
        ]

    def layers_in_use(self) -> Collection[str]:
        """Chain ids of the containers' layers, as they are whenever it is looked at. From any
        thread: who deletes looks after the images' names are gone, so that no container can come.
        """
        return _LayersInUse(self)

    @contextlib.contextmanager
    def claimed(self, chain_ids: tuple[str, ...]) -> Iterator[None]:
        """Layers that a container is made of whose record is not there yet count as in use."""
        key = object()
        self.claims[key] = chain_ids
        try:
            yield
        finally:
            del self.claims[key]

    def images_in_use(self) -> frozenset[str]:
        """Ids of the containers' images. From any thread."""
        return frozenset(record.image_id for record in self.holders())

    def volume_path(self, name: str) -> str:
        """Where a volume's files are."""
        record = self.records.volumes.get(name)
        return (record and record.options.get("device")) or self.places.volume(name)

    def volumes_in_use(self, but: str = "") -> frozenset[str]:
        """Names of the volumes that containers mount; `but`: the id of one that does not count."""
        holders = (record for record in self.holders() if record.id != but)
        mounts = (mount for record in holders for mount in record.spec.mounts)
        return frozenset(mount.source for mount in mounts if mount.kind == "volume")

    def tell(self, record: ContainerRecord, action: str, **facts: str) -> None:
        """Publish what happened to a container, with its name, image and labels beside."""
        name = record.name or record.former_name
        facts = {"name": name, "image": record.spec.image, **facts}
        self.events.publish("container", action, record.id, record.spec.labels, **facts)

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something off the path that a user waits on; `drain` waits for it."""
        task = self.loop.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def drain(self) -> None:
        """Wait for all background work."""
        while self._background:
            await asyncio.wait(self._background)

    def check_open(self) -> None:
        """Raises: Unavailable: the engine is stopping."""
        if self.stopping.is_set():
            raise Unavailable("the engine is stopping", hint="run the command again")


class _LayersInUse(Collection[str]):
    """Always as of now: who deletes may have waited since it was asked for."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def _now(self) -> frozenset[str]:
        claims = [*self._core.claims.values()]  # first: a claim goes when its record is there
        held = [record.chain_ids for record in self._core.holders()]
        return frozenset(chain for chain_ids in (*claims, *held) for chain in chain_ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self._now())

    def __len__(self) -> int:
        return len(self._now())

    def __contains__(self, chain_id: object) -> bool:
        return chain_id in self._now()
