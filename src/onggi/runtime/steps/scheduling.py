"""The steps that say when, where and as whom the kernel runs the container's first process."""

from __future__ import annotations

from onggi.runtime.steps.base import Step


class SetScheduler(Step, frozen=True, kw_only=True):
    """Set the child's scheduling policy. runtime, deadline and period in nanoseconds."""

    opcode = 13
    signature = "uuiuuuu"
    actor = "monitor"
    concerns = "scheduler"
    section = "runtime-spec config.md#linux-process"

    policy: int
    flags: int = 0
    nice: int = 0
    priority: int = 0
    runtime_ns: int = 0
    deadline_ns: int = 0
    period_ns: int = 0

    def describe(self) -> str:
        return f"set scheduling policy {self.policy}, nice {self.nice}, priority {self.priority}"


class SetCpuAffinity(Step, frozen=True, kw_only=True):
    """Let the child, or before it is cloned the monitor, run on these CPUs only."""

    opcode = 14
    signature = "n"
    actor = "monitor"
    concerns = "scheduler"
    section = "runtime-spec config.md#linux-process"

    cpus: tuple[int, ...]

    def describe(self) -> str:
        return f"run on CPUs {','.join(map(str, self.cpus))}"


class SetIoPriority(Step, frozen=True, kw_only=True):
    """Set init's class and level for the disks' schedulers."""

    opcode = 44
    signature = "u"
    concerns = "scheduler"
    section = "runtime-spec config.md#linux-process"

    priority: int

    def describe(self) -> str:
        return f"set io priority class {self.priority >> 13}, level {self.priority & 0x1FFF}"


class SetMemoryPolicy(Step, frozen=True, kw_only=True):
    """Say from which memory nodes the kernel is to take init's pages."""

    opcode = 45
    signature = "un"
    concerns = "memory"
    section = "runtime-spec config-linux.md#memory-policy"

    mode: int
    nodes: tuple[int, ...]

    def describe(self) -> str:
        return f"set memory policy {self.mode:#x} for nodes {','.join(map(str, self.nodes)) or '–'}"


class SetPersonality(Step, frozen=True, kw_only=True):
    """Have the kernel answer as another machine would."""

    opcode = 46
    signature = "u"
    concerns = "process"
    section = "runtime-spec config-linux.md#personality"

    persona: int

    def describe(self) -> str:
        return f"set personality {self.persona:#x}"
