"""Docker's profile format, and what the default profile lets through."""

from __future__ import annotations

import errno
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from onggi.errors import InvalidArgument, NotFound, SpecError, Unsupported
from onggi.kernel.seccomp.architectures import MACHINES, syscall_table
from onggi.kernel.seccomp.assembler import check_program
from onggi.kernel.seccomp.compiler import compile_profile
from onggi.kernel.seccomp.profile import default_profile, load_profile
from onggi.kernel.seccomp.simulate import simulate
from onggi.specs.runtime import Seccomp

X86_64, I386 = 0xC000_003E, 0x4000_0003
ALLOW = 0x7FFF_0000
EPERM, EIO, ENOSYS = (0x0005_0000 | e for e in (errno.EPERM, errno.EIO, errno.ENOSYS))
KERNEL = (6, 1)
#: podman's small set; none of them opens anything in the profile but chroot.
SMALL = frozenset(
    f"CAP_{name}"
    for name in (
        "CHOWN DAC_OVERRIDE FOWNER FSETID KILL NET_BIND_SERVICE SETFCAP SETGID SETPCAP SETUID "
        "SYS_CHROOT"
    ).split()
)


def loaded(
    document: dict[str, Any],
    capabilities: frozenset[str] = frozenset(),
    machine: str = "x86_64",
    kernel: tuple[int, int] = KERNEL,
) -> Seccomp:
    return load_profile(json.dumps(document).encode(), capabilities, machine, kernel)


def names(profile: Seccomp) -> set[str]:
    return {name for rule in profile.syscalls for name in rule.names}


def answer(name: str, *arguments: int, capabilities: frozenset[str] = SMALL) -> int:
    program = compile_profile(default_profile(capabilities, "x86_64", KERNEL)).program
    return simulate(program, syscall_table("x86_64")[name], X86_64, arguments).action


def document(**rule: Any) -> dict[str, Any]:
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [{"names": ["bpf"], "action": "SCMP_ACT_ALLOW", **rule}],
    }


@pytest.mark.parametrize("machine", MACHINES)
def test_the_default_profile_compiles_everywhere_without_a_warning(machine: str) -> None:
    for capabilities in (SMALL, frozenset({"CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_BPF"})):
        program = compile_profile(default_profile(capabilities, machine, KERNEL), machine)
        check_program(program.program)
        assert program.warnings == ()


@pytest.mark.parametrize(
    "name",
    "read write openat execve mmap futex clock_nanosleep epoll_wait statx rseq getrandom accept4 "
    "ptrace chroot listxattrat landlock_create_ruleset fork vfork".split(),
)
def test_ordinary_calls_are_allowed(name: str) -> None:
    assert answer(name) == ALLOW


@pytest.mark.parametrize(
    "name",
    "mount umount2 fsopen fsconfig fsmount move_mount open_tree mount_setattr pivot_root keyctl "
    "add_key request_key bpf perf_event_open io_uring_setup io_uring_enter io_uring_register "
    "userfaultfd setns unshare kexec_load init_module finit_module delete_module reboot swapon "
    "open_by_handle_at iopl ioperm clock_settime settimeofday syslog quotactl acct vhangup mbind "
    "move_pages kcmp pidfd_getfd nfsservctl lookup_dcookie sethostname".split(),
)
def test_calls_that_no_application_needs_are_denied(name: str) -> None:
    assert answer(name) == EPERM


def test_calls_that_are_too_new_answer_enosys() -> None:
    table = syscall_table("x86_64")
    newest = table["removexattrat"]
    assert {n for n, number in table.items() if number > newest} >= {"open_tree_attr"}
    for name in (n for n, number in table.items() if number > newest):
        assert answer(name) == ENOSYS


@pytest.mark.parametrize(
    ("capability", "name"),
    [
        ("CAP_SYS_ADMIN", "mount"),
        ("CAP_SYS_ADMIN", "clone3"),
        ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
        ("CAP_SYS_TIME", "clock_settime"),
        ("CAP_BPF", "bpf"),
        ("CAP_PERFMON", "perf_event_open"),
        ("CAP_SYS_PTRACE", "pidfd_getfd"),
        ("CAP_SYSLOG", "syslog"),
    ],
)
def test_a_capability_opens_its_calls(capability: str, name: str) -> None:
    assert answer(name) != ALLOW
    assert answer(name, capabilities=SMALL | {capability}) == ALLOW


def test_clone_makes_threads_and_processes_but_no_namespaces() -> None:
    assert answer("clone", 0x11) == answer("clone", 0x3D_0F00) == ALLOW
    for bit in (0x2_0000, 0x200_0000, 0x400_0000, 0x800_0000, 0x1000_0000, 0x2000_0000, 1 << 30):
        assert answer("clone", 0x11 | bit) == EPERM
        assert answer("clone", 0x11 | bit, capabilities=SMALL | {"CAP_SYS_ADMIN"}) == ALLOW
    assert answer("clone3") == ENOSYS


@pytest.mark.parametrize("upper", [0, 1 << 32, 0xFFFF_FFFF << 32])
def test_socket_families_whatever_the_upper_half_of_the_register(upper: int) -> None:
    for family in (38, 40, 46, 255):
        assert answer("socket", upper | family) == EPERM
    for family in (1, 2, 10, 16, 37, 39, 41, 45):
        assert answer("socket", upper | family) == (EPERM if upper else ALLOW)


@pytest.mark.parametrize("upper", [0, 1 << 32, 0xFFFF_FFFF << 32])
def test_input_is_not_put_into_terminals(upper: int) -> None:
    assert answer("ioctl", 0, upper | 0x5412) == answer("ioctl", 0, upper | 0x541C) == EIO
    for command in (0x5401, 0x5411, 0x5413, 0x541B, 0):
        assert answer("ioctl", 0, upper | command) == ALLOW


def test_personality_is_limited_to_its_harmless_values() -> None:
    for value in (0, 8, 0x2_0000, 0x2_0008, 0xFFFF_FFFF):
        assert answer("personality", value) == ALLOW
    for value in (1, 0x4_0000, 0x40_0000, 0x2_0009, 1 << 32):  # ADDR_NO_RANDOMIZE is 0x40000
        assert answer("personality", value) == EPERM


def test_an_old_kernel_gets_neither_ptrace_nor_the_flag() -> None:
    assert "ptrace" not in names(default_profile(SMALL, "x86_64", (4, 4)))
    assert default_profile(SMALL, "x86_64", (4, 4)).flags == ()
    assert default_profile(SMALL, "x86_64", (4, 17)).flags == ("SECCOMP_FILTER_FLAG_SPEC_ALLOW",)


def test_a_machine_without_a_table_is_refused() -> None:
    with pytest.raises(Unsupported, match="s390x"):
        default_profile(SMALL, "s390x", KERNEL)


def test_includes_ask_for_all_capabilities_and_one_architecture() -> None:
    both = document(includes={"caps": ["CAP_BPF", "CAP_SYS_ADMIN"], "arches": ["amd64", "arm64"]})
    every = frozenset({"CAP_BPF", "CAP_SYS_ADMIN"})
    assert names(loaded(both, every)) == {"bpf"}
    assert names(loaded(both, frozenset({"CAP_BPF"}))) == set()
    assert names(loaded(both, every, "aarch64")) == {"bpf"}
    assert names(loaded(both, every, "riscv64")) == set()


@pytest.mark.parametrize(
    "excludes", [{"caps": ["CAP_CHOWN", "CAP_BPF"]}, {"arches": ["amd64"]}, {"minKernel": "6.1"}]
)
def test_one_match_excludes(excludes: dict[str, Any]) -> None:
    excluded = document(excludes=excludes)
    assert names(loaded(excluded, frozenset({"CAP_BPF"}))) == set()
    assert names(loaded(excluded, frozenset(), "aarch64", (5, 19))) == {"bpf"}


@pytest.mark.parametrize(
    ("minimum", "there"), [("6.1", True), ("5.10", True), ("6.2", False), ("10.0", False)]
)
def test_kernel_versions_compare_as_numbers(minimum: str, there: bool) -> None:
    assert (names(loaded(document(includes={"minKernel": minimum}))) == {"bpf"}) is there


def test_the_arch_map_is_read_for_this_machine() -> None:
    mapped = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
            {"architecture": "SCMP_ARCH_RISCV64", "subArchitectures": None},
        ],
    }
    assert loaded(mapped).architectures == ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86")
    assert loaded(mapped, machine="riscv64").architectures == ("SCMP_ARCH_RISCV64",)
    assert loaded(mapped, machine="aarch64").architectures == ("SCMP_ARCH_AARCH64",)


def test_a_plain_oci_profile_passes_through() -> None:
    arg = {"index": 0, "value": 2**64 - 1, "valueTwo": 3, "op": "SCMP_CMP_MASKED_EQ"}
    rule = {"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 7, "args": [arg]}
    profile = loaded(
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [rule],
        }
    )
    assert profile.architectures == ("SCMP_ARCH_X86",)
    assert profile.flags == ("SECCOMP_FILTER_FLAG_LOG",)
    assert profile.syscalls[0].errno_ret == 7
    assert profile.syscalls[0].args[0].value == 2**64 - 1
    program = compile_profile(profile).program
    assert simulate(program, 0, X86_64, (3,)).action == 0x0005_0007


def test_nulls_and_the_older_single_name() -> None:
    old = document(name="read", names=None, args=None, errnoRet=None, includes=None, excludes=None)
    assert names(loaded(old)) == {"read"}


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        (document(name="read"), "$.syscalls[0]"),
        (document(includes={"minKernel": "new"}), "$.syscalls[0].minKernel"),
        (document(args=[{"index": "0"}]), "$.syscalls[0].args[0].index"),
        ({"syscalls": []}, "$"),
        ({"defaultAction": 1}, "$.defaultAction"),
        (
            {
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_X86"],
                "archMap": [{"architecture": "SCMP_ARCH_X86_64"}],
            },
            "$.archMap",
        ),
    ],
)
def test_a_wrong_profile_is_named_by_its_path(wrong: dict[str, Any], path: str) -> None:
    with pytest.raises(SpecError) as caught:
        loaded(wrong)
    assert caught.value.path == path


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"[" * 100_000, b" " * (4 * 1024 * 1024 + 1)])
def test_what_is_no_profile_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgument):
        load_profile(data, frozenset(), "x86_64", KERNEL)


def test_a_profile_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(document()))
    assert names(load_profile(path, frozenset(), "x86_64", KERNEL)) == {"bpf"}
    with pytest.raises(NotFound, match="missing"):
        load_profile(tmp_path / "missing", frozenset(), "x86_64", KERNEL)


def always_allowed(program: bytes, number: int, audit: int) -> bool:
    """What the kernel finds out when the filter is loaded: allowed, whatever the arguments are.

    Source: kernel/seccomp.c seccomp_is_const_allow (Linux 5.11).
    """
    word = here = 0
    while True:
        code, yes, no, value = struct.unpack_from("<HBBI", program, here * 8)
        here += 1
        if code == 0x20 and value in (0, 4):
            word = number if value == 0 else audit
        elif code in (0x15, 0x25, 0x35):
            truth = {0x15: word == value, 0x25: word > value, 0x35: word >= value}[code]
            here += yes if truth else no
        elif code == 0x05:
            here += value
        else:
            return code == 0x06 and value == ALLOW


def test_the_kernel_can_skip_the_filter_for_calls_that_are_always_allowed() -> None:
    program = compile_profile(default_profile(SMALL, "x86_64", KERNEL)).program
    by_arguments = {"clone", "ioctl", "personality", "socket"}
    for name, number in syscall_table("x86_64").items():
        allowed = answer_of(program, number) == ALLOW and name not in by_arguments
        assert always_allowed(program, number, X86_64) is allowed, name


def test_finding_a_call_takes_few_instructions() -> None:
    program = compile_profile(default_profile(SMALL, "x86_64", KERNEL)).program
    executed = [simulate(program, n, X86_64).executed for n in range(460)]
    assert max(executed) < 25
    assert sum(executed) / len(executed) < 12


def answer_of(program: bytes, number: int) -> int:
    return simulate(program, number, X86_64).action


def test_32_bit_programs_have_their_ordinary_calls() -> None:
    program = compile_profile(default_profile(SMALL, "x86_64", KERNEL)).program
    table = syscall_table("x86")
    for name in ("socketcall", "waitpid", "mmap2", "clock_gettime64", "set_thread_area"):
        assert simulate(program, table[name], I386).action == ALLOW
    for name in ("mount", "keyctl", "vm86", "init_module", "stime"):
        assert simulate(program, table[name], I386).action == EPERM
