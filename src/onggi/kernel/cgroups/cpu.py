"""The cpu controller: weight, quota, burst, idle; and cpuacct's counters.

Units: quota, period and burst in microseconds. shares 2…262144 (default 1024) on v1, weight 1…10000
(default 100) on v2.
Source: Documentation/scheduler/sched-bwc.rst, cgroup-v1/cpuacct.rst, cgroup-v2.rst#cpu,
runtime-spec config-linux.md#cpu.
"""

from __future__ import annotations

import math

from onggi.kernel.cgroups.rule import Change, Files, Lacking, Write, flat_keyed, number
from onggi.kernel.cgroups.stats import CpuStats
from onggi.specs.runtime import Cpu, Resources

_TICK_NS = 10_000_000  # USER_HZ is 100 in every kernel's interface


def v1(resources: Resources, files: Files) -> tuple[Change, ...]:
    """Shares, period before quota before burst, and idle last: idle refuses later shares."""
    cpu = resources.cpu or Cpu()
    wanted = (
        ("cpu.shares", cpu.shares or None),
        ("cpu.cfs_period_us", cpu.period or None),
        ("cpu.cfs_quota_us", cpu.quota or None),
        ("cpu.cfs_burst_us", cpu.burst),
        ("cpu.rt_period_us", cpu.realtime_period or None),
        ("cpu.rt_runtime_us", cpu.realtime_runtime or None),
        ("cpu.idle", cpu.idle),
    )
    return tuple(Write(file, str(value)) for file, value in wanted if value is not None)


def v2(resources: Resources, files: Files) -> tuple[Change, ...]:
    """Weight, `cpu.max`, burst, idle. Real-time limits do not exist on v2."""
    cpu = resources.cpu or Cpu()
    changes: list[Change] = []
    if cpu.shares:
        changes.append(Write("cpu.weight", str(weight_of_shares(cpu.shares))))
    if cpu.quota or cpu.period:
        changes.append(Write("cpu.max", _max(cpu, files)))
    if cpu.burst is not None:
        changes.append(Write("cpu.max.burst", str(cpu.burst)))
    if cpu.idle is not None:
        changes.append(Write("cpu.idle", str(cpu.idle)))
    if cpu.realtime_runtime or cpu.realtime_period:
        changes.append(Lacking("cpu real-time runtime and period do not exist on cgroup v2"))
    return tuple(changes)


def weight_of_shares(shares: int) -> int:
    """v1 shares as a v2 weight: smallest, default and largest map to each other.

    Source: the curve that runc 1.4 and crun 1.23 use (opencontainers/cgroups, KEP-2254).
    """
    if shares <= 2:
        return 1
    if shares >= 262_144:
        return 10_000
    log = math.log2(shares)
    return math.ceil(10 ** ((log * log + 125 * log) / 612 - 7 / 34))


def stats_v1(cpu: Files, accounting: Files) -> CpuStats | None:
    """Usage from cpuacct, throttling from cpu, which may be two hierarchies."""
    usage = number(accounting.read("cpuacct.usage"))
    if usage is None:
        return None
    user = number(accounting.read("cpuacct.usage_user"))
    system = number(accounting.read("cpuacct.usage_sys"))
    if user is None or system is None:
        ticks = flat_keyed(accounting.read("cpuacct.stat"))
        user, system = ticks.get("user", 0) * _TICK_NS, ticks.get("system", 0) * _TICK_NS
    quota = flat_keyed(cpu.read("cpu.stat"))
    return CpuStats(
        usage_ns=usage,
        user_ns=user,
        system_ns=system,
        throttled_ns=quota.get("throttled_time", 0),
        periods=quota.get("nr_periods", 0),
        throttled_periods=quota.get("nr_throttled", 0),
    )


def stats_v2(files: Files) -> CpuStats | None:
    """`cpu.stat`, which exists without the controller too (then without throttling)."""
    text = files.read("cpu.stat")
    if text is None:
        return None
    stat = flat_keyed(text)
    return CpuStats(
        usage_ns=stat.get("usage_usec", 0) * 1000,
        user_ns=stat.get("user_usec", 0) * 1000,
        system_ns=stat.get("system_usec", 0) * 1000,
        throttled_ns=stat.get("throttled_usec", 0) * 1000,
        periods=stat.get("nr_periods", 0),
        throttled_periods=stat.get("nr_throttled", 0),
    )


def _max(cpu: Cpu, files: Files) -> str:
    """`QUOTA [PERIOD]`; the kernel keeps a period that is not written, but never a quota."""
    if cpu.quota:
        quota = "max" if cpu.quota < 0 else str(cpu.quota)
        return f"{quota} {cpu.period}" if cpu.period else quota
    quota = (files.read("cpu.max") or "max").split()[0]
    return f"{quota} {cpu.period}"
