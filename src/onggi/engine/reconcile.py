"""After a start: compare the records with the kernel, and make them agree again.

Each record that says something about a process is checked against its monitor; what nobody has a
record of is taken away. Nothing is guessed: an exit that nobody saw is unknown.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from contextlib import suppress

import msgspec

from onggi.engine.cleanup import clean_container, clean_run, remove_cgroup, remove_task_directory
from onggi.engine.core import Core
from onggi.engine.prepare import EXIT_RECORD
from onggi.engine.records import ContainerRecord
from onggi.engine.runs import Runs
from onggi.engine.tasks import Task
from onggi.errors import EngineError
from onggi.sandbox.messages import Exited, Started
from onggi.sandbox.monitor import Monitor
from onggi.sandbox.records import read_exit_record

log = logging.getLogger(__name__)
_ANSWER_S = 5.0


async def reconcile(core: Core, runs: Runs) -> None:
    """Bring every record up to date and remove what has none. Runs before the first request."""
    boot = core.boot_id
    for record in list(core.records.containers.values()):
        if record.state == "removing":
            if await _alive(core, runs, record, boot):
                core.tasks[record.id].signal(signal.SIGKILL)  # its end goes on with the removal
            else:
                core.background(clean_container(core, record))
        elif record.state in ("starting", "running", "paused"):
            await _settle(core, runs, record, boot)
    await _remove_strangers(core)


async def _settle(core: Core, runs: Runs, record: ContainerRecord, boot: str) -> None:
    starting = record.state == "starting"
    if not starting and await _alive(core, runs, record, boot):
        return
    event = await _exit_record(core, record, boot)
    if starting and event is None:
        await _undo_start(core, record)
    else:
        runs.ended(record.id, event)


async def _undo_start(core: Core, record: ContainerRecord) -> None:
    """Nobody was told that it runs, and its record is not complete: it has not been started."""
    await clean_run(core, record)
    gone = record.spec.auto_remove
    undone = msgspec.structs.replace(
        record,
        state="removing" if gone else "created",
        name="" if gone else record.name,
        id_base=None,
    )
    core.records.update_container(undone)
    if gone:
        core.background(clean_container(core, undone))


async def _alive(core: Core, runs: Runs, record: ContainerRecord, boot: str) -> bool:
    """Take over the container's monitor, if there is one that answers."""
    if record.boot_id != boot:
        return False
    try:
        run_dirfd = os.open(core.places.task(record.id), os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        return False
    try:
        monitor = Monitor.connect(run_dirfd)
    except EngineError:
        return False
    finally:
        os.close(run_dirfd)
    task = Task(monitor, core.loop)
    with suppress(EngineError):  # it has just ended: the socket closes, which says so
        monitor.request_info()
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(task.started), _ANSWER_S)
    answered = task.started.done() and isinstance(task.started.result(), Started)
    if not answered:
        task.detach()
        return False
    if record.id_base is not None:
        core.ranges.keep(record.id, record.id_base)
    runs.adopt(record.id, task)
    return True


async def _exit_record(core: Core, record: ContainerRecord, boot: str) -> Exited | None:
    """What the monitor wrote before it ended; None: unknown."""
    if record.boot_id != boot:
        return None
    try:
        run_dirfd = os.open(core.places.task(record.id), os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        written = read_exit_record(run_dirfd, EXIT_RECORD)
    except EngineError as error:
        log.warning("exit record of %s: %s", record.id[:12], error)
        return None
    finally:
        os.close(run_dirfd)
    if written is None:
        return None
    return Exited(
        code=written.code,
        signal=written.signal,
        core_dumped=bool(written.core),
        realtime_ns=written.exited_ns,
        runtime_ns=written.runtime_ns,
    )


async def _remove_strangers(core: Core) -> None:
    """Take away what no record names, and tasks' directories and cgroups of those that ended."""
    known = core.records.containers
    for name in _names(core.places.tasks):
        if name not in core.tasks:
            await remove_cgroup(core, name)
            remove_task_directory(f"{core.places.tasks}/{name}")
    for hierarchy in core.host.cgroups.hierarchies:
        for name in _cgroups(f"{hierarchy.mount_point}/{core.places.cgroup_parent}"):
            if name not in core.tasks:
                await remove_cgroup(core, name)
    for name in _names(core.places.containers):
        if name not in known:
            await asyncio.to_thread(remove_task_directory, f"{core.places.containers}/{name}")
    in_use = frozenset(c for r in core.records.containers.values() for c in r.chain_ids)
    await asyncio.to_thread(_remove_snapshots, core, frozenset(known), in_use)
    for name in _names(core.places.volumes):
        if name not in core.records.volumes:
            log.warning("volume directory %s has no record; it is kept", name)


def _remove_snapshots(core: Core, known: frozenset[str], in_use: frozenset[str]) -> None:
    snapshots = core.images.snapshots
    for key in snapshots.list():
        if key not in known:
            snapshots.remove(key)()
    snapshots.sweep(in_use)


def _cgroups(parent: str) -> list[str]:
    """Names of the cgroups in one of ours: its directories."""
    return [name for name in _names(parent) if os.path.isdir(f"{parent}/{name}")]


def _names(directory: str) -> list[str]:
    with suppress(FileNotFoundError):
        return os.listdir(directory)
    return []
