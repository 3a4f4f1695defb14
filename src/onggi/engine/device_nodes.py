"""Nodes of the devices that a container was given, owned by its own ids.

A host's node bound into a user namespace belongs to nobody there, and devtmpfs takes no idmapped
mounts; so root inside could open none that is not open to all. Who may open which device at all
is decided by the cgroup, not here.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Sequence

from onggi.errors import from_os_error
from onggi.specs.runtime import Device


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
