"""Capabilities: names, bit sets, and which ones a process holds.

A bit set is an `int` with bit N for capability N. Source: capabilities(7), linux/capability.h.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from onggi.errors import InvalidArgument
from onggi.kernel.procfs import read_process_file

#: In the kernel's order: the index is the number.
NAMES: tuple[str, ...] = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)
BITS: dict[str, int] = {name: bit for bit, name in enumerate(NAMES)}
ALL = (1 << len(NAMES)) - 1

#: What a container gets unless told otherwise: podman's set, Docker's without AUDIT_WRITE, MKNOD
#: and NET_RAW. Source: containers.conf(5) default_capabilities.
DEFAULT: tuple[str, ...] = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)


def canonical(name: str) -> str:
    """`CAP_NET_RAW` for `CAP_NET_RAW`, `net_raw` or `cap_net_raw`.

    Raises:
        InvalidArgument: no capability is called so.
    """
    upper = name.upper()
    full = upper if upper.startswith("CAP_") else f"CAP_{upper}"
    if full not in BITS:
        raise InvalidArgument(
            f"unknown capability {name!r}", hint="capabilities(7) lists them, net_raw for instance"
        )
    return full


def mask_of(names: Iterable[str]) -> int:
    """The bit set of capabilities named in any form.

    Raises:
        InvalidArgument: no capability is called so.
    """
    mask = 0
    for name in names:
        mask |= 1 << BITS[canonical(name)]
    return mask


def names_of(mask: int) -> tuple[str, ...]:
    """Full names in the kernel's order; one newer than this table is called `CAP_<number>`."""
    return tuple(
        NAMES[bit] if bit < len(NAMES) else f"CAP_{bit}"
        for bit in range(mask.bit_length())
        if mask >> bit & 1
    )


class CapabilitySets(msgspec.Struct, frozen=True):
    """The five sets of a process, as bit sets."""

    inheritable: int
    permitted: int
    effective: int
    bounding: int
    ambient: int


_LINES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


def parse_status(content: bytes) -> CapabilitySets:
    """The sets in a /proc/PID/status.

    Raises:
        ValueError: a line is missing.
    """
    # Not splitlines: Name is the process's choice, and may hold a carriage return.
    lines = dict(line.partition(b":\t")[::2] for line in content.split(b"\n"))
    try:
        return CapabilitySets(*(int(lines[name.encode()], 16) for name in _LINES))
    except KeyError as error:
        raise ValueError(f"no line {error} in /proc/PID/status") from None


def held(pid: int | str = "self") -> CapabilitySets:
    """The sets of a process (`self`: of this process's main thread).

    Raises:
        NotFound: no such process.
    """
    return parse_status(read_process_file(pid, "status"))


def host_capabilities(pid: int | str = "self") -> int:
    """The bit set that a process can hand on: permitted, and in the bounding set."""
    sets = held(pid)
    return sets.permitted & sets.bounding
