"""A container as `docker inspect` shows it: its record in docker's shape, with Onggi's own facts.

Source: Docker Engine API v1.51 ContainerInspectResponse, HostConfig, ContainerConfig.
"""

from __future__ import annotations

from typing import Any

import msgspec

from onggi.engine.api.spec import ContainerSpec, HealthSpec, MountSpec
from onggi.engine.core import Core
from onggi.engine.network_view import exposed_texts, network_settings
from onggi.engine.places import log_name
from onggi.engine.records import ContainerRecord
from onggi.engine.timestamps import rfc3339
from onggi.specs.runtime import Process, parse_config


def state_of(record: ContainerRecord, core: Core) -> str:
    """The state as users know it: docker's words."""
    if core.restarts.waits(record.id):
        return "restarting"
    return "created" if record.state == "starting" else record.state


def inspect_record(record: ContainerRecord, core: Core) -> dict[str, Any]:
    """A container's record in docker's shape."""
    spec = record.spec
    config = parse_config(record.config) if record.config else None
    process = (config.process if config else None) or Process(cwd=spec.workdir)
    end = record.exit
    condition = core.health.condition(record.id)
    directory = core.places.container(record.id)
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
        "ResolvConfPath": f"{directory}/resolv.conf",
        "HostnamePath": f"{directory}/hostname",
        "HostsPath": f"{directory}/hosts",
        "LogPath": f"{directory}/{log_name(record.id)}",
        "Driver": "overlay",
        "Platform": "linux",
        "HostConfig": _host_config(record),
        "GraphDriver": {
            "Name": "overlay",
            "Data": {"UpperDir": f"{core.images.snapshots.upper_path(record.id)}/fs"},
        },
        "Mounts": [
            {
                "Type": m.kind,
                "Name": m.source if m.kind == "volume" else "",
                "Driver": "local" if m.kind == "volume" else "",
                "Source": core.volume_path(m.source) if m.kind == "volume" else m.source,
                "Destination": m.target,
                "Mode": "ro" if m.read_only else "",
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
            "ExposedPorts": {port: {} for port in exposed_texts(spec)},
            "Volumes": {m.target: {} for m in spec.mounts if m.source in record.volumes},
            **({"Healthcheck": _health_check(spec.health)} if spec.health.test else {}),
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
        "Binds": [_bind(mount) for mount in spec.mounts if mount.kind != "tmpfs"],
        "Tmpfs": {m.target: ",".join(m.options) for m in spec.mounts if m.kind == "tmpfs"},
        "NetworkMode": spec.network,
        "PortBindings": _port_bindings(spec),
        "PublishAllPorts": spec.publish_all,
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
        "Runtime": "onggi",
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
        "GroupAdd": list(spec.group_add),
        "Devices": [
            {
                "PathOnHost": device.host_path,
                "PathInContainer": device.container_path,
                "CgroupPermissions": device.access,
            }
            for device in spec.devices
        ],
        "Ulimits": [{"Name": u.name, "Soft": u.soft, "Hard": u.hard} for u in spec.ulimits],
        "OomScoreAdj": spec.oom_score_adj or 0,
        "OomKillDisable": limits.oom_kill_disable,
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
        "DnsOptions": list(spec.dns_options),
        "DnsSearch": list(spec.dns_search),
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


def _bind(mount: MountSpec) -> str:
    """A mount as `-v` writes it."""
    return f"{mount.source}:{mount.target}{':ro' if mount.read_only else ''}"


def _port_bindings(spec: ContainerSpec) -> dict[str, list[dict[str, str]]]:
    """The ports that were asked for; `NetworkSettings.Ports` has those that there are."""
    found: dict[str, list[dict[str, str]]] = {}
    for port in spec.ports:
        found.setdefault(f"{port.container_port}/{port.protocol}", []).append(
            {"HostIp": port.host_address, "HostPort": str(port.host_port or "")}
        )
    return found


def _health_check(health: HealthSpec) -> dict[str, Any]:
    """The check that was asked for, times in nanoseconds; 0: docker's default."""
    times = {
        "Interval": health.interval_s,
        "Timeout": health.timeout_s,
        "StartPeriod": health.start_period_s,
        "StartInterval": health.start_interval_s,
    }
    return {
        "Test": list(health.test),
        **{name: int((time_s or 0) * 1e9) for name, time_s in times.items()},
        "Retries": health.retries or 0,
    }
