"""What a container is made from: everything `create` and `run` accept."""

from __future__ import annotations

from typing import Literal

from onggi.engine.api.base import Value


class MountSpec(Value, frozen=True):
    """One `-v`, `--mount` or `--tmpfs`. `source` is an absolute host path or a volume's name.

    `subpath`: what is mounted of the volume. `chown`: give everything in it to the container's
    user. `read_only_below`: a read-only bind's submounts are read-only, too. `labels`,
    `driver_options`: of a volume that is made for it, as in VolumeCreateRequest.
    """

    kind: Literal["bind", "volume", "tmpfs"]
    target: str
    source: str = ""
    read_only: bool = False
    propagation: str = ""
    recursive: bool = True
    create_source: bool = False
    copy_up: bool = True
    tmpfs_size_bytes: int | None = None
    tmpfs_mode: int | None = None
    options: tuple[str, ...] = ()
    subpath: str = ""
    chown: bool = False
    read_only_below: bool = True
    labels: dict[str, str] = {}
    driver_options: dict[str, str] = {}


class Throttle(Value, frozen=True):
    """A limit of one block device: `rate` in bytes or operations per second."""

    path: str
    rate: int


class ResourceSpec(Value, frozen=True):
    """Limits as docker states them. `memory_swap_bytes`: memory plus swap, -1 unlimited."""

    memory_bytes: int = 0
    memory_swap_bytes: int = 0
    memory_reservation_bytes: int = 0
    memory_swappiness: int | None = None
    oom_kill_disable: bool = False
    nano_cpus: int = 0
    cpu_shares: int = 0
    cpu_quota_us: int = 0
    cpu_period_us: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    pids_limit: int | None = None
    blkio_weight: int = 0
    device_read_bps: tuple[Throttle, ...] = ()
    device_write_bps: tuple[Throttle, ...] = ()
    device_read_iops: tuple[Throttle, ...] = ()
    device_write_iops: tuple[Throttle, ...] = ()


class VolumesFrom(Value, frozen=True):
    """`--volumes-from CONTAINER[:ro]`: its volumes and binds, at their places."""

    container: str
    read_only: bool = False


class DeviceSpec(Value, frozen=True):
    """`--device HOST[:CONTAINER[:rwm]]`; or a name of CDI, `vendor.com/class=name`, as
    `host_path`, and the rest is what its specification says."""

    host_path: str
    container_path: str
    access: str = "rwm"


class UlimitSpec(Value, frozen=True):
    """`--ulimit NAME=SOFT[:HARD]`; -1 is unlimited."""

    name: str
    soft: int
    hard: int


class PortSpec(Value, frozen=True):
    """One published port. `host_port` 0: any that is free. `host_address` empty: every address of
    the host, of both families."""

    container_port: int
    protocol: Literal["tcp", "udp"] = "tcp"
    host_address: str = ""
    host_port: int = 0


class EndpointSpec(Value, frozen=True):
    """A place in one network: `--network NAME`, `--ip`, `--network-alias` … Empty: chosen for it.

    `network`: a name or id. `link_local`: further addresses of the interface.
    """

    network: str
    aliases: tuple[str, ...] = ()
    ipv4: str = ""
    ipv6: str = ""
    mac: str = ""
    link_local: tuple[str, ...] = ()


class HealthSpec(Value, frozen=True):
    """`--health-*`. `test`: `()` is the image's, `("NONE",)` no check, `("CMD", …)` a program with
    arguments, `("CMD-SHELL", text)` for the shell. None: the image's, or docker's default.
    `on_failure` is what happens to a container that becomes unhealthy."""

    test: tuple[str, ...] = ()
    interval_s: float | None = None
    timeout_s: float | None = None
    start_period_s: float | None = None
    start_interval_s: float | None = None
    retries: int | None = None
    on_failure: Literal["none", "restart", "stop", "kill"] = "none"


class RestartSpec(Value, frozen=True):
    """`--restart`. `maximum`: tries of `on-failure`; 0: without end."""

    policy: Literal["no", "on-failure", "always", "unless-stopped"] = "no"
    maximum: int = 0


class SecretSpec(Value, frozen=True):
    """`--secret`: the file `source` of the host, read at each start, is `/run/secrets/TARGET` or an
    absolute path, in memory only."""

    source: str
    target: str
    uid: int = 0
    gid: int = 0
    mode: int = 0o400


class ContainerSpec(Value, frozen=True):
    """Everything `create` and `run` accept.

    Namespace modes: network `bridge|none|host|container:ID`; pid and uts `""|host|container:ID`;
    ipc `private|host|container:ID|none|shareable`; userns `""` (own range) or `host`;
    cgroupns `private|host`. `endpoints`: the networks of a `bridge` container; none: the default.
    """

    image: str
    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    name: str = ""
    env: tuple[str, ...] = ()
    workdir: str = ""
    user: str = ""
    group_add: tuple[str, ...] = ()
    hostname: str = ""
    domainname: str = ""
    labels: dict[str, str] = {}
    tty: bool = False
    stdin_open: bool = False
    read_only: bool = False
    init: bool = False
    auto_remove: bool = False
    privileged: bool = False
    mounts: tuple[MountSpec, ...] = ()
    volumes_from: tuple[VolumesFrom, ...] = ()
    network: str = "bridge"
    ipc: str = "private"
    pid: str = ""
    uts: str = ""
    userns: str = ""
    cgroupns: str = "private"
    resources: ResourceSpec = ResourceSpec()
    devices: tuple[DeviceSpec, ...] = ()
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    security_opt: tuple[str, ...] = ()
    ulimits: tuple[UlimitSpec, ...] = ()
    sysctls: dict[str, str] = {}
    shm_size_bytes: int = 64 * 1024 * 1024
    oom_score_adj: int | None = None
    add_hosts: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    stop_signal: str = ""
    stop_timeout_s: int = 10
    log_driver: Literal["json-file", "local", "journald", "none"] = "json-file"
    log_max_bytes: int = 20_000_000
    log_max_files: int = 5
    log_tag: str = ""
    endpoints: tuple[EndpointSpec, ...] = ()
    ports: tuple[PortSpec, ...] = ()
    publish_all: bool = False
    expose: tuple[str, ...] = ()
    restart: RestartSpec = RestartSpec()
    health: HealthSpec = HealthSpec()
    secrets: tuple[SecretSpec, ...] = ()
