"""The devices that a container was given: by their paths on the host, or by the names of CDI.

Source: docker-run(1) --device, CDI SPEC.md.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from onggi.engine.api.spec import ContainerSpec
from onggi.engine.cdi import edits_for
from onggi.engine.compose import ID_RANGE, Hardware
from onggi.errors import InvalidArgument, NotFound
from onggi.specs.cdi import CdiMount, DeviceNode
from onggi.specs.runtime import Device, Mount, User


def find_hardware(
    spec: ContainerSpec, user: User, directories: Sequence[str], *, own_ids: bool
) -> Hardware:
    """The device nodes asked for, all of the host's for a privileged container, and what CDI brings
    along. `directories`: of CDI specifications; `own_ids`: it has a range of ids of its own.

    Raises:
        NotFound: no such file or device. InvalidArgument: not a device. EngineError: what CDI says
        of it cannot be had.
    """
    plain = [device for device in spec.devices if device.host_path.startswith("/")]
    names = [d.host_path for d in spec.devices if not d.host_path.startswith("/")]
    found = {d.container_path: _device(d.host_path, d.container_path) for d in plain}
    sources = {d.container_path: d.host_path for d in plain}
    access = {d.container_path: d.access for d in plain}
    if spec.privileged:
        with os.scandir("/dev") as entries:
            paths = sorted(e.path for e in entries if _is_device(e.stat(follow_symlinks=False)))
        found |= {path: _device(path, path) for path in paths if path != "/dev/console"}
    edits = edits_for(names, directories) if names else None
    for node in edits.nodes if edits else ():
        found[node.path] = _described(node, user, own_ids=own_ids)
        sources[node.path] = node.host_path or node.path
        access[node.path] = node.permissions or "rwm"
    return Hardware(
        devices=tuple(found.values()),
        sources=sources,
        access=access,
        env=edits.env if edits else (),
        mounts=tuple(map(_mount, edits.mounts)) if edits else (),
        groups=edits.groups if edits else (),
        warnings=edits.warnings if edits else (),
    )


def _is_device(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)


def _device(host_path: str, container_path: str, flag: str = "--device") -> Device:
    status = _stat_device(host_path, flag)
    return Device(
        path=container_path,
        type="b" if stat.S_ISBLK(status.st_mode) else "c",
        major=os.major(status.st_rdev),
        minor=os.minor(status.st_rdev),
        file_mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
    )


def _described(node: DeviceNode, user: User, *, own_ids: bool) -> Device:
    """A node as CDI describes it; what is not said is the host's, and its owner the container's
    user."""
    uid = user.uid if node.uid is None else node.uid
    gid = user.gid if node.gid is None else node.gid
    if own_ids and max(uid, gid) >= ID_RANGE:
        raise InvalidArgument(
            f"CDI: {node.path} belongs to {uid}:{gid}, and the container has {ID_RANGE} ids",
            hint="--userns host has the host's",
        )
    if node.type and node.major is not None and node.minor is not None:
        kind, major, minor = ("b" if node.type == "b" else "c"), node.major, node.minor
        mode = node.file_mode
    else:
        real = _device(node.host_path or node.path, node.path, "CDI")
        kind, major, minor = real.type, real.major, real.minor
        mode = real.file_mode if node.file_mode is None else node.file_mode
        if node.type and node.type.replace("u", "c") != kind:
            raise InvalidArgument(f"CDI: {node.host_path or node.path} is not of type {node.type}")
    return Device(
        path=node.path,
        type=kind,
        major=major,
        minor=minor,
        file_mode=0o666 if mode is None else stat.S_IMODE(mode),
        uid=uid,
        gid=gid,
    )


def _mount(mount: CdiMount) -> Mount:
    binds = mount.type in ("", "bind", "none")
    options = mount.options
    if binds and not {"bind", "rbind"} & set(options):
        options = ("rbind", *options)
    return Mount(
        destination=mount.container_path,
        type="bind" if binds else mount.type,
        source=mount.host_path,
        options=options,
    )


def _stat_device(path: str, flag: str) -> os.stat_result:
    try:
        status = os.stat(path)
    except OSError as error:
        raise NotFound(f"{flag}: no such device on the host: {path} ({error.strerror})") from None
    if not _is_device(status):
        raise InvalidArgument(f"{flag}: {path} is not a device node")
    return status


def throttle_numbers(spec: ContainerSpec) -> dict[str, tuple[int, int]]:
    """Device numbers of the disks that `--device-read-bps` and its like name."""
    limits = spec.resources
    entries = (
        limits.device_read_bps
        + limits.device_write_bps
        + limits.device_read_iops
        + limits.device_write_iops
    )
    numbers = {}
    for entry in entries:
        status = _stat_device(entry.path, "--device-…-bps/iops")
        numbers[entry.path] = (os.major(status.st_rdev), os.minor(status.st_rdev))
    return numbers
