"""Where a container's cgroup is, and what is put in force there.

An absolute `linux.cgroupsPath` starts at the root of each hierarchy. A relative one, and the
default `<id>`, start where this process is, so that a container stays within the limits of whoever
starts it; on v2 beside it, because a cgroup with processes shares nothing out.
Source: runtime-spec config-linux.md#cgroups-path, cgroups(7), cgroup-v2.rst "No Internal Process".
"""

from __future__ import annotations

import os
import posixpath

from onggi.errors import EngineError, Unsupported
from onggi.kernel.cgroups.devices import ALWAYS_ALLOWED
from onggi.kernel.cgroups.driver import Cgroup
from onggi.kernel.cgroups.layout import CgroupLayout
from onggi.runtime.host import HostFacts
from onggi.sandbox.oci import caller
from onggi.specs.runtime import Config, DeviceRule, Linux, Resources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from onggi.sandbox.oci.records import Record

#: Where systemd mounts its hierarchy without controllers, on v1 and hybrid hosts.
_SYSTEMDS_OWN = "/sys/fs/cgroup/systemd"
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


def resources_of(config: Config) -> Resources:
    """The configuration's resources, with the devices that every container may use."""
    import msgspec  # noqa: PLC0415 - the types above have brought it in

    asked = (config.linux or Linux()).resources or Resources()
    rules = (_DENY_ALL, *asked.devices, *ALWAYS_ALLOWED)
    return msgspec.structs.replace(asked, devices=rules)


def make(path: str, config: Config, host: HostFacts, warn: Callable[[str], None]) -> Cgroup | None:
    """Make and limit the cgroup; None where this user may not, and nothing was asked for.

    Raises:
        AlreadyExists: processes live in a cgroup of that name. EngineError: the host refuses.
    """
    cgroup = Cgroup(host.cgroups, path)
    resources = resources_of(config)
    if not host.unprivileged:
        cgroup.create(resources)
        _limit(cgroup, resources, warn)
        return cgroup
    try:
        cgroup.create(resources)
        _limit(cgroup, resources, warn)
    except EngineError as error:
        cgroup.remove()
        if (config.linux or Linux()).resources not in (None, Resources()):
            warn(f"no cgroup, so no limits: {error}")
        return None
    return cgroup


def _limit(cgroup: Cgroup, resources: Resources, warn: Callable[[str], None]) -> None:
    try:
        for warning in cgroup.apply(resources):
            warn(warning)
    except BaseException:
        cgroup.remove()
        raise


def tasks_of_unit(record: Record) -> tuple[str, ...]:
    """The file by which a process joins its unit where systemd has cgroup v1 to keep track.

    Who is not in there is not in the unit: without anybody in it systemd ends it.
    """
    directory = f"{_SYSTEMDS_OWN}/{record.cgroup}"
    return (f"{directory}/tasks",) if record.systemd and os.path.isdir(directory) else ()


def freezer_file(cgroup: Cgroup) -> str:
    """The file that says whether the cgroup stands still; empty: nothing can make it."""
    try:
        return cgroup.freezer_file()
    except Unsupported:
        return ""
