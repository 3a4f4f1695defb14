"""The container's tree: its root, and the mounts of the configuration in their order.

Every source on the host is taken by the monitor before the clone (D6: no path is looked up twice);
what is attached inside comes from a slot, or is a file system made inside. Nothing is probed here.
"""

from __future__ import annotations

import posixpath

from onggi.errors import SpecError, Unsupported
from onggi.kernel.mounts import (
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MS_PRIVATE,
    MS_REC,
    MS_SHARED,
    MS_SLAVE,
    PROPAGATIONS,
    MountOptions,
    parse_options,
)
from onggi.runtime.draft import Draft
from onggi.runtime.namespaces import is_mapped, map_text
from onggi.runtime.plan_cgroups import plan_cgroup_mount
from onggi.runtime.request import Overlay
from onggi.runtime.steps import (
    NO_SLOT,
    AttachRoot,
    BindTree,
    ChangeMount,
    IdmapTree,
    MountFilesystem,
    MountOverlay,
)
from onggi.runtime.validate_linux import validate_mappings
from onggi.specs.runtime import Mount

_SECTION = "config.md#mounts"
_PRIVATE = MS_PRIVATE | MS_REC

#: File systems that are made as they are mounted. Any other one may lie on a device that cannot be
#: written to: there the file system itself must be read-only, not just the mount.
_WITHOUT_DISK = frozenset({"tmpfs", "ramfs", "devpts", "proc", "sysfs", "mqueue", "overlay"})

#: File systems that show a namespace: only who owns that namespace may mount them. Type → the
#: namespace, and where the host has its own.
_OF_NAMESPACES = {
    "sysfs": ("network", "/sys"),
    "proc": ("pid", "/proc"),
    "mqueue": ("ipc", "/dev/mqueue"),
}


def plan_root(draft: Draft) -> None:
    """Attach the root: the layers' overlay, or the directory that the configuration names.

    Raises:
        SpecError: a relative `root.path` without a bundle.
    """
    if draft.request.overlay is not None:
        slot = _overlay(draft, draft.request.overlay)
    else:
        assert draft.config.root is not None  # validate() has seen to it
        path = "$.root.path"
        source = host_path(draft, draft.config.root.path, path)
        slot = draft.open_tree(source, path, recursive=True)
    draft.inside.append(
        AttachRoot(slot=slot, path=draft.request.root_mountpoint, propagation=_root_type(draft))
    )


def _root_type(draft: Draft) -> int:
    """The propagation type that the root has while it is built: never shared with the host."""
    flags = PROPAGATIONS[draft.linux.rootfs_propagation or "private"]
    return MS_SLAVE | MS_REC if flags & MS_SLAVE else _PRIVATE


def _bind_type(draft: Draft) -> int:
    """The propagation type of a bind that asks for none: it follows the root."""
    flags = PROPAGATIONS[draft.linux.rootfs_propagation or "private"]
    return flags | MS_REC if flags & (MS_SLAVE | MS_SHARED) else _PRIVATE


def _overlay(draft: Draft, overlay: Overlay) -> int:
    idmap = draft.namespaces.own_users
    lowers = tuple(draft.open_tree(lower, "$.root", idmap=idmap) for lower in overlay.lowers)
    upper = draft.open_tree(overlay.upper, "$.root", idmap=idmap) if overlay.upper else NO_SLOT
    slot = draft.slot("$.root")
    draft.inside.append(
        MountOverlay(
            slot=slot,
            lowers=lowers,
            upper=upper,
            work=upper,
            options=("userxattr", "volatile") if overlay.volatile else ("userxattr",),
        )
    )
    return slot


def host_path(draft: Draft, name: str, path: str) -> str:
    """An absolute path of the host; a relative one starts from the bundle.

    Raises:
        SpecError: relative, and there is no bundle.
    """
    if name.startswith("/"):
        return name
    if not draft.request.bundle:
        raise SpecError(path, f"{name!r} is relative and there is no bundle", section=_SECTION)
    return posixpath.join(draft.request.bundle, name)


def plan_mounts(draft: Draft) -> None:
    """Every mount of the configuration, in its order.

    Raises:
        SpecError: a mount that cannot be made, with its path.
    Source: runtime-spec config.md#mounts.
    """
    for index, mount in enumerate(draft.config.mounts):
        path = f"$.mounts[{index}]"
        target = _target(draft, mount, path)
        options = parse_options(mount.options)
        if options.remount:
            _plan_remount(draft, options, target, path)
        elif mount.type == "bind" or options.bind:
            _plan_bind(draft, mount, options, target, path)
        elif mount.type in ("cgroup", "cgroup2"):
            plan_cgroup_mount(draft, mount.type, options, target, path)
        else:
            _plan_filesystem(draft, mount, options, target, path)


def plan_shared_memory(draft: Draft) -> None:
    """POSIX shared memory of another container's: files, of which no namespace knows (shm_open(3)).

    It is of the same user namespace, so owners show as they are.
    """
    namespace = draft.request.shared_memory
    if namespace:
        place = "/dev/shm"  # noqa: S108 - the containers' own
        draft.inside.append(
            BindTree(
                slot=draft.open_peer_tree(namespace, place, "$.mounts"),
                target=place,
                attributes_set=MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC,
                propagation=_PRIVATE,
            )
        )


def _target(draft: Draft, mount: Mount, path: str) -> str:
    if not mount.destination.startswith("/"):
        draft.warn(f"{path}.destination", "is relative: taken to start at / (deprecated)")
    if is_place(mount.destination, "/"):
        raise SpecError(f"{path}.destination", "is the root itself", section=_SECTION)
    return "/" + mount.destination.lstrip("/")


def is_place(destination: str, place: str) -> bool:
    """Whether a mount's destination is spelled as `place`, whatever its slashes and dots."""
    return posixpath.normpath("/" + destination.lstrip("/")) == place


def _plan_bind(draft: Draft, mount: Mount, options: MountOptions, target: str, path: str) -> None:
    if not mount.source:
        raise SpecError(f"{path}.source", "a bind mount needs one", section=_SECTION)
    for option in options.data:
        draft.warn(f"{path}.options", f"{option!r} does nothing for a bind mount")
    slot = draft.open_tree(
        host_path(draft, mount.source, f"{path}.source"),
        path,
        held=dict(draft.request.mount_sources).get(mount.destination, ""),
        recursive=options.recursive,
    )
    _plan_owners(draft, mount, options, slot, path)
    draft.inside.append(
        BindTree(
            slot=slot,
            target=target,
            attributes_set=options.attributes_set,
            attributes_clear=options.attributes_clear,
            below_set=options.recursive_set,
            below_clear=options.recursive_clear,
            propagation=options.propagation or _bind_type(draft),
        )
    )


def _plan_remount(draft: Draft, options: MountOptions, target: str, path: str) -> None:
    """Other attributes for what an earlier entry has mounted there."""
    for option in options.data:
        draft.warn(f"{path}.options", f"{option!r} stays as it was: a remount changes attributes")
    draft.inside.append(
        ChangeMount(
            target=target,
            attributes_set=options.attributes_set,
            attributes_clear=options.attributes_clear,
            below_set=options.recursive_set,
            below_clear=options.recursive_clear,
            propagation=options.propagation,
        )
    )


def _plan_owners(draft: Draft, mount: Mount, options: MountOptions, slot: int, path: str) -> None:
    """Whose the files of a bind appear to be."""
    if not (options.idmap or mount.uid_mappings):
        wanted = draft.namespaces.own_users and draft.request.idmap_sources
        if wanted and draft.host.idmapped_mounts:
            step = IdmapTree(slot=slot, recursive=int(options.recursive), optional=True)
            draft.map_owners(step, path)
        return
    section = "config.md#posix-platform-mounts"
    if not draft.host.idmapped_mounts:
        raise Unsupported(f"{path}: this kernel has no idmapped mounts", hint="use Linux 5.12")
    recursive = int(options.recursive_idmap and options.recursive)
    if mount.uid_mappings:
        validate_mappings(mount.uid_mappings, f"{path}.uidMappings")
        validate_mappings(mount.gid_mappings, f"{path}.gidMappings")
        maps = map_text(mount.uid_mappings), map_text(mount.gid_mappings)
        step = IdmapTree(slot=slot, recursive=recursive, uid_map=maps[0], gid_map=maps[1])
        draft.map_owners(step, path)
    elif draft.namespaces.own_users:
        draft.map_owners(IdmapTree(slot=slot, recursive=recursive), path)
    else:
        raise SpecError(
            path, "an idmapped mount needs mappings, or a user namespace", section=section
        )


def _plan_filesystem(
    draft: Draft, mount: Mount, options: MountOptions, target: str, path: str
) -> None:
    if not mount.type or mount.type == "none":
        raise SpecError(f"{path}.type", "is needed unless it is a bind mount", section=_SECTION)
    if options.idmap or mount.uid_mappings:
        raise SpecError(path, "only a bind mount can be idmapped", section=_SECTION)
    if mount.type in _OF_NAMESPACES and not draft.namespaces.owns(_OF_NAMESPACES[mount.type][0]):
        _bind_hosts(draft, mount.type, options, target, path)
        return
    attributes = options.attributes_set | options.recursive_set
    if is_place(mount.destination, "/dev") and attributes & MOUNT_ATTR_RDONLY:
        attributes &= ~MOUNT_ATTR_RDONLY
        # only when the nodes and links are in it
        draft.late.append(ChangeMount(target=target, attributes_set=MOUNT_ATTR_RDONLY))
    data = _data(draft, mount.type, options, path)
    draft.inside.append(
        MountFilesystem(
            fstype=mount.type,
            source=mount.source or mount.type,
            target=target,
            attributes=attributes,
            copy_up=_copy_up(mount.type, options, data),
            options=(*data, *_label(draft, mount.type)),
            propagation=options.propagation,
        )
    )


def _copy_up(fstype: str, options: MountOptions, data: tuple[str, ...]) -> int:
    """A tmpfs without a mode of its own has that of the directory which it covers."""
    if options.copy_up:
        return 1
    has_mode = any(option.startswith("mode=") for option in data)
    return 2 if fstype == "tmpfs" and not has_mode else 0


def _label(draft: Draft, fstype: str) -> tuple[str, ...]:
    """`linux.mountLabel` as selinux(8) reads it; the kernel's own file systems have labels."""
    label = draft.linux.mount_label
    if not label or "selinux" not in draft.host.lsms or fstype in _OF_NAMESPACES:
        return ()
    return (f"context={label}",)


def _bind_hosts(draft: Draft, fstype: str, options: MountOptions, target: str, path: str) -> None:
    """Show the host's own in place of a file system that may not be mounted."""
    kind, source = _OF_NAMESPACES[fstype]
    attributes = options.attributes_set | options.recursive_set
    if fstype == "sysfs":
        attributes |= MOUNT_ATTR_RDONLY
    if attributes & MOUNT_ATTR_RDONLY and not options.attributes_set & MOUNT_ATTR_RDONLY:
        draft.warn(path, f"sysfs is read-only: the {kind} namespace is not the container's own")
    missing = fstype == "mqueue"  # a host need not have mounted it, as it must /proc and /sys
    draft.inside.append(
        BindTree(
            slot=draft.open_tree(source, path, recursive=True, optional=missing),
            target=target,
            below_set=attributes,
            propagation=_PRIVATE,
            optional=missing,
        )
    )


def _data(draft: Draft, fstype: str, options: MountOptions, path: str) -> tuple[str, ...]:
    """The file system's own options; a devpts group that is not mapped would be refused."""
    of_disks = fstype not in _WITHOUT_DISK and options.attributes_set & MOUNT_ATTR_RDONLY
    data = (*options.data, "ro") if of_disks else options.data
    if fstype != "devpts" or "user" not in draft.namespaces.new:
        return data
    kept = []
    for option in data:
        name, _, value = option.partition("=")
        mapped = not value.isdecimal() or is_mapped(draft.linux.gid_mappings, int(value))
        if name == "gid" and not mapped:
            draft.warn(f"{path}.options", f"group {value} is not mapped: terminals keep root's")
        else:
            kept.append(option)
    return tuple(kept)
