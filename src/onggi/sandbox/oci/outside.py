"""What of a container belongs to its host: a checkpoint names it instead of keeping it.

Mounts, namespaces of others, and stdio. A mount that the configuration binds is named by its
destination, so that a restore from another bundle finds the source there. Everything is looked up
by descriptors and mount ids: the container's own paths are its own choice.
Source: criu(8) --external and --inherit-fd.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Mapping

from onggi.errors import FailedPrecondition, SyscallError, Unsupported, from_os_error
from onggi.kernel.cgroups.driver import Cgroup
from onggi.kernel.descriptors import Descriptor
from onggi.kernel.mounts import (
    ATTRIBUTES,
    MOUNT_ATTR_RDONLY,
    MountInfo,
    parse_options,
    read_mountinfo,
)
from onggi.kernel.namespaces import FILES, namespace_id
from onggi.kernel.paths import open_in_root
from onggi.kernel.syscalls import mount_identity
from onggi.runtime.plan_devices import DEFAULT_DEVICES
from onggi.specs.runtime import Config, Linux, Mount

DESCRIPTORS_NAME = "descriptors.json"
#: Of these CRIU makes a mount of its own, though the host may show the same file system.
_MADE_ANEW = frozenset({"proc", "sysfs", "mqueue", "devpts"})
_CGROUPS = frozenset({"cgroup", "cgroup2"})
#: What a bind must still forbid: as it is found, so it is restored.
_RESTRICTIONS = ("ro", "nosuid", "nodev", "noexec")
#: Namespaces of others that CRIU leaves alone, by a name that is runc's; the rest it joins.
EXTERNAL_NAMESPACES = {"network": "extRootNetNS", "pid": "extRootPidNS"}


def is_bind(mount: Mount) -> bool:
    return mount.type == "bind" or parse_options(mount.options).bind


def is_read_only(mount: Mount) -> bool:
    options = parse_options(mount.options)
    return bool((options.attributes_set | options.recursive_set) & MOUNT_ATTR_RDONLY)


def place_of(mount: Mount) -> str:
    """A mount's destination, as mounts of the host are named by it."""
    return posixpath.normpath("/" + mount.destination.lstrip("/"))


def check(config: Config) -> None:
    """Whether CRIU can keep what a configuration asks for.

    Raises:
        Unsupported: with the setting that it cannot.
    """
    linux = config.linux or Linux()
    for index, mount in enumerate(config.mounts):
        options = parse_options(mount.options)
        if mount.uid_mappings or mount.gid_mappings or options.idmap:
            raise Unsupported(f"$.mounts[{index}]: criu does not know mounts with mapped ids")
    for index, namespace in enumerate(linux.namespaces):
        if namespace.type == "cgroup" and namespace.path:
            raise Unsupported(
                f"$.linux.namespaces[{index}]: criu cannot join a cgroup namespace of others"
            )


def external_mounts(config: Config, pid: int, root: int) -> list[str]:
    """`--external` words for every mount that CRIU cannot make; `root`: the container's.

    Raises:
        FailedPrecondition: a bind forbids less than the configuration says.
    """
    rows = read_mountinfo(pid)
    bound = _bound(config, {row.mount_id: row for row in rows}, root)
    hosts = {(row.major, row.minor) for row in read_mountinfo()}
    words = []
    for row in rows:
        if row.mount_point == "/":
            continue  # where that is, is said by the restore
        key = bound.get(row.mount_id)
        if key is None and (row.fstype in _CGROUPS or _is_of_host(row, hosts)):
            key = row.mount_point
        if key is not None:
            words.append(f"mnt[{row.mount_point}]:{key}")
    return words


def _is_of_host(row: MountInfo, hosts: set[tuple[int, int]]) -> bool:
    made_anew = row.fstype in _MADE_ANEW and row.root == "/"
    return (row.major, row.minor) in hosts and not made_anew


def _bound(config: Config, rows: Mapping[int, MountInfo], root: int) -> dict[int, str]:
    """Mount id → destination, for what the configuration binds and is there."""
    found = {}
    for index, mount in enumerate(config.mounts):
        if not is_bind(mount):
            continue
        try:
            with open_in_root(root, place_of(mount), os.O_PATH) as fd:
                mount_id, is_root = mount_identity(fd)
        except SyscallError:
            continue  # the container has hidden it; what is there instead is refused by CRIU
        if is_root and mount_id in rows:
            _check_restrictions(rows[mount_id], mount, index)
            found[mount_id] = place_of(mount)
    return found


def _check_restrictions(row: MountInfo, mount: Mount, index: int) -> None:
    """By renaming what is above them, a container could have one bind restored as another."""
    asked = parse_options(mount.options)
    asked_bits = asked.attributes_set | asked.recursive_set
    for name in _RESTRICTIONS:
        if asked_bits & ATTRIBUTES[name][0] and name not in row.options:
            raise FailedPrecondition(
                f"$.mounts[{index}]: what is mounted at {mount.destination} is not {name} any more",
                hint="the container has changed its mounts; it is not kept like that",
            )


def sources(config: Config, bundle: str, cgroup: Cgroup | None) -> list[str]:
    """`--external` words with the host's path for every name that a checkpoint may have."""
    found: dict[str, str] = {}
    linux = config.linux or Linux()
    for path in (*linux.masked_paths, *(device.path for device in DEFAULT_DEVICES)):
        found[path] = path if path.startswith("/dev/") else "/dev/null"
    for device in linux.devices:
        found[device.path] = device.path
    for mount in config.mounts:
        if mount.type in _CGROUPS and not is_bind(mount):
            found |= dict(_cgroup_sources(place_of(mount), cgroup))
        elif is_bind(mount):
            source = os.path.normpath(os.path.join(bundle, mount.source or ""))
            found |= dict(_below(place_of(mount), source))
    return [f"mnt[{key}]:{source}" for key, source in found.items()]


def _below(place: str, source: str) -> Iterator[tuple[str, str]]:
    """A bind, and what is mounted below its source: named by where it is in the container."""
    yield place, source
    for row in read_mountinfo():
        if row.mount_point.startswith(f"{source.rstrip('/')}/"):
            yield f"{place}{row.mount_point.removeprefix(source.rstrip('/'))}", row.mount_point


def _cgroup_sources(place: str, cgroup: Cgroup | None) -> Iterator[tuple[str, str]]:
    """As runtime.plan_cgroups binds them: the own directory of each hierarchy."""
    if cgroup is None:
        return
    for hierarchy in cgroup.layout.hierarchies:
        own = f"{hierarchy.mount_point}/{cgroup.path}"
        if os.path.isdir(own):
            yield f"{place}/{posixpath.basename(hierarchy.mount_point)}", own
            if hierarchy.version == 2:
                yield place, own


def external_namespaces(config: Config, pid: int) -> list[str]:
    """`--external` words for the namespaces that the container has from others."""
    return [
        f"{FILES[kind]}[{namespace_id(pid, kind)}]:{EXTERNAL_NAMESPACES[kind]}"
        for kind, _ in namespaces_of_others(config)
        if kind in EXTERNAL_NAMESPACES
    ]


def namespaces_of_others(config: Config) -> list[tuple[str, str]]:
    """Kind and path of each."""
    namespaces = (config.linux or Linux()).namespaces
    return [(n.type, n.path) for n in namespaces if n.path]


def descriptors(pid: int) -> list[str]:
    """What a process's stdio is, by the names under which CRIU gives it away again.

    A file outside of its mount namespace is `file[MOUNT:INODE]`: to CRIU it is nobody's.

    Raises:
        FailedPrecondition: it has ended.
    """
    own = {row.mount_id for row in read_mountinfo(pid)}
    return [_descriptor(f"/proc/{pid}/fd/{number}", own) for number in range(3)]


def _descriptor(path: str, own_mounts: set[int]) -> str:
    try:
        with Descriptor(os.open(path, os.O_PATH | os.O_CLOEXEC)) as fd:
            target = os.readlink(path)
            mount_id, _ = mount_identity(fd)
            if not target.startswith("/") or mount_id in own_mounts:
                return target
            return f"file[{mount_id:x}:{os.fstat(fd).st_ino:x}]"
    except FileNotFoundError:
        return ""  # it has closed it
    except OSError as error:
        raise from_os_error(error, "look at the container's stdio") from error


def is_given(name: str) -> bool:
    """Whether a descriptor of this name comes from whoever restores."""
    return name.startswith(("pipe:[", "socket:[", "file["))
