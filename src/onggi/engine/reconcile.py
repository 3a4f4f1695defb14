"""After a start: compare the records with the kernel, and make them agree again.

Each record that says something about a process is checked against its monitor; what nobody has a
record of is taken away. Nothing is guessed: an exit that nobody saw is unknown.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import msgspec

from onggi.engine.api.answers import ExitStatus
from onggi.engine.cleanup import begin_removal, remove_cgroup, remove_task_directory
from onggi.engine.core import Core
from onggi.engine.fabric import unplug
from onggi.engine.prepare import EXIT_RECORD
from onggi.engine.records import LIVING, ContainerRecord
from onggi.engine.runs import Runs
from onggi.engine.tasks import Task
from onggi.engine.volumes import finish_volumes
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
                with suppress(EngineError):
                    core.cgroup(record.id).thaw()
            else:
                core.background(runs.clean(record, record.former_name))
        elif record.state in LIVING:
            await _settle(core, runs, record, boot)
        elif record.state == "exited" and record.spec.auto_remove:  # a restart was broken off
            runs.leave(begin_removal(core, record), record.name)
    with _told("networks"):
        await _restore_networks(core)
    await _remove_strangers(core)


async def _restore_networks(core: Core) -> None:
    """Bridges, rules and names of the containers that run on; what nobody uses goes."""
    if not core.fabric.used:
        return
    living = [r for r in core.records.containers.values() if r.id in core.tasks and r.endpoints]
    networks = core.records.networks
    if not living:
        core.fabric.remove_all(networks.values())
    ids = {place.network_id for record in living for place in record.endpoints}
    publications = [p for record in living for p in core.publishing.keep(record)]
    core.fabric.restore([networks[i] for i in ids if i in networks], publications)
    for record in living:
        for place in record.endpoints:
            core.endpoints.name(record, place)
        core.endpoints.answer(record, core.tasks[record.id].take_sockets())
    known = {n.bridge for n in networks.values()} | {
        core.fabric.link_name(record.id, place.index)
        for record in living
        for place in record.endpoints
    }
    for name in core.fabric.strangers(frozenset(known)):
        log.warning("link %s has no container: it is removed", name)
        await asyncio.to_thread(unplug, [name])


async def _settle(core: Core, runs: Runs, record: ContainerRecord, boot: str) -> None:
    starting = record.state == "starting"
    if not starting and await _alive(core, runs, record, boot):
        return
    event = await _exit_record(core, record, boot)
    if starting and event is None:
        _undo_start(core, runs, record)
    else:
        runs.ended(record.id, event)


def _undo_start(core: Core, runs: Runs, record: ContainerRecord) -> None:
    """Nobody was told that it runs, and its record is not complete: it has not been started."""
    undone = msgspec.structs.replace(record, state="created", id_base=None)
    if record.started_ns:  # an earlier run has ended; its policy holds for this start too
        interrupted = ExitStatus(code=125, explanation="its start was broken off with the engine")
        undone = msgspec.structs.replace(undone, state="exited", exit=interrupted)
    core.records.update_container(undone)
    if record.spec.auto_remove:
        undone = begin_removal(core, undone)
    runs.leave(undone, record.name)


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
    _hold_still(core, record)
    runs.adopt(record.id, task)
    return True


def _hold_still(core: Core, record: ContainerRecord) -> None:
    """What its record calls paused stands still, all else goes on: a crash may have come in
    between, or a copy of it was being made."""
    cgroup = core.cgroup(record.id)
    frozen = cgroup.frozen()
    if record.state == "paused" and not frozen:
        core.records.update_container(msgspec.structs.replace(record, state="running"))
    elif record.state == "running" and frozen:
        cgroup.thaw()


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
    """Take away what no record names, and tasks' directories and cgroups of those that ended.

    What cannot be taken away is told, and waits for the next start: an engine that does not start
    helps nobody.
    """
    known = core.records.containers
    for name in _names(core.places.tasks):
        if name not in core.tasks:
            with _told(f"task of {name[:12]}"):
                await remove_cgroup(core, name)
                remove_task_directory(f"{core.places.tasks}/{name}")
    for hierarchy in core.host.cgroups.hierarchies:
        for name in _cgroups(f"{hierarchy.mount_point}/{core.places.cgroup_parent}"):
            if name not in core.tasks:
                with _told(f"cgroup of {name[:12]}"):
                    await remove_cgroup(core, name)
    for name in _names(core.places.containers):
        if name not in known:
            with _told(f"directory of {name[:12]}"):
                await asyncio.to_thread(remove_task_directory, f"{core.places.containers}/{name}")
    in_use = frozenset(c for r in core.records.containers.values() for c in r.chain_ids)
    with _told("snapshots"):
        await asyncio.to_thread(_remove_snapshots, core, frozenset(known), in_use)
    await finish_volumes(core)


@contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except (EngineError, OSError) as error:
        log.warning("reconciling, %s: %s", what, error)


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
