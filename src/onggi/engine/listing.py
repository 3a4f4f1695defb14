"""Questions about containers: `ps`, `inspect`, `top`. Answers come from the records in memory."""

from __future__ import annotations

import asyncio
import os
import time
from datetime import datetime
from typing import Any

import msgspec

from onggi.engine.api.answers import ContainerSummary, TopRow
from onggi.engine.api.requests import ListRequest, Target
from onggi.engine.container_filters import parse_container_filters
from onggi.engine.core import Core
from onggi.engine.network_view import network_names, network_settings, port_texts
from onggi.engine.places import log_name
from onggi.engine.records import ContainerRecord
from onggi.engine.timestamps import rfc3339
from onggi.errors import FailedPrecondition, NotFound
from onggi.kernel import processes
from onggi.specs.runtime import Process, parse_config

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


def state_of(record: ContainerRecord, core: Core) -> str:
    """The state as users know it: docker's words."""
    if core.restarts.waits(record.id):
        return "restarting"
    return "created" if record.state == "starting" else record.state


def command_line(record: ContainerRecord) -> str:
    """What the container executes, as one text."""
    spec = record.spec
    if record.config:
        process = parse_config(record.config).process
        return " ".join(process.args) if process else ""
    return " ".join((spec.entrypoint or ()) + spec.command)


def inspect_record(record: ContainerRecord, core: Core) -> dict[str, Any]:
    """A container's record in docker's shape. Source: Docker Engine API v1.51 ContainerInspect."""
    spec = record.spec
    config = parse_config(record.config) if record.config else None
    process = (config.process if config else None) or Process(cwd=spec.workdir)
    end = record.exit
    condition = core.health.condition(record.id)
    arguments = process.args or (spec.entrypoint or ()) + spec.command
    return {
        "Id": record.id,
        "Created": rfc3339(record.created_ns),
        "Path": arguments[0] if arguments else "",
        "Args": list(arguments[1:]),
        "State": {
            "Status": state_of(record, core),
            "Running": record.state in ("running", "paused"),
            "Paused": record.state == "paused",
            "Restarting": core.restarts.waits(record.id),
            "OOMKilled": bool(end and end.oom_killed),
            "Dead": False,
            "Pid": record.pid,
            "ExitCode": end.code if end else 0,
            "Error": end.explanation if end else "",
            "StartedAt": rfc3339(record.started_ns),
            "FinishedAt": rfc3339(record.finished_ns),
            **({"Health": condition.shown()} if condition is not None else {}),
        },
        "RestartCount": record.restarts,
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
                "Source": core.volume_path(m.source) if m.kind == "volume" else m.source,
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
        "NetworkSettings": network_settings(record, core.records.networks),
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
        "VolumesFrom": [
            f"{one.container}:ro" if one.read_only else one.container for one in spec.volumes_from
        ]
        or None,
        "UTSMode": spec.uts,
        "UsernsMode": spec.userns,
        "CgroupnsMode": spec.cgroupns,
        "AutoRemove": spec.auto_remove,
        "RestartPolicy": {
            "Name": spec.restart.policy,
            "MaximumRetryCount": spec.restart.maximum,
        },
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
            "Type": spec.log_driver,
            "Config": _log_options(record),
        },
    }


def _log_options(record: ContainerRecord) -> dict[str, str]:
    spec = record.spec
    options = {"tag": spec.log_tag} if spec.log_tag else {}
    if spec.log_driver in ("json-file", "local"):
        options["max-size"] = str(spec.log_max_bytes)
        options["max-file"] = str(spec.log_max_files)
    return options


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
