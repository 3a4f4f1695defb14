"""`container prune`: every container that does not run goes. Source: docker-container-prune(1)."""

from __future__ import annotations

import asyncio

from onggi.engine.api.changes import SweepAnswer, SweepRequest
from onggi.engine.api.requests import RemoveRequest
from onggi.engine.containers import Containers
from onggi.engine.core import Core
from onggi.engine.prune_filters import parse_prune_filters
from onggi.engine.records import ContainerRecord
from onggi.errors import FailedPrecondition, NotFound

_KEYS = ("until", "label", "label!")


class Sweeping:
    """Removal of containers that have ended; each removal is an ordinary one."""

    def __init__(self, core: Core, containers: Containers) -> None:
        self._core = core
        self._containers = containers

    async def containers(self, request: SweepRequest, _fds: list[int]) -> SweepAnswer:
        """Remove those that do not run. One that is started meanwhile stays, as does what
        somebody else removes.

        Raises:
            InvalidArgument: a filter that there is not.
        """
        filters = parse_prune_filters(request.filters, _KEYS)
        records = self._core.records.containers
        gone = [
            record
            for record in records.values()
            if self._idle(record) and filters.accept(record.created_ns, record.spec.labels)
        ]
        sizes = await asyncio.to_thread(lambda: [self._size(record) for record in gone])
        removed, freed_bytes = [], 0
        for record, size_bytes in zip(gone, sizes, strict=True):
            if not self._idle(records.get(record.id, record)):
                continue
            try:
                await self._containers.remove(RemoveRequest(target=record.id), [])
            except (FailedPrecondition, NotFound):
                continue
            removed.append(record.id)
            freed_bytes += size_bytes
        self._core.events.publish("container", "prune", "", reclaimed=str(freed_bytes))
        return SweepAnswer(removed=tuple(removed), freed_bytes=freed_bytes)

    def _size(self, record: ContainerRecord) -> int:
        try:
            return self._core.images.snapshots.usage(record.id).size_bytes
        except NotFound:
            return 0

    def _idle(self, record: ContainerRecord) -> bool:
        """It has ended, or never ran, and no policy is about to start it again."""
        ended = bool(record.name) and record.state in ("created", "exited")
        return ended and not self._core.restarts.waits(record.id)
