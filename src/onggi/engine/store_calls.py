"""The image store's health: what it takes, what can go, and whether it is whole."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Sequence

from onggi.engine.api.answers import (
    FindingRow,
    ImageUsageRow,
    Progress,
    PruneAnswer,
    UsageDetails,
    UsageRow,
    VolumeUsageRow,
)
from onggi.engine.api.requests import FsckRequest, Nothing, PruneRequest
from onggi.engine.core import Core
from onggi.engine.prune_filters import parse_prune_filters
from onggi.engine.watching import watch
from onggi.errors import EngineError
from onggi.image.discard import discard
from onggi.image.fsck import Damage, check
from onggi.image.images import Image
from onggi.image.progress import Report
from onggi.image.prune import enforce_limit, prune
from onggi.image.reference import Reference
from onggi.image.repair import repair
from onggi.image.usage import disk_usage, take_inventory

log = logging.getLogger("onggi.engine")

#: How long a collection that met somebody who brings content in waits before it tries again.
COLLECT_AGAIN_S = 1.0


class StoreCalls:
    """The image store of one engine."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def usage(self, _request: Nothing, _fds: list[int]) -> tuple[UsageRow, ...]:
        """What everything takes on disk, to the byte. Source: docker-system-df(1)."""
        core = self._core
        in_use, users = core.layers_in_use(), core.images_in_use()
        found = await asyncio.to_thread(disk_usage, core.images, in_use=in_use, users=users)
        running = {r.id for r in core.records.containers.values() if core.running(r.id)}
        stopped = sum(size for key, size in found.uppers.items() if key not in running)
        volumes = await asyncio.to_thread(_volume_bytes, core)
        mounted = core.volumes_in_use()
        idle = sum(size for name, size in volumes.items() if name not in mounted)
        other = found.partial_bytes + found.other_bytes - found.notes_bytes
        return (
            UsageRow(
                kind="Images",
                count=len(found.images),
                active=sum(image.in_use for image in found.images),
                size_bytes=found.blobs_bytes + found.layers_bytes + found.notes_bytes,
                reclaimable_bytes=found.reclaimable_bytes,
            ),
            UsageRow(
                kind="Containers",
                count=len(core.records.containers),
                active=len(running),
                size_bytes=found.uppers_bytes,
                reclaimable_bytes=stopped,
            ),
            UsageRow(
                kind="Local Volumes",
                count=len(volumes),
                active=len(mounted & set(volumes)),
                size_bytes=sum(volumes.values()),
                reclaimable_bytes=idle,
            ),
            UsageRow(kind="Store", count=0, active=0, size_bytes=other, reclaimable_bytes=0),
        )

    async def usage_details(self, _request: Nothing, _fds: list[int]) -> UsageDetails:
        """The same by image and by volume. Source: docker-system-df(1), --verbose."""
        core = self._core
        users = [record.image_id for record in core.holders()]
        found = await asyncio.to_thread(disk_usage, core.images, users=frozenset(users))
        volumes = await asyncio.to_thread(_volume_bytes, core)
        mounts = [m.source for r in core.holders() for m in r.spec.mounts if m.kind == "volume"]
        images = {image.target.digest: image for image in core.images.list()}
        return UsageDetails(
            images=tuple(
                ImageUsageRow(
                    id=image.id,
                    names=tuple(Reference.parse(name).familiar() for name in one.names),
                    created=image.created or "",
                    shared_bytes=one.shared_bytes,
                    unique_bytes=one.unique_bytes,
                    containers=users.count(image.id),
                )
                for one in found.images
                if (image := images.get(one.target)) is not None
            ),
            volumes=tuple(
                VolumeUsageRow(name=name, containers=mounts.count(name), size_bytes=size)
                for name, size in volumes.items()
            ),
        )

    async def prune(self, request: PruneRequest, _fds: list[int]) -> PruneAnswer:
        """Remove images that no container uses. Source: docker-image-prune(1)."""
        core = self._core
        filters = parse_prune_filters(request.filters)
        gone = await asyncio.to_thread(
            prune,
            core.images,
            in_use=core.layers_in_use(),
            users=core.images_in_use(),
            every=request.every,
            filters=filters,
        )
        core.events.publish("image", "prune", "", reclaimed=str(gone.freed_bytes))
        return PruneAnswer(
            untagged=gone.untagged,
            deleted=tuple(dict.fromkeys((*gone.images, *gone.blobs, *gone.layers))),
            freed_bytes=gone.freed_bytes,
        )

    async def fsck(
        self, request: FsckRequest, _fds: list[int]
    ) -> AsyncIterator[Progress | FindingRow]:
        """Compare the whole store with its digests; with `repair`, mend what can be mended."""
        core = self._core
        found: list[FindingRow] = []

        def work(report: Report) -> None:
            in_use = core.layers_in_use()
            if request.repair:
                for done in repair(core.images, in_use=in_use, report=report):
                    found.append(
                        _row(done.damage, done.done + (f" — {done.hint}" if done.hint else ""))
                    )
                return
            deep = not request.shallow
            for damage in check(core.images, deep=deep, in_use=in_use, report=report):
                found.append(_row(damage))

        async for progress in watch(work):
            yield progress
        for row in found:
            yield row


async def settle(core: Core, arrived: Sequence[Image]) -> None:
    """What the settings want after images came in: blobs dropped, the store within its limit.

    What has just come stays: somebody wants it.
    """
    settings = core.images.settings
    try:
        if settings.discard_blobs:
            for image in arrived:
                await asyncio.to_thread(discard, core.images, image)
        if settings.store_limit_bytes:
            await _keep_below(core, settings.store_limit_bytes, arrived)
    except EngineError as error:
        log.warning("settling the image store: %s", error)


async def collect_later(core: Core) -> None:
    """Delete what nothing needs as soon as nobody brings content in; who stops leaves it to the
    next collection."""
    try:
        while not core.stopping.is_set():
            await asyncio.sleep(COLLECT_AGAIN_S)
            in_use = core.layers_in_use()
            if not (await asyncio.to_thread(core.images.collect, in_use=in_use)).deferred:
                return
    except EngineError as error:
        log.warning("collecting what a removed image leaves: %s", error)


async def _keep_below(core: Core, limit_bytes: int, arrived: Sequence[Image]) -> None:
    gone = await asyncio.to_thread(
        enforce_limit,
        core.images,
        limit_bytes,
        in_use=core.layers_in_use(),
        users=core.images_in_use().union(image.id for image in arrived),
    )
    for name in gone.untagged:
        core.events.publish("image", "untag", "", name=name, reason="store limit")


def _row(damage: Damage, repaired: str = "") -> FindingRow:
    return FindingRow(
        severity="note" if damage.harmless else "error",
        place=f"{damage.kind} {damage.what}",
        message=damage.why,
        section=", ".join(damage.images),
        repaired=repaired,
    )


def _volume_bytes(core: Core) -> dict[str, int]:
    """Bytes on disk by volume; what is beside them is on its way out."""
    root = core.places.volumes
    there = sorted(core.records.volumes.keys() & os.listdir(root))
    return {name: sum(take_inventory(f"{root}/{name}").totals.values()) for name in there}
