"""What a compiled profile answers: actions, architectures, unknown calls, rules against rules."""

from __future__ import annotations

import errno

import pytest

from onggi.errors import SpecError, Unsupported
from onggi.kernel.seccomp.architectures import syscall_table
from onggi.kernel.seccomp.assembler import check_program
from onggi.kernel.seccomp.compiler import SeccompProgram, compile_profile
from onggi.kernel.seccomp.simulate import simulate
from onggi.specs.runtime import Seccomp, SeccompArg, SeccompRule

X86_64, I386, AARCH64, ARM = 0xC000_003E, 0x4000_0003, 0xC000_00B7, 0x4000_0028
X32_BIT = 0x4000_0000
ALLOW, KILL_PROCESS = 0x7FFF_0000, 0x8000_0000
EPERM, ENOSYS = 0x0005_0000 | errno.EPERM, 0x0005_0000 | errno.ENOSYS
ALL_X86 = ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32")


def allow(*names: str, args: tuple[SeccompArg, ...] = ()) -> SeccompRule:
    return SeccompRule(names, "SCMP_ACT_ALLOW", args=args)


def deny(*names: str, args: tuple[SeccompArg, ...] = ()) -> SeccompRule:
    return SeccompRule(names, "SCMP_ACT_ERRNO", args=args)


def compiled(
    *rules: SeccompRule,
    default: str = "SCMP_ACT_ERRNO",
    errno_ret: int | None = None,
    architectures: tuple[str, ...] = (),
    machine: str = "x86_64",
) -> SeccompProgram:
    program = compile_profile(
        Seccomp(default, errno_ret, architectures=architectures, syscalls=rules), machine
    )
    check_program(program.program)
    return program


def ask(
    program: SeccompProgram, name: str, *arguments: int, table: str = "x86_64", audit: int = X86_64
) -> int:
    return simulate(program.program, syscall_table(table)[name], audit, arguments).action


@pytest.mark.parametrize(
    ("action", "errno_ret", "value"),
    [
        ("SCMP_ACT_KILL", None, 0),
        ("SCMP_ACT_KILL_THREAD", None, 0),
        ("SCMP_ACT_KILL_PROCESS", None, 0x8000_0000),
        ("SCMP_ACT_TRAP", None, 0x0003_0000),
        ("SCMP_ACT_ERRNO", None, EPERM),
        ("SCMP_ACT_ERRNO", 0, 0x0005_0000),
        ("SCMP_ACT_ERRNO", 38, ENOSYS),
        ("SCMP_ACT_ERRNO", 4095, 0x0005_0FFF),
        ("SCMP_ACT_TRACE", None, 0x7FF0_0001),
        ("SCMP_ACT_TRACE", 0xFFFF, 0x7FF0_FFFF),
        ("SCMP_ACT_LOG", None, 0x7FFC_0000),
        ("SCMP_ACT_ALLOW", None, ALLOW),
    ],
)
def test_every_action_in_a_rule_and_as_the_default(
    action: str, errno_ret: int | None, value: int
) -> None:
    in_rule = compiled(
        SeccompRule(("read",), action, errno_ret), default="SCMP_ACT_ERRNO", errno_ret=5
    )
    assert ask(in_rule, "read") == value
    assert ask(compiled(default=action, errno_ret=errno_ret), "read") == value


@pytest.mark.parametrize(
    ("action", "errno_ret", "path"),
    [
        ("SCMP_ACT_ERRNO", 4096, "$.linux.seccomp.syscalls[0].errnoRet"),
        ("SCMP_ACT_ERRNO", -1, "$.linux.seccomp.syscalls[0].errnoRet"),
        ("SCMP_ACT_TRACE", 65536, "$.linux.seccomp.syscalls[0].errnoRet"),
        ("SCMP_ACT_ALLOW", 1, "$.linux.seccomp.syscalls[0].errnoRet"),
        ("SCMP_ACT_SHRUG", None, "$.linux.seccomp.syscalls[0]"),
    ],
)
def test_a_wrong_action_is_named_by_its_path(action: str, errno_ret: int | None, path: str) -> None:
    with pytest.raises(SpecError) as caught:
        compiled(SeccompRule(("read",), action, errno_ret))
    assert caught.value.path == path


def test_a_default_with_an_errno_it_cannot_have_is_refused() -> None:
    with pytest.raises(SpecError) as caught:
        compiled(default="SCMP_ACT_KILL", errno_ret=1)
    assert caught.value.path == "$.linux.seccomp.defaultErrnoRet"


NOTIFY = "SCMP_ACT_NOTIFY"


def test_a_rule_that_notifies_has_a_listener() -> None:
    killable = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"
    rule = SeccompRule(("mount",), NOTIFY)
    profile = Seccomp(
        "SCMP_ACT_ALLOW", flags=(killable,), listener_path="/run/agent", syscalls=(rule,)
    )
    program = compile_profile(profile)
    assert program.flags == 1 << 3 | 1 << 5
    assert ask(program, "mount") == 0x7FC0_0000
    assert ask(program, "umount2") == ALLOW
    assert compile_profile(Seccomp("SCMP_ACT_ALLOW", flags=(killable,))).flags == 0


@pytest.mark.parametrize(
    ("profile", "path"),
    [
        (Seccomp(NOTIFY), "$.linux.seccomp.defaultAction"),
        (
            Seccomp("SCMP_ACT_ALLOW", syscalls=(SeccompRule(("mount",), NOTIFY),)),
            "$.linux.seccomp.listenerPath",
        ),
        (
            Seccomp(
                "SCMP_ACT_ALLOW",
                listener_path="/run/agent",
                syscalls=(
                    SeccompRule(("mount",), NOTIFY),
                    SeccompRule(("recvmsg", "sendmsg"), NOTIFY),
                ),
            ),
            "$.linux.seccomp.syscalls[1].action",
        ),
        (
            Seccomp(
                "SCMP_ACT_ALLOW",
                listener_path="/run/agent",
                syscalls=(SeccompRule(("write",), NOTIFY),),
            ),
            "$.linux.seccomp.syscalls[0].action",
        ),
    ],
)
def test_a_listener_that_could_not_be_handed_over(profile: Seccomp, path: str) -> None:
    with pytest.raises(SpecError) as caught:
        compile_profile(profile)
    assert caught.value.path == path


def test_flags() -> None:
    profile = Seccomp("SCMP_ACT_ALLOW", flags=("SECCOMP_FILTER_FLAG_LOG",))
    assert compile_profile(profile).flags == 2
    both = ("SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_SPEC_ALLOW")
    assert compile_profile(Seccomp("SCMP_ACT_ALLOW", flags=both)).flags == 4
    with pytest.raises(SpecError) as caught:
        compile_profile(Seccomp("SCMP_ACT_ALLOW", flags=(*both, "SECCOMP_FILTER_FLAG_NEW")))
    assert caught.value.path == "$.linux.seccomp.flags[2]"


def test_an_unknown_architecture_and_an_unknown_machine_are_refused() -> None:
    with pytest.raises(SpecError) as caught:
        compiled(architectures=("SCMP_ARCH_X86_64", "SCMP_ARCH_Z80"))
    assert caught.value.path == "$.linux.seccomp.architectures[1]"
    with pytest.raises(Unsupported, match="vax"):
        compiled(machine="vax")


def test_a_rule_without_a_name_is_refused() -> None:
    for rule in (allow(), allow("read", "")):
        with pytest.raises(SpecError, match="no name"):
            compiled(rule)


def test_an_architecture_that_is_left_out_kills() -> None:
    program = compiled(allow("read"))
    assert ask(program, "read") == ALLOW
    assert ask(program, "read", table="x86", audit=I386) == KILL_PROCESS
    for number in (X32_BIT, X32_BIT | 1, 0xFFFF_FFFE):
        assert simulate(program.program, number, X86_64).action == KILL_PROCESS


def test_minus_one_is_an_unknown_call_with_and_without_x32() -> None:
    for architectures in ((), ALL_X86):
        program = compiled(allow("read"), architectures=architectures)
        assert simulate(program.program, 0xFFFF_FFFF, X86_64).action == ENOSYS


def test_every_architecture_has_its_own_numbers() -> None:
    program = compiled(allow("epoll_wait", "waitpid", "execve"), architectures=ALL_X86)
    answers = {
        (table, name): simulate(program.program, syscall_table(table)[name] + base, audit).action
        for table, audit, base in (
            ("x86_64", X86_64, 0),
            ("x86", I386, 0),
            ("x32", X86_64, X32_BIT),
        )
        for name in ("epoll_wait", "execve", "write")
    }
    assert answers == {key: EPERM if key[1] == "write" else ALLOW for key in answers}
    assert ask(program, "waitpid", table="x86", audit=I386) == ALLOW
    assert syscall_table("x86")["execve"] != syscall_table("x86_64")["execve"]
    assert simulate(program.program, X32_BIT | 59, X86_64).action == ENOSYS  # x32's is 520


def test_arm_beside_aarch64() -> None:
    both = ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM")
    program = compiled(allow("read", "set_tls"), architectures=both, machine="aarch64")
    assert ask(program, "read", table="aarch64", audit=AARCH64) == ALLOW
    assert simulate(program.program, 0xF0005, ARM).action == ALLOW
    assert simulate(program.program, 0xF0002, ARM).action == EPERM
    assert simulate(program.program, 0x80000, ARM).action == ENOSYS
    assert ask(program, "read") == KILL_PROCESS


def test_a_foreign_architecture_of_the_profile_is_left_out() -> None:
    program = compiled(allow("read"), architectures=("SCMP_ARCH_AARCH64", "SCMP_ARCH_S390X"))
    assert program == compiled(allow("read"))


@pytest.mark.parametrize("default", ["SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_TRAP"])
def test_calls_newer_than_the_profile_and_numbers_nobody_has_answer_enosys(default: str) -> None:
    program = compiled(allow("read", "openat2"), deny("setns"), default=default)
    newest = syscall_table("x86_64")["openat2"]
    for number in (newest + 1, newest + 30, 380, 100_000):
        assert simulate(program.program, number, X86_64).action == ENOSYS, number
    assert ask(program, "mount") not in (ENOSYS, ALLOW)


@pytest.mark.parametrize("default", ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"])
def test_a_permissive_default_hides_no_call(default: str) -> None:
    program = compiled(deny("mount"), default=default)
    assert simulate(program.program, 100_000, X86_64).action == ask(program, "read") != ENOSYS


def test_a_rule_with_the_default_action_counts_as_known_but_says_nothing() -> None:
    program = compiled(
        deny("ioctl", args=(SeccompArg(1, 5, "SCMP_CMP_EQ"),)), deny("openat2"), allow("ioctl")
    )
    assert ask(program, "ioctl", 0, 5) == ALLOW
    assert ask(program, "clone3") == EPERM
    assert (
        simulate(program.program, syscall_table("x86_64")["openat2"] + 1, X86_64).action == ENOSYS
    )


def test_a_rule_without_arguments_beats_those_with_and_the_first_of_them_wins() -> None:
    trap = SeccompRule(("ioctl",), "SCMP_ACT_TRAP", args=(SeccompArg(1, 5, "SCMP_CMP_EQ"),))
    for rules in ((trap, allow("ioctl")), (allow("ioctl"), trap)):
        program = compiled(*rules)
        assert ask(program, "ioctl", 0, 5) == ALLOW
        assert any("ioctl" in warning for warning in program.warnings)
    first = compiled(SeccompRule(("ioctl",), "SCMP_ACT_TRAP"), allow("ioctl"))
    assert ask(first, "ioctl") == 0x0003_0000


def test_rules_with_arguments_are_asked_in_order() -> None:
    trap = SeccompRule(("ioctl",), "SCMP_ACT_TRAP", args=(SeccompArg(1, 5, "SCMP_CMP_EQ"),))
    rest = allow("ioctl", args=(SeccompArg(1, 9, "SCMP_CMP_LE"),))
    program = compiled(trap, rest)
    answers = [ask(program, "ioctl", 0, value) for value in (4, 5, 9, 10)]
    assert answers == [ALLOW, 0x0003_0000, ALLOW, EPERM]


def test_socketcall_and_ipc_follow_the_calls_they_stand_for() -> None:
    program = compiled(deny("socket", "shmget"), default="SCMP_ACT_ALLOW", architectures=ALL_X86)

    def old(name: str, which: int) -> int:
        return ask(program, name, which, table="x86", audit=I386)

    assert [old("socketcall", which) for which in (1, 2)] == [EPERM, ALLOW]
    assert [old("ipc", which) for which in (23, 0x1_0017, 22)] == [EPERM, EPERM, ALLOW]
    assert ask(program, "socket", table="x86", audit=I386) == EPERM


def test_arguments_behind_socketcall_deny_but_never_permit() -> None:
    netlink = (SeccompArg(0, 16, "SCMP_CMP_EQ"),)
    permitting = compiled(allow("socket", args=netlink), architectures=ALL_X86)
    assert ask(permitting, "socketcall", 1, table="x86", audit=I386) == EPERM
    assert ask(permitting, "socket", 16, table="x86", audit=I386) == ALLOW
    denying = compiled(
        deny("socket", args=netlink), default="SCMP_ACT_ALLOW", architectures=ALL_X86
    )
    assert ask(denying, "socketcall", 1, table="x86", audit=I386) == EPERM
    assert ask(denying, "socket", 2, table="x86", audit=I386) == ALLOW


def test_unknown_names_are_skipped_and_said() -> None:
    program = compiled(allow("read", "frobnicate", "riscv_flush_icache"))
    assert ask(program, "read") == ALLOW
    assert len(program.warnings) == 1
    assert "'frobnicate'" in program.warnings[0]


def test_a_listener_path_without_a_listener_is_said() -> None:
    program = compile_profile(Seccomp("SCMP_ACT_ALLOW", listener_path="/run/agent.sock"))
    assert any("listenerPath" in warning for warning in program.warnings)


def test_many_rules_with_arguments_need_far_jumps_and_still_answer() -> None:
    names = sorted(syscall_table("x86_64"))[:150]
    rules = [
        allow(name, args=tuple(SeccompArg(i, n + 2**33 * i, "SCMP_CMP_GE") for i in range(3)))
        for n, name in enumerate(names)
    ]
    program = compiled(*rules)
    assert program.instructions > 1000
    for n, name in enumerate(names):
        enough = (n, n + 2**33, n + 2**34)
        assert ask(program, name, *enough) == ALLOW
        assert ask(program, name, *enough[:2], enough[2] - 1) == EPERM
