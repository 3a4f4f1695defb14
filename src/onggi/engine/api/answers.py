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
    ports: tuple[str, ...] = ()
    health: str = ""
    restarts: int = 0


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
    """How far long work is; `total` 0: unknown. The last item of such a call is its answer.

    `item`: what it is about, where several things go on at once: a layer's short digest.
    """

    stage: str
    done: int = 0
    total: int = 0
    item: str = ""


class ImageAnswer(Value, frozen=True):
    """`digest`: of the manifest or index. `status`: what a pull has done, `new` or `current`.

    `kept`: compressed layers that could not be dropped, and why. `skipped`: names that a pull of
    all tags passed over, and why; told once.
    """

    id: str
    names: tuple[str, ...] = ()
    digest: str = ""
    status: str = ""
    kept: tuple[tuple[str, str], ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()


class PushAnswer(Value, frozen=True):
    reference: str
    digest: str
    size_bytes: int


class CopyAnswer(Value, frozen=True):
    digest: str


class RegistriesAnswer(Value, frozen=True):
    registries: tuple[str, ...]


class LoginAnswer(Value, frozen=True):
    """`checked`: whether the registry asked for the password; one that is open to all does not."""

    registry: str
    status: str
    identity_token: str = ""
    checked: bool = True


class HistoryRow(Value, frozen=True):
    """One step of an image's making, newest first. `layer`: its digest, empty: none. `id`: the
    image's of which it is the last step."""

    created: str
    created_by: str
    comment: str
    size_bytes: int
    layer: str = ""
    id: str = ""


class ChangeRow(Value, frozen=True):
    """`kind`: A added, C changed, D deleted. `what`: the attributes that differ."""

    kind: str
    path: str
    what: tuple[str, ...] = ()


class DifferenceAnswer(Value, frozen=True):
    """`configuration`: field → the two values."""

    files: tuple[ChangeRow, ...]
    configuration: dict[str, tuple[Any, Any]]
    shared_layers: int


class FindingRow(Value, frozen=True):
    """Something that a validation or a check of the store found. `repaired`: and what was done."""

    severity: str
    place: str
    message: str
    section: str = ""
    repaired: str = ""


class TreeRow(Value, frozen=True):
    """One layer in the tree of images: `depth` from the left, `names` of images that end here."""

    depth: int
    chain_id: str
    size_bytes: int
    names: tuple[str, ...] = ()


class UsageRow(Value, frozen=True):
    """A line of `system df`, in bytes on disk."""

    kind: str
    count: int
    active: int
    size_bytes: int
    reclaimable_bytes: int


class ImageUsageRow(Value, frozen=True):
    """An image in `system df -v`. `unique_bytes` go with it, `shared_bytes` others need too."""

    id: str
    names: tuple[str, ...]
    created: str
    shared_bytes: int
    unique_bytes: int
    containers: int = 0


class VolumeUsageRow(Value, frozen=True):
    """A volume in `system df -v`, and how many containers have it."""

    name: str
    containers: int
    size_bytes: int


class UsageDetails(Value, frozen=True):
    images: tuple[ImageUsageRow, ...]
    volumes: tuple[VolumeUsageRow, ...]


class PruneAnswer(Value, frozen=True):
    untagged: tuple[str, ...]
    deleted: tuple[str, ...]
    freed_bytes: int


class ReferrerRow(Value, frozen=True):
    digest: str
    artifact_type: str
    size_bytes: int
    annotations: dict[str, str] = {}


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
    storage: str = ""
    warnings: tuple[str, ...] = ()
