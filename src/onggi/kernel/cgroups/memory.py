"""The memory controller: limit, reservation, swap; what was used; and whether the kernel killed.

Units: bytes, -1 is no limit. OCI's `swap` is memory *and* swap, as v1's memsw; v2 has swap alone.
On v1 limit ≤ memsw holds at every instant, so that a write may be refused until the other is made;
the writer tries such a one again.
Source: Documentation/admin-guide/cgroup-v1/memory.rst, cgroup-v2.rst#memory,
runtime-spec config-linux.md#memory.
"""

from __future__ import annotations

from onggi.errors import FailedPrecondition, InvalidArgument
from onggi.kernel.cgroups.rule import (
    Change,
    Files,
    Lacking,
    Write,
    flat_keyed,
    limit,
    maximum,
    number,
)
from onggi.kernel.cgroups.stats import MemoryStats, OomEvents
from onggi.specs.runtime import Memory, Resources

_KERNEL_MEMORY = "a kernel memory limit is ignored: Linux 5.16 removed it"


def v1(resources: Resources, files: Files) -> tuple[Change, ...]:
    """The limit, then memory and swap, then the rest.

    Raises:
        InvalidArgument: swap below the limit.
        FailedPrecondition: `checkBeforeUpdate` and more is in use than the new limit.
    """
    memory = resources.memory
    if memory is None:
        return ()
    _check(memory, files.read("memory.usage_in_bytes"))
    # No memory limit but an old limit of both would be refused by the kernel: lift both.
    swap = -1 if memory.limit == -1 and not memory.swap else memory.swap
    wanted = (
        ("memory.limit_in_bytes", memory.limit or None),
        ("memory.memsw.limit_in_bytes", swap or None),
        ("memory.soft_limit_in_bytes", memory.reservation or None),
        ("memory.kmem.tcp.limit_in_bytes", memory.kernel_tcp or None),
        ("memory.swappiness", memory.swappiness),
        ("memory.oom_control", 1 if memory.disable_oom_killer else None),
    )
    changes: list[Change] = [Write(f, str(value)) for f, value in wanted if value is not None]
    if memory.kernel:
        changes.append(Lacking(_KERNEL_MEMORY))
    return tuple(changes)


def v2(resources: Resources, files: Files) -> tuple[Change, ...]:
    """`memory.max`, `memory.swap.max` (swap alone), `memory.low`.

    Raises:
        InvalidArgument: swap below the limit, or a swap limit without a memory limit.
        FailedPrecondition: `checkBeforeUpdate` and more is in use than the new limit.
    """
    memory = resources.memory
    if memory is None:
        return ()
    _check(memory, files.read("memory.current"))
    changes: list[Change] = []
    swap = swap_alone(memory)
    if swap is not None:
        changes.append(Write("memory.swap.max", maximum(swap)))
    if memory.limit:
        changes.append(Write("memory.max", maximum(memory.limit)))
    if memory.reservation:
        changes.append(Write("memory.low", maximum(memory.reservation)))
    if memory.kernel:
        changes.append(Lacking(_KERNEL_MEMORY))
    lacking = (
        ("a limit of TCP buffer memory", bool(memory.kernel_tcp)),
        ("memory swappiness", memory.swappiness is not None),
        ("disabling the OOM killer", memory.disable_oom_killer),
    )
    changes += [Lacking(f"{what} does not exist on cgroup v2") for what, asked in lacking if asked]
    return tuple(changes)


def stats_v1(files: Files) -> MemoryStats | None:
    usage = number(files.read("memory.usage_in_bytes"))
    if usage is None:
        return None
    stat = flat_keyed(files.read("memory.stat"))
    return MemoryStats(
        usage_bytes=usage,
        limit_bytes=limit(files.read("memory.limit_in_bytes")),
        peak_bytes=number(files.read("memory.max_usage_in_bytes")),
        anon_bytes=stat.get("total_rss", 0),
        cache_bytes=stat.get("total_cache", 0),
        inactive_file_bytes=stat.get("total_inactive_file", 0),
        swap_bytes=stat.get("total_swap", 0),
        limit_hits=number(files.read("memory.failcnt")) or 0,
    )


def stats_v2(files: Files) -> MemoryStats | None:
    """`memory.peak` is there since Linux 5.19."""
    usage = number(files.read("memory.current"))
    if usage is None:
        return None
    stat = flat_keyed(files.read("memory.stat"))
    return MemoryStats(
        usage_bytes=usage,
        limit_bytes=limit(files.read("memory.max")),
        peak_bytes=number(files.read("memory.peak")),
        anon_bytes=stat.get("anon", 0),
        cache_bytes=stat.get("file", 0),
        inactive_file_bytes=stat.get("inactive_file", 0),
        swap_bytes=number(files.read("memory.swap.current")) or 0,
        limit_hits=flat_keyed(files.read("memory.events")).get("max", 0),
    )


def oom_v1(cgroups: tuple[Files, ...]) -> OomEvents:
    """Kills in the cgroup (the first) and those below it: v1 counts them where the victim was."""
    top = cgroups[0]
    return OomEvents(
        kills=sum(flat_keyed(c.read("memory.oom_control")).get("oom_kill", 0) for c in cgroups),
        limit_bytes=limit(top.read("memory.limit_in_bytes")),
        peak_bytes=number(top.read("memory.max_usage_in_bytes")),
    )


def oom_v2(files: Files) -> OomEvents:
    """Kills in the cgroup and below it: `memory.events` is hierarchical."""
    return OomEvents(
        kills=flat_keyed(files.read("memory.events")).get("oom_kill", 0),
        limit_bytes=limit(files.read("memory.max")),
        peak_bytes=number(files.read("memory.peak")),
    )


def _check(memory: Memory, usage: str | None) -> None:
    bytes_, swap = memory.limit or 0, memory.swap or 0
    if 0 < swap < bytes_:
        raise InvalidArgument(
            f"memory swap {swap} is below the memory limit {bytes_}",
            hint="swap counts memory and swap together: make it at least the limit, or -1",
        )
    if memory.check_before_update and usage is not None and 0 < bytes_ < int(usage):
        raise FailedPrecondition(
            f"memory limit {bytes_} is below the {int(usage)} bytes in use",
            hint="raise the limit, or leave checkBeforeUpdate out",
        )


def swap_alone(memory: Memory) -> int | None:
    """OCI's memory-and-swap as v2's swap; None leaves it alone, negative is no limit."""
    bytes_, swap = memory.limit or 0, memory.swap or 0
    if swap == 0:
        return -1 if bytes_ == -1 else None
    if swap < 0:
        return -1
    if bytes_ <= 0:
        raise InvalidArgument(
            f"memory swap {swap} needs a memory limit on cgroup v2",
            hint="give a memory limit too: swap alone is what remains of the two",
        )
    return swap - bytes_
