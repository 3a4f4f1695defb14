"""The pids controller: how many tasks (threads count).

-1 is no limit. 0 is written as 1: a container is at least one task, and v2 would refuse even that.
Source: Documentation/admin-guide/cgroup-v1/pids.rst, cgroup-v2.rst#pid,
runtime-spec config-linux.md#pids.
"""

from __future__ import annotations

from onggi.kernel.cgroups.rule import Change, Files, Write, limit, maximum, number
from onggi.kernel.cgroups.stats import PidsStats
from onggi.specs.runtime import Resources


def both(resources: Resources, files: Files) -> tuple[Change, ...]:
    """`pids.max`, the same on both versions."""
    if resources.pids is None or resources.pids.limit is None:
        return ()
    return (Write("pids.max", maximum(resources.pids.limit or 1)),)


def stats(files: Files) -> PidsStats | None:
    current = number(files.read("pids.current"))
    return None if current is None else PidsStats(current, limit(files.read("pids.max")))
