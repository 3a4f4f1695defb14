"""Every operator at the values where its answer changes, in the low and in the high word."""

from __future__ import annotations

import operator

import pytest

from onggi.errors import SpecError
from onggi.kernel.seccomp.compiler import compile_profile
from onggi.kernel.seccomp.simulate import simulate
from onggi.specs.runtime import Seccomp, SeccompArg, SeccompRule

X86_64 = 0xC000_003E
I386 = 0x4000_0003
ALLOW = 0x7FFF_0000
EPERM = 0x0005_0001
READ = 0
TOP = 2**64 - 1

PLAIN = {
    "SCMP_CMP_EQ": operator.eq,
    "SCMP_CMP_NE": operator.ne,
    "SCMP_CMP_LT": operator.lt,
    "SCMP_CMP_LE": operator.le,
    "SCMP_CMP_GT": operator.gt,
    "SCMP_CMP_GE": operator.ge,
}
VALUES = (0, 1, 5, 0xFFFF_FFFF, 2**32, 2**32 + 5, 7 * 2**32 + 9, TOP - 2**32, TOP - 1, TOP)


def profile(*args: SeccompArg, architectures: tuple[str, ...] = ()) -> Seccomp:
    rule = SeccompRule(("read",), "SCMP_ACT_ALLOW", args=args)
    return Seccomp("SCMP_ACT_ERRNO", architectures=architectures, syscalls=(rule,))


def around(value: int) -> list[int]:
    near = {value - 1, value, value + 1, value - 2**32, value + 2**32, value ^ 0xFFFF_FFFF, 0, TOP}
    return sorted(v for v in near if 0 <= v <= TOP)


@pytest.mark.parametrize("op", PLAIN)
@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("index", [0, 5])
def test_operator_at_its_boundaries(op: str, value: int, index: int) -> None:
    program = compile_profile(profile(SeccompArg(index, value, op))).program
    for argument in around(value):
        arguments = tuple(argument if i == index else 1 for i in range(6))
        expected = ALLOW if PLAIN[op](argument, value) else EPERM
        assert simulate(program, READ, X86_64, arguments).action == expected, hex(argument)


@pytest.mark.parametrize(
    ("mask", "wanted"),
    [
        (0x7E02_0000, 0),
        (0xF0, 0x10),
        (0xF0, 0x1F),  # bits outside the mask do not count, as in libseccomp
        (0xFFFF_FFFF, 0x5412),
        (0xFF00_0000_0000, 0x1200_0000_0000),
        (TOP, 2**40 + 3),
        (0, 0),
        (0, 1),
    ],
)
def test_masked_equality(mask: int, wanted: int) -> None:
    arg = SeccompArg(2, mask, "SCMP_CMP_MASKED_EQ", wanted)
    program = compile_profile(profile(arg)).program
    for argument in {*around(wanted), *around(mask), wanted | (TOP & ~mask), wanted | 2**63}:
        expected = ALLOW if argument & mask == wanted & mask else EPERM
        assert simulate(program, READ, X86_64, (0, 0, argument)).action == expected, hex(argument)


def test_arguments_of_one_rule_are_all_needed() -> None:
    args = (SeccompArg(0, 3, "SCMP_CMP_EQ"), SeccompArg(1, 9, "SCMP_CMP_GT"))
    program = compile_profile(profile(*args)).program
    answers = {
        (a, b): simulate(program, READ, X86_64, (a, b)).action for a in (2, 3) for b in (9, 10)
    }
    assert answers == {(2, 9): EPERM, (2, 10): EPERM, (3, 9): EPERM, (3, 10): ALLOW}


def test_one_argument_named_twice_makes_every_condition_enough() -> None:
    args = (
        SeccompArg(0, 3, "SCMP_CMP_EQ"),
        SeccompArg(0, 7, "SCMP_CMP_EQ"),
        SeccompArg(1, 1, "SCMP_CMP_EQ"),
    )
    program = compile_profile(profile(*args)).program
    wanted = {(3, 0): ALLOW, (7, 0): ALLOW, (5, 1): ALLOW, (5, 0): EPERM}
    assert {a: simulate(program, READ, X86_64, a).action for a in wanted} == wanted


@pytest.mark.parametrize(("argument", "expected"), [(0xFFFF_FFFF, ALLOW), (0xFFFF_FFFE, EPERM)])
def test_minus_one_is_minus_one_on_a_32_bit_architecture(argument: int, expected: int) -> None:
    minus_one = SeccompArg(0, TOP, "SCMP_CMP_EQ")
    program = compile_profile(profile(minus_one, architectures=("SCMP_ARCH_X86",))).program
    assert simulate(program, 3, I386, (argument,)).action == expected
    assert simulate(program, READ, X86_64, (argument,)).action == EPERM


@pytest.mark.parametrize(
    ("arg", "where"),
    [
        (SeccompArg(6, 0, "SCMP_CMP_EQ"), "args[0].index"),
        (SeccompArg(-1, 0, "SCMP_CMP_EQ"), "args[0].index"),
        (SeccompArg(0, 2**64, "SCMP_CMP_EQ"), "args[0].value"),
        (SeccompArg(0, -1, "SCMP_CMP_EQ"), "args[0].value"),
        (SeccompArg(0, 1, "SCMP_CMP_MASKED_EQ", -1), "args[0].valueTwo"),
        (SeccompArg(0, 0, "SCMP_CMP_ABOUT"), "args[0].op"),
    ],
)
def test_a_wrong_condition_is_named_by_its_path(arg: SeccompArg, where: str) -> None:
    with pytest.raises(SpecError) as caught:
        compile_profile(profile(arg))
    assert caught.value.path == f"$.linux.seccomp.syscalls[0].{where}"
