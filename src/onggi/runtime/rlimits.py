"""Resource limits by name. Source: getrlimit(2), asm-generic/resource.h."""

from __future__ import annotations

RLIMITS: dict[str, int] = {
    "RLIMIT_CPU": 0,
    "RLIMIT_FSIZE": 1,
    "RLIMIT_DATA": 2,
    "RLIMIT_STACK": 3,
    "RLIMIT_CORE": 4,
    "RLIMIT_RSS": 5,
    "RLIMIT_NPROC": 6,
    "RLIMIT_NOFILE": 7,
    "RLIMIT_MEMLOCK": 8,
    "RLIMIT_AS": 9,
    "RLIMIT_LOCKS": 10,
    "RLIMIT_SIGPENDING": 11,
    "RLIMIT_MSGQUEUE": 12,
    "RLIMIT_NICE": 13,
    "RLIMIT_RTPRIO": 14,
    "RLIMIT_RTTIME": 15,
}
NAMES: dict[int, str] = {number: name for name, number in RLIMITS.items()}
NO_LIMIT = 2**64 - 1


def limit_text(value: int) -> str:
    """A limit as a person writes it."""
    return "unlimited" if value == NO_LIMIT else str(value)
