"""Device rules: the v1 list, and the BPF program run by an interpreter and against a model."""

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onggi.errors import InvalidArgument, Unsupported
from onggi.kernel.cgroups import devices
from onggi.kernel.cgroups.devices import compile_device_program
from onggi.kernel.cgroups.rule import NO_FILES, AttachProgram, Write
from onggi.specs.runtime import DeviceRule, Resources

DENY_ALL = DeviceRule(allow=False)
ALLOW_ALL = DeviceRule(allow=True)


def rule(text: str) -> DeviceRule:
    """`+c 1:3 rwm` allows, `-b 8:* w` denies."""
    kind, numbers, access = text[1:].split()
    major, minor = (None if n == "*" else int(n) for n in numbers.split(":"))
    return DeviceRule(text[0] == "+", kind, major, minor, access)


def listed(*rules: DeviceRule) -> list[tuple[str, str]]:
    changes = devices.v1(Resources(devices=rules), NO_FILES)
    return [(c.file, c.value) for c in changes if isinstance(c, Write)]


def run(program: bytes, kind: int, access: int, major: int, minor: int) -> int:
    """The verdict, computed as the kernel would. Refuses what its verifier refuses."""
    code = list(struct.iter_unpack("=BBhi", program))
    context = struct.pack("=III", access << 16 | kind, major, minor)
    registers: dict[int, int] = {1: 0}
    at, steps = 0, 0
    while True:
        steps += 1
        assert steps <= len(code), "the program loops"
        operation, both, offset, immediate = code[at]
        dst, src = both & 15, both >> 4
        at += 1
        match operation:
            case 0x61:
                assert src == 1
                (registers[dst],) = struct.unpack_from("=I", context, registers[src] + offset)
            case 0xBF:
                registers[dst] = registers[src]
            case 0xB7:
                registers[dst] = immediate
            case 0x57:
                registers[dst] &= immediate
            case 0x77:
                registers[dst] >>= immediate
            case 0x05:
                at += offset
            case 0x56:
                at += offset if registers[dst] & 0xFFFFFFFF != immediate else 0
            case 0x46:
                at += offset if registers[dst] & immediate else 0
            case 0x95:
                return registers[0]
            case _:
                raise AssertionError(f"unknown instruction {operation:#x}")


def model(rules: tuple[DeviceRule, ...], kind: str, access: str, major: int, minor: int) -> bool:
    """What the rules mean: of those that match, the last decides, for each letter by itself."""

    def decided(letter: str) -> bool:
        verdict = False
        for each in rules:
            matches = (
                each.type in ("a", kind)
                and each.major in (None, major)
                and each.minor in (None, minor)
                and letter in each.access
            )
            verdict = each.allow if matches else verdict
        return verdict

    return all(decided(letter) for letter in access)


def asked(rules: tuple[DeviceRule, ...], kind: str, access: str, major: int, minor: int) -> bool:
    bits = sum(devices.ACCESS_BITS[letter] for letter in access)
    return bool(run(compile_device_program(rules), devices.TYPES[kind], bits, major, minor))


RULES = st.builds(
    DeviceRule,
    st.booleans(),
    st.sampled_from("abc"),
    st.none() | st.integers(0, 3),
    st.none() | st.integers(0, 3),
    st.sampled_from(["r", "w", "m", "rw", "rm", "wm", "rwm"]),
)
ACCESSES = ["r", "w", "m", "rw", "rm", "wm", "rwm"]


@given(
    st.lists(RULES, max_size=6).map(tuple),
    st.sampled_from("bc"),
    st.sampled_from(ACCESSES),
    st.integers(0, 4),
    st.integers(0, 4),
)
def test_the_program_means_what_the_rules_mean(
    rules: tuple[DeviceRule, ...], kind: str, access: str, major: int, minor: int
) -> None:
    expected = model(rules, kind, access, major, minor)
    assert asked(rules, kind, access, major, minor) == expected


@given(st.lists(RULES, max_size=6).map(tuple))
def test_the_program_has_no_code_that_cannot_be_reached(rules: tuple[DeviceRule, ...]) -> None:
    """The kernel's verifier refuses such a program."""
    code = list(struct.iter_unpack("=BBhi", compile_device_program(rules)))
    reached, todo = set[int](), [0]
    while todo:
        at = todo.pop()
        if at in reached:
            continue
        reached.add(at)
        operation, _, offset, _ = code[at]
        if operation == 0x95:
            continue
        if operation in (0x05, 0x56, 0x46):
            todo.append(at + 1 + offset)
        if operation != 0x05:
            todo.append(at + 1)
    assert reached == set(range(len(code)))


def v1_model(lines: list[tuple[str, str]], kind: str, access: str, major: int, minor: int) -> bool:
    """The kernel's v1 list, as the letters of one device: exceptions to what `a` set."""
    (first, star), *rest = lines
    assert star == "a"
    allowed = first == "devices.allow"
    excepted = ""
    for file, line in rest:
        assert (file == "devices.deny") == allowed
        k, numbers, letters = line.split()
        m, n = numbers.split(":")
        if k == kind and m in ("*", str(major)) and n in ("*", str(minor)):
            excepted += letters
    return not set(access) & set(excepted) if allowed else set(access) <= set(excepted)


@given(st.lists(RULES, min_size=1, max_size=5).map(tuple))
def test_the_v1_list_means_what_the_rules_mean_or_is_refused(rules: tuple[DeviceRule, ...]) -> None:
    try:
        lines = listed(*rules)
    except Unsupported:
        return
    for kind, access, major, minor in itertools.product("bc", "rwm", range(4), range(4)):
        expected = model(rules, kind, access, major, minor)
        assert v1_model(lines, kind, access, major, minor) == expected


def test_no_rules_change_nothing() -> None:
    assert devices.v1(Resources(), NO_FILES) == ()
    assert devices.v2(Resources(), NO_FILES) == ()


def test_usual_rules_on_v1() -> None:
    usual = (DENY_ALL, rule("+c *:* m"), rule("+c 1:3 rwm"), rule("+b *:* m"))
    assert listed(*usual) == [
        ("devices.deny", "a"),
        ("devices.allow", "c *:* m"),
        ("devices.allow", "c 1:3 rwm"),
        ("devices.allow", "b *:* m"),
    ]


def test_everything_allowed_but_one() -> None:
    assert listed(ALLOW_ALL, rule("-b 8:0 w")) == [
        ("devices.allow", "a"),
        ("devices.deny", "b 8:0 w"),
    ]


def test_taking_back_a_part_of_a_wildcard_is_refused_on_v1_and_done_on_v2() -> None:
    rules = (DENY_ALL, rule("+c 1:* rwm"), rule("-c 1:3 w"))
    with pytest.raises(Unsupported, match=r"device rule c 1:3 takes back a part of c 1:\*"):
        listed(*rules)
    assert asked(rules, "c", "r", 1, 3)
    assert not asked(rules, "c", "w", 1, 3)
    assert asked(rules, "c", "w", 1, 4)


def test_taking_back_a_whole_exception() -> None:
    assert listed(DENY_ALL, rule("+c 1:3 rwm"), rule("-c 1:* w")) == [
        ("devices.deny", "a"),
        ("devices.allow", "c 1:3 rm"),
    ]


def test_letters_that_mean_nothing_are_not_noticed() -> None:
    odd, plain = (DeviceRule(True, "c", 1, 11, access) for access in ("rwa", "rw"))
    assert devices.compile_device_program((odd,)) == devices.compile_device_program((plain,))


def test_accesses_granted_by_different_rules_add_up() -> None:
    rules = (DENY_ALL, rule("+c 1:3 r"), rule("+c *:3 w"))
    assert asked(rules, "c", "rw", 1, 3)
    assert not asked(rules, "c", "rw", 2, 3)


def test_without_rules_that_match_it_is_denied() -> None:
    assert not asked((rule("+c 1:3 rwm"),), "c", "r", 1, 5)
    assert not asked((), "c", "r", 1, 5)


def test_negative_numbers_are_wildcards() -> None:
    assert listed(DENY_ALL, DeviceRule(True, "c", 5, -1, "r"))[1] == ("devices.allow", "c 5:* r")


def test_large_numbers_are_told_apart() -> None:
    rules = (rule("+c 1048575:1048575 r"),)
    assert asked(rules, "c", "r", 1048575, 1048575)
    assert not asked(rules, "c", "r", 1048575, 1048574)


@pytest.mark.parametrize(
    "wrong",
    [
        DeviceRule(True, "p"),
        DeviceRule(True, "c", access=""),
        DeviceRule(True, "c", access="x"),
        DeviceRule(True, "c", 1 << 31),
    ],
)
def test_rules_that_are_none(wrong: DeviceRule) -> None:
    for version in (devices.v1, devices.v2):
        with pytest.raises(InvalidArgument):
            version(Resources(devices=(wrong,)), NO_FILES)


def test_v2_attaches_one_program() -> None:
    (change,) = devices.v2(Resources(devices=(DENY_ALL,)), NO_FILES)
    assert isinstance(change, AttachProgram)
    assert change.program == compile_device_program((DENY_ALL,))
