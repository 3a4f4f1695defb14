"""Where each cgroup controller of this host lives: v1, v2, or some on each (hybrid).

Read once and passed on as a frozen value. This room knows mounts and names; it does not know what a
controller does, and it makes nothing.
"""

from __future__ import annotations

import os
import re
from typing import Literal

from msgspec import Struct

from onggi.errors import Unsupported

Mode = Literal["v1", "v2", "hybrid"]

_MOUNT_FLAGS_OF_V1 = frozenset(
    {"rw", "ro", "xattr", "clone_children", "noprefix", "cpuset_v2_mode", "favordynmods", "none"}
)
_ESCAPE = re.compile(r"\\([0-7]{3})")


class Hierarchy(Struct, frozen=True):
    """One mounted hierarchy: its version, its mount point (absolute) and its controllers.

    On v2 `controllers` is what `cgroup.controllers` of the mount's root offers.
    """

    version: Literal[1, 2]
    mount_point: str
    controllers: tuple[str, ...]

    @property
    def is_named(self) -> bool:
        """v1 without controllers: its only one is its name."""
        return any(name.startswith("name=") for name in self.controllers)


class CgroupLayout(Struct, frozen=True):
    """The hierarchies that can be used, v1 first, and what the kernel says of those that cannot.

    `unmounted`: the kernel has it, nobody mounted it. `disabled`: switched off at boot.
    `kernel`: release as (major, minor). `named`: v1 hierarchies by which a manager tells whose a
    process is (`name=systemd`); they limit nothing.
    """

    hierarchies: tuple[Hierarchy, ...]
    unmounted: tuple[str, ...] = ()
    disabled: tuple[str, ...] = ()
    kernel: tuple[int, int] = (5, 4)
    named: tuple[Hierarchy, ...] = ()

    @property
    def every(self) -> tuple[Hierarchy, ...]:
        """All hierarchies in which a process has a place, named ones first."""
        return (*self.named, *self.hierarchies)

    @property
    def mode(self) -> Mode:
        """`hybrid`: controllers are on v1 beside a v2 mount, as in systemd's unified directory."""
        if self.v2 is None:
            return "v1"
        return "hybrid" if self.hierarchies[0].version == 1 else "v2"

    @property
    def v2(self) -> Hierarchy | None:
        """The one v2 hierarchy, if it is mounted."""
        last = self.hierarchies[-1]
        return last if last.version == 2 else None

    @property
    def core_freezer(self) -> bool:
        """Whether v2's core freezes cgroups (`cgroup.freeze`, Linux 5.2), with no controller."""
        return self.v2 is not None and self.kernel >= (5, 2)

    def hierarchy(self, v1_name: str, v2_name: str) -> Hierarchy | None:
        """Where a controller lives, by its name on each version (an empty name: not there)."""
        for hierarchy in self.hierarchies:
            if (v1_name if hierarchy.version == 1 else v2_name) in hierarchy.controllers:
                return hierarchy
        return None

    def why_missing(self, controller: str) -> str:
        """Why no hierarchy has this controller, for a warning."""
        if controller in self.disabled:
            return "it is disabled on the kernel's command line (cgroup_disable=)"
        if controller in self.unmounted:
            return "the kernel has it but its hierarchy is not mounted"
        return "this kernel does not have it or does not offer it here"

    @classmethod
    def probe(cls) -> CgroupLayout:
        """Read this process's view of the host.

        Raises:
            Unsupported: no cgroup hierarchy is mounted.
        Source: cgroups(7) "/proc files", proc_pid_mountinfo(5).
        """
        mountinfo = _read("/proc/self/mountinfo")
        unified = next((m for m in _mounts(mountinfo) if m.version == 2), None)
        offered = _read(f"{unified.mount_point}/cgroup.controllers") if unified else ""
        return parse_layout(mountinfo, _read("/proc/cgroups"), offered, os.uname().release)


class _Mount(Struct, frozen=True):
    version: Literal[1, 2]
    mount_point: str
    controllers: tuple[str, ...]
    rank: int


def parse_layout(mountinfo: str, cgroups: str, controllers: str, release: str) -> CgroupLayout:
    """The layout that these texts tell of.

    Arguments are the contents of /proc/self/mountinfo, /proc/cgroups, the v2 root's
    cgroup.controllers (empty without v2) and the kernel's release.

    Raises:
        Unsupported: no cgroup hierarchy is mounted.
    """
    best: dict[tuple[str, ...], _Mount] = {}
    for mount in _mounts(mountinfo):
        key = mount.controllers
        if key not in best or mount.rank > best[key].rank:
            best[key] = mount
    first = [
        Hierarchy(m.version, m.mount_point, m.controllers) for m in best.values() if m.version == 1
    ]
    hierarchies = [h for h in first if not h.is_named]
    hierarchies += [
        Hierarchy(2, m.mount_point, tuple(controllers.split()))
        for m in best.values()
        if m.version == 2
    ]
    if not hierarchies:
        raise Unsupported(
            "no cgroup hierarchy is mounted on this host",
            hint="mount one: mount -t cgroup2 none /sys/fs/cgroup",
        )
    placed = {name for hierarchy in hierarchies for name in hierarchy.controllers}
    if "io" in placed:
        placed.add("blkio")
    rows = [line.split() for line in cgroups.splitlines() if line and not line.startswith("#")]
    return CgroupLayout(
        hierarchies=tuple(hierarchies),
        unmounted=tuple(row[0] for row in rows if row[3] == "1" and row[0] not in placed),
        disabled=tuple(row[0] for row in rows if row[3] == "0"),
        kernel=_kernel(release),
        named=tuple(h for h in first if h.is_named),
    )


def _mounts(mountinfo: str) -> list[_Mount]:
    """Every mount of a v1 hierarchy with controllers or a name, and of v2.

    A hierarchy may be mounted many times: a writable mount of its root is the best of them.
    """
    mounts = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, source = before.split(" "), after.split(" ")
        if len(fields) < 6 or len(source) < 3 or source[0] not in ("cgroup", "cgroup2"):
            continue
        root, mount_point, options = fields[3], _unescape(fields[4]), fields[5].split(",")
        rank = 2 * ("rw" in options) + (root == "/")
        if source[0] == "cgroup2":
            mounts.append(_Mount(2, mount_point, (), rank))
            continue
        words = source[2].split(",")
        names = [word for word in words if "=" not in word and word not in _MOUNT_FLAGS_OF_V1]
        names = names or [word for word in words if word.startswith("name=")]
        if names:
            mounts.append(_Mount(1, mount_point, tuple(names), rank))
    return mounts


def _unescape(path: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), path)


def _kernel(release: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _read(path: str) -> str:
    """The file's text, empty when it does not exist (/proc/cgroups is gone without v1).

    Or when it may not be read: to this user its hierarchy offers nothing.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except (FileNotFoundError, PermissionError):
        return ""
