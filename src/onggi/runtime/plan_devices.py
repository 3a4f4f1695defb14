"""Device nodes, the links of /dev, and the terminal.

Root of a user namespace may not make nodes, so there the host's are bound; where an OCI caller's
configuration names more of them, they are made outside, with the owners that it says. Who may open
which device is decided by the cgroup, not here.
Source: runtime-spec config-linux.md#default-devices, runtime-linux.md#dev-symbolic-links.
"""

from __future__ import annotations

from onggi.errors import SpecError
from onggi.kernel.capabilities import BITS
from onggi.kernel.mounts import MS_PRIVATE, MS_REC, parse_options
from onggi.runtime.draft import Draft
from onggi.runtime.namespaces import host_id, is_mapped
from onggi.runtime.plan_mounts import is_place
from onggi.runtime.request import Caller
from onggi.runtime.steps import BindTree, MakeDevice, MakeNode, MakeSymlink, OpenTerminal
from onggi.specs.runtime import Device, Mount

_DEFAULT_MODE = 0o666

DEFAULT_DEVICES: tuple[Device, ...] = (
    Device(path="/dev/null", type="c", major=1, minor=3),
    Device(path="/dev/zero", type="c", major=1, minor=5),
    Device(path="/dev/full", type="c", major=1, minor=7),
    Device(path="/dev/random", type="c", major=1, minor=8),
    Device(path="/dev/urandom", type="c", major=1, minor=9),
    Device(path="/dev/tty", type="c", major=5, minor=0),
)
_DEFAULT_PATHS = frozenset(device.path for device in DEFAULT_DEVICES)
LINKS: tuple[tuple[str, str], ...] = (
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
)


def plan_devices(draft: Draft) -> None:
    """Nodes and links, unless the configuration binds a /dev that is complete as it is."""
    if any(
        is_place(mount.destination, "/dev") and _is_bind(mount) for mount in draft.config.mounts
    ):
        if draft.linux.devices:
            draft.warn("$.linux.devices", "are those of the /dev that is bound")
        return
    asked = {device.path: device for device in draft.linux.devices}
    paths = {device.path: f"$.linux.devices[{i}]" for i, device in enumerate(draft.linux.devices)}
    for device in DEFAULT_DEVICES:
        asked.setdefault(device.path, device)
    for device in asked.values():
        _plan_device(draft, device, paths.get(device.path, "$.linux.devices"))
    for path, target in LINKS:
        draft.inside.append(MakeSymlink(target=target, path=path))


def _is_bind(mount: Mount) -> bool:
    return mount.type == "bind" or parse_options(mount.options).bind


def _is_made_outside(draft: Draft, device: Device) -> bool:
    """Whether it is made by the host's root for a container whose own may not."""
    request, linux = draft.request, draft.linux
    return (
        isinstance(request.supervision, Caller)
        and "user" in draft.namespaces.new
        and device.type != "p"
        and device.path not in _DEFAULT_PATHS
        and not draft.host.unprivileged
        and draft.host.holds(BITS["CAP_MKNOD"])
        and is_mapped(linux.uid_mappings, device.uid or 0)
        and is_mapped(linux.gid_mappings, device.gid or 0)
    )


def _plan_made_outside(draft: Draft, device: Device, path: str) -> None:
    slot = draft.slot(path)
    draft.trees.append(
        MakeNode(
            slot=slot,
            kind=ord("b" if device.type == "b" else "c"),
            major=device.major,
            minor=device.minor,
            mode=_mode(device),
            uid=host_id(draft.linux.uid_mappings, device.uid or 0) or 0,
            gid=host_id(draft.linux.gid_mappings, device.gid or 0) or 0,
        )
    )
    draft.inside.append(BindTree(slot=slot, target=device.path, propagation=MS_PRIVATE | MS_REC))


def _mode(device: Device) -> int:
    return _DEFAULT_MODE if device.file_mode is None else device.file_mode & 0o7777


def _plan_device(draft: Draft, device: Device, path: str) -> None:
    if _is_made_outside(draft, device):
        _plan_made_outside(draft, device, path)
        return
    bound = (
        draft.namespaces.own_users
        or draft.host.unprivileged
        or draft.request.bind_devices
        or not draft.host.holds(BITS["CAP_MKNOD"])
    )
    if device.type == "p" or not bound:
        draft.inside.append(
            MakeDevice(
                path=device.path,
                kind=ord("c" if device.type == "u" else device.type),
                major=device.major,
                minor=device.minor,
                mode=_mode(device),
                uid=device.uid or 0,
                gid=device.gid or 0,
            )
        )
        return
    source = dict(draft.request.device_sources).get(device.path, device.path)
    for_all = (device.file_mode or _DEFAULT_MODE) & 0o006
    if draft.namespaces.own_users and source.startswith("/dev/") and not for_all:
        # devtmpfs takes no idmapped mounts, so its owners are nobody inside.
        draft.warn(path, f"{device.path} is bound from the host, whose ids own it: nobody inside")
    draft.bind(source, device.path, path, MS_PRIVATE | MS_REC)


def plan_terminal(draft: Draft) -> None:
    """The terminal, from a devpts that is the container's own or bound on purpose.

    Raises:
        SpecError: a terminal is asked for, and there is nothing to take it from.
    """
    process = draft.config.process
    if process is None or not process.terminal:
        return
    if not any(_holds_terminals(mount) for mount in draft.config.mounts):
        raise SpecError(
            "$.process.terminal", "needs a devpts mount on /dev/pts", section="config.md#process"
        )
    rows, columns = draft.request.supervision.rows, draft.request.supervision.columns
    if process.console_size and not (rows or columns):
        rows, columns = process.console_size.height, process.console_size.width
    draft.inside.append(OpenTerminal(rows=rows, columns=columns, bind_console=1))


def _holds_terminals(mount: Mount) -> bool:
    if is_place(mount.destination, "/dev/pts"):
        return mount.type == "devpts" or _is_bind(mount)
    return is_place(mount.destination, "/dev") and _is_bind(mount)
