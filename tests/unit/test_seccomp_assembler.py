"""Jumps of every length, and programs that must be refused."""

from __future__ import annotations

import struct

import pytest

from onggi.errors import InvalidArgument
from onggi.kernel.seccomp.assembler import (
    EQUAL,
    GREATER_EQUAL,
    JUMP,
    LOAD,
    RETURN,
    Assembler,
    check_program,
)
from onggi.kernel.seccomp.simulate import simulate


def instructions(*parts: tuple[int, int, int, int]) -> bytes:
    return b"".join(struct.pack("<HBBI", *part) for part in parts)


@pytest.mark.parametrize("distance", [0, 1, 253, 254, 255, 256, 257, 600, 3000])
@pytest.mark.parametrize("far_side", ["yes", "no"])
def test_a_branch_reaches_any_distance(distance: int, far_side: str) -> None:
    asm = Assembler()
    far = asm.load(4, asm.ret(1))
    near = asm.ret(2)
    for offset in range(distance):
        near = asm.load(8 + offset % 2 * 4, near)
    yes, no = (far, near) if far_side == "yes" else (near, far)
    program = asm.program(asm.load(0, asm.branch(EQUAL, 77, yes, no)))
    check_program(program)
    assert simulate(program, 77, 0).action == (1 if far_side == "yes" else 2)
    assert simulate(program, 78, 0).action == (2 if far_side == "yes" else 1)


def test_both_sides_far_away_at_once() -> None:
    asm = Assembler()
    left, right = asm.load(4, asm.ret(1)), asm.load(8, asm.ret(2))
    label = asm.ret(3)
    for offset in range(254):
        label = asm.load(offset % 16 * 4, label)
    program = asm.program(asm.load(0, asm.branch(GREATER_EQUAL, 5, left, right)))
    check_program(program)
    assert [simulate(program, n, 0).action for n in (4, 5)] == [2, 1]


def test_equal_instructions_are_made_once() -> None:
    asm = Assembler()
    assert asm.load(0, asm.ret(5)) == asm.load(0, asm.ret(5))
    assert asm.branch(EQUAL, 1, asm.ret(5), asm.ret(5)) == asm.ret(5)


def test_a_program_longer_than_the_kernel_takes_is_refused() -> None:
    asm = Assembler()
    label = asm.ret(0)
    for offset in range(4096):
        label = asm.load(offset % 16 * 4, label)
    with pytest.raises(InvalidArgument, match="4097 instructions"):
        asm.program(label)


BAD = {
    "empty": b"",
    "half an instruction": b"\x06\0\0\0",
    "no return": instructions((LOAD, 0, 0, 0)),
    "load beyond the data": instructions((LOAD, 0, 0, 64), (RETURN, 0, 0, 0)),
    "unaligned load": instructions((LOAD, 0, 0, 2), (RETURN, 0, 0, 0)),
    "branch beyond the end": instructions((EQUAL, 1, 0, 0), (RETURN, 0, 0, 0)),
    "jump beyond the end": instructions((JUMP, 0, 0, 9), (RETURN, 0, 0, 0)),
    "unknown instruction": instructions((0x61, 0, 0, 0), (RETURN, 0, 0, 0)),
}


@pytest.mark.parametrize("name", BAD)
def test_a_program_the_kernel_would_refuse_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument):
        check_program(BAD[name])


@pytest.mark.parametrize("name", [n for n in BAD if n != "empty"])
def test_the_simulator_does_not_run_outside_its_bounds(name: str) -> None:
    with pytest.raises(InvalidArgument):
        simulate(BAD[name], 0, 0)
