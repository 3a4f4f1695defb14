"""Questions about containers: `ps`, `inspect`, `top`. Answers come from the records in memory."""

from __future__ import annotations

import asyncio
import os
import time
from datetime import datetime
from typing import Any

import msgspec

from onggi.engine.api.answers import ContainerSummary, TopRow
from onggi.engine.api.requests import ContainerTarget, ListRequest, Target
from onggi.engine.container_filters import parse_container_filters
from onggi.engine.core import Core
from onggi.engine.inspecting import inspect_record, state_of
from onggi.engine.network_view import network_names, port_texts
from onggi.engine.records import ContainerRecord
from onggi.errors import FailedPrecondition, NotFound
from onggi.kernel import processes
from onggi.specs.runtime import parse_config

#: Filters that ask for containers which do not run, too.
_OF_ALL = ("status", "exited")
_TICKS = os.sysconf("SC_CLK_TCK")


class Listing:
    """Container questions of one engine."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def list_containers(
        self, request: ListRequest, _fds: list[int]
    ) -> tuple[ContainerSummary, ...]:
        """Containers, newest first: the running ones, or all, or the last few."""
        core = self._core
        filters, accept = parse_container_filters(core, request.filters)
        everything = request.all or request.last or any(map(filters.has, _OF_ALL))
        found = []
        for record in core.records.containers.values():
            if record.name and (everything or self._shows(record)):
                row = self._summary(record)
                if accept(record, row):
                    found.append(row)
        found.sort(key=lambda row: row.created_ns, reverse=True)
        chosen = tuple(found[: request.last or None])
        return await asyncio.to_thread(self._with_sizes, chosen) if request.size else chosen

    def _shows(self, record: ContainerRecord) -> bool:
        """Whether `ps` shows it without being asked for all."""
        return record.state in ("running", "paused") or self._core.restarts.waits(record.id)

    def _with_sizes(self, rows: tuple[ContainerSummary, ...]) -> tuple[ContainerSummary, ...]:
        return tuple(msgspec.structs.replace(row, size_bytes=self._size(row.id)) for row in rows)

    def _summary(self, record: ContainerRecord) -> ContainerSummary:
        spec = record.spec
        condition = self._core.health.condition(record.id)
        return ContainerSummary(
            id=record.id,
            name=record.name,
            image=spec.image,
            image_id=record.image_id,
            command=command_line(record),
            created_ns=record.created_ns,
            state=state_of(record, self._core),
            health=condition.status if condition is not None else "",
            restarts=record.restarts,
            started_ns=record.started_ns,
            finished_ns=record.finished_ns,
            exit=record.exit,
            labels=spec.labels,
            mounts=tuple(m.source or m.target for m in spec.mounts),
            networks=network_names(record, self._core.records.networks),
            pid=record.pid,
            ports=port_texts(record),
        )

    def _size(self, container_id: str) -> int:
        """Bytes on disk of what the container has written; 0 before its first start."""
        try:
            return self._core.images.snapshots.usage(container_id).size_bytes
        except NotFound:
            return 0

    async def inspect(self, request: ContainerTarget, _fds: list[int]) -> dict[str, Any]:
        """One container as `docker inspect` shows it, with Onggi's own facts beside."""
        core = self._core
        record = core.records.find_container(request.target)
        found = inspect_record(record, core)
        if request.size:
            own, whole = await asyncio.to_thread(self._sizes, record)
            found |= {"SizeRw": own, "SizeRootFs": whole}
        return found

    def _sizes(self, record: ContainerRecord) -> tuple[int, int]:
        """Bytes on disk of what the container has written, and of that with its image's layers."""
        own, usage = self._size(record.id), self._core.images.snapshots.layer_usage
        return own, own + sum(usage(chain_id).size_bytes for chain_id in record.chain_ids)

    async def top(self, request: Target, _fds: list[int]) -> tuple[TopRow, ...]:
        """The container's processes as the host sees them.

        Raises:
            FailedPrecondition: it does not run.
        """
        record = self._core.records.find_container(request.target)
        if self._core.running(record.id) is None:
            raise FailedPrecondition(f"container {record.name} does not run")
        rows = (top_row(pid) for pid in self._core.cgroup(record.id).processes())
        return tuple(row for row in rows if row is not None)


def command_line(record: ContainerRecord) -> str:
    """What the container executes, as one text."""
    spec = record.spec
    if record.config:
        process = parse_config(record.config).process
        return " ".join(process.args) if process else ""
    return " ".join((spec.entrypoint or ()) + spec.command)


def top_row(pid: int) -> TopRow | None:
    """A row of `top`; None when the process has ended meanwhile."""
    try:
        seen = processes.view(pid)
    except NotFound:
        return None
    stat = seen.stat
    seconds = (stat.user_ticks + stat.system_ticks) / _TICKS
    now_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    age_s = max(now_s - stat.start_time_ticks / _TICKS, 0.01)
    started = datetime.fromtimestamp(time.time() - age_s).astimezone()
    return TopRow(
        uid=seen.status.uids[1],
        pid=pid,
        ppid=stat.parent_pid,
        cpu=f"{100 * seconds / age_s:.0f}",
        started=f"{started:%H:%M}",
        tty=f"pts/{os.minor(stat.terminal)}" if stat.terminal else "?",
        time=f"{int(seconds) // 3600:02d}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}",
        command=" ".join(seen.arguments) or f"[{stat.comm}]",
    )
