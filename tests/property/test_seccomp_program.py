"""Any profile: the compiled program answers as a plain reading of the profile does.

Two readings: one written here, a few lines of Python over the profile, and libseccomp's.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onggi.errors import InvalidArgument
from onggi.kernel.seccomp.actions import action_value
from onggi.kernel.seccomp.architectures import syscall_table
from onggi.kernel.seccomp.assembler import check_program
from onggi.kernel.seccomp.compiler import compile_profile
from onggi.kernel.seccomp.profile import default_profile
from onggi.kernel.seccomp.simulate import simulate
from onggi.specs.runtime import Seccomp, SeccompArg, SeccompRule

X86_64, I386 = 0xC000_003E, 0x4000_0003
X32_BIT = 0x4000_0000
ENOSYS = 0x0005_0026
KILL_PROCESS = 0x8000_0000
TOP = 2**64 - 1

EDGES = [0, 1, 2, 0x5412, 2**31, 2**32 - 1, 2**32, 2**32 + 2, 2**63, TOP - 2**32, TOP]
values = st.one_of(st.sampled_from(EDGES), st.integers(0, TOP))
operators = st.sampled_from(
    ["SCMP_CMP_" + op for op in ("EQ", "NE", "LT", "LE", "GT", "GE", "MASKED_EQ")]
)
arguments = st.builds(SeccompArg, st.integers(0, 5), values, operators, values)
NAMES = ["read", "write", "clone", "ioctl", "personality", "mmap", "openat2", "listxattrat"]
names = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True).map(tuple)
actions = st.sampled_from(
    ["SCMP_ACT_" + a for a in ("KILL", "KILL_PROCESS", "TRAP", "ERRNO", "TRACE", "LOG", "ALLOW")]
)
rules = st.builds(
    SeccompRule, names, actions, st.none(), st.lists(arguments, max_size=3).map(tuple)
)
profiles = st.builds(
    Seccomp,
    default_action=actions,
    architectures=st.sampled_from(
        [(), ("SCMP_ARCH_X86",), ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32")]
    ),
    syscalls=st.lists(rules, max_size=6).map(tuple),
)


def holds(arg: SeccompArg, argument: int) -> bool:
    match arg.op.removeprefix("SCMP_CMP_"):
        case "EQ":
            return argument == arg.value
        case "NE":
            return argument != arg.value
        case "LT":
            return argument < arg.value
        case "LE":
            return argument <= arg.value
        case "GT":
            return argument > arg.value
        case "GE":
            return argument >= arg.value
    return argument & arg.value == arg.value_two & arg.value


def expected(profile: Seccomp, name: str, call: list[int]) -> int:
    """The answer for a call of an included architecture that the profile or a newer rule names."""
    default = action_value(profile.default_action, None, "$")
    concerned = [
        (action_value(rule.action, None, "$"), rule.args)
        for rule in profile.syscalls
        if name in rule.names and action_value(rule.action, None, "$") != default
    ]
    for action, args in concerned:
        if not args:
            return action
    for action, args in concerned:
        matches = [holds(arg, call[arg.index]) for arg in args]
        same_argument_twice = len({arg.index for arg in args}) < len(args)
        if any(matches) if same_argument_twice else all(matches):
            return action
    return default


@st.composite
def calls(draw: st.DrawFn, profile: Seccomp) -> list[int]:
    """Six arguments, most of them at or beside a value that the profile compares with."""
    compared = [a for rule in profile.syscalls for a in rule.args]
    near = [a.value + d for a in compared for d in (-1, 0, 1)]
    near += [a.value_two for a in compared] + [a.value & a.value_two for a in compared]
    pool = [v for v in near if 0 <= v <= TOP] or [0]
    one = st.one_of(st.sampled_from(pool), values)
    return draw(st.lists(one, min_size=6, max_size=6))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), profiles)
def test_the_program_answers_as_the_profile_reads(data: st.DataObject, profile: Seccomp) -> None:
    program = compile_profile(profile).program
    check_program(program)
    table = syscall_table("x86_64")
    permissive = profile.default_action in ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE")
    newest = max((table[n] for rule in profile.syscalls for n in rule.names), default=TOP)
    for _ in range(5):
        call = data.draw(calls(profile))
        for name in NAMES:
            hidden = not permissive and table[name] > newest
            wanted = ENOSYS if hidden else expected(profile, name, call)
            assert simulate(program, table[name], X86_64, tuple(call)).action == wanted, name


@settings(max_examples=100, deadline=None)
@given(profiles, st.integers(0, 2**32 - 1), st.sampled_from([X86_64, I386, 0xC000_00B7]))
def test_every_number_of_every_architecture_gets_an_answer(
    profile: Seccomp, number: int, audit: int
) -> None:
    verdict = simulate(compile_profile(profile).program, number, audit)
    assert verdict.executed < 200
    if audit == 0xC000_00B7:
        assert verdict.action == KILL_PROCESS


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=256), st.integers(0, 2**32 - 1))
def test_a_program_that_passes_the_check_runs_to_its_end(program: bytes, number: int) -> None:
    try:
        check_program(program)
    except InvalidArgument:
        return
    assert simulate(program, number, X86_64).executed <= len(program) // 8


class _ArgCmp(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


_SCMP_OPS = {"NE": 1, "LT": 2, "LE": 3, "EQ": 4, "GE": 5, "GT": 6, "MASKED_EQ": 7}
_SCMP_ARCHES = {"SCMP_ARCH_X86": I386, "SCMP_ARCH_X32": 0x4000_003E}


@pytest.fixture(scope="module")
def libseccomp() -> Any:
    found = ctypes.util.find_library("seccomp")
    if found is None:
        pytest.skip("libseccomp is not installed")
    library = ctypes.CDLL(found)
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = (ctypes.c_uint32,)
    library.seccomp_release.argtypes = (ctypes.c_void_p,)
    library.seccomp_release.restype = None
    library.seccomp_arch_add.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
    library.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
    library.seccomp_rule_add_array.argtypes = (
        *(ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint),
        ctypes.POINTER(_ArgCmp),
    )
    return library


def through_libseccomp(library: Any, profile: Seccomp) -> bytes:
    """The program that runc would have libseccomp make, before its ENOSYS patch."""
    default = action_value(profile.default_action, profile.default_errno_ret, "$")
    context = library.seccomp_init(default)
    try:
        for name in profile.architectures:
            if name in _SCMP_ARCHES:
                assert library.seccomp_arch_add(context, _SCMP_ARCHES[name]) == 0
        for rule in profile.syscalls:
            action = action_value(rule.action, rule.errno_ret, "$")
            if action != default:
                _add_rule(library, context, action, rule)
        fd = os.memfd_create("filter")
        try:
            assert library.seccomp_export_bpf(context, fd) == 0
            return os.pread(fd, 1 << 20, 0)
        finally:
            os.close(fd)
    finally:
        library.seccomp_release(context)


def _add_rule(library: Any, context: int, action: int, rule: SeccompRule) -> None:
    args = [
        _ArgCmp(a.index, _SCMP_OPS[a.op.removeprefix("SCMP_CMP_")], a.value, a.value_two)
        for a in rule.args
    ]
    separate = len({a.index for a in rule.args}) < len(args)
    for group in [[arg] for arg in args] if separate else [args]:
        array = (_ArgCmp * len(group))(*group)
        for name in rule.names:
            number = library.seccomp_syscall_resolve_name(name.encode())
            if number != -1:
                library.seccomp_rule_add_array(context, action, number, len(group), array)


@st.composite
def one_rule_each(draw: st.DrawFn) -> Seccomp:
    """A call has one rule at most, with one condition for an argument at most.

    What several mean is compared above: libseccomp 2.5 joins `arg2 < 0` and `arg2 < 2**32` into a
    program in which the second no longer holds for 1.
    """
    distinct = st.lists(arguments, max_size=3, unique_by=lambda arg: arg.index).map(tuple)
    chosen = draw(st.lists(st.sampled_from(NAMES), unique=True))
    several = tuple(SeccompRule((n,), draw(actions), args=draw(distinct)) for n in chosen)
    return Seccomp(draw(actions), syscalls=several)


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(st.data(), one_rule_each())
def test_the_program_answers_as_libseccomps_does(
    libseccomp: Any, data: st.DataObject, profile: Seccomp
) -> None:
    theirs = through_libseccomp(libseccomp, profile)
    ours = compile_profile(profile).program
    table = syscall_table("x86_64")
    for _ in range(5):
        call = tuple(data.draw(calls(profile)))
        for name in NAMES[:-1]:  # the last is newer than many a libseccomp
            answer = simulate(ours, table[name], X86_64, call).action
            if answer != ENOSYS:  # newer than the profile: libseccomp does not do that itself
                assert answer == simulate(theirs, table[name], X86_64, call).action, name


@pytest.mark.parametrize("capabilities", [(), ("CAP_SYS_ADMIN",), ("CAP_SYS_PTRACE", "CAP_BPF")])
def test_the_default_profile_is_the_same_through_libseccomp(
    libseccomp: Any, capabilities: tuple[str, ...]
) -> None:
    profile = default_profile(frozenset(capabilities), "x86_64", (6, 1))
    theirs = through_libseccomp(libseccomp, profile)
    ours = compile_profile(profile).program
    compared = 0
    for table, audit, base in (
        ("x86_64", X86_64, 0),
        ("x86", I386, 0),
        ("x32", X86_64, X32_BIT),
    ):
        for name, number in syscall_table(table).items():
            if number >= 450 or name in ("uretprobe", "uprobe"):  # unknown to libseccomp 2.5
                continue
            for value in (0, 1, 8, 37, 38, 39, 40, 41, 0x5412, 0x5413, 0x7E02_0000, 2**32 - 1):
                call = (value,) * 6
                answer = simulate(ours, number + base, audit, call).action
                assert answer == simulate(theirs, number + base, audit, call).action, (name, value)
                compared += 1
    assert compared > 10_000
