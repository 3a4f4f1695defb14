"""Live changes of a running container's networks: one more, or one less.

The record says first what will be, so that a crash in between is finished by the next start of the
container; a change that fails puts the record back.
"""

from __future__ import annotations

import asyncio
import os

import msgspec

from onggi.engine.core import Core
from onggi.engine.fabric import plug, unplug
from onggi.engine.records import ContainerRecord, EndpointRecord
from onggi.engine.tasks import Task
from onggi.errors import FailedPrecondition
from onggi.kernel.descriptors import Descriptor


async def join(
    core: Core, record: ContainerRecord, place: EndpointRecord, task: Task | None
) -> None:
    """Add a place to a container whose lock is held; `task` None: it takes it at its next start.

    Raises:
        EngineError: the network is full, or the kernel refuses; nothing is changed then.
    """
    if task is None:
        _store(core, record, (*record.endpoints, place))
        return
    try:
        place = core.endpoints.lease_place(place, record.id)
        changed = _store(core, record, (*record.endpoints, place))
        await _connect(core, changed, place, task)
    except BaseException:
        core.endpoints.give_back(record.id, (place,), forever=True)
        _store(core, record, record.endpoints)
        raise
    core.endpoints.name(changed, place)
    if core.endpoints.way_out(record) is None:
        core.fabric.publish(core.publishing.publications(changed, changed.ports))


async def leave(
    core: Core, record: ContainerRecord, place: EndpointRecord, task: Task | None
) -> None:
    """Take a place away from a container whose lock is held."""
    rest = tuple(other for other in record.endpoints if other is not place)
    if task is None:
        core.endpoints.give_back(record.id, (place,), forever=True)
        _store(core, record, rest)
        return
    was_way_out = core.endpoints.way_out(record) is place
    if was_way_out:
        core.fabric.unpublish(core.publishing.publications(record, record.ports))
    core.fabric.zones.remove_endpoint(place.network_id, record.id)
    await asyncio.to_thread(unplug, [core.fabric.link_name(record.id, place.index)])
    core.endpoints.give_back(record.id, (place,), forever=True)
    changed = _store(core, record, rest)
    way_out = core.endpoints.way_out(changed)
    if was_way_out and way_out is not None:
        await _lead_out(core, changed, way_out, task)
        core.fabric.publish(core.publishing.publications(changed, changed.ports))


def _store(
    core: Core, record: ContainerRecord, places: tuple[EndpointRecord, ...]
) -> ContainerRecord:
    current = core.records.containers[record.id]
    changed = msgspec.structs.replace(current, endpoints=places)
    core.records.update_container(changed)
    return changed


async def _connect(core: Core, record: ContainerRecord, place: EndpointRecord, task: Task) -> None:
    index = core.fabric.ensure(core.records.networks[place.network_id])
    attachment = core.endpoints.attachments(record)[-1]
    with _namespace(record, task) as netns_fd:
        await asyncio.to_thread(plug, netns_fd, attachment, index)


async def _lead_out(core: Core, record: ContainerRecord, place: EndpointRecord, task: Task) -> None:
    from onggi.network.attach import set_default_routes  # noqa: PLC0415

    attachment = core.endpoints.attachments(record)[record.endpoints.index(place)]
    with _namespace(record, task) as netns_fd:
        await asyncio.to_thread(set_default_routes, netns_fd, attachment)


def _namespace(record: ContainerRecord, task: Task) -> Descriptor:
    """The container's network namespace.

    Raises:
        FailedPrecondition: it has just ended.
    """
    ended = FailedPrecondition(f"container {record.name} has just ended")
    try:
        namespace = Descriptor(os.open(f"/proc/{task.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        raise ended from None
    # Alive now, so the process opened above was it and no other with a recycled id.
    if not task.signal(0):
        namespace.close()
        raise ended
    return namespace
