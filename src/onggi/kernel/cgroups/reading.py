"""Gather one cgroup's statistics and OOM record from the hierarchies that hold them."""

from __future__ import annotations

from onggi.kernel.cgroups import cpu, hugetlb, io, memory, pids
from onggi.kernel.cgroups.directory import Directories, Directory, tree
from onggi.kernel.cgroups.layout import CgroupLayout, Hierarchy
from onggi.kernel.cgroups.rule import NO_FILES, Files
from onggi.kernel.cgroups.stats import CgroupStats, OomEvents


def read_stats(layout: CgroupLayout, path: str) -> CgroupStats:
    """All parts that the host can tell of."""
    with Directories() as directories:

        def find(hierarchy: Hierarchy | None) -> tuple[int, Files]:
            if hierarchy is None:
                return 2, NO_FILES
            return hierarchy.version, directories.get(f"{hierarchy.mount_point}/{path}")

        version, accounting = find(layout.hierarchy("cpuacct", ""))
        if version == 1:
            used = cpu.stats_v1(find(layout.hierarchy("cpu", ""))[1], accounting)
        else:
            # v2's core counts CPU time without the controller too.
            used = cpu.stats_v2(find(layout.v2)[1])
        version, files = find(layout.hierarchy("memory", "memory"))
        held = memory.stats_v1(files) if version == 1 else memory.stats_v2(files)
        version, files = find(layout.hierarchy("blkio", "io"))
        moved = io.stats_v1(files) if version == 1 else io.stats_v2(files)
        version, files = find(layout.hierarchy("hugetlb", "hugetlb"))
        huge = hugetlb.stats_v1(files) if version == 1 else hugetlb.stats_v2(files)
        tasks = pids.stats(find(layout.hierarchy("pids", "pids"))[1])
    return CgroupStats(cpu=used, memory=held, pids=tasks, io=moved, hugetlb=huge)


def read_oom(layout: CgroupLayout, path: str) -> OomEvents | None:
    """The kills for memory; None without a memory controller or without the cgroup."""
    hierarchy = layout.hierarchy("memory", "memory")
    if hierarchy is None:
        return None
    top = f"{hierarchy.mount_point}/{path}"
    if hierarchy.version == 2:
        with Directory(top) as files:
            return memory.oom_v2(files) if files.exists else None
    paths = tree(top)
    if not paths:
        return None
    with Directories() as directories:
        return memory.oom_v1(tuple(directories.get(p) for p in paths))
