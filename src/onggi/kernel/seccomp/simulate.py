"""A filter program's answer to one system call, without a kernel.

For tests and for `explain`: which action a program gives, and how many instructions that took.
Source: kernel/bpf classic interpreter, linux/seccomp.h struct seccomp_data.
"""

from __future__ import annotations

import struct

import msgspec

from onggi.errors import InvalidArgument
from onggi.kernel.seccomp.assembler import (
    AND,
    DATA_BYTES,
    EQUAL,
    GREATER,
    GREATER_EQUAL,
    INSTRUCTION,
    JUMP,
    LOAD,
    RETURN,
)

_DATA = struct.Struct("<IIQ6Q")
_WORD = struct.Struct("<I")
#: BPF_JMP | BPF_JSET | BPF_K: other compilers use it (runc for x32), ours does not.
_JUMP_SET = 0x45


class Verdict(msgspec.Struct, frozen=True):
    """`action` is a SECCOMP_RET_* value, `executed` the number of instructions it took."""

    action: int
    executed: int


def simulate(
    program: bytes,
    number: int,
    audit: int,
    arguments: tuple[int, ...] = (),
    instruction_pointer: int = 0,
) -> Verdict:
    """Run the program on one call; arguments that are left out are 0.

    Raises:
        InvalidArgument: the program jumps or loads outside its bounds, or is no filter.
    """
    full = (*arguments, *(0,) * (6 - len(arguments)))
    data = _DATA.pack(number & 0xFFFF_FFFF, audit, instruction_pointer, *full)
    a = here = executed = 0
    while True:
        if (here + 1) * INSTRUCTION.size > len(program):
            raise InvalidArgument(f"the filter leaves its program at instruction {here}")
        code, yes, no, value = INSTRUCTION.unpack_from(program, here * INSTRUCTION.size)
        executed += 1
        if code == RETURN:
            return Verdict(value, executed)
        if code == LOAD:
            a = _load(data, value, here)
        elif code == AND:
            a &= value
        else:
            here += value if code == JUMP else yes if _holds(code, a, value, here) else no
        here += 1


def _load(data: bytes, offset: int, here: int) -> int:
    if offset % 4 or offset >= DATA_BYTES:
        raise InvalidArgument(f"filter instruction {here} loads from {offset}, outside the data")
    word: int = _WORD.unpack_from(data, offset)[0]
    return word


def _holds(code: int, a: int, value: int, here: int) -> bool:
    if code == EQUAL:
        return a == value
    if code == GREATER:
        return a > value
    if code == GREATER_EQUAL:
        return a >= value
    if code == _JUMP_SET:
        return bool(a & value)
    raise InvalidArgument(f"filter instruction {here} is unknown: {code:#x}")
