"""The rdma controller: handles and objects of each host channel adapter. The same on both versions.

Source: Documentation/admin-guide/cgroup-v1/rdma.rst, cgroup-v2.rst#rdma,
runtime-spec config-linux.md#rdma.
"""

from __future__ import annotations

from onggi.errors import InvalidArgument
from onggi.kernel.cgroups.rule import Change, Files, Write
from onggi.specs.runtime import Resources


def both(resources: Resources, files: Files) -> tuple[Change, ...]:
    """One write to `rdma.max` for each device.

    Raises:
        InvalidArgument: a device name with a space in it.
    """
    changes = []
    for device, entry in resources.rdma.items():
        if not device or any(character.isspace() for character in device):
            raise InvalidArgument(f"rdma device name {device!r} is not one")
        pairs = (("hca_handle", entry.hca_handles), ("hca_object", entry.hca_objects))
        words = [f"{key}={value}" for key, value in pairs if value is not None]
        if words:
            changes.append(Write("rdma.max", " ".join((device, *words))))
    return tuple(changes)
