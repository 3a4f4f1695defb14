"""Nodes of the devices that a container was given, owned by its own ids.

A host's node bound into a user namespace belongs to nobody there, and devtmpfs takes no idmapped
mounts; so root inside could open none that is not open to all. Who may open which device at all
is decided by the cgroup, not here.
"""

from __future__ import annotations

import os
import posixpath
import shutil
import stat
from collections.abc import Sequence

from onggi.engine.api.spec import DeviceSpec
from onggi.errors import InvalidArgument, from_os_error
from onggi.specs.runtime import Device


def with_directories(devices: Sequence[DeviceSpec]) -> tuple[DeviceSpec, ...]:
    """The devices, with every node below it in place of a directory: `--device /dev/snd`.

    Raises:
        InvalidArgument: there is none below it.
    """
    return tuple(node for device in devices for node in _below(device))


def _below(device: DeviceSpec) -> tuple[DeviceSpec, ...]:
    top = device.host_path
    if not (top.startswith("/") and os.path.isdir(top)):
        return (device,)
    found = []
    for directory, _, names in os.walk(top):
        for name in names:
            path = f"{directory}/{name}"
            # Not through links: what they lead to has its own name, here or elsewhere.
            mode = os.lstat(path).st_mode
            if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                inside = posixpath.join(device.container_path, os.path.relpath(path, top))
                found.append(DeviceSpec(path, inside, device.access))
    if not found:
        raise InvalidArgument(f"--device: there is no device below {top}")
    return tuple(sorted(found, key=lambda one: one.host_path))


def make_nodes(directory: str, devices: Sequence[Device], base: int) -> dict[str, str]:
    """Make `directory` anew with a node for each device; container path → node on the host.

    Owners are shifted by `base`. Empty where the file system is mounted `nodev`.

    Raises:
        EngineError: the host refuses.
    Source: mknod(2), mount(8) nodev.
    """
    shutil.rmtree(directory, ignore_errors=True)
    if not devices or os.statvfs(os.path.dirname(directory)).f_flag & os.ST_NODEV:
        return {}
    made = {}
    try:
        os.mkdir(directory, 0o700)
        for number, device in enumerate(devices):
            path = f"{directory}/{number}"
            kind = stat.S_IFBLK if device.type == "b" else stat.S_IFCHR
            mode = stat.S_IMODE(device.file_mode or 0)
            os.mknod(path, kind | 0o600, os.makedev(device.major, device.minor))
            os.chown(path, base + (device.uid or 0), base + (device.gid or 0))
            os.chmod(path, mode)
            made[device.path] = path
    except OSError as error:
        raise from_os_error(error, "making a device node") from None
    return made
