"""What the engine answers."""

from __future__ import annotations

from typing import Any

from onggi.engine.api.base import Value


class Created(Value, frozen=True):
    id: str
    name: str
    warnings: tuple[str, ...] = ()


class Session(Value, frozen=True):
    """First item of `run`, `start`, `exec`: the process runs. With attach, a socket comes along."""

    id: str
    name: str = ""
    session: str = ""
    pid: int = 0
    warnings: tuple[str, ...] = ()


class ExitStatus(Value, frozen=True):
    """How a process ended. `code` None: unknown (its monitor was lost). `explanation`: one line."""

    code: int | None
    signal: int = 0
    oom_killed: bool = False
    explanation: str = ""
    finished_ns: int = 0


class ContainerSummary(Value, frozen=True):
    """A row of `ps`. `state`: created, running, paused, exited, removing, dead."""

    id: str
    name: str
    image: str
    image_id: str
    command: str
    created_ns: int
    state: str
    started_ns: int = 0
    finished_ns: int = 0
    exit: ExitStatus | None = None
    labels: dict[str, str] = {}
    mounts: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    pid: int = 0
    size_bytes: int | None = None


class Statistics(Value, frozen=True):
    """One sample. Counters since the start, in the unit that the name says."""

    id: str
    name: str
    read_ns: int
    cpu_usage_ns: int
    cpu_percent: float
    memory_usage_bytes: int
    memory_limit_bytes: int
    memory_peak_bytes: int
    pids: int
    pids_limit: int
    block_read_bytes: int
    block_write_bytes: int
    network_receive_bytes: int
    network_transmit_bytes: int
    cpu_throttled_ns: int = 0
    oom_kills: int = 0


class Event(Value, frozen=True):
    """`kind`: container, image, volume, engine. `action`: create, start, die, oom, …"""

    time_ns: int
    kind: str
    action: str
    id: str
    attributes: dict[str, str] = {}


class LogLine(Value, frozen=True):
    stream: str
    time: str
    log: str


class ImageSummary(Value, frozen=True):
    id: str
    names: tuple[str, ...]
    digest: str
    created: str
    size_bytes: int
    platform: str
    containers: int = 0


class Progress(Value, frozen=True):
    """How far long work is; `total` 0: unknown. The last item of such a call is its answer."""

    stage: str
    done: int = 0
    total: int = 0


class ImageAnswer(Value, frozen=True):
    id: str
    names: tuple[str, ...] = ()


class VolumeSummary(Value, frozen=True):
    name: str
    mountpoint: str
    created_ns: int
    labels: dict[str, str] = {}
    anonymous: bool = False
    containers: tuple[str, ...] = ()


class PlanRow(Value, frozen=True):
    """One step of `explain`."""

    number: int
    actor: str
    what: str
    concerns: str
    section: str
    protects: str
    optional: bool = False


class Explanation(Value, frozen=True):
    rows: tuple[PlanRow, ...]
    warnings: tuple[str, ...]
    config: dict[str, Any]
    plan: tuple[dict[str, Any], ...] = ()


class NamespaceView(Value, frozen=True):
    kind: str
    inode: int
    host_inode: int
    shared_with: tuple[str, ...] = ()


class ProcessView(Value, frozen=True):
    host_pid: int
    inner_pid: int
    host_uid: int
    inner_uid: int
    command: str


class MountView(Value, frozen=True):
    target: str
    fstype: str
    source: str
    options: str


class InterfaceView(Value, frozen=True):
    name: str
    addresses: tuple[str, ...]
    state: str


class View(Value, frozen=True):
    """Both sides of one running container: what `onggi view` draws."""

    id: str
    name: str
    image: str
    state: str
    host_hostname: str
    inner_hostname: str
    host_kernel: str
    processes: tuple[ProcessView, ...]
    namespaces: tuple[NamespaceView, ...]
    cgroups: tuple[str, ...]
    uid_map: str
    host_root: str
    host_mounts: tuple[MountView, ...]
    inner_mounts: tuple[MountView, ...]
    host_interfaces: tuple[InterfaceView, ...]
    inner_interfaces: tuple[InterfaceView, ...]
    capabilities: tuple[str, ...]
    seccomp: str
    limits: dict[str, str]
    usage: Statistics | None
    monitor_pid: int = 0
    monitor_private_bytes: int = 0


class TopRow(Value, frozen=True):
    uid: int
    pid: int
    ppid: int
    cpu: str
    started: str
    tty: str
    time: str
    command: str


class EngineStatus(Value, frozen=True):
    pid: int
    version: str
    root: str
    socket: str
    started_ns: int
    containers_running: int
    containers: int
    images: int
    memory_bytes: int


class SystemInfo(Value, frozen=True):
    version: str
    root: str
    kernel: str
    machine: str
    cgroup_layout: str
    controllers: dict[str, str]
    capabilities: tuple[str, ...]
    filesystems: tuple[str, ...]
    lsms: tuple[str, ...]
    namespaces: tuple[str, ...]
    seccomp: bool
    cpus: int
    memory_bytes: int
    containers: int
    running: int
    images: int
    warnings: tuple[str, ...] = ()
