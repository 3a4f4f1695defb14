"""The table of controllers: names and rules on each version; and who needs which hierarchy.

Pure: tells from a layout and resources alone which hierarchies a container joins.
"""

from __future__ import annotations

from msgspec import Struct

from onggi.kernel.cgroups import (
    cpu,
    cpuset,
    devices,
    hugetlb,
    io,
    memory,
    network,
    pids,
    rdma,
    unified,
)
from onggi.kernel.cgroups.layout import CgroupLayout, Hierarchy
from onggi.kernel.cgroups.rule import NO_FILES, Rule, nothing
from onggi.specs.runtime import Resources


class Controller(Struct, frozen=True):
    """A controller by its name on each version (empty: not there) with its rule on each.

    `v2_core`: not in `cgroup.controllers`; what there is of it belongs to v2's core.
    """

    v1_name: str
    v2_name: str
    v1: Rule
    v2: Rule
    v2_core: bool = False


CONTROLLERS: tuple[Controller, ...] = (
    Controller("cpuset", "cpuset", cpuset.both, cpuset.both),
    Controller("cpu", "cpu", cpu.v1, cpu.v2),
    Controller("cpuacct", "", nothing, nothing, v2_core=True),
    Controller("memory", "memory", memory.v1, memory.v2),
    Controller("pids", "pids", pids.both, pids.both),
    Controller("blkio", "io", io.v1, io.v2),
    Controller("hugetlb", "hugetlb", hugetlb.v1, hugetlb.v2),
    Controller("rdma", "rdma", rdma.both, rdma.both),
    Controller("devices", "", devices.v1, devices.v2, v2_core=True),
    Controller("net_cls", "", network.class_v1, network.class_v2, v2_core=True),
    Controller("net_prio", "", network.priorities_v1, network.priorities_v2, v2_core=True),
)

#: Joined always: for statistics, devices, and limits that may be set later. The others cost their
#: share of every start (a v1 cpuset 250 µs) and are joined when a container asks for them.
ALWAYS = frozenset({"cpu", "cpuacct", "memory", "pids", "blkio", "io", "devices"})


def place(layout: CgroupLayout, controller: Controller) -> Hierarchy | None:
    """Where a controller's files are, or None."""
    found = layout.hierarchy(controller.v1_name, controller.v2_name)
    if found is None and controller.v2_core and layout.mode == "v2":
        return layout.v2
    return found


def rule(layout: CgroupLayout, controller: Controller) -> Rule:
    """The rule for the version that the controller is on, or would be on if the host had it."""
    found = place(layout, controller)
    version = found.version if found else (2 if layout.mode == "v2" else 1)
    return controller.v1 if version == 1 else controller.v2


def asked_for(layout: CgroupLayout, controller: Controller, resources: Resources) -> bool:
    """Whether the resources say anything to this controller."""
    return bool(rule(layout, controller)(resources, NO_FILES))


def hierarchies(layout: CgroupLayout, resources: Resources) -> tuple[Hierarchy, ...]:
    """The hierarchies that a container with these resources joins, in the layout's order.

    v2 always, because its core kills and freezes; the v1 freezer only where v2 cannot.
    """
    names = ALWAYS if layout.core_freezer else ALWAYS | {"freezer"}
    wanted = {
        found
        for controller in CONTROLLERS
        if asked_for(layout, controller, resources) and (found := place(layout, controller))
    }
    return tuple(
        h
        for h in layout.hierarchies
        if h.version == 2 or h in wanted or names.intersection(h.controllers)
    )


def v2_controllers(layout: CgroupLayout, resources: Resources) -> tuple[str, ...]:
    """The v2 controllers to enable for such a container, of those the host offers.

    All that `ALWAYS` names, so that statistics are there, and those asked for.
    """
    if layout.v2 is None:
        return ()
    wanted = {c.v2_name for c in CONTROLLERS if asked_for(layout, c, resources)}
    wanted.update(unified.controllers(resources), ALWAYS)
    return tuple(name for name in layout.v2.controllers if name in wanted)
