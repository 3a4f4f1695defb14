"""A mount of type `cgroup`: what it becomes on v1, v2 and hybrid hosts.

A container with a cgroup namespace mounts the hierarchies itself and sees its own cgroup as their
root; one without gets its own directory of each v1 hierarchy bound, or all of v2. A v1 hierarchy
that it joins nowhere is not shown: its root would be the host's, with every other container in it.
Source: runtime-spec config-linux.md#default-filesystems; cgroup_namespaces(7).
"""

from __future__ import annotations

import posixpath

from onggi.errors import Unsupported
from onggi.kernel.cgroups.layout import Hierarchy
from onggi.kernel.mounts import MOUNT_ATTR_RDONLY, MS_PRIVATE, MS_REC, MountOptions
from onggi.runtime.draft import Draft
from onggi.runtime.steps import (
    FIRST_SLOT_FD,
    BindTree,
    MakeDirectory,
    MakeSymlink,
    MountFilesystem,
    SetPathReadonly,
)

_PRIVATE = MS_PRIVATE | MS_REC


def plan_cgroup_mount(
    draft: Draft, fstype: str, options: MountOptions, target: str, path: str
) -> None:
    """The steps for one mount of type `cgroup` or `cgroup2` at `target`.

    On v1 a tmpfs holds one directory for each hierarchy, and a link for each other name of one.

    Raises:
        Unsupported: cgroup2 is asked for, and the host has not mounted it.
    """
    layout = draft.host.cgroups
    attributes = options.attributes_set | options.recursive_set
    if layout.mode == "v2" or fstype == "cgroup2":
        if layout.v2 is None:
            raise Unsupported(
                f"{path}: cgroup2 is not mounted on this host",
                hint="mount -t cgroup2 none /sys/fs/cgroup/unified, or ask for the type cgroup",
            )
        _plan_unified(draft, layout.v2, attributes, target, path)
        return
    draft.inside.append(
        MountFilesystem(
            fstype="tmpfs",
            source="tmpfs",
            target=target,
            attributes=attributes & ~MOUNT_ATTR_RDONLY,
            options=("mode=755",),
        )
    )
    named = [h for h in layout.named if _own_directory(draft, h) is not None]
    shown = (*named, *layout.hierarchies)
    places = {f"{target}/{posixpath.basename(h.mount_point)}": h for h in shown}
    for place, hierarchy in places.items():
        draft.inside.append(MakeDirectory(path=place))
        name = posixpath.basename(place)
        for controller in hierarchy.controllers:
            if hierarchy.version == 1 and controller != name and not hierarchy.is_named:
                draft.inside.append(MakeSymlink(target=name, path=f"{target}/{controller}"))
    if attributes & MOUNT_ATTR_RDONLY:
        # Before the hierarchies are mounted: keel would copy each of them along.
        draft.inside.append(SetPathReadonly(path=target))
    for place, hierarchy in places.items():
        plan_one = _plan_unified if hierarchy.version == 2 else _plan_v1
        plan_one(draft, hierarchy, attributes, place, path)


def _plan_unified(
    draft: Draft, hierarchy: Hierarchy, attributes: int, target: str, path: str
) -> None:
    """Own directory where there is one: a mount of its own shows the same, and waits for 8 ms.

    A container in the host's cgroup namespace sees all of a host that has v2 alone: programs that
    watch it rely on that.
    """
    slot = draft.request.cgroup_slot
    private = draft.namespaces.has("cgroup") or draft.host.cgroups.mode != "v2"
    # an ordinary user's init may not copy a mount that is known by a descriptor from outside
    if slot >= 0 and private and draft.host.own_ids is None:
        _bind(draft, f"/proc/self/fd/{FIRST_SLOT_FD + slot}", attributes, target, path)
    elif draft.namespaces.owns("cgroup"):
        _mount(draft, "cgroup2", (), attributes, target)
    else:
        _bind(draft, hierarchy.mount_point, attributes, target, path)


def _plan_v1(draft: Draft, hierarchy: Hierarchy, attributes: int, target: str, path: str) -> None:
    own = _own_directory(draft, hierarchy)
    if own is None:
        return  # its directory stays empty: mounted, it would show everybody's
    if draft.namespaces.has("cgroup") and draft.namespaces.owns("cgroup"):
        _mount(draft, "cgroup", hierarchy.controllers, attributes, target)
    else:
        _bind(draft, own, attributes, target, path)


def _mount(
    draft: Draft, fstype: str, options: tuple[str, ...], attributes: int, target: str
) -> None:
    draft.inside.append(
        MountFilesystem(
            fstype=fstype,
            source="cgroup",
            target=target,
            attributes=attributes,
            options=options,
            # A v1 hierarchy may be unmounted on the host at any time; the container only looks. And
            # a user may not always mount what he has no part of.
            optional=fstype == "cgroup" or draft.host.unprivileged,
        )
    )


def _bind(draft: Draft, source: str, attributes: int, target: str, path: str) -> None:
    draft.inside.append(
        BindTree(
            slot=draft.open_tree(source, path),
            target=target,
            attributes_set=attributes,
            propagation=_PRIVATE,
        )
    )


def _own_directory(draft: Draft, hierarchy: Hierarchy) -> str | None:
    """The container's directory in a hierarchy, if it is to join one there."""
    inside = (
        posixpath.dirname(file)
        for file in draft.request.cgroup_files
        if file.startswith(f"{hierarchy.mount_point}/")
    )
    return next(inside, None)
