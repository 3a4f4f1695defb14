"""One comparison of a 64-bit system call argument, and its instructions.

BPF has 32-bit words, so the high word is compared first and the low word only where that is needed.
Source: runtime-spec config-linux.md#seccomp (op), libseccomp seccomp_rule_add(3).
"""

from __future__ import annotations

from typing import Literal

import msgspec

from onggi.errors import SpecError
from onggi.kernel.seccomp.actions import SECTION
from onggi.kernel.seccomp.assembler import EQUAL, GREATER, GREATER_EQUAL, Assembler, Label
from onggi.specs.runtime import SeccompArg

ARGUMENTS = 6
MAX_VALUE = 2**64 - 1
_WORD = 0xFFFF_FFFF
#: offsetof(struct seccomp_data, args); the low word comes first on little-endian machines.
_ARGS_OFFSET = 16

Kind = Literal["equal", "greater", "greater_equal"]


class Condition(msgspec.Struct, frozen=True):
    """`argument & mask` compared with `value`, the answer turned around if `negated`.

    The seven operators come down to three. Only "equal" has a mask other than all ones.
    """

    index: int
    kind: Kind
    value: int
    mask: int = MAX_VALUE
    negated: bool = False


OPERATORS: dict[str, tuple[Kind, bool]] = {
    "SCMP_CMP_EQ": ("equal", False),
    "SCMP_CMP_NE": ("equal", True),
    "SCMP_CMP_GT": ("greater", False),
    "SCMP_CMP_LE": ("greater", True),
    "SCMP_CMP_GE": ("greater_equal", False),
    "SCMP_CMP_LT": ("greater_equal", True),
    "SCMP_CMP_MASKED_EQ": ("equal", False),
}


def parse_condition(arg: SeccompArg, path: str) -> Condition:
    """The condition of an `args` entry; `path` is its JSON path.

    SCMP_CMP_MASKED_EQ has the mask in `value` and what is compared in `valueTwo`, of which bits
    outside the mask do not count, as in libseccomp.

    Raises:
        SpecError: unknown operator, index above 5, value that is not an unsigned 64-bit number.
    """
    if not 0 <= arg.index < ARGUMENTS:
        raise SpecError(f"{path}.index", f"{arg.index} is not in 0…5", section=SECTION)
    for name, value in (("value", arg.value), ("valueTwo", arg.value_two)):
        if not 0 <= value <= MAX_VALUE:
            raise SpecError(f"{path}.{name}", f"{value} does not fit 64 bits", section=SECTION)
    if arg.op not in OPERATORS:
        raise SpecError(f"{path}.op", f"unknown operator {arg.op!r}", section=SECTION)
    kind, negated = OPERATORS[arg.op]
    if arg.op == "SCMP_CMP_MASKED_EQ":
        return Condition(arg.index, kind, arg.value & arg.value_two, arg.value)
    return Condition(arg.index, kind, arg.value, MAX_VALUE, negated)


def narrow_condition(condition: Condition) -> Condition:
    """The condition for an architecture of 32 bits: a negative number is negative there too."""
    if condition.value >> 32 != _WORD:
        return condition
    mask = condition.mask & _WORD if condition.kind == "equal" else condition.mask
    return Condition(
        condition.index, condition.kind, condition.value & _WORD, mask, condition.negated
    )


def emit_condition(asm: Assembler, condition: Condition, yes: Label, no: Label) -> Label:
    """Instructions that go to `yes` if the condition holds, else to `no`."""
    if condition.negated:
        yes, no = no, yes
    if condition.kind == "equal":
        return _emit_equal(asm, condition, yes, no)
    return _emit_order(asm, condition, yes, no)


def _emit_equal(asm: Assembler, condition: Condition, yes: Label, no: Label) -> Label:
    """Both words equal; a word of which the mask leaves nothing is not looked at."""
    label = yes
    for shift, offset in ((0, 0), (32, 4)):
        mask = condition.mask >> shift & _WORD
        if mask:
            test = asm.branch(EQUAL, condition.value >> shift & _WORD, label, no)
            if mask != _WORD:
                test = asm.mask(mask, test)
            label = asm.load(_offset(condition) + offset, test)
    return label


def _emit_order(asm: Assembler, condition: Condition, yes: Label, no: Label) -> Label:
    """The high word decides unless it is equal; at the edge of its range two ways are enough."""
    if condition.kind == "greater_equal" and condition.value == 0:
        return yes
    high, low = condition.value >> 32, condition.value & _WORD
    test = GREATER if condition.kind == "greater" else GREATER_EQUAL
    same = asm.load(_offset(condition), asm.branch(test, low, yes, no))
    if high == 0:
        decide = asm.branch(EQUAL, 0, same, yes)
    else:
        decide = asm.branch(EQUAL, high, same, no)
        if high != _WORD:
            decide = asm.branch(GREATER, high, yes, decide)
    return asm.load(_offset(condition) + 4, decide)


def _offset(condition: Condition) -> int:
    return _ARGS_OFFSET + 8 * condition.index
