"""What a start needs to know that config.json does not say: places on the host, and decisions.

The engine fills these in; the planner only reads them. Every path is an absolute path of the host.
"""

from __future__ import annotations

from msgspec import Struct


class Overlay(Struct, frozen=True):
    """A root made of layers. `lowers`: topmost first. `upper` holds `fs/` and `work/`; empty: none,
    the root is a read-only view of the layers. `volatile`: writes need not survive a crash."""

    lowers: tuple[str, ...]
    upper: str = ""
    volatile: bool = False


class Supervision(Struct, frozen=True):
    """Where the monitor keeps its socket, log and records; see Supervise for the fields.

    Output goes to the file `log_name`, or to the journal that listens on `journal_socket` with
    `journal_fields` (`KEY=VALUE`) in each entry, or nowhere.
    """

    run_dir: str
    log_dir: str = ""
    log_name: str = ""
    log_max_bytes: int = 20_000_000
    log_max_files: int = 5
    record_name: str = "exit.json"
    stdin: bool = False
    die_with_engine: bool = False
    rows: int = 0
    columns: int = 0
    journal_socket: str = ""
    journal_fields: tuple[str, ...] = ()


class Caller(Struct, frozen=True):
    """A caller that supervises the task itself, in place of a monitor of ours.

    `rows` and `columns`: of its terminal, 0 where it has none. `preserved`: slots of descriptors
    for the application, which sees them as 3, 4, … `hold_slot` ≥ 0: wait to be started through the
    bound socket there. `waits`: keel stays until the task has ended.
    """

    rows: int = 0
    columns: int = 0
    waits: bool = False
    preserved: tuple[int, ...] = ()
    hold_slot: int = -1


class LinkSetup(Struct, frozen=True):
    """How a new network namespace is connected, as netlink messages that keel sends.

    `host_messages`: on the host, with the pid of the container's first process written at each of
    `pid_offsets`; `inside_messages`: inside, after these and `inside_settings` (as
    ConfigureNetwork has them). Every message is acknowledged, the first refusal ends the start.
    `lines`: what they do, for a person: `interface: fact`, the first of an interface about its
    link, the others about what it has inside. `sockets`: bound inside and handed to the engine with
    STARTED, as BindSockets has them.
    """

    host_messages: bytes
    pid_offsets: tuple[int, ...]
    inside_messages: bytes
    inside_settings: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    sockets: tuple[str, ...] = ()


class StartRequest(Struct, frozen=True):
    """One start of a container's first process.

    `container_id` is told to hooks and to a seccomp agent.
    `bundle`: the directory that relative paths of the configuration start from. `overlay` None:
    the root is the directory `config.root.path`. `root_mountpoint`: an existing directory of the
    host that the container's root may search; the root is attached there in the container's own
    mount namespace only. `borrowed`: how many slots hold descriptors that keel is spawned with.
    `cgroup_files`: what to join by (v1 tasks, v2 cgroup.procs); `cgroup_slot` ≥ 0: a borrowed
    descriptor of the v2 cgroup to be born in. `reap`: keel stays as PID 1. `bind_devices`: take
    device nodes from the host instead of making them (a user namespace does so anyway);
    `device_sources`: pairs (path in the container, node on the host) where the two differ.
    `mount_sources`: pairs (destination of a bind mount, name of a descriptor that holds its
    source), taken instead of the source's path. `idmap_sources`: with a user namespace, show bind
    mounts with the container's owners, where the file system can. `keyring`: the name of the
    session keyring to join; empty: the engine's stays. `shared_memory`: the mount namespace whose
    /dev/shm it has; empty: as the configuration says. `links`: for a new network namespace only;
    None: it has nothing but loopback. `no_pivot`: the host runs from an initramfs, which
    pivot_root(2) cannot leave; `views`: where its procfs and sysfs are then, the last first.
    `environment`: for hooks on the host that name none of their own.
    """

    supervision: Supervision | Caller
    root_mountpoint: str
    bundle: str = ""
    overlay: Overlay | None = None
    cgroup_files: tuple[str, ...] = ()
    cgroup_slot: int = -1
    borrowed: int = 0
    reap: bool = False
    bind_devices: bool = False
    device_sources: tuple[tuple[str, str], ...] = ()
    mount_sources: tuple[tuple[str, str], ...] = ()
    idmap_sources: bool = True
    keyring: str = ""
    shared_memory: str = ""
    links: LinkSetup | None = None
    container_id: str = ""
    no_pivot: bool = False
    views: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()


class ExecRequest(Struct, frozen=True):
    """One more process in a running container.

    `pidfd_slot`: the borrowed slot with the pidfd of the container's first process, whose
    namespaces are entered. `container_id`, `bundle` and `container_pid` are what a seccomp agent is
    told.
    """

    supervision: Supervision | Caller
    pidfd_slot: int = 0
    cgroup_files: tuple[str, ...] = ()
    cgroup_slot: int = -1
    keyring: str = ""
    container_id: str = ""
    bundle: str = ""
    container_pid: int = 0
