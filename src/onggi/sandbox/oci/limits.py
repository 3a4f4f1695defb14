"""Where a container's cgroup is, and what is put in force there.

An absolute `linux.cgroupsPath` starts at the root of each hierarchy. A relative one, and the
default `<id>`, start where this process is, so that a container stays within the limits of whoever
starts it; on v2 beside it, because a cgroup with processes shares nothing out. A container is in
every hierarchy: callers find it there, and a manager that tells by one whose a process is (systemd
by its own, named one) does not take it for the caller's.

A user has cgroups only where root has delegated some. *Leniently*, a hierarchy where none can be
made is done without, but never a limit that was asked for.
Source: runtime-spec config-linux.md#cgroups-path, cgroups(7), cgroup-v2.rst "No Internal Process".
"""

from __future__ import annotations

import os
import posixpath

from onggi.errors import AlreadyExists, EngineError, FailedPrecondition, Unsupported
from onggi.kernel.cgroups import controllers
from onggi.kernel.cgroups.delegation import give
from onggi.kernel.cgroups.devices import ALWAYS_ALLOWED
from onggi.kernel.cgroups.driver import Cgroup
from onggi.kernel.cgroups.layout import CgroupLayout, Hierarchy
from onggi.runtime.host import HostFacts
from onggi.runtime.namespaces import host_id
from onggi.sandbox.oci import caller
from onggi.specs.runtime import Config, DeviceRule, Linux, Resources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_DENY_ALL = DeviceRule(allow=False)


class Place:
    """Where a container's processes are to be. `cgroup` None: where their maker is.

    A context manager: it is left when they are there, or are not to be.
    """

    def __init__(self, cgroup: Cgroup | None) -> None:
        self.cgroup = cgroup

    def settle(self) -> None:
        """The container's first process is there, and executes nothing yet."""

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None: ...


def path_of(config: Config, container_id: str, layout: CgroupLayout) -> str:
    """The cgroup's path below the root of each hierarchy."""
    asked = (config.linux or Linux()).cgroups_path or container_id
    if not asked.startswith("/"):
        asked = posixpath.join(_own_path(layout), asked)
    return posixpath.normpath(asked).lstrip("/")


def _own_path(layout: CgroupLayout) -> str:
    with open(
        f"/proc/{caller.current.pid}/cgroup", encoding="utf-8", errors="surrogateescape"
    ) as file:
        rows = [line.rstrip("\n").split(":", 2) for line in file]
    if layout.mode == "v2":
        return posixpath.dirname(next((path for _, names, path in rows if not names), "/"))
    first = set(layout.hierarchies[0].controllers)
    return next((path for _, names, path in rows if first & set(names.split(","))), "/")


def resources_of(config: Config, *, devices: bool = True) -> Resources:
    """The configuration's resources, with the devices that every container may use.

    Without `devices`, no rules: who may not make nodes has those that he is given.
    """
    import msgspec  # noqa: PLC0415 - the types above have brought it in

    asked = (config.linux or Linux()).resources or Resources()
    rules = (_DENY_ALL, *asked.devices, *ALWAYS_ALLOWED) if devices else ()
    return msgspec.structs.replace(asked, devices=rules)


def make(
    path: str,
    config: Config,
    host: HostFacts,
    warn: Callable[[str], None],
    *,
    lenient: bool | None = None,
) -> Cgroup | None:
    """Make and limit the cgroup; None where, leniently, there is none to be had.

    `lenient` None: if this is a user. Devices are a matter of the cgroup for root alone.

    Raises:
        AlreadyExists: processes live in a cgroup of that name, or it stands still.
        EngineError: the host refuses.
        FailedPrecondition: a limit was asked for that this user cannot set.
    """
    resources = resources_of(config, devices=not host.unprivileged)
    usable: CgroupLayout | None = host.cgroups
    if host.unprivileged if lenient is None else lenient:
        usable = _usable(host.cgroups, path)
        _require_limits(host.cgroups, usable, resources)
    if usable is None:
        return None
    cgroup = Cgroup(usable, path)
    if cgroup.frozen():
        raise AlreadyExists(
            f"container's cgroup unexpectedly frozen: {path}",
            hint="somebody made it before and keeps it still: thaw it or choose another path",
        )
    cgroup.create(resources, everywhere=True)
    try:
        for warning in cgroup.apply(resources):
            warn(warning)
        delegate(cgroup, config, host, warn)
    except BaseException:
        cgroup.remove()
        raise
    return cgroup


def _usable(layout: CgroupLayout, path: str) -> CgroupLayout | None:
    """The hierarchies in which this user can make the cgroup; None: none of them."""
    import msgspec  # noqa: PLC0415

    kept = tuple(h for h in layout.hierarchies if _may_make(h, path))
    return msgspec.structs.replace(layout, hierarchies=kept) if kept else None


def _may_make(hierarchy: Hierarchy, path: str) -> bool:
    """Whether its nearest parent that is there takes a child, and a process from outside."""
    place = f"{hierarchy.mount_point}/{path}"
    while True:
        place = posixpath.dirname(place)
        if os.path.isdir(place):
            break
    files = (place,) if hierarchy.version == 1 else (place, f"{place}/cgroup.procs")
    return all(os.access(file, os.W_OK, effective_ids=True) for file in files)


def _require_limits(
    layout: CgroupLayout, usable: CgroupLayout | None, resources: Resources
) -> None:
    """Refuse limits of controllers that are somewhere, and not where this user may use them.

    Raises:
        FailedPrecondition: by the first of them.
    """
    for controller in controllers.CONTROLLERS:
        hierarchy = controllers.place(layout, controller)
        if (
            hierarchy is not None
            and controllers.asked_for(layout, controller, resources)
            and (usable is None or controllers.place(usable, controller) is None)
        ):
            name = controller.v2_name if hierarchy.version == 2 else controller.v1_name
            raise FailedPrecondition(
                f"cannot set a {name} limit: container could not join or create cgroup in "
                f"{hierarchy.mount_point}",
                hint="leave it out of $.linux.resources, or have root delegate a cgroup to this "
                "user and start from there",
            )
    if resources.unified and (usable is None or usable.v2 is None):
        raise FailedPrecondition(
            "cannot set $.linux.resources.unified: container could not join or create cgroup",
            hint="have root delegate a cgroup on v2 to this user and start from there",
        )


def delegate(cgroup: Cgroup, config: Config, host: HostFacts, warn: Callable[[str], None]) -> None:
    """The container's user owns a cgroup that is the container's own, on v2, and writable."""
    uid = delegate_of(config)
    if uid is None or cgroup.layout.mode != "v2" or cgroup.layout.v2 is None:
        return
    try:
        give(f"{cgroup.layout.v2.mount_point}/{cgroup.path}", uid)
    except EngineError as error:
        if not host.unprivileged:
            raise
        warn(f"the container cannot manage its own cgroup: {error}")


def delegate_of(config: Config) -> int | None:
    """The host's id of who is to own the container's cgroup; None: nobody but its maker.

    Source: runtime-spec config-linux.md#cgroup-ownership.
    """
    linux = config.linux or Linux()
    new = {namespace.type for namespace in linux.namespaces if not namespace.path}
    writable = any(
        mount.source == "cgroup"
        and posixpath.normpath(mount.destination) == "/sys/fs/cgroup"
        and "ro" not in mount.options
        for mount in config.mounts
    )
    if config.process is None or not ({"cgroup", "user"} <= new and writable):
        return None
    return host_id(linux.uid_mappings, config.process.user.uid)


def freezer_file(cgroup: Cgroup) -> str:
    """The file that says whether the cgroup stands still; empty: nothing can make it."""
    try:
        return cgroup.freezer_file()
    except Unsupported:
        return ""
