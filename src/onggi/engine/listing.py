"""Questions about containers: `ps`, `inspect`, `top`. Answers come from the records in memory."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from typing import Any

import msgspec

from onggi.engine.api.answers import ContainerSummary, TopRow
from onggi.engine.api.requests import ListRequest, Target
from onggi.engine.core import Core
from onggi.engine.filters import Filters
from onggi.engine.places import log_name
from onggi.engine.records import ContainerRecord
from onggi.errors import FailedPrecondition, NotFound
from onggi.kernel import processes
from onggi.specs.runtime import Process, parse_config

_FILTERS = (
    "ancestor", "before", "exited", "id", "label", "name", "network", "since", "status", "volume",
)  # fmt: skip
_TICKS = os.sysconf("SC_CLK_TCK")


class Listing:
    """Container questions of one engine."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def list_containers(
        self, request: ListRequest, _fds: list[int]
    ) -> tuple[ContainerSummary, ...]:
        """Containers, newest first: the running ones, or all, or the last few."""
        filters = Filters(request.filters, _FILTERS)
        everything = request.all or request.last or filters.has("status") or filters.has("exited")
        rows = [
            self._summary(record, size=request.size)
            for record in self._core.records.containers.values()
            if record.name and (everything or record.state in ("running", "paused"))
        ]
        rows.sort(key=lambda row: row.created_ns, reverse=True)
        bounds = self._bounds(filters)
        rows = [r for r in rows if bounds[0] < r.created_ns < bounds[1] and _matches(filters, r)]
        return tuple(rows[: request.last or None])

    def _bounds(self, filters: Filters) -> tuple[int, float]:
        created = {
            key: [self._core.records.find_container(t).created_ns for t in filters.get(key)]
            for key in ("since", "before")
        }
        return max(created["since"], default=-1), min(created["before"], default=float("inf"))

    def _summary(self, record: ContainerRecord, *, size: bool) -> ContainerSummary:
        spec = record.spec
        return ContainerSummary(
            id=record.id,
            name=record.name,
            image=spec.image,
            image_id=record.image_id,
            command=command_line(record),
            created_ns=record.created_ns,
            state="created" if record.state == "starting" else record.state,
            started_ns=record.started_ns,
            finished_ns=record.finished_ns,
            exit=record.exit,
            labels=spec.labels,
            mounts=tuple(m.source or m.target for m in spec.mounts),
            networks=(spec.network,),
            pid=record.pid,
            size_bytes=self._size(record) if size else None,
        )

    def _size(self, record: ContainerRecord) -> int:
        """Bytes on disk of what the container has written; 0 before its first start."""
        try:
            return self._core.images.snapshots.usage(record.id).size_bytes
        except NotFound:
            return 0

    async def inspect(self, request: Target, _fds: list[int]) -> dict[str, Any]:
        """One container as `docker inspect` shows it, with Onggi's own facts beside."""
        core = self._core
        record = core.records.find_container(request.target)
        return inspect_record(record, core)

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


def _matches(filters: Filters, row: ContainerSummary) -> bool:
    exit_code = str(row.exit.code) if row.exit else ""
    return (
        filters.accepts("status", row.state)
        and filters.accepts("exited", exit_code)
        and filters.accepts_part("name", row.name)
        and filters.accepts_id("id", row.id, row.id)
        and (filters.accepts_id("ancestor", row.image_id, row.image))
        and (not filters.has("volume") or any(v in row.mounts for v in filters.get("volume")))
        and (not filters.has("network") or any(n in row.networks for n in filters.get("network")))
        and filters.accepts_label(row.labels)
    )


def command_line(record: ContainerRecord) -> str:
    """What the container executes, as one text."""
    spec = record.spec
    if record.config:
        process = parse_config(record.config).process
        return " ".join(process.args) if process else ""
    return " ".join((spec.entrypoint or ()) + spec.command)


def rfc3339(time_ns: int) -> str:
    """`2026-01-02T03:04:05.000000006Z`; docker's zero time for 0."""
    if not time_ns:
        return "0001-01-01T00:00:00Z"
    seconds, nanoseconds = divmod(time_ns, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"


def inspect_record(record: ContainerRecord, core: Core) -> dict[str, Any]:
    """A container's record in docker's shape. Source: Docker Engine API v1.51 ContainerInspect."""
    spec = record.spec
    config = parse_config(record.config) if record.config else None
    process = (config.process if config else None) or Process(cwd=spec.workdir)
    end = record.exit
    arguments = process.args or (spec.entrypoint or ()) + spec.command
    return {
        "Id": record.id,
        "Created": rfc3339(record.created_ns),
        "Path": arguments[0] if arguments else "",
        "Args": list(arguments[1:]),
        "State": {
            "Status": record.state,
            "Running": record.state == "running",
            "Paused": record.state == "paused",
            "Restarting": False,
            "OOMKilled": bool(end and end.oom_killed),
            "Dead": False,
            "Pid": record.pid,
            "ExitCode": end.code if end else 0,
            "Error": end.explanation if end else "",
            "StartedAt": rfc3339(record.started_ns),
            "FinishedAt": rfc3339(record.finished_ns),
        },
        "Image": record.image_id,
        "Name": f"/{record.name}",
        "LogPath": f"{core.places.container(record.id)}/{log_name(record.id)}",
        "Driver": "overlay",
        "Platform": "linux",
        "HostConfig": _host_config(record),
        "Mounts": [
            {
                "Type": m.kind,
                "Name": m.source if m.kind == "volume" else "",
                "Source": core.places.volume(m.source) if m.kind == "volume" else m.source,
                "Destination": m.target,
                "RW": not m.read_only,
                "Propagation": m.propagation or "rprivate",
            }
            for m in spec.mounts
        ],
        "Config": {
            "Hostname": spec.hostname or record.id[:12],
            "Domainname": spec.domainname,
            "User": spec.user,
            "Tty": spec.tty,
            "OpenStdin": spec.stdin_open,
            "Env": list(process.env or spec.env),
            "Cmd": list(spec.command),
            "Entrypoint": None if spec.entrypoint is None else list(spec.entrypoint),
            "Image": spec.image,
            "WorkingDir": process.cwd,
            "Labels": spec.labels,
            "StopSignal": spec.stop_signal or "SIGTERM",
            "StopTimeout": spec.stop_timeout_s,
        },
        "NetworkSettings": {"Networks": {spec.network: {}}},
        "Onggi": {
            "IdBase": record.id_base if record.state == "running" else None,
            "Cgroup": core.places.cgroup(record.id),
            "RuntimeConfig": msgspec.to_builtins(config) if config else None,
        },
    }


def _host_config(record: ContainerRecord) -> dict[str, Any]:
    spec, limits = record.spec, record.spec.resources
    return {
        "NetworkMode": spec.network,
        "IpcMode": spec.ipc,
        "PidMode": spec.pid,
        "UTSMode": spec.uts,
        "UsernsMode": spec.userns,
        "CgroupnsMode": spec.cgroupns,
        "AutoRemove": spec.auto_remove,
        "Privileged": spec.privileged,
        "ReadonlyRootfs": spec.read_only,
        "Init": spec.init,
        "CapAdd": list(spec.cap_add),
        "CapDrop": list(spec.cap_drop),
        "SecurityOpt": list(spec.security_opt),
        "Memory": limits.memory_bytes,
        "MemorySwap": limits.memory_swap_bytes,
        "MemoryReservation": limits.memory_reservation_bytes,
        "NanoCpus": limits.nano_cpus,
        "CpuShares": limits.cpu_shares,
        "CpuPeriod": limits.cpu_period_us,
        "CpuQuota": limits.cpu_quota_us,
        "CpusetCpus": limits.cpuset_cpus,
        "CpusetMems": limits.cpuset_mems,
        "PidsLimit": limits.pids_limit,
        "BlkioWeight": limits.blkio_weight,
        "ShmSize": spec.shm_size_bytes,
        "Sysctls": spec.sysctls,
        "ExtraHosts": list(spec.add_hosts),
        "Dns": list(spec.dns),
        "LogConfig": {
            "Type": "json-file",
            "Config": {
                "max-size": str(spec.log_max_bytes),
                "max-file": str(spec.log_max_files),
            },
        },
    }


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
