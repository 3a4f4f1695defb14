"""An OCI seccomp profile as the classic BPF program that answers for it. Pure.

The program looks at the architecture, then finds the call's number by binary search, then looks at
arguments where a rule has some. Numbers are tested with nothing but JGE and JEQ, which is what
lets the kernel (5.11 and later) see which calls are always allowed and skip the filter for them.
Source: runtime-spec config-linux.md#seccomp, seccomp(2), kernel/seccomp.c seccomp_is_const_allow.
"""

from __future__ import annotations

import msgspec

from onggi.errors import SpecError
from onggi.kernel.seccomp.actions import (
    ENOSYS,
    KILL_PROCESS,
    NOTIFY,
    SECTION,
    action_value,
    flags_value,
    is_permissive,
)
from onggi.kernel.seccomp.architectures import (
    ARCHITECTURES,
    SPECIFIED,
    X32_BIT,
    Architecture,
    architectures_of,
    is_known_anywhere,
    syscall_table,
)
from onggi.kernel.seccomp.assembler import (
    EQUAL,
    GREATER_EQUAL,
    INSTRUCTION,
    Assembler,
    Label,
)
from onggi.kernel.seccomp.conditions import emit_condition
from onggi.kernel.seccomp.rules import Decision, Rule, decide, parse_rules
from onggi.specs.runtime import Seccomp

#: Changes whenever the same profile gives another program; part of a cache's key.
REVISION = 2

#: Calls that a filter cannot leave to an agent, and why.
NEVER_NOTIFIES = {
    "sendmsg": "the agent is told by it",
    "write": "runtimes start a container by it",
}

_NUMBER_OFFSET = 0  # offsetof(struct seccomp_data, nr)
_ARCH_OFFSET = 4  # offsetof(struct seccomp_data, arch)
_PATH = "$.linux.seccomp"


class SeccompProgram(msgspec.Struct, frozen=True):
    """`flags`: SECCOMP_FILTER_FLAG_* for seccomp(2). `program`: an array of struct sock_filter."""

    flags: int
    program: bytes
    warnings: tuple[str, ...] = ()

    @property
    def instructions(self) -> int:
        """How many instructions the program has."""
        return len(self.program) // INSTRUCTION.size


class Segment(msgspec.Struct, frozen=True):
    """The numbers from `start` to the next segment's, which are decided alike."""

    start: int
    decision: Decision


def compile_profile(profile: Seccomp, machine: str = "x86_64") -> SeccompProgram:
    """The program that answers as the profile says, on this machine.

    The machine's own architecture is always included; a call of one that the profile leaves out
    kills the process. Names that an architecture does not have are skipped there. Unless the
    default permits, a call that is newer than every call the profile names, or that Onggi does not
    know, answers ENOSYS, so that a C library falls back to an older one.

    Raises:
        SpecError: the profile is wrong, with the JSON path.
        Unsupported: the machine has no table.
        InvalidArgument: the program would be longer than the kernel takes.
    """
    default = action_value(
        profile.default_action, profile.default_errno_ret, _PATH, "defaultErrnoRet"
    )
    rules = parse_rules(profile, default, _PATH)
    architectures = _select_architectures(profile, machine)
    lost: set[str] = set()
    asm = Assembler()
    entry = asm.ret(KILL_PROCESS)
    for audit, group in reversed(_by_audit(architectures).items()):
        segments: list[Segment] = []
        for architecture in group:
            decisions, unheard = decide(rules, architecture, default)
            lost |= unheard
            segments += _segments(architecture, decisions, default)
        if audit == ARCHITECTURES["SCMP_ARCH_X86_64"].audit and len(group) == 1:
            segments += _segments_without_x32(segments[-1].decision)
        search = _emit_search(asm, _merge(segments))
        entry = asm.branch(EQUAL, audit, asm.load(_NUMBER_OFFSET, search), entry)
    program = asm.program(asm.load(_ARCH_OFFSET, entry))
    listens = _check_listener(profile, rules, default)
    warnings = _warnings(profile, rules, architectures, lost, listens)
    flags = flags_value(profile.flags, f"{_PATH}.flags", listens=listens)
    return SeccompProgram(flags, program, warnings)


def _check_listener(profile: Seccomp, rules: tuple[Rule, ...], default: int) -> bool:
    """Whether a rule notifies.

    The filter holds already when its listener is sent to the agent, so what sends it must not wait
    for the agent; the default, which is every call's, neither. `write` is what other runtimes need
    then: a profile is to start a container on each of them or on none.
    """
    if default == NOTIFY:
        raise SpecError(
            f"{_PATH}.defaultAction", "SCMP_ACT_NOTIFY cannot be the default", section=SECTION
        )
    notifying = {
        name: index
        for index, rule in enumerate(rules)
        for name in rule.names
        if any(alternative.action == NOTIFY for alternative in rule.alternatives)
    }
    for name, why in NEVER_NOTIFIES.items():
        if name in notifying:
            raise SpecError(
                f"{_PATH}.syscalls[{notifying[name]}].action",
                f"SCMP_ACT_NOTIFY cannot be used for the {name} syscall: {why}",
                section=SECTION,
            )
    if notifying and not profile.listener_path:
        raise SpecError(
            f"{_PATH}.listenerPath", "SCMP_ACT_NOTIFY needs the agent's socket", section=SECTION
        )
    return bool(notifying)


def _select_architectures(profile: Seccomp, machine: str) -> list[Architecture]:
    """In the machine's order; a profile's architectures of other machines are left out."""
    for index, name in enumerate(profile.architectures):
        if name not in SPECIFIED:
            raise SpecError(f"{_PATH}.architectures[{index}]", f"unknown architecture {name!r}")
    native, *others = architectures_of(machine)
    return [
        ARCHITECTURES[n] for n in (native, *others) if n == native or n in profile.architectures
    ]


def _by_audit(architectures: list[Architecture]) -> dict[int, list[Architecture]]:
    groups: dict[int, list[Architecture]] = {}
    for architecture in architectures:
        groups.setdefault(architecture.audit, []).append(architecture)
    return groups


def _segments(
    architecture: Architecture, decisions: dict[int, Decision], default: int
) -> list[Segment]:
    """The whole range of an architecture's numbers, ascending, beginning at its base."""
    otherwise = Decision(default)
    # Nothing found means that the profile is not about this architecture: its default stands.
    unknown = otherwise if is_permissive(default) or not decisions else Decision(ENOSYS)
    newest = max(decisions, default=-1)
    segments = []
    expected = 0
    for number in sorted(set(syscall_table(architecture.table).values())):
        if number > newest:
            break
        if number > expected:
            segments.append(Segment(architecture.base + expected, unknown))
        decision = decisions.get(number, otherwise)
        segments.append(Segment(architecture.base + number, decision))
        expected = number + 1
    segments.append(Segment(architecture.base + expected, unknown))
    return segments


def _segments_without_x32(unknown: Decision) -> list[Segment]:
    """x32 calls kill; -1, which a tracer or syscall(-1) makes, is only an unknown call."""
    return [Segment(X32_BIT, Decision(KILL_PROCESS)), Segment(0xFFFF_FFFF, unknown)]


def _merge(segments: list[Segment]) -> list[Segment]:
    """Neighbours that are decided alike become one."""
    merged: list[Segment] = []
    for segment in segments:
        if not merged or merged[-1].decision != segment.decision:
            merged.append(segment)
    return merged


def _emit_search(asm: Assembler, segments: list[Segment]) -> Label:
    """Binary search for the segment of the number in A."""
    if len(segments) == 1:
        return _emit_decision(asm, segments[0].decision)
    if len(segments) == 3 and _is_one_in_between(segments):
        outside = _emit_decision(asm, segments[0].decision)
        inside = _emit_decision(asm, segments[1].decision)
        return asm.branch(EQUAL, segments[1].start, inside, outside)
    middle = len(segments) // 2
    right = _emit_search(asm, segments[middle:])
    left = _emit_search(asm, segments[:middle])
    return asm.branch(GREATER_EQUAL, segments[middle].start, right, left)


def _is_one_in_between(segments: list[Segment]) -> bool:
    before, single, after = segments
    return before.decision == after.decision and after.start == single.start + 1


def _emit_decision(asm: Assembler, decision: Decision) -> Label:
    label = asm.ret(decision.action)
    for alternative in reversed(decision.alternatives):
        yes = asm.ret(alternative.action)
        otherwise = label
        label = yes
        for condition in reversed(alternative.conditions):
            label = emit_condition(asm, condition, label, otherwise)
    return label


def _warnings(
    profile: Seccomp,
    rules: tuple[Rule, ...],
    architectures: list[Architecture],
    lost: set[str],
    listens: bool,
) -> tuple[str, ...]:
    tables = [syscall_table(architecture.table) for architecture in architectures]
    names = dict.fromkeys(name for rule in rules for name in rule.names)
    warnings = [
        f"seccomp: the rule for {name!r} has no effect: no such system call is known"
        for name in names
        if not any(name in table for table in tables) and not is_known_anywhere(name)
    ]
    warnings += [
        f"seccomp: some rules for {name!r} have no effect: one without arguments comes first"
        for name in sorted(lost)
    ]
    if not listens and (profile.listener_path or profile.listener_metadata):
        warnings.append("seccomp: listenerPath has no effect: no rule of the profile notifies")
    return tuple(warnings)
