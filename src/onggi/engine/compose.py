"""From what a person asked for to a runtime configuration: a pure function.

`compose` reads no file and probes nothing; what must be looked up (user, devices, volumes, the
namespaces of other containers) comes in as `Resolved`. Policy of the defaults is in `defaults`.
Source: runtime-spec config.md; image-spec conversion.md.
"""

from __future__ import annotations

import posixpath

import msgspec
from msgspec import Struct

from onggi.engine import defaults
from onggi.engine.api.spec import ContainerSpec, MountSpec
from onggi.engine.resources import compose_resources
from onggi.errors import InvalidArgument
from onggi.kernel.capabilities import DEFAULT, NAMES, canonical
from onggi.specs.image import ContainerConfig
from onggi.specs.runtime import (
    Capabilities,
    Config,
    ConsoleSize,
    Device,
    IdMapping,
    Linux,
    Mount,
    Namespace,
    Process,
    Rlimit,
    Root,
    User,
)

ID_RANGE = 65536
_NAMESPACE_MODES = ("network", "ipc", "pid", "uts")


class Hardware(Struct, frozen=True):
    """The devices of one container, and what they bring along.

    `sources`: path in the container → node on the host, where one was named; `access` likewise.
    """

    devices: tuple[Device, ...] = ()
    sources: dict[str, str] = {}
    access: dict[str, str] = {}
    env: tuple[str, ...] = ()
    mounts: tuple[Mount, ...] = ()
    groups: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()


class Resolved(Struct, frozen=True):
    """What the engine looked up for one container.

    `joins`: namespace type → path of a namespace to join. `files`: /etc/hosts and its like as
    (target, host path). `secrets`: directory of the secrets, called by their number. `volumes`:
    volume name → host directory.
    """

    user: User
    home: str = "/"
    id_base: int | None = None
    joins: dict[str, str] = {}
    files: tuple[tuple[str, str], ...] = ()
    secrets: str = ""
    volumes: dict[str, str] = {}
    hardware: Hardware = Hardware()
    throttle_devices: dict[str, tuple[int, int]] = {}
    cgroups_path: str = ""


def compose(
    spec: ContainerSpec, image: ContainerConfig, found: Resolved, container_id: str
) -> Config:
    """The runtime configuration of a container, without its seccomp profile.

    Raises:
        InvalidArgument: nothing to execute, or options that contradict each other.
    """
    namespaces = _namespaces(spec, found)
    own_user = any(n.type == "user" and not n.path for n in namespaces)
    mapping = (
        (IdMapping(container_id=0, host_id=found.id_base, size=ID_RANGE),)
        if own_user and found.id_base is not None
        else ()
    )
    if mapping:
        _check_user(found.user)
    shares_uts = not any(n.type == "uts" and not n.path for n in namespaces)
    return Config(
        oci_version="1.2.0",
        root=Root(path="rootfs", readonly=spec.read_only),
        hostname=None if shares_uts else hostname(spec, container_id),
        domainname=None if shares_uts else spec.domainname or None,
        process=_process(spec, image, found, container_id),
        mounts=_mounts(spec, found),
        annotations=dict(spec.labels),
        linux=Linux(
            namespaces=namespaces,
            uid_mappings=mapping,
            gid_mappings=mapping,
            devices=found.hardware.devices,
            cgroups_path=found.cgroups_path,
            resources=compose_resources(
                spec, found.hardware.devices, found.throttle_devices, found.hardware.access
            ),
            sysctl=_sysctls(spec, namespaces),
            masked_paths=() if _unmasked(spec) else defaults.MASKED_PATHS,
            readonly_paths=() if _unmasked(spec) else defaults.READONLY_PATHS,
        ),
    )


def _check_user(user: User) -> None:
    """Raises: InvalidArgument: an id that the container's range does not have."""
    highest = max((user.uid, user.gid, *user.additional_gids))
    if highest >= ID_RANGE:
        raise InvalidArgument(
            f"user or group {highest} is outside the {ID_RANGE:,} ids that a container has",
            hint=f"choose one below {ID_RANGE}, or run it with --userns host",
        )


def _sysctls(spec: ContainerSpec, namespaces: tuple[Namespace, ...]) -> dict[str, str]:
    """A network of its own lets every user take any port and ping: there is nobody else on it."""
    own = any(n.type == "network" and not n.path for n in namespaces)
    return (dict(defaults.NETWORK_SYSCTLS) if own else {}) | spec.sysctls


def with_image(spec: ContainerSpec, image: ContainerConfig | None) -> ContainerSpec:
    """The specification with what the image says where the user said nothing, and its labels.

    Source: image-spec config.md#properties.
    """
    image = image or ContainerConfig()
    return msgspec.structs.replace(
        spec,
        stop_signal=spec.stop_signal or image.stop_signal,
        labels=(image.labels or {}) | spec.labels,
        expose=tuple(dict.fromkeys((*spec.expose, *(image.exposed_ports or ())))),
    )


def hostname(spec: ContainerSpec, container_id: str) -> str:
    """The container's hostname: as asked, or the id's beginning as docker does."""
    return spec.hostname or container_id[:12]


def arguments(spec: ContainerSpec, image: ContainerConfig) -> tuple[str, ...]:
    """What is executed: an entrypoint given by the user discards the image's command.

    Raises:
        InvalidArgument: neither the user nor the image says what to execute.
    """
    if spec.entrypoint is not None:
        result = spec.entrypoint + spec.command
    else:
        result = (image.entrypoint or ()) + (spec.command or image.cmd or ())
    if not result or not result[0]:
        raise InvalidArgument(
            f"image {spec.image} names no command to execute",
            hint="write one behind the image: onggi run IMAGE COMMAND",
        )
    return result


def security_options(spec: ContainerSpec) -> dict[str, str]:
    """`--security-opt` as a mapping.

    Raises:
        InvalidArgument: an option nobody knows.
    """
    known = {"no-new-privileges", "seccomp", "systempaths", "apparmor", "label"}
    options: dict[str, str] = {}
    for text in spec.security_opt:
        name, separator, value = text.partition("=")
        if not separator:
            name, _, value = text.partition(":")
        if name not in known:
            raise InvalidArgument(
                f"unknown --security-opt {text!r}", hint=f"known are: {', '.join(sorted(known))}"
            )
        options[name] = value
    return options


def _unmasked(spec: ContainerSpec) -> bool:
    return spec.privileged or security_options(spec).get("systempaths") == "unconfined"


def _namespaces(spec: ContainerSpec, found: Resolved) -> tuple[Namespace, ...]:
    """The namespaces to make (no path) or join; a missing type stays the host's."""
    result = [Namespace(type="mount")]
    for kind in _NAMESPACE_MODES:
        mode = getattr(spec, kind)
        if kind in found.joins:
            result.append(Namespace(type=kind, path=found.joins[kind]))
        elif mode != "host":
            result.append(Namespace(type=kind))
    if "user" in found.joins:
        result.append(Namespace(type="user", path=found.joins["user"]))
    elif found.id_base is not None:
        result.append(Namespace(type="user"))
    if spec.cgroupns != "host":
        result.append(Namespace(type="cgroup"))
    return tuple(result)


def _process(
    spec: ContainerSpec, image: ContainerConfig, found: Resolved, container_id: str
) -> Process:
    return Process(
        cwd=spec.workdir or image.working_dir or "/",
        args=arguments(spec, image),
        env=environment(
            image.env or (),
            spec.env + found.hardware.env,
            home=found.home,
            hostname=hostname(spec, container_id),
            terminal=spec.tty,
        ),
        terminal=spec.tty,
        console_size=ConsoleSize(height=0, width=0) if spec.tty else None,
        user=found.user,
        capabilities=capabilities(
            spec.cap_add, spec.cap_drop, privileged=spec.privileged, uid=found.user.uid
        ),
        rlimits=tuple(
            Rlimit(
                type=f"RLIMIT_{limit.name.upper()}",
                soft=limit.soft & 0xFFFFFFFFFFFFFFFF,
                hard=limit.hard & 0xFFFFFFFFFFFFFFFF,
            )
            for limit in spec.ulimits
        ),
        no_new_privileges=security_options(spec).get("no-new-privileges", "false")
        in ("", "true", "1"),
        oom_score_adj=spec.oom_score_adj,
    )


def environment(
    image: tuple[str, ...],
    asked: tuple[str, ...],
    *,
    home: str,
    hostname: str,
    terminal: bool,
) -> tuple[str, ...]:
    """Defaults, then the image's variables, then the user's; `NAME` without `=` removes one."""
    merged = {"PATH": defaults.PATH, "HOSTNAME": hostname}
    if terminal:
        merged["TERM"] = "xterm"
    merged["HOME"] = home
    for entry in image + asked:
        name, separator, value = entry.partition("=")
        if separator:
            merged[name] = value
        else:
            merged.pop(name, None)
    return tuple(f"{name}={value}" for name, value in merged.items())


def capabilities(
    add: tuple[str, ...], drop: tuple[str, ...], *, privileged: bool, uid: int
) -> Capabilities:
    """The five sets: the default set, plus and minus what was asked.

    No inheritable set (CVE-2022-29162). A user other than root gets what was asked only as the
    bounding set, as docker does: it gains them through set-user-id programs alone.

    Raises:
        InvalidArgument: a capability nobody knows.
    """
    if privileged:
        names = frozenset(NAMES)
    else:
        adding, dropping = (_capability_names(names) for names in (add, drop))
        start = frozenset(NAMES) if "ALL" in adding else frozenset(DEFAULT)
        start = frozenset() if "ALL" in dropping else start
        names = (start | (adding - {"ALL"})) - (dropping - {"ALL"})
    bounding = tuple(name for name in NAMES if name in names)
    effective = bounding if uid == 0 else ()
    return Capabilities(bounding=bounding, effective=effective, permitted=effective)


def _capability_names(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset("ALL" if name.upper() == "ALL" else canonical(name) for name in names)


def _mounts(spec: ContainerSpec, found: Resolved) -> tuple[Mount, ...]:
    """Default file systems, then the three files and the user's mounts in order of their depth.

    A mount of the user's on a default's place replaces it.
    """
    shm = Mount(
        destination=defaults.SHM_PLACE,
        type="tmpfs",
        source="shm",
        options=("nosuid", "noexec", "nodev", "mode=1777", f"size={spec.shm_size_bytes}"),
    )
    base = [defaults.PROC, defaults.DEV, defaults.DEVPTS, defaults.SYSFS, defaults.CGROUP]
    base += [defaults.MQUEUE] if spec.ipc != "host" else []
    # That of another container is taken where it is mounted, which no configuration can say.
    own = [] if "mount" in found.joins else [shm]
    base += {"host": [defaults.HOST_SHM], "none": []}.get(spec.ipc, own)
    if spec.privileged:
        base = [_writable(mount) for mount in base]
    asked = [_file_mount(target, source) for target, source in found.files]
    asked += [_user_mount(mount, found) for mount in spec.mounts]
    asked += [
        _secret_mount(secret.target, f"{found.secrets}/{number}")
        for number, secret in enumerate(spec.secrets)
    ]
    replaced = {mount.destination for mount in asked}
    for mount in found.hardware.mounts:
        if mount.destination in replaced:
            raise InvalidArgument(
                f"two mounts have the target {mount.destination}: yours, and that of a device"
            )
    asked += found.hardware.mounts
    replaced |= {mount.destination for mount in found.hardware.mounts}
    kept = [mount for mount in base if mount.destination not in replaced]
    return tuple(kept + sorted(asked, key=lambda mount: mount.destination.count("/")))


def _writable(mount: Mount) -> Mount:
    options = tuple(option for option in mount.options if option != "ro")
    return Mount(
        destination=mount.destination, type=mount.type, source=mount.source, options=options
    )


def _file_mount(target: str, source: str) -> Mount:
    return Mount(destination=target, type="bind", source=source, options=("bind", "rprivate"))


def _secret_mount(target: str, source: str) -> Mount:
    return Mount(
        destination=posixpath.join("/run/secrets", target),
        type="bind",
        source=source,
        options=("bind", "rprivate", "ro", "nosuid", "nodev", "noexec"),
    )


def _user_mount(mount: MountSpec, found: Resolved) -> Mount:
    if mount.kind == "tmpfs":
        return _tmpfs(mount, found.user)
    source = found.volumes[mount.source] if mount.kind == "volume" else mount.source
    if mount.subpath:
        source = posixpath.join(source, mount.subpath)
    # What is said of the mount holds below it: submounts would otherwise stay the host's own peers,
    # and what the container mounts on them would appear on the host.
    spreading = f"r{mount.propagation.removeprefix('r') or 'private'}"
    options = ["rbind" if mount.recursive else "bind", spreading]
    if mount.read_only:
        # Recursive: a read-only bind whose submounts stay writable is not what people mean by it.
        options.append("rro" if mount.read_only_below else "ro")
    if mount.chown and (found.id_base is not None or "user" in found.joins):
        # Without it the owners that the source was given would be nobody's inside.
        options.append("idmap")
    return Mount(
        destination=mount.target,
        type="bind",
        source=source,
        options=(*options, *mount.options),
    )


def _tmpfs(mount: MountSpec, user: User) -> Mount:
    options = ("nosuid", "nodev", "noexec", *mount.options)
    if mount.tmpfs_size_bytes is not None:
        options += (f"size={mount.tmpfs_size_bytes}",)
    if mount.tmpfs_mode is not None:
        options += (f"mode={mount.tmpfs_mode:o}",)
    if mount.chown:
        options += (f"uid={user.uid}", f"gid={user.gid}")
    options += ("ro",) if mount.read_only else ()
    return Mount(destination=mount.target, type="tmpfs", source="tmpfs", options=options)
