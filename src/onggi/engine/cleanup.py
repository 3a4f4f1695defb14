"""Taking away what a run leaves, off the path that a user waits on.

Order: processes, cgroup, monitor's directory, ports and places in networks, id range; for a removed
container also snapshot, anonymous volumes, its directory, and last its record, so that a crash in
between is finished by the next engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import shutil

import msgspec

from onggi.engine.core import Core
from onggi.engine.records import ContainerRecord
from onggi.errors import EngineError

log = logging.getLogger(__name__)
_ROUNDS = 200


async def clean_run(core: Core, record: ContainerRecord) -> None:
    """Take away what one run left: cgroup, monitor's directory, id range."""
    await remove_cgroup(core, record.id)
    remove_task_directory(core.places.task(record.id))
    current = core.records.containers.get(record.id, record)
    core.publishing.close(current)
    await core.endpoints.release(current, forever=current.state == "removing")
    core.ranges.give_back(record.id)


def begin_removal(core: Core, record: ContainerRecord, *, volumes: bool = True) -> ContainerRecord:
    """The record that says `removing`, stored. Names are free from here on: the container's, and
    with `volumes` those of its anonymous volumes, unless another container uses one."""
    record = msgspec.structs.replace(
        record, state="removing", name="", former_name=record.name or record.former_name, volumes=()
    )
    made = core.records.containers[record.id].volumes
    if volumes:
        used = core.volumes_in_use(but=record.id)
        record = msgspec.structs.replace(record, volumes=tuple(v for v in made if v not in used))
    for name in made:
        if name not in record.volumes:
            core.records.leave_volume(name)
    core.records.update_container(record)
    for name in record.volumes:
        core.records.delete_volume(name)
        core.events.publish("volume", "destroy", name)
    return record


async def clean_container(core: Core, record: ContainerRecord) -> None:
    """Take away everything of a container whose record says `removing`, then the record."""
    await clean_run(core, record)
    await asyncio.to_thread(_remove_files, core, record)
    for name in record.volumes:
        with contextlib.suppress(FileNotFoundError):
            core.removed_volumes.take(f"{core.places.volumes}/{name}")
        core.records.delete_volume(name)
    if record.volumes:
        await asyncio.to_thread(core.removed_volumes.sweep)
    core.records.delete_container(record.id)
    core.locks.pop(record.id, None)
    core.gone.setdefault(record.id, asyncio.Event()).set()
    core.gone.pop(record.id, None)


def _remove_files(core: Core, record: ContainerRecord) -> None:
    snapshots = core.images.snapshots
    if os.path.lexists(snapshots.upper_path(record.id)):
        snapshots.remove(record.id)()
    else:
        snapshots.empty_trash()  # an earlier try may have come so far
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(core.places.container(record.id))


async def remove_cgroup(core: Core, container_id: str) -> None:
    """Kill what is left in the cgroup and remove it; tries for some seconds."""
    cgroup = core.cgroup(container_id)
    for attempt in range(_ROUNDS):
        try:
            if cgroup.remove():
                return
            cgroup.kill()
        except EngineError as error:
            log.warning("cgroup of %s: %s", container_id[:12], error)
        await asyncio.sleep(min(0.001 * (attempt + 1), 0.05))
    log.error("the cgroup of %s cannot be removed: processes in it do not end", container_id[:12])


def remove_task_directory(path: str) -> None:
    """Remove a monitor's directory; one that is not there is no error.

    A monitor that is about to end may write its record meanwhile; that goes too.
    """
    for _ in range(_ROUNDS):
        try:
            _remove_entries(path)
            os.rmdir(path)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise


def _remove_entries(path: str) -> None:
    for name in os.listdir(path):
        child = f"{path}/{name}"
        if os.path.isdir(child) and not os.path.islink(child):
            remove_task_directory(child)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(child)
