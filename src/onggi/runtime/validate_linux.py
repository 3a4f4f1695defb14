"""The rules of config-linux.md that need no host to be checked; `validate` is the way in."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from onggi.errors import SpecError
from onggi.kernel.mounts import PROPAGATIONS
from onggi.runtime.steps import CLONE_FLAGS
from onggi.specs.runtime import Device, IdMapping, Linux

#: The kernel takes that many lines in one map (user_namespaces(7), Linux 4.15).
MAX_MAPPINGS = 340
DEVICE_KINDS = frozenset("bcup")
CLOCKS = ("monotonic", "boottime")


def validate_linux(linux: Linux) -> None:
    """Check `linux`.

    Raises:
        SpecError: with the path and the section of the first violation.
    Source: runtime-spec config-linux.md.
    """
    _validate_namespaces(linux)
    _validate_user_namespace(linux)
    _validate_time_offsets(linux)
    _validate_net_devices(linux)
    for index, device in enumerate(linux.devices):
        _validate_device(device, f"$.linux.devices[{index}]")
    for name, paths, section in (
        ("maskedPaths", linux.masked_paths, "masked-paths"),
        ("readonlyPaths", linux.readonly_paths, "readonly-paths"),
    ):
        for index, path in enumerate(paths):
            if not path.startswith("/"):
                raise SpecError(
                    f"$.linux.{name}[{index}]",
                    f"{path!r} is not absolute",
                    section=f"config-linux.md#{section}",
                )
    if linux.rootfs_propagation and linux.rootfs_propagation not in PROPAGATIONS:
        raise SpecError(
            "$.linux.rootfsPropagation",
            f"unknown propagation {linux.rootfs_propagation!r}",
            section="config-linux.md#rootfs-mount-propagation",
        )


def _validate_namespaces(linux: Linux) -> None:
    section = "config-linux.md#namespaces"
    seen = set()
    for index, namespace in enumerate(linux.namespaces):
        path = f"$.linux.namespaces[{index}]"
        if namespace.type not in CLONE_FLAGS:
            raise SpecError(
                f"{path}.type", f"unknown namespace {namespace.type!r}", section=section
            )
        if namespace.type in seen:
            raise SpecError(path, f"{namespace.type} is there twice", section=section)
        if namespace.path and not namespace.path.startswith("/"):
            raise SpecError(f"{path}.path", f"{namespace.path!r} is not absolute", section=section)
        seen.add(namespace.type)
    if "mount" not in seen:
        raise SpecError(
            "$.linux.namespaces",
            "a mount namespace is needed: without one the container's mounts would be the host's",
            section=section,
        )


def _validate_user_namespace(linux: Linux) -> None:
    section = "config-linux.md#user-namespace-mappings"
    user = next((n for n in linux.namespaces if n.type == "user"), None)
    for name, mappings in (
        ("uidMappings", linux.uid_mappings),
        ("gidMappings", linux.gid_mappings),
    ):
        path = f"$.linux.{name}"
        if mappings and user is None:
            raise SpecError(path, "needs a user namespace", section=section)
        if user is not None and not user.path and not mappings:
            raise SpecError(path, "a new user namespace needs mappings", section=section)
        validate_mappings(mappings, path)


def validate_mappings(mappings: Sequence[IdMapping], path: str) -> None:
    """Check one map of ids: ranges that exist, and do not overlap on either side.

    Raises:
        SpecError: with the path of the first violation.
    Source: user_namespaces(7) "Defining user and group ID mappings".
    """
    section = "config-linux.md#user-namespace-mappings"
    if len(mappings) > MAX_MAPPINGS:
        raise SpecError(path, f"more than {MAX_MAPPINGS} mappings", section=section)
    for index, mapping in enumerate(mappings):
        for start in (mapping.container_id, mapping.host_id):
            if mapping.size < 1 or start < 0 or start + mapping.size > 2**32 - 1:
                raise SpecError(f"{path}[{index}]", "is not a range of ids", section=section)
    for side in ("container_id", "host_id"):
        ranges = sorted((getattr(mapping, side), mapping.size) for mapping in mappings)
        for (start, size), (following, _) in pairwise(ranges):
            if start + size > following:
                raise SpecError(path, f"ranges overlap at {following}", section=section)


def _validate_time_offsets(linux: Linux) -> None:
    section = "config-linux.md#offset-for-time-namespace"
    path = "$.linux.timeOffsets"
    own = any(n.type == "time" and not n.path for n in linux.namespaces)
    if linux.time_offsets and not own:
        raise SpecError(path, "needs a new time namespace", section=section)
    for clock, offset in linux.time_offsets.items():
        if clock not in CLOCKS:
            raise SpecError(path, f"unknown clock {clock!r}", section=section)
        if not 0 <= offset.nanosecs < 1_000_000_000 or not -(2**62) < offset.secs < 2**62:
            raise SpecError(f"{path}.{clock}", "is out of range", section=section)


def _validate_net_devices(linux: Linux) -> None:
    section = "config-linux.md#network-devices"
    path = "$.linux.netDevices"
    if linux.net_devices and not any(n.type == "network" for n in linux.namespaces):
        raise SpecError(path, "needs a network namespace to move into", section=section)
    taken = {"lo"}
    for name, device in linux.net_devices.items():
        inside = name if device.name is None else device.name
        for each, place in ((name, path), (inside, f"{path}.{name}.name")):
            if not _is_device_name(each):
                raise SpecError(place, f"{each!r} is not the name of a device", section=section)
        if inside in taken:
            raise SpecError(f"{path}.{name}", f"another is called {inside} inside", section=section)
        taken.add(inside)


def _is_device_name(name: str) -> bool:
    """As the kernel has it (dev_valid_name), without `%`, which it would fill in."""
    odd = any(c in "/:%" or c.isspace() for c in name)
    return not odd and 0 < len(name.encode()) < 16 and name not in (".", "..")


def _validate_device(device: Device, path: str) -> None:
    section = "config-linux.md#devices"
    if not device.path.startswith("/"):
        raise SpecError(f"{path}.path", f"{device.path!r} is not absolute", section=section)
    if device.type not in DEVICE_KINDS:
        raise SpecError(f"{path}.type", f"unknown kind {device.type!r}", section=section)
    if not 0 <= device.major < 2**12 or not 0 <= device.minor < 2**20:
        raise SpecError(path, "major or minor is out of range", section=section)
    if device.file_mode is not None and not 0 <= device.file_mode < 2**16:
        raise SpecError(f"{path}.fileMode", "is not a mode", section=section)
    for name, number in (("uid", device.uid), ("gid", device.gid)):
        if number is not None and not 0 <= number < 2**32 - 1:
            raise SpecError(f"{path}.{name}", f"{number} is not an id", section=section)
