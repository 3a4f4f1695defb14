"""The architectures a filter can be made for: their audit number and their system call table.

What a profile asks of them is not known here.
Source: linux/audit.h (AUDIT_ARCH_*), runtime-spec config-linux.md#seccomp (SCMP_ARCH_*).
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from onggi.errors import Unsupported
from onggi.kernel.seccomp.syscall_numbers import RUNS, parse_runs


class Architecture(msgspec.Struct, frozen=True):
    """`table` names its numbers; `audit` is `seccomp_data.arch`; `base` is added to every number.

    x86_64 and x32 share an audit number, x32's calls carry bit 30. The arguments of a `narrow` one
    are 32 bits wide, seen with zeros above.
    """

    table: str
    audit: int
    base: int = 0
    narrow: bool = False


X32_BIT = 0x4000_0000

ARCHITECTURES: dict[str, Architecture] = {
    "SCMP_ARCH_X86_64": Architecture("x86_64", 0xC000_003E),
    "SCMP_ARCH_X86": Architecture("x86", 0x4000_0003, narrow=True),
    "SCMP_ARCH_X32": Architecture("x32", 0xC000_003E, X32_BIT),
    "SCMP_ARCH_AARCH64": Architecture("aarch64", 0xC000_00B7),
    "SCMP_ARCH_ARM": Architecture("arm", 0x4000_0028, narrow=True),
    "SCMP_ARCH_RISCV64": Architecture("riscv64", 0xC000_00F3),
}

#: What a machine can run, its own architecture first.
MACHINES: dict[str, tuple[str, ...]] = {
    "x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
    "riscv64": ("SCMP_ARCH_RISCV64",),
}

#: Every name that the specification knows; those without a table are never run by our machines.
SPECIFIED = frozenset(
    "SCMP_ARCH_" + name
    for name in (
        "X86 X86_64 X32 ARM AARCH64 MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PPC PPC64 "
        "PPC64LE S390 S390X PARISC PARISC64 RISCV64 LOONGARCH64 M68K SH SHEB"
    ).split()
)


def architectures_of(machine: str) -> tuple[str, ...]:
    """The architectures that `machine` (as uname(2) says it) can run, its own first.

    Raises:
        Unsupported: no system call table for this machine.
    """
    if machine not in MACHINES:
        raise Unsupported(
            f"no system call table for a {machine} machine",
            hint=f"filters exist for {', '.join(MACHINES)}; an unconfined container needs none",
        )
    return MACHINES[machine]


@lru_cache
def syscall_table(table: str) -> dict[str, int]:
    """Name to number, without the architecture's base; shared, not to be changed."""
    return parse_runs(RUNS[table])


def is_known_anywhere(name: str) -> bool:
    """Whether any architecture has a call of this name, or had it behind socketcall(2)."""
    return name in ("send", "recv", "accept") or any(name in syscall_table(t) for t in RUNS)
