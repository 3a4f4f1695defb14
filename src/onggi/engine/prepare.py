"""Everything one start needs before keel is spawned: looked up, made, composed, planned.

Lookups become `Resolved`, `compose` makes the configuration, the planner the plan. What is
made here (three files, a snapshot, a cgroup, the monitor's directory) is named after the container
and taken away by `cleanup`.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from onggi.engine import defaults
from onggi.engine.api.requests import TerminalSize
from onggi.engine.api.spec import ContainerSpec
from onggi.engine.compose import Hardware, Resolved, compose, hostname, security_options
from onggi.engine.core import Core
from onggi.engine.device_nodes import make_nodes
from onggi.engine.devices import find_hardware, throttle_numbers
from onggi.engine.endpoints import NAME_SERVER
from onggi.engine.log_target import with_log
from onggi.engine.records import ContainerRecord
from onggi.engine.secrets import write_secrets
from onggi.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from onggi.image.images import Image
from onggi.image.merged import MergedView
from onggi.image.snapshots import Rootfs, Snapshotter
from onggi.image.users import ResolvedUser, resolve_groups, resolve_user
from onggi.kernel.seccomp.profile import default_profile, load_profile
from onggi.network import files
from onggi.runtime.plan import plan
from onggi.runtime.request import LinkSetup, Overlay, StartRequest, Supervision
from onggi.runtime.steps import Plan
from onggi.specs.image import ContainerConfig
from onggi.specs.runtime import Config, Seccomp, User

EXIT_RECORD = "exit"
SECRETS = "secrets"
_JOINABLE = ("network", "ipc", "pid", "uts")
_PROC_NAMES = {
    "network": "net", "ipc": "ipc", "pid": "pid", "uts": "uts", "user": "user", "mount": "mnt",
}  # fmt: skip


class Launch(Struct, frozen=True):
    """What a start is made of: `config` without the seccomp profile, and the plan."""

    config: Config
    plan: Plan
    warnings: tuple[str, ...]


def joined_container(core: Core, spec: ContainerSpec) -> ContainerRecord | None:
    """The container whose namespaces this one joins; None: none.

    Raises:
        FailedPrecondition: it does not run, or its ipc namespace is not for others.
        InvalidArgument: more than one is named.
        NotFound: there is no such container.
    """
    names = {
        mode.removeprefix("container:")
        for mode in (getattr(spec, kind) for kind in _JOINABLE)
        if mode.startswith("container:")
    }
    if not names:
        return None
    if len(names) > 1:
        raise InvalidArgument("namespaces of two different containers cannot be joined at once")
    record = core.records.find_container(names.pop())
    if core.running(record.id) is None:
        raise FailedPrecondition(
            f"container {record.name} does not run, so its namespaces cannot be joined",
            hint=f"start it with onggi start {record.name}",
        )
    # Who joins its processes sees their memory anyway.
    alone = spec.ipc.startswith("container:") and not spec.pid.startswith("container:")
    if alone and record.spec.ipc in ("private", "none"):
        raise FailedPrecondition(
            f"container {record.name} shares no memory: its ipc is {record.spec.ipc}",
            hint="make it with --ipc shareable",
        )
    return record


def own_id_range(spec: ContainerSpec, joined: ContainerRecord | None) -> bool:
    """Whether the container gets a user namespace and a range of ids of its own."""
    if spec.userns not in ("", "host", "private", "auto"):
        raise InvalidArgument(f"unknown --userns {spec.userns!r}", hint="use host, or leave it out")
    return joined is None and spec.userns != "host" and not spec.privileged


@contextlib.contextmanager
def joins(core: Core, record: ContainerRecord) -> Iterator[dict[str, str]]:
    """Paths of the namespaces to join, held open by descriptors for as long as the block runs.

    All joins go to one container, and its user namespace is joined with them: the kernel lets only
    the owner of a namespace mount what shows it. `mount` is where /dev/shm is taken from, which
    belongs to the ipc namespace; it is not joined.
    """
    target = joined_container(core, record.spec)
    if target is None:
        yield {}
        return
    task = core.running(target.id)
    kinds = [k for k in _JOINABLE if getattr(record.spec, k).startswith("container:")]
    if target.id_base is not None:
        kinds.append("user")
    if "ipc" in kinds and target.spec.ipc != "none":
        kinds.append("mount")
    with contextlib.ExitStack() as stack:
        paths = {}
        for kind in kinds:
            fd = os.open(f"/proc/{target.pid}/ns/{_PROC_NAMES[kind]}", os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            paths[kind] = f"/proc/{os.getpid()}/fd/{fd}"
        # Alive now, so the process opened above was it and no other with a recycled id.
        if task is None or not task.signal(0):
            raise FailedPrecondition(f"container {target.name} has just ended")
        yield paths


def launch(
    core: Core,
    record: ContainerRecord,
    image: Image,
    size: TerminalSize,
    joined: dict[str, str],
    sources: dict[str, int],
) -> Launch:
    """Make what the start needs and plan it. `sources`: of `held_sources`.

    Raises:
        EngineError: something named in the specification is missing or wrong.
    """
    rootfs = snapshot_of(core, record)
    image_config = image.config.config or ContainerConfig()
    found = resolve(core, record, who_runs(core, record, image), joined)
    write_files(core, record)
    os.makedirs(core.places.task(record.id), mode=0o700, exist_ok=True)
    write_secrets(record.spec.secrets, f"{core.places.task(record.id)}/{SECRETS}")
    config = compose(record.spec, image_config, found, record.id)
    cgroup = core.cgroup(record.id)
    resources = config.linux.resources if config.linux else None
    warnings: tuple[str, ...] = ()
    if resources is not None:
        cgroup.create(resources)
        warnings = cgroup.apply(resources)
    nodes = _device_nodes(core, record, found.hardware)
    links = core.endpoints.links(record)
    core.publishing.open(record)
    held = tuple((t, f"/proc/{os.getpid()}/fd/{fd}") for t, fd in sources.items())
    paths = cgroup.task_paths()
    made = _plan(core, record, config, rootfs, size, paths, nodes, links, held, joined)
    warnings += found.hardware.warnings + made.warnings
    return Launch(config=config, plan=made, warnings=warnings)


def plan_only(core: Core, record: ContainerRecord, image: Image) -> Launch:
    """The plan that `launch` would make, with nothing made.

    Raises:
        EngineError: as `launch`.
    """
    rootfs = core.images.snapshots.rootfs(record.id, image.chain_ids)
    image_config = image.config.config or ContainerConfig()
    user = record.spec.user or image_config.user
    groups = record.spec.group_add
    who = find_image_user(core.images.snapshots, user, image.chain_ids, groups)
    found = resolve(core, record, who, {})
    config = compose(record.spec, image_config, found, record.id)
    hierarchies = core.host.cgroups.hierarchies
    cgroup = core.places.cgroup(record.id)
    paths = tuple(f"{h.mount_point}/{cgroup}/tasks" for h in hierarchies if h.version == 1)
    links = core.endpoints.preview(record)
    nodes = tuple(found.hardware.sources.items())
    made = _plan(core, record, config, rootfs, TerminalSize(), paths, nodes, links, (), {})
    return Launch(config=config, plan=made, warnings=found.hardware.warnings + made.warnings)


def _plan(
    core: Core,
    record: ContainerRecord,
    config: Config,
    rootfs: Rootfs,
    size: TerminalSize,
    cgroup_files: tuple[str, ...],
    nodes: tuple[tuple[str, str], ...],
    links: LinkSetup | None,
    held: tuple[tuple[str, str], ...],
    joined: dict[str, str],
) -> Plan:
    spec = record.spec
    shm_asked = any(mount.target == defaults.SHM_PLACE for mount in spec.mounts)
    request = StartRequest(
        supervision=with_log(
            Supervision(
                run_dir=core.places.task(record.id),
                record_name=EXIT_RECORD,
                stdin=spec.stdin_open,
                rows=size.rows,
                columns=size.columns,
            ),
            record,
            core.places.container(record.id),
        ),
        root_mountpoint=core.places.root_mountpoint,
        overlay=Overlay(lowers=rootfs.lowers, upper=rootfs.upper, volatile=spec.auto_remove),
        cgroup_files=cgroup_files,
        cgroup_slot=0 if core.host.cgroups.v2 else -1,
        borrowed=1 if core.host.cgroups.v2 else 0,
        reap=spec.init,
        device_sources=nodes,
        mount_sources=held,
        keyring=record.id[:12],
        shared_memory="" if shm_asked else joined.get("mount", ""),
        links=links,
    )
    return plan(with_seccomp(config, seccomp_profile(core, spec, config)), core.host, request)


def _device_nodes(
    core: Core, record: ContainerRecord, hardware: Hardware
) -> tuple[tuple[str, str], ...]:
    """(path in the container, node on the host) of the devices asked for: the host's, or with ids
    of its own nodes that these own."""
    owner = joined_container(core, record.spec) or record
    made: dict[str, str] = {}
    if owner.id_base is not None and hardware.sources:
        directory = f"{core.places.container(record.id)}/devices"
        made = make_nodes(directory, hardware.devices, owner.id_base)
    return tuple((hardware.sources | made).items())


def who_runs(
    core: Core, record: ContainerRecord, image: Image
) -> tuple[ResolvedUser, tuple[int, ...]]:
    """The container's user and supplementary groups, as its files say.

    Raises: as `find_user`.
    """
    image_config = image.config.config or ContainerConfig()
    user, groups = record.spec.user or image_config.user, record.spec.group_add
    if not record.started_ns:  # it has written nothing yet
        return find_image_user(core.images.snapshots, user, record.chain_ids, groups)
    rootfs = snapshot_of(core, record)
    return find_user(user, (f"{rootfs.upper}/fs", *rootfs.lowers), groups)


def snapshot_of(core: Core, record: ContainerRecord) -> Rootfs:
    """The container's snapshot: a new one, or that of its earlier runs."""
    snapshots = core.images.snapshots
    try:
        return snapshots.prepare(record.id, record.chain_ids)
    except AlreadyExists:
        return snapshots.rootfs(record.id, record.chain_ids)


def find_user(
    user: str, layers: tuple[str, ...], group_add: tuple[str, ...]
) -> tuple[ResolvedUser, tuple[int, ...]]:
    """A user by docker's USER forms, and all supplementary groups, as the merged layers say.

    Raises:
        NotFound: no such user or group in the image.
    """
    with MergedView(layers) as view:
        found = resolve_user(user, view)
        added = resolve_groups(group_add, view)
    return found, tuple(dict.fromkeys(found.groups + added))


@functools.lru_cache(maxsize=256)
def find_image_user(
    snapshots: Snapshotter, user: str, chain_ids: tuple[str, ...], group_add: tuple[str, ...]
) -> tuple[ResolvedUser, tuple[int, ...]]:
    """The same for an image's layers, which never change, though their paths may.

    Raises: as `find_user`.
    """
    return find_user(user, snapshots.lowers(chain_ids), group_add)


def resolve(
    core: Core,
    record: ContainerRecord,
    who: tuple[ResolvedUser, tuple[int, ...]],
    joined: dict[str, str],
) -> Resolved:
    """Look up what the specification names beside its user: devices, volumes, paths.

    Raises:
        EngineError: one of them is missing.
    """
    spec = record.spec
    resolved, groups = who
    user = User(uid=resolved.uid, gid=resolved.gid)
    own_ids = record.id_base is not None or "user" in joined
    hardware = find_hardware(spec, user, core.settings.device.cdi_directories, own_ids=own_ids)
    groups = tuple(dict.fromkeys(groups + hardware.groups))
    return Resolved(
        user=msgspec.structs.replace(user, additional_gids=groups),
        home=resolved.home,
        id_base=record.id_base,
        joins=joined,
        files=file_paths(core, record),
        secrets=f"{core.places.task(record.id)}/{SECRETS}",
        volumes={m.source: core.volume_path(m.source) for m in spec.mounts if m.kind == "volume"},
        hardware=hardware,
        throttle_devices=throttle_numbers(spec),
        cgroups_path=f"/{core.places.cgroup(record.id)}",
    )


def file_paths(core: Core, record: ContainerRecord) -> tuple[tuple[str, str], ...]:
    """(target, host path) of the files that name the container, unless the user mounts there."""
    directory = core.places.container(record.id)
    asked = {mount.target for mount in record.spec.mounts}
    return tuple(
        (f"/etc/{name}", f"{directory}/{name}")
        for name in ("hosts", "resolv.conf", "hostname")
        if f"/etc/{name}" not in asked
    )


def write_files(core: Core, record: ContainerRecord) -> None:
    """Write /etc/hosts, /etc/resolv.conf and /etc/hostname of a container."""
    spec = record.spec
    directory = core.places.container(record.id)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    name = hostname(spec, record.id)
    resolver = files.resolv_conf(
        host_resolver(),
        (NAME_SERVER,) if record.endpoints else spec.dns,
        spec.dns_search,
        spec.dns_options or (("ndots:0",) if record.endpoints else ()),
        isolated=spec.network == "none",
    )
    addresses = tuple(a for p in record.endpoints for a in (p.ipv4, p.ipv6) if a)
    texts = {
        "hosts": files.hosts(name, core.endpoints.hosts(record), addresses or ("127.0.1.1",)),
        "resolv.conf": resolver,
        "hostname": f"{name}\n",
    }
    for file, text in texts.items():
        with open(f"{directory}/{file}", "w", encoding="utf-8") as out:
            os.fchmod(out.fileno(), 0o644)
            out.write(text)


def host_resolver() -> str:
    """The host's resolv.conf; empty without one."""
    try:
        with open("/etc/resolv.conf", encoding="utf-8", errors="replace") as file:
            return file.read(65536)
    except OSError:
        return ""


def seccomp_profile(core: Core, spec: ContainerSpec, config: Config) -> Seccomp | None:
    """The filter of a container: the default one, the user's own, or none.

    Raises:
        SpecError: the user's profile is wrong. NotFound: its file is missing.
    """
    choice = security_options(spec).get("seccomp", "")
    if choice == "unconfined" or (spec.privileged and not choice):
        return None
    process = config.process
    held = process.capabilities.bounding if process and process.capabilities else ()
    if not choice or choice == "default":
        return default_profile(frozenset(held), core.host.machine, core.host.kernel)
    source = choice.encode() if choice.lstrip().startswith("{") else Path(choice)
    return load_profile(source, frozenset(held), core.host.machine, core.host.kernel)


def with_seccomp(config: Config, profile: Seccomp | None) -> Config:
    """The configuration with its filter."""
    if config.linux is None or profile is None:
        return config
    linux = msgspec.structs.replace(config.linux, seccomp=profile)
    return msgspec.structs.replace(config, linux=linux)


def layers_of(core: Core, record: ContainerRecord) -> tuple[str, ...]:
    """The directories whose merged view is the container's root, topmost first."""
    rootfs = snapshot_of(core, record)
    return (f"{rootfs.upper}/fs", *rootfs.lowers)
