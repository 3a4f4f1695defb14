"""What a filter answers, and with which flags it is loaded: the specification's words as numbers.

Source: linux/seccomp.h, seccomp(2), runtime-spec config-linux.md#seccomp.
"""

from __future__ import annotations

import errno

from onggi.errors import SpecError

SECTION = "config-linux.md#seccomp"

KILL_PROCESS = 0x8000_0000
KILL_THREAD = 0x0000_0000
TRAP = 0x0003_0000
ERRNO = 0x0005_0000
TRACE = 0x7FF0_0000
LOG = 0x7FFC_0000
NOTIFY = 0x7FC0_0000
ALLOW = 0x7FFF_0000

ENOSYS = ERRNO | errno.ENOSYS

ACTIONS: dict[str, int] = {
    "SCMP_ACT_KILL": KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": KILL_PROCESS,
    "SCMP_ACT_TRAP": TRAP,
    "SCMP_ACT_ERRNO": ERRNO,
    "SCMP_ACT_TRACE": TRACE,
    "SCMP_ACT_LOG": LOG,
    "SCMP_ACT_ALLOW": ALLOW,
    "SCMP_ACT_NOTIFY": NOTIFY,
}

#: The kernel answers no errno above this (include/linux/err.h MAX_ERRNO).
MAX_ERRNO = 4095

FLAG_LOG = 1 << 1
FLAG_SPEC_ALLOW = 1 << 2
FLAG_NEW_LISTENER = 1 << 3
FLAG_WAIT_KILLABLE_RECV = 1 << 5

#: TSYNC is nothing: the filter is loaded by a process of one thread.
FLAGS: dict[str, int] = {
    "SECCOMP_FILTER_FLAG_TSYNC": 0,
    "SECCOMP_FILTER_FLAG_LOG": FLAG_LOG,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": FLAG_SPEC_ALLOW,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": FLAG_WAIT_KILLABLE_RECV,
}


def action_value(name: str, errno_ret: int | None, path: str, errno_field: str = "errnoRet") -> int:
    """The SECCOMP_RET_* value of an action; EPERM where an errno is possible and none is given.

    `path` is the JSON path of the object that holds the action.

    Raises:
        SpecError: unknown action, or an errno that this action cannot have.
    """
    if name not in ACTIONS:
        raise SpecError(path, f"unknown seccomp action {name!r}", section=SECTION)
    value = ACTIONS[name]
    if value in (ERRNO, TRACE):
        number = errno.EPERM if errno_ret is None else errno_ret
        limit = MAX_ERRNO if value == ERRNO else 0xFFFF
        if not 0 <= number <= limit:
            raise SpecError(
                f"{path}.{errno_field}", f"{number} is not in 0…{limit}", section=SECTION
            )
        return value | number
    if errno_ret is not None:
        raise SpecError(f"{path}.{errno_field}", f"{name} answers with no errno", section=SECTION)
    return value


def is_permissive(value: int) -> bool:
    """Whether the call may be carried out: then a call that is too new must not be hidden."""
    return value & 0xFFFF_0000 in (ALLOW, LOG, TRACE, NOTIFY)


def is_stricter(value: int, other: int) -> bool:
    """Whether the kernel would prefer `value` to `other` if two filters disagreed."""
    return _precedence(value) < _precedence(other)


def _precedence(value: int) -> int:
    """The kernel compares the action as a signed number; the lowest wins."""
    action = value & 0xFFFF_0000
    return action - (1 << 32) if action & 0x8000_0000 else action


def flags_value(flags: tuple[str, ...], path: str, *, listens: bool = False) -> int:
    """The SECCOMP_FILTER_FLAG_* bits for seccomp(2); `listens`: a rule notifies an agent.

    WAIT_KILLABLE_RECV means something only to a listener, and the kernel refuses it without one.

    Raises:
        SpecError: unknown flag.
    """
    value = 0
    for index, flag in enumerate(flags):
        if flag not in FLAGS:
            raise SpecError(f"{path}[{index}]", f"unknown seccomp flag {flag!r}", section=SECTION)
        value |= FLAGS[flag]
    return value | FLAG_NEW_LISTENER if listens else value & ~FLAG_WAIT_KILLABLE_RECV
