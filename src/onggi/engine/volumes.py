"""Named and anonymous volumes: directories that outlive containers.

Source: docker-volume(1). A volume belongs to nobody until a container uses it; owners on disk are
those that the container sees (idmapped mounts).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from onggi.engine.api.answers import VolumeSummary
from onggi.engine.api.changes import SweepAnswer, SweepRequest
from onggi.engine.api.requests import (
    ListRequest,
    Nothing,
    Target,
    VolumeCreateRequest,
    VolumeRemoveRequest,
)
from onggi.engine.api.spec import ContainerSpec, MountSpec, VolumesFrom
from onggi.engine.core import Core
from onggi.engine.filters import Filters
from onggi.engine.names import check_name, new_id
from onggi.engine.records import VolumeRecord
from onggi.engine.volume_content import drop_filling, is_empty
from onggi.engine.volume_options import as_mounted, check_options
from onggi.errors import Conflict, EngineError, InvalidArgument, NotFound, from_os_error
from onggi.image.trees import measure
from onggi.specs.image import ContainerConfig

log = logging.getLogger(__name__)


class Volumes:
    """Volumes of one engine; each public coroutine is a call of `engine.api`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def create(self, request: VolumeCreateRequest, _fds: list[int]) -> VolumeSummary:
        """Make a volume; one that exists is answered as it is, as docker does.

        Raises:
            Conflict: it exists, with other options.
        """
        return self._summary(self._named(request.name, request.labels, request.options))

    def _named(
        self, name: str, labels: dict[str, str], options: dict[str, str], made_for: str = ""
    ) -> VolumeRecord:
        """The volume of a name, made where there is none; without a name always a new one."""
        existing = self._core.records.volumes.get(name)
        if existing is None:
            return self._make(name, labels, options, made_for)
        if options and options != existing.options:
            raise Conflict(
                f"volume {name} exists, with other options",
                hint=f"leave the options out, or make it anew: onggi volume rm {name}",
            )
        return existing

    def _make(
        self, name: str, labels: dict[str, str], options: dict[str, str], made_for: str
    ) -> VolumeRecord:
        """The record first, then the directory: a crash between leaves a volume that is empty."""
        check_options(options)
        record = VolumeRecord(
            name=check_name(name, "volume") if name else new_id(),
            created_ns=time.time_ns(),
            labels=labels,
            anonymous=not name,
            options=options,
            made_for="" if name else made_for,
        )
        name = record.name
        self._core.records.put_volume(record)
        try:
            os.makedirs(self._core.places.volume(name), mode=0o755, exist_ok=True)
        except OSError as error:
            self.discard((name,))
            raise from_os_error(error, f"making volume {name}") from None
        self._core.events.publish("volume", "create", name)
        return record

    def for_container(
        self, container_id: str, spec: ContainerSpec, image: ContainerConfig | None
    ) -> tuple[tuple[MountSpec, ...], tuple[str, ...]]:
        """The mounts with every volume named and made, and the names of anonymous ones.

        Raises:
            InvalidArgument: a target twice. NotFound: a bind's source is not there.
        """
        mounts = [msgspec.structs.replace(m, target=_plain(m.target)) for m in spec.mounts]
        asked = [mount.target for mount in mounts]
        twice = next((target for target in asked if asked.count(target) > 1), None)
        if twice is not None:
            raise InvalidArgument(f"two mounts have the target {twice}")
        of_image = map(_plain, (image and image.volumes) or {})
        further = {path: MountSpec(kind="volume", target=path) for path in of_image}
        further |= {mount.target: mount for mount in self._from_others(spec.volumes_from)}
        mounts += [mount for target, mount in further.items() if target not in asked]
        made: list[str] = []
        try:
            found = tuple(self._mount(mount, made, container_id) for mount in mounts)
        except BaseException:
            self.discard(tuple(made))
            raise
        return found, tuple(made)

    def _from_others(self, others: tuple[VolumesFrom, ...]) -> Iterator[MountSpec]:
        """Volumes and binds of other containers. Source: docker-run(1) --volumes-from."""
        for other in others:
            for mount in self._core.records.find_container(other.container).spec.mounts:
                if mount.kind != "tmpfs":
                    yield msgspec.structs.replace(
                        mount,
                        read_only=mount.read_only or other.read_only,
                        create_source=False,
                        copy_up=False,
                        chown=False,
                    )

    def _mount(self, mount: MountSpec, made: list[str], container_id: str) -> MountSpec:
        """The mount with its volume named and there; an anonymous one's name goes to `made`."""
        if mount.kind == "bind":
            self._check_bind(mount)
        if mount.kind != "volume":
            return mount
        record = self._named(mount.source, mount.labels, mount.driver_options, container_id)
        if not mount.source:
            made.append(record.name)
        return as_mounted(msgspec.structs.replace(mount, source=record.name), record.options)

    def to_fill(self, mounts: tuple[MountSpec, ...]) -> list[tuple[str, str]]:
        """(directory, target) of the volumes that begin with what the image has there."""
        return [
            (path, mount.target)
            for mount in mounts
            if mount.kind == "volume"
            and mount.copy_up
            and not mount.subpath
            and is_empty(path := self._core.places.volume(mount.source))
        ]

    def _check_bind(self, mount: MountSpec) -> None:
        if os.path.lexists(mount.source):
            return
        if not mount.create_source:
            raise NotFound(
                f"bind source does not exist: {mount.source}",
                hint="make it, or use -v, which makes a directory",
            )
        try:
            os.makedirs(mount.source, mode=0o755)
        except OSError as error:
            raise from_os_error(error, "making the bind source") from None

    def discard(self, names: tuple[str, ...]) -> None:
        """Remove anonymous volumes of a container that was not made after all."""
        for name in names:
            with contextlib.suppress(EngineError, OSError):  # the next sweep tries again
                self._core.removed_volumes.take(f"{self._core.places.volumes}/{name}")()
            self._core.records.delete_volume(name)

    async def list_volumes(
        self, request: ListRequest, _fds: list[int]
    ) -> tuple[VolumeSummary, ...]:
        """All volumes, by name."""
        filters = Filters(request.filters, ("name", "label", "dangling"))
        rows = map(self._summary, self._core.records.volumes.values())
        return tuple(
            row
            for row in sorted(rows, key=lambda row: row.name)
            if filters.accepts_part("name", row.name)
            and filters.accepts_label(row.labels)
            and filters.accepts("dangling", str(not row.containers).lower())
        )

    async def inspect(self, request: Target, _fds: list[int]) -> dict[str, Any]:
        """One volume as docker shows it."""
        row = self._summary(self._find(request.target))
        return {
            "Name": row.name,
            "Driver": "local",
            "Mountpoint": row.mountpoint,
            "CreatedAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(row.created_ns // 10**9)),
            "Labels": row.labels,
            "Options": self._find(row.name).options or None,
            "Scope": "local",
        }

    async def remove(self, request: VolumeRemoveRequest, _fds: list[int]) -> Nothing:
        """Remove a volume that no container uses.

        Raises:
            Conflict: a container uses it. NotFound: there is none.
        """
        if request.force and request.name not in self._core.records.volumes:
            return Nothing()
        row = self._summary(self._find(request.name))
        if row.containers:
            raise Conflict(
                f"volume {row.name} is used by {', '.join(row.containers)}",
                hint="remove those containers first",
            )
        await self._remove(row.name)
        self._core.events.publish("volume", "destroy", row.name)
        return Nothing()

    async def prune(self, request: SweepRequest, _fds: list[int]) -> SweepAnswer:
        """Remove the anonymous volumes that no container uses; `every`: those with names, too."""
        core = self._core
        filters = Filters(request.filters, ("label", "label!", "all"))
        every = request.every or filters.get("all") in (["1"], ["true"])
        used, removed, freed_bytes = core.volumes_in_use(), [], 0
        for record in list(core.records.volumes.values()):
            meant = (every or record.anonymous) and filters.accepts_label(record.labels)
            if record.name in used or not meant:
                continue
            path = f"{core.places.volumes}/{record.name}"
            size_bytes = await asyncio.to_thread(_size_bytes, path)
            if record.name in core.volumes_in_use():
                continue
            await self._remove(record.name)
            core.events.publish("volume", "destroy", record.name)
            removed.append(record.name)
            freed_bytes += size_bytes
        return SweepAnswer(removed=tuple(removed), freed_bytes=freed_bytes)

    async def _remove(self, name: str) -> None:
        """Gone with one rename; a crash after it is finished by the next engine.

        Raises:
            EngineError: it cannot be taken away; nothing has been done then.
        """
        core = self._core
        with contextlib.suppress(FileNotFoundError):
            try:
                core.removed_volumes.take(f"{core.places.volumes}/{name}")
            except OSError as error:
                raise from_os_error(error, f"removing volume {name}") from None
        core.records.delete_volume(name)
        try:
            await asyncio.to_thread(core.removed_volumes.sweep)
        except (EngineError, OSError) as error:
            log.warning("volume %s is removed, and not all of it deleted: %s", name, error)

    def _find(self, name: str) -> VolumeRecord:
        record = self._core.records.volumes.get(name)
        if record is None:
            raise NotFound(f"no such volume: {name}", hint="onggi volume ls lists all")
        return record

    def _summary(self, record: VolumeRecord) -> VolumeSummary:
        users = tuple(
            c.name or c.id[:12]
            for c in self._core.holders()
            if any(m.kind == "volume" and m.source == record.name for m in c.spec.mounts)
        )
        return VolumeSummary(
            name=record.name,
            mountpoint=self._core.places.volume(record.name),
            created_ns=record.created_ns,
            labels=record.labels,
            anonymous=record.anonymous,
            containers=users,
        )


async def finish_volumes(core: Core) -> None:
    """Go on where a crash broke off: volumes on their way out, half made, or made for a container
    that was not made after all. What cannot be done is logged, and waits for the next engine."""
    records = core.records
    for record in list(records.volumes.values()):
        try:
            _finish(core, record)
        except (EngineError, OSError) as error:
            log.warning("volume %s: %s", record.name, error)
    try:
        await asyncio.to_thread(core.removed_volumes.sweep)
    except (EngineError, OSError) as error:
        log.warning("removed volumes: %s", error)
    leaving = {v for r in records.containers.values() if r.state == "removing" for v in r.volumes}
    for name in os.listdir(core.places.volumes):
        if name not in records.volumes and name not in leaving and not name.startswith("."):
            log.warning("volume directory %s has no record; it is kept", name)


def _finish(core: Core, record: VolumeRecord) -> None:
    path = f"{core.places.volumes}/{record.name}"
    in_vain = record.made_for and record.made_for not in core.records.containers
    if in_vain and os.path.lexists(path):
        core.removed_volumes.take(path)
    if in_vain or (core.removed_volumes.has(path) and not os.path.lexists(path)):
        core.records.delete_volume(record.name)
        return
    os.makedirs(core.places.volume(record.name), mode=0o755, exist_ok=True)
    drop_filling(path)


def _size_bytes(path: str) -> int:
    """What a directory takes on disk; what vanishes meanwhile does not count."""
    try:
        return measure(path).size_bytes
    except EngineError:
        return 0


def _plain(target: str) -> str:
    """The target without `.`, `..` and slashes too many: one place has one name."""
    plain = os.path.normpath(target)
    return plain[1:] if plain.startswith("//") else plain
