"""The container's tree: its root, and the mounts of the configuration in their order.

Every source on the host is taken by the monitor before the clone (D6: no path is looked up twice);
what is attached inside comes from a slot, or is a file system made inside. Nothing is probed here.
"""

from __future__ import annotations

import posixpath

from onggi.errors import SpecError
from onggi.kernel.mounts import (
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MS_PRIVATE,
    MS_REC,
    PROPAGATIONS,
    MountOptions,
    parse_options,
)
from onggi.runtime.draft import Draft, Idmap
from onggi.runtime.namespaces import is_mapped
from onggi.runtime.plan_cgroups import plan_cgroup_mount
from onggi.runtime.request import Overlay
from onggi.runtime.steps import (
    NO_SLOT,
    AttachRoot,
    BindTree,
    MountFilesystem,
    MountOverlay,
)
from onggi.specs.runtime import IdMapping, Mount

_SECTION = "config.md#mounts"
_PRIVATE = MS_PRIVATE | MS_REC
_PROPAGATION_NAMES = {flags: name for name, flags in PROPAGATIONS.items()}

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
        AttachRoot(slot=slot, path=draft.request.root_mountpoint, propagation=_PRIVATE)
    )


def _overlay(draft: Draft, overlay: Overlay) -> int:
    idmap: Idmap = "required" if draft.namespaces.own_users else "none"
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
            raise SpecError(f"{path}.options", "remount is not supported", section=_SECTION)
        if mount.type == "bind" or options.bind:
            _plan_bind(draft, mount, options, target, path)
        elif mount.type == "cgroup":
            plan_cgroup_mount(draft, options, target, path)
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
    to_set, to_clear = _merged(options)
    source = host_path(draft, mount.source, f"{path}.source")
    slot = draft.open_tree(
        source,
        path,
        held=dict(draft.request.mount_sources).get(mount.destination, ""),
        recursive=options.recursive,
        idmap=_idmap(draft, mount, options, path),
    )
    draft.inside.append(
        BindTree(
            slot=slot,
            target=target,
            attributes_set=to_set,
            attributes_clear=to_clear,
            recursive=int(bool(options.recursive_set | options.recursive_clear)),
            propagation=options.propagation or _PRIVATE,
        )
    )


def _merged(options: MountOptions) -> tuple[int, int]:
    """Attributes to set and to clear in one call.

    keel applies one pair to a tree, so with recursive attributes the mount's own restrictions hold
    below it too; its own permissions do not spread.
    """
    below_set, below_clear = options.recursive_set, options.recursive_clear
    if not (below_set | below_clear):
        return options.attributes_set, options.attributes_clear
    own_clear = 0 if options.recursive else options.attributes_clear
    return (
        (options.attributes_set & ~below_clear) | below_set,
        (own_clear & ~below_set) | below_clear,
    )


def _idmap(draft: Draft, mount: Mount, options: MountOptions, path: str) -> Idmap:
    asked = options.idmap or bool(mount.uid_mappings)
    section = "config.md#posix-platform-mounts"
    if not asked:
        wanted = draft.namespaces.own_users and draft.request.idmap_sources
        return "wanted" if wanted and draft.host.idmapped_mounts else "none"
    if not draft.namespaces.own_users:
        raise SpecError(path, "an idmapped mount needs a user namespace", section=section)
    for own, outer, name in (
        (mount.uid_mappings, draft.linux.uid_mappings, "uidMappings"),
        (mount.gid_mappings, draft.linux.gid_mappings, "gidMappings"),
    ):
        if own and _ranges(own) != _ranges(outer):
            raise SpecError(
                f"{path}.{name}",
                "mappings other than the user namespace's are not supported",
                section=section,
            )
    return "required"


def _ranges(mappings: tuple[IdMapping, ...]) -> list[tuple[int, int, int]]:
    return sorted((m.container_id, m.host_id, m.size) for m in mappings)


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
        draft.warn(f"{path}.options", "/dev stays writable: nodes and links are made in it")
    draft.inside.append(
        MountFilesystem(
            fstype=mount.type,
            source=mount.source or mount.type,
            target=target,
            attributes=attributes,
            copy_up=int(options.copy_up),
            options=_data(draft, mount.type, options, path),
            propagation=_PROPAGATION_NAMES.get(options.propagation, ""),
        )
    )


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
            attributes_set=attributes,
            recursive=1,
            propagation=_PRIVATE,
            optional=missing,
        )
    )


def _data(draft: Draft, fstype: str, options: MountOptions, path: str) -> tuple[str, ...]:
    """The file system's own options; a devpts group that is not mapped would be refused."""
    if fstype != "devpts" or "user" not in draft.namespaces.new:
        return options.data
    kept = []
    for option in options.data:
        name, _, value = option.partition("=")
        mapped = not value.isdecimal() or is_mapped(draft.linux.gid_mappings, int(value))
        if name == "gid" and not mapped:
            draft.warn(f"{path}.options", f"group {value} is not mapped: terminals keep root's")
        else:
            kept.append(option)
    return tuple(kept)
