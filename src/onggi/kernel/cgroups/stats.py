"""What a cgroup has used, under the same names on both versions.

A part is None when the host has no controller for it, a field when the kernel does not tell it.
"""

from __future__ import annotations

from msgspec import Struct


class CpuStats(Struct, frozen=True):
    """Nanoseconds of CPU time since the cgroup was made.

    `periods` of the quota in which tasks ran; `throttled_periods` of them ended in want.
    """

    usage_ns: int
    user_ns: int
    system_ns: int
    throttled_ns: int = 0
    periods: int = 0
    throttled_periods: int = 0


class MemoryStats(Struct, frozen=True):
    """Bytes, with those of sub-cgroups. `limit_bytes` None: no limit. `swap_bytes` is swap alone.

    `limit_hits`: how often the limit stood in the way, which is not the number of kills.
    """

    usage_bytes: int
    limit_bytes: int | None
    peak_bytes: int | None
    anon_bytes: int
    cache_bytes: int
    inactive_file_bytes: int
    swap_bytes: int
    limit_hits: int


class PidsStats(Struct, frozen=True):
    """Tasks (threads count). `limit` None: no limit."""

    current: int
    limit: int | None


class IoStats(Struct, frozen=True):
    """What one block device moved."""

    major: int
    minor: int
    read_bytes: int = 0
    write_bytes: int = 0
    read_ops: int = 0
    write_ops: int = 0


class HugetlbStats(Struct, frozen=True):
    """One huge page size (`2MB`). `peak_bytes` is only known on v1."""

    page_size: str
    usage_bytes: int
    limit_bytes: int | None
    peak_bytes: int | None
    limit_hits: int


class CgroupStats(Struct, frozen=True):
    """One reading of all controllers; the parts are read one after another, not at one instant."""

    cpu: CpuStats | None = None
    memory: MemoryStats | None = None
    pids: PidsStats | None = None
    io: tuple[IoStats, ...] | None = None
    hugetlb: tuple[HugetlbStats, ...] = ()


class OomEvents(Struct, frozen=True):
    """Whether the kernel killed for memory here: `kills` processes since the cgroup was made.

    A process that died of SIGKILL while `kills` rose was killed by the kernel, else by someone.
    """

    kills: int
    limit_bytes: int | None
    peak_bytes: int | None
