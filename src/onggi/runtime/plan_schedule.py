"""When, where and as whom the kernel runs a process: scheduler, disks, CPUs, memory, personality.

Source: runtime-spec config.md#linux-process, config-linux.md#memory-policy,
config-linux.md#personality; sched_setattr(2), ioprio_set(2), set_mempolicy(2), personality(2).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from onggi.errors import SpecError
from onggi.runtime.plan_process import ProcessDraft
from onggi.runtime.steps import (
    SetCpuAffinity,
    SetIoPriority,
    SetMemoryPolicy,
    SetPersonality,
    SetScheduler,
    Step,
)

SCHEDULER_POLICIES: dict[str, int] = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
SCHEDULER_FLAGS: dict[str, int] = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
IO_CLASSES: dict[str, int] = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
MEMORY_MODES: dict[str, int] = {
    "MPOL_DEFAULT": 0,
    "MPOL_PREFERRED": 1,
    "MPOL_BIND": 2,
    "MPOL_INTERLEAVE": 3,
    "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5,
    "MPOL_WEIGHTED_INTERLEAVE": 6,
}
MEMORY_FLAGS: dict[str, int] = {
    "MPOL_F_STATIC_NODES": 1 << 15,
    "MPOL_F_RELATIVE_NODES": 1 << 14,
    "MPOL_F_NUMA_BALANCING": 1 << 13,
}
PERSONALITIES: dict[str, int] = {"LINUX": 0x0, "LINUX32": 0x8}

_CLASS_SHIFT = 13
_MAX_NUMBER = 8191
_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_PROCESS = "config.md#linux-process"


def schedule_steps(draft: ProcessDraft) -> list[Step]:
    """All that a configuration may say about how its process is run, but its CPUs.

    Raises:
        SpecError: a name, a number or a list that is none.
    """
    return [*_scheduler(draft), *_io_priority(draft), *_memory_policy(draft), *_personality(draft)]


def _scheduler(draft: ProcessDraft) -> list[Step]:
    wanted = draft.process.scheduler
    if wanted is None:
        return []
    path = f"{draft.path}.scheduler"
    policy = _named(SCHEDULER_POLICIES, wanted.policy, f"{path}.policy", _PROCESS)
    if not -20 <= wanted.nice <= 19:
        raise SpecError(f"{path}.nice", f"{wanted.nice} is not in -20…19", section=_PROCESS)
    if not 0 <= wanted.priority <= 99:
        raise SpecError(f"{path}.priority", f"{wanted.priority} is not in 0…99", section=_PROCESS)
    times = (wanted.runtime, wanted.deadline, wanted.period)
    if not all(0 <= each < 2**64 for each in times):
        raise SpecError(path, "a time does not fit 64 bits", section=_PROCESS)
    if any(times) and wanted.policy != "SCHED_DEADLINE":
        raise SpecError(path, "runtime, deadline and period are SCHED_DEADLINE's", section=_PROCESS)
    return [
        SetScheduler(
            policy=policy,
            flags=_flags(SCHEDULER_FLAGS, wanted.flags, f"{path}.flags", _PROCESS),
            nice=wanted.nice,
            priority=wanted.priority,
            runtime_ns=wanted.runtime,
            deadline_ns=wanted.deadline,
            period_ns=wanted.period,
        )
    ]


def _io_priority(draft: ProcessDraft) -> list[Step]:
    wanted = draft.process.io_priority
    if wanted is None:
        return []
    path = f"{draft.path}.ioPriority"
    if not 0 <= wanted.priority <= 7:
        raise SpecError(f"{path}.priority", f"{wanted.priority} is not in 0…7", section=_PROCESS)
    kind = _named(IO_CLASSES, wanted.class_, f"{path}.class", _PROCESS)
    return [SetIoPriority(priority=kind << _CLASS_SHIFT | wanted.priority)]


def affinity_steps(draft: ProcessDraft) -> tuple[list[Step], list[Step]]:
    """The CPUs of a process that is added to a container: until it is in its cgroup, and then.

    Raises:
        SpecError: not a list of CPUs.
    """
    wanted = draft.process.exec_cpu_affinity
    if wanted is None:
        return [], []
    path = f"{draft.path}.execCPUAffinity"
    lists = [
        parse_list(text, f"{path}.{name}", _PROCESS)
        for name, text in (("initial", wanted.initial), ("final", wanted.final))
    ]
    before, after = ([SetCpuAffinity(cpus=cpus)] if cpus else [] for cpus in lists)
    return [*before], [*after]


def _memory_policy(draft: ProcessDraft) -> list[Step]:
    wanted = draft.linux.memory_policy
    if wanted is None:
        return []
    path, section = "$.linux.memoryPolicy", "config-linux.md#memory-policy"
    mode = _named(MEMORY_MODES, wanted.mode, f"{path}.mode", section)
    mode |= _flags(MEMORY_FLAGS, wanted.flags, f"{path}.flags", section)
    return [SetMemoryPolicy(mode=mode, nodes=parse_list(wanted.nodes, f"{path}.nodes", section))]


def _personality(draft: ProcessDraft) -> list[Step]:
    wanted = draft.linux.personality
    if wanted is None:
        return []
    path, section = "$.linux.personality", "config-linux.md#personality"
    if wanted.flags:
        raise SpecError(f"{path}.flags", "no flag is defined", section=section)
    return [SetPersonality(persona=_named(PERSONALITIES, wanted.domain, f"{path}.domain", section))]


def parse_list(text: str, path: str, section: str) -> tuple[int, ...]:
    """The numbers of a list as the kernel writes it: `0-3,7`.

    Raises:
        SpecError: not such a list.
    """
    numbers: set[int] = set()
    for part in text.replace(" ", "").split(",") if text.strip() else ():
        match = _RANGE.fullmatch(part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last or last > _MAX_NUMBER:
            raise SpecError(path, f"{text!r} is not a list as 0-3,7", section=section)
        numbers.update(range(first, last + 1))
    return tuple(sorted(numbers))


def _named(table: Mapping[str, int], name: str, path: str, section: str) -> int:
    if name not in table:
        raise SpecError(path, f"unknown {name!r}: one of {' '.join(table)}", section=section)
    return table[name]


def _flags(table: Mapping[str, int], names: tuple[str, ...], path: str, section: str) -> int:
    value = 0
    for index, name in enumerate(names):
        value |= _named(table, name, f"{path}[{index}]", section)
    return value
