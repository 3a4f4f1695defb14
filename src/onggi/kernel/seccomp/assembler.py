"""Classic BPF, assembled backwards: every target exists before the jump that goes to it.

Jumps only go forward and a conditional one at most 255 instructions far, so the program is built
from its end. Equal instructions with equal targets are made once. What is tested, and why, is not
known here. Source: linux/filter.h, seccomp(2), Documentation/networking/filter.rst.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from onggi.errors import InvalidArgument

LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
JUMP = 0x05  # BPF_JMP | BPF_JA
EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
GREATER = 0x25  # BPF_JMP | BPF_JGT | BPF_K
GREATER_EQUAL = 0x35  # BPF_JMP | BPF_JGE | BPF_K
RETURN = 0x06  # BPF_RET | BPF_K

#: struct sock_filter in the byte order of the little-endian machines that filters are made for.
INSTRUCTION = struct.Struct("<HBBI")
MAX_INSTRUCTIONS = 4096
#: sizeof(struct seccomp_data): every load is one of its words.
DATA_BYTES = 64

#: Where an instruction is, counted from the end of the program.
Label = int
_Place = Callable[[int, int, Label, Label], Label]


class Assembler:
    """Instructions from the last to the first; each method gives the label to jump to."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, int, int]] = []
        self._made: dict[tuple[int, int, Label, Label], Label] = {}
        self._bridges: dict[Label, Label] = {}

    def ret(self, value: int) -> Label:
        """End with this action."""
        return self._once((RETURN, value, 0, 0), self._place_return)

    def load(self, offset: int, then: Label) -> Label:
        """A = the 32-bit word at `offset` of seccomp_data."""
        return self._once((LOAD, offset, then, then), self._place_straight)

    def mask(self, bits: int, then: Label) -> Label:
        """A = A & bits."""
        return self._once((AND, bits, then, then), self._place_straight)

    def branch(self, test: int, value: int, yes: Label, no: Label) -> Label:
        """Go to `yes` if A `test` value (EQUAL, GREATER, GREATER_EQUAL), else to `no`."""
        if yes == no:
            return yes
        return self._once((test, value, yes, no), self._place_branch)

    def program(self, entry: Label) -> bytes:
        """The finished program, which begins at `entry`.

        Raises:
            InvalidArgument: longer than the kernel takes.
        """
        self._fall_into(entry)
        if len(self._code) > MAX_INSTRUCTIONS:
            raise InvalidArgument(
                f"the seccomp profile needs {len(self._code)} instructions, the kernel takes "
                f"{MAX_INSTRUCTIONS}",
                hint="join rules that differ only in their arguments",
            )
        return b"".join(
            INSTRUCTION.pack(code, yes, no, value) for code, yes, no, value in reversed(self._code)
        )

    def _once(self, key: tuple[int, int, Label, Label], place: _Place) -> Label:
        label = self._made.get(key)
        if label is None:
            label = self._made[key] = place(*key)
        return label

    def _append(self, code: int, value: int, yes: int = 0, no: int = 0) -> Label:
        self._code.append((code, yes, no, value))
        return len(self._code) - 1

    def _place_return(self, code: int, value: int, _yes: Label, _no: Label) -> Label:
        return self._append(code, value)

    def _place_straight(self, code: int, value: int, then: Label, _no: Label) -> Label:
        self._fall_into(then)
        return self._append(code, value)

    def _place_branch(self, code: int, value: int, yes: Label, no: Label) -> Label:
        yes = self._bridge(yes)
        no = self._bridge(no)
        here = len(self._code)
        return self._append(code, value, here - yes - 1, here - no - 1)

    def _fall_into(self, label: Label) -> None:
        """The next instruction placed continues at `label`."""
        if label != len(self._code) - 1:
            self._append(JUMP, len(self._code) - label - 1)

    def _bridge(self, label: Label) -> Label:
        """The label itself when a branch can reach it, otherwise something near that leads there.

        254, not 255: making the bridge for the other side may push this one an instruction away.
        """
        for candidate in (label, self._bridges.get(label, label)):
            if len(self._code) - candidate - 1 <= 254:
                return candidate
        code, _, _, value = self._code[label]
        # A second return costs nothing to run, a jump to the first one does.
        near = self._append(RETURN, value) if code == RETURN else self._far_jump(label)
        self._bridges[label] = near
        return near

    def _far_jump(self, label: Label) -> Label:
        return self._append(JUMP, len(self._code) - label - 1)


def check_program(program: bytes) -> None:
    """Accept only what the kernel would: known instructions, aligned loads, jumps inside, an end.

    Raises:
        InvalidArgument: which instruction is wrong, and how.
    Source: kernel/seccomp.c seccomp_check_filter, net/core/filter.c bpf_check_classic.
    """
    count, rest = divmod(len(program), INSTRUCTION.size)
    if rest or not 1 <= count <= MAX_INSTRUCTIONS:
        raise InvalidArgument(f"a filter program of {len(program)} bytes")
    code = 0
    for here, (code, yes, no, value) in enumerate(INSTRUCTION.iter_unpack(program)):
        if code == LOAD:
            good = value % 4 == 0 and value < DATA_BYTES
        elif code == JUMP:
            good = here + 1 + value < count
        elif code in (EQUAL, GREATER, GREATER_EQUAL):
            good = here + 1 + max(yes, no) < count
        else:
            good = code in (AND, RETURN)
        if not good:
            raise InvalidArgument(f"filter instruction {here} is not valid: {code:#x} {value:#x}")
    if code != RETURN:
        raise InvalidArgument("the filter program does not end with a return")
