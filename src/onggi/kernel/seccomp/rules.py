"""A profile's rules, checked, and what they decide for every number of an architecture.

The meaning is libseccomp's as runc and crun use it: a rule with the default action says nothing; a
rule without arguments beats every rule with arguments for the same call, and the first of several
such wins; conditions of one rule are all needed, unless two of them concern the same argument:
then one is enough. Rules with arguments that overlap are asked in the order of the profile, which
libseccomp leaves open. How a decision becomes instructions is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from onggi.errors import SpecError
from onggi.kernel.seccomp.actions import SECTION, action_value, is_stricter
from onggi.kernel.seccomp.architectures import Architecture, syscall_table
from onggi.kernel.seccomp.conditions import Condition, narrow_condition, parse_condition
from onggi.specs.runtime import Seccomp, SeccompArg

#: Calls of 32-bit x86 that can also be made through another, whose first argument says which.
#: Source: linux/net.h (SYS_SOCKET …), linux/ipc.h (SEMOP …).
_SOCKETCALL = {
    name: number
    for number, name in enumerate(
        "socket bind connect listen accept getsockname getpeername socketpair send recv sendto "
        "recvfrom shutdown setsockopt getsockopt sendmsg recvmsg accept4 recvmmsg sendmmsg".split(),
        start=1,
    )
}
_IPC = {
    "semop": 1,
    "semget": 2,
    "semctl": 3,
    "semtimedop": 4,
    "msgsnd": 11,
    "msgrcv": 12,
    "msgget": 13,
    "msgctl": 14,
    "shmat": 21,
    "shmdt": 22,
    "shmget": 23,
    "shmctl": 24,
}
#: The kernel takes the upper half of ipc(2)'s first argument for a version.
_IPC_MASK = 0xFFFF


class Alternative(msgspec.Struct, frozen=True):
    """If all conditions hold, the action."""

    conditions: tuple[Condition, ...]
    action: int


class Decision(msgspec.Struct, frozen=True):
    """The first alternative that holds, otherwise the action."""

    action: int
    alternatives: tuple[Alternative, ...] = ()


class Rule(msgspec.Struct, frozen=True):
    """Names, and the alternatives that each of them gets; empty for a rule that says nothing."""

    names: tuple[str, ...]
    alternatives: tuple[Alternative, ...]


def parse_rules(profile: Seccomp, default: int, path: str) -> tuple[Rule, ...]:
    """The rules of a profile in its order; `path` is the profile's JSON path.

    Raises:
        SpecError, Unsupported: as `action_value` and `parse_condition`; or a rule names nothing.
    """
    rules = []
    for index, rule in enumerate(profile.syscalls):
        here = f"{path}.syscalls[{index}]"
        if not rule.names or "" in rule.names:
            raise SpecError(f"{here}.names", "a system call has no name", section=SECTION)
        action = action_value(rule.action, rule.errno_ret, here)
        groups = _parse_groups(rule.args, here)
        alternatives = tuple(Alternative(group, action) for group in groups)
        rules.append(Rule(rule.names, () if action == default else alternatives))
    return tuple(rules)


def _parse_groups(args: tuple[SeccompArg, ...], path: str) -> list[tuple[Condition, ...]]:
    conditions = tuple(parse_condition(a, f"{path}.args[{i}]") for i, a in enumerate(args))
    if len({condition.index for condition in conditions}) < len(conditions):
        return [(condition,) for condition in conditions]
    return [conditions]


def decide(
    rules: tuple[Rule, ...], architecture: Architecture, default: int
) -> tuple[dict[int, Decision], set[str]]:
    """The decision for every number that a rule names, and the calls some of whose rules lost.

    A number that only rules without a say name has the default. Numbers are without the base.
    """
    table = syscall_table(architecture.table)
    found: dict[int, list[Alternative]] = {}
    for rule in rules:
        alternatives = _narrow(rule.alternatives) if architecture.narrow else rule.alternatives
        for name in rule.names:
            number = table.get(name)
            if number is not None:
                found.setdefault(number, []).extend(alternatives)
            if architecture.table == "x86":
                for through, alternative in _multiplexed(name, alternatives, default):
                    found.setdefault(table[through], []).append(alternative)
    settled = {number: _settle(tuple(several), default) for number, several in found.items()}
    names = {number: name for name, number in table.items()}
    lost = {
        names[number]
        for number, several in found.items()
        if len(several) > 1 and not settled[number].alternatives
        if any(alternative.action != settled[number].action for alternative in several)
    }
    return settled, lost


def _narrow(alternatives: tuple[Alternative, ...]) -> tuple[Alternative, ...]:
    return tuple(
        Alternative(tuple(map(narrow_condition, alternative.conditions)), alternative.action)
        for alternative in alternatives
    )


def _settle(alternatives: tuple[Alternative, ...], default: int) -> Decision:
    for alternative in alternatives:
        if not alternative.conditions:
            return Decision(alternative.action)
    return Decision(default, alternatives)


def _multiplexed(
    name: str, alternatives: tuple[Alternative, ...], default: int
) -> Iterator[tuple[str, Alternative]]:
    """What a rule for `name` says about socketcall(2) or ipc(2).

    Arguments of the call itself lie in memory, where a filter cannot look: a rule that has
    conditions denies whatever it might deny, and permits nothing.
    """
    if name in _SOCKETCALL:
        which = Condition(0, "equal", _SOCKETCALL[name])
        through = "socketcall"
    elif name in _IPC:
        which = Condition(0, "equal", _IPC[name], _IPC_MASK)
        through = "ipc"
    else:
        return
    for alternative in alternatives:
        if not alternative.conditions or is_stricter(alternative.action, default):
            yield through, Alternative((which,), alternative.action)
