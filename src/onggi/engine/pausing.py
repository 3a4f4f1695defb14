"""Standing still and going on: pause and unpause.

The record says whether somebody wants it: after a crash `reconcile` makes the freezer follow.
Source: docker-pause(1), Documentation/admin-guide/cgroup-v2.rst "cgroup.freeze".
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec

from onggi.engine.api.requests import Nothing, Target
from onggi.engine.core import Core
from onggi.errors import Conflict, FailedPrecondition, NotFound


class Pausing:
    """Pauses of one engine's containers."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def pause(self, request: Target, _fds: list[int]) -> Nothing:
        """Stop every process of a container where it is; on return all stand still.

        Raises:
            FailedPrecondition: it does not run, or stands still already. Conflict: it ends.
            Unavailable: a process did not stop in time; all go on.
            Unsupported: the host has no freezer.
        """
        core = self._core
        record = core.records.find_container(request.target)
        async with core.lock(record.id):
            record = core.records.find_container(record.id)
            if core.running(record.id) is None:
                raise FailedPrecondition(
                    f"container {record.name} does not run",
                    hint=f"start it with onggi start {record.name}",
                )
            if record.state == "paused":
                raise FailedPrecondition(f"container {record.name} is paused already")
            # Before its processes are: a check that stands still would count as failed.
            core.health.pause(record.id)
            try:
                await asyncio.to_thread(core.cgroup(record.id).freeze)
            except BaseException:
                core.health.resume(record.id)
                raise
            if core.records.containers.get(record.id) != record:
                # It ended, or somebody wants it to: a frozen one could not.
                with contextlib.suppress(NotFound):
                    core.cgroup(record.id).thaw()
                raise Conflict(f"container {record.name} was about to end, and is not paused")
            core.records.update_container(msgspec.structs.replace(record, state="paused"))
        core.tell(record, "pause")
        return Nothing()

    async def unpause(self, request: Target, _fds: list[int]) -> Nothing:
        """Let a paused container go on.

        Raises:
            FailedPrecondition: it is not paused.
        """
        core = self._core
        record = core.records.find_container(request.target)
        async with core.lock(record.id):
            record = core.records.find_container(record.id)
            if record.state != "paused":
                raise FailedPrecondition(f"container {record.name} is not paused")
            thaw(core, record.id)
        return Nothing()


@contextlib.asynccontextmanager
async def standing_still(core: Core, container_id: str) -> AsyncIterator[None]:
    """A container's processes stand still within; one that does not run, or is paused, is left.

    The record says nothing of it: should the engine end within, its successor lets them go on.

    Raises:
        Unavailable: a process did not stop in time. Unsupported: the host has no freezer.
    """
    async with core.lock(container_id):
        record = core.records.find_container(container_id)
        if record.state != "running" or core.running(container_id) is None:
            yield
            return
        cgroup = core.cgroup(container_id)
        core.health.pause(container_id)
        try:
            await asyncio.to_thread(cgroup.freeze)
            try:
                yield
            finally:
                with contextlib.suppress(NotFound):  # it has just ended
                    cgroup.thaw()
        finally:
            core.health.resume(container_id)


def thaw(core: Core, container_id: str) -> None:
    """Let a paused container go on, and tell; one that is not paused is left as it is."""
    record = core.records.containers.get(container_id)
    if record is None or record.state != "paused":
        return
    with contextlib.suppress(NotFound):  # it has just ended
        core.cgroup(container_id).thaw()
    core.records.update_container(msgspec.structs.replace(record, state="running"))
    core.health.resume(container_id)
    core.tell(record, "unpause")
