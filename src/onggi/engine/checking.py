"""`system check`: what the records say against what the kernel and the disk have, said one by one.

Nothing is changed unless asked; a repair does what a start of the engine would do.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

from onggi.engine.api.changes import CheckRequest, CheckRow
from onggi.engine.cleanup import remove_cgroup, remove_task_directory
from onggi.engine.core import Core
from onggi.engine.fabric import unplug
from onggi.engine.records import LIVING
from onggi.errors import EngineError

Repair = Callable[[], Awaitable[None]]
#: A difference, and what makes it go; None: only a start of the container, or a person, can.
Found = tuple[CheckRow, Repair | None]


class Checking:
    """Comparisons of one engine."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def check(self, request: CheckRequest, _fds: list[int]) -> AsyncIterator[CheckRow]:
        """Every difference, and with `repair` whether it is gone. None: all is as it should be."""
        for look in (self._processes, self._cgroups, self._directories, self._links, self._rules):
            for row, repair in list(look()):
                yield await self._told(row, repair if request.repair else None)

    async def _told(self, row: CheckRow, repair: Repair | None) -> CheckRow:
        if repair is None:
            return row
        try:
            await repair()
        except (EngineError, OSError) as error:
            return CheckRow(row.kind, row.subject, f"{row.what}; not repaired: {error}")
        return CheckRow(row.kind, row.subject, row.what, repaired=True)

    def _busy(self, container_id: str) -> bool:
        """Whether a start, an end or a removal of it is under way, so that it may differ."""
        lock = self._core.locks.get(container_id)
        record = self._core.records.containers.get(container_id)
        moving = record is not None and record.state in ("starting", "removing")
        return moving or (lock is not None and lock.locked())

    def _processes(self) -> Iterator[Found]:
        core = self._core
        for record in list(core.records.containers.values()):
            if self._busy(record.id):
                continue
            task = core.tasks.get(record.id)
            if record.state in LIVING and task is None:
                yield (
                    CheckRow("process", record.name, "runs by its record, and has no monitor"),
                    None,
                )
            elif record.state not in LIVING and task is not None:
                yield CheckRow("process", record.name, "has ended by its record, and runs"), None
            elif task is not None and not os.path.exists(f"/proc/{task.pid}"):
                yield CheckRow("process", record.name, f"its process {task.pid} is gone"), None

    def _cgroups(self) -> Iterator[Found]:
        core = self._core
        seen = set()
        for hierarchy in core.host.cgroups.hierarchies:
            parent = f"{hierarchy.mount_point}/{core.places.cgroup_parent}"
            names = _names(parent)
            seen |= {name for name in names if os.path.isdir(f"{parent}/{name}")}
        for name in sorted(seen):
            if name not in core.tasks and not self._busy(name):
                yield (
                    CheckRow("cgroup", name[:12], "belongs to nothing that runs"),
                    _calling(remove_cgroup, core, name),
                )

    def _directories(self) -> Iterator[Found]:
        core = self._core
        for name in _names(core.places.tasks):
            if name not in core.tasks and not self._busy(name):
                path = f"{core.places.tasks}/{name}"
                row = CheckRow("directory", path, "is a monitor's that is gone")
                yield row, _in_thread(remove_task_directory, path)
        for name in _names(core.places.containers):
            if name not in core.records.containers:
                path = f"{core.places.containers}/{name}"
                row = CheckRow("directory", path, "belongs to no container")
                yield row, _in_thread(remove_task_directory, path)
        for name in core.images.snapshots.list():
            if name not in core.records.containers:
                row = CheckRow("snapshot", name[:12], "belongs to no container")
                yield row, _in_thread(core.images.snapshots.remove(name))

    def _links(self) -> Iterator[Found]:
        core = self._core
        if not core.fabric.used:
            return
        living = [r for r in core.records.containers.values() if r.id in core.tasks]
        mine = {core.fabric.link_name(r.id, p.index) for r in living for p in r.endpoints}
        bridges = {network.bridge for network in core.records.networks.values()}
        for name in core.fabric.strangers(frozenset(mine | bridges)):
            row = CheckRow("link", name, "belongs to no container and no network")
            yield row, _in_thread(unplug, [name])

    def _rules(self) -> Iterator[Found]:
        async def install() -> None:
            self._core.fabric.put_back()

        for text in self._core.fabric.differences():
            yield CheckRow("rule", "nftables", text), install


def _calling(call: Callable[..., Awaitable[None]], *arguments: object) -> Repair:
    async def repair() -> None:
        await call(*arguments)

    return repair


def _in_thread(call: Callable[..., object], *arguments: object) -> Repair:
    async def repair() -> None:
        await asyncio.to_thread(call, *arguments)

    return repair


def _names(directory: str) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return sorted(os.listdir(directory))
    return []
