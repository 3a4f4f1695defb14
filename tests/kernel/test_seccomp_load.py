"""Compiled programs in the real kernel: a child loads one, makes calls, and says what it got."""

from __future__ import annotations

import errno
import json
import platform
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from onggi.kernel.seccomp.architectures import syscall_table
from onggi.kernel.seccomp.compiler import SeccompProgram, compile_profile
from onggi.kernel.seccomp.profile import default_profile
from onggi.kernel.seccomp.simulate import simulate
from onggi.specs.runtime import Seccomp, SeccompArg, SeccompRule

MACHINE = platform.machine()
if MACHINE != "x86_64":
    pytest.skip(f"the calls below are those of x86_64, this is {MACHINE}", allow_module_level=True)
STATUS = Path("/proc/self/status").read_text()
if "Seccomp:" not in STATUS:
    pytest.skip("the kernel has no seccomp filters", allow_module_level=True)

X86_64 = 0xC000_003E
KERNEL = (5, 10)

#: Load the filter; then each call, [number, arguments…], is answered with [result, errno].
CHILD = r"""
import ctypes, json, mmap, os, resource, sys
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a filter that kills leaves no core file
job = json.loads(sys.stdin.readline())
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
class Fprog(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]
program = bytes.fromhex(job["program"])
fprog = Fprog(len(program) // 8, program)

def call(number, *arguments):
    ctypes.set_errno(0)
    words = [ctypes.c_ulonglong(a) for a in (number, *arguments)]
    return [libc.syscall(*words), ctypes.get_errno()]

def call32(number, ebx):
    # push rbx; mov ebx, edi; mov eax, esi; int 0x80; movsxd rax, eax; pop rbx; ret
    code = bytes.fromhex("53 89fb 89f0 cd80 4863c0 5b c3")
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    function = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_uint, ctypes.c_uint)(address)
    return function(ebx, number)

assert libc.prctl(38, 1, 0, 0, 0) == 0
loaded = call(317, 1, job["flags"], ctypes.addressof(fprog))
assert loaded == [0, 0], os.strerror(loaded[1])
if job.get("exec"):
    os.execv(job["exec"][0], job["exec"])
answers = [call(*c) for c in job["calls"]] + [call32(*c) for c in job.get("calls32", [])]
print(json.dumps(answers), flush=True)
sys.stdin.readline()
"""

#: A thread, a pipeline of two programs, a connection.
ORDINARY = """
import socket, subprocess, threading
thread = threading.Thread(target=print, args=("thread",))
thread.start()
thread.join()
subprocess.run(["/bin/sh", "-c", "echo piped | cat"], check=True)
with socket.create_server(("127.0.0.1", 0)) as server:
    socket.create_connection(server.getsockname()).close()
print("done")
"""


def spawn(program: SeccompProgram, **job: Any) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    job = {"program": program.program.hex(), "flags": program.flags, "calls": [], **job}
    child.stdin.write(json.dumps(job) + "\n")
    child.stdin.flush()
    return child


def answers(program: SeccompProgram, calls: list[tuple[int, ...]]) -> list[tuple[int, int]]:
    child = spawn(program, calls=calls)
    out, err = child.communicate(timeout=30)
    assert child.returncode == 0, err
    return [tuple(pair) for pair in json.loads(out)]


def default_program(*capabilities: str) -> SeccompProgram:
    return compile_profile(default_profile(frozenset(capabilities), MACHINE, KERNEL), MACHINE)


def nr(name: str) -> int:
    return syscall_table("x86_64")[name]


DENIED = {
    "keyctl": (0, 0, 0),
    "mount": (0, 0, 0, 0, 0),
    "bpf": (0, 0, 0),
    "unshare": (0x1000_0000,),
    "clone": (0x1000_0011,),  # CLONE_NEWUSER | SIGCHLD
    "fsopen": (0, 0),
    "io_uring_setup": (0, 0),
    "userfaultfd": (0,),
    "perf_event_open": (0, 0, 0, 0, 0),
    "setns": (2**32 - 1, 0),
    "open_by_handle_at": (2**32 - 1, 0, 0),
    "personality": (0x4_0000,),  # ADDR_NO_RANDOMIZE
    "socket": (38, 5, 0),  # AF_ALG
    "pivot_root": (0, 0),
}


def test_the_default_profile_denies_with_eperm() -> None:
    got = answers(default_program(), [(nr(name), *args) for name, args in DENIED.items()])
    assert dict(zip(DENIED, got, strict=True)) == dict.fromkeys(DENIED, (-1, errno.EPERM))


def test_bits_that_the_kernel_drops_do_not_get_a_call_through() -> None:
    above = 1 << 32
    assert answers(
        default_program(),
        [
            (nr("socket"), above | 38, 5, 0),
            (nr("socket"), above | 40, 1, 0),
            (nr("ioctl"), 0, above | 0x5412, 0),
            (nr("ioctl"), 0, 0x541C, 0),
            (nr("ioctl"), 0, 0x5401, 0),  # TCGETS on a pipe is the kernel's to answer
        ],
    ) == [
        (-1, errno.EPERM),
        (-1, errno.EPERM),
        (-1, errno.EIO),
        (-1, errno.EIO),
        (-1, errno.ENOTTY),
    ]


def test_unknown_calls_and_clone3_answer_enosys() -> None:
    unknown = [(9999,), (0x3FFF_FFFF,), (400,), (2**32 - 1,), (nr("clone3"), 0, 0)]
    assert answers(default_program(), unknown) == [(-1, errno.ENOSYS)] * len(unknown)


def test_allowed_calls_reach_the_kernel() -> None:
    got = answers(
        default_program(),
        [
            (nr("personality"), 0xFFFF_FFFF),
            (nr("close"), 2**32 - 1),
            (nr("socket"), 1, 1, 0),
            (nr("getppid"),),
        ],
    )
    assert got[0] == (0, 0)
    assert got[1] == (-1, errno.EBADF)
    assert got[2][0] > 2
    assert got[3][0] > 0


def test_a_capability_opens_its_calls() -> None:
    got = answers(default_program("CAP_SYS_ADMIN"), [(nr("fsopen"), 0, 0), (nr("clone3"), 0, 0)])
    assert got == [(-1, errno.EFAULT), (-1, errno.EINVAL)]


def test_the_host_sees_the_filter() -> None:
    child = spawn(default_program())
    assert child.stdout is not None
    assert child.stdout.readline() == "[]\n"
    status = Path(f"/proc/{child.pid}/status").read_text()
    assert "Seccomp:\t2\n" in status
    assert "NoNewPrivs:\t1\n" in status
    child.communicate(timeout=30)


def test_ordinary_programs_run_under_the_default_profile() -> None:
    child = spawn(default_program(), exec=[sys.executable, "-I", "-u", "-c", ORDINARY])
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (0, "thread\npiped\ndone\n"), err


def only(name: str, action: str, errno_ret: int | None = None) -> SeccompProgram:
    rule = SeccompRule((name,), action, errno_ret)
    return compile_profile(Seccomp("SCMP_ACT_ALLOW", syscalls=(rule,)), MACHINE)


@pytest.mark.parametrize("action", ["KILL", "KILL_THREAD", "KILL_PROCESS", "TRAP"])
def test_deadly_actions_end_the_process(action: str) -> None:
    child = spawn(only("getpgrp", f"SCMP_ACT_{action}"), calls=[(nr("getpgrp"),)])
    child.communicate(timeout=30)
    assert child.returncode == -signal.SIGSYS


@pytest.mark.parametrize(
    ("action", "errno_ret", "expected"),
    [
        ("SCMP_ACT_ERRNO", None, (-1, errno.EPERM)),
        ("SCMP_ACT_ERRNO", 77, (-1, 77)),
        ("SCMP_ACT_ERRNO", 0, (0, 0)),
        ("SCMP_ACT_TRACE", None, (-1, errno.ENOSYS)),  # nobody traces
    ],
)
def test_answers_of_the_filter(action: str, errno_ret: int | None, expected: Any) -> None:
    assert answers(only("getpgrp", action, errno_ret), [(nr("getpgrp"),)]) == [expected]


def test_logged_calls_are_carried_out() -> None:
    assert answers(only("getpgrp", "SCMP_ACT_LOG"), [(nr("getpgrp"),)])[0][0] > 0


def test_flags_are_taken_by_the_kernel() -> None:
    flags = ("SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW")
    program = compile_profile(Seccomp("SCMP_ACT_ALLOW", flags=flags), MACHINE)
    assert program.flags == 6
    assert answers(program, []) == []


def test_the_kernel_and_the_simulator_agree_on_every_operator() -> None:
    operators = {  # calls without arguments: whatever is in the registers, they succeed
        "getpid": "EQ",
        "getppid": "NE",
        "gettid": "LT",
        "getpgrp": "LE",
        "sched_yield": "GT",
        "getuid": "GE",
        "geteuid": "MASKED_EQ",
    }
    pivots = (5, 2**32 + 5, 2**64 - 2**32)
    for pivot in pivots:
        rules = tuple(
            SeccompRule((name,), "SCMP_ACT_ERRNO", 99, (SeccompArg(3, pivot, f"SCMP_CMP_{op}", 4),))
            for name, op in operators.items()
        )
        program = compile_profile(Seccomp("SCMP_ACT_ALLOW", syscalls=rules), MACHINE)
        near = {pivot + d for d in (-1, 0, 1, 2**32, -(2**32))} | {0, 4, 2**32 + 4, 2**64 - 1}
        calls = [
            (nr(name), 0, 0, 0, value)
            for name in operators
            for value in sorted(near)
            if 0 <= value < 2**64
        ]
        predicted = [simulate(program.program, c[0], X86_64, c[1:]).action for c in calls]
        assert set(predicted) == {0x7FFF_0000, 0x0005_0000 | 99}
        got = [0x0005_0000 | code if code else 0x7FFF_0000 for _, code in answers(program, calls)]
        assert got == predicted


def _runs_32_bit_code() -> bool:
    child = spawn(compile_profile(default_profile(frozenset(), MACHINE, KERNEL)), calls32=[(20, 0)])
    child.communicate(timeout=30)
    return child.returncode == 0


def test_32_bit_calls_of_a_64_bit_process_are_filtered_by_their_own_numbers() -> None:
    if not _runs_32_bit_code():
        pytest.skip("the kernel has no IA32 emulation (CONFIG_IA32_EMULATION)")
    child = spawn(default_program(), calls32=[(20, 0), (21, 0), (288, 0), (9999, 0)])
    out, _ = child.communicate(timeout=30)
    pid, *denied = json.loads(out)
    assert pid == child.pid
    assert denied == [-errno.EPERM, -errno.EPERM, -errno.ENOSYS]  # mount, keyctl, unknown
    only_64 = compile_profile(Seccomp("SCMP_ACT_ALLOW"), MACHINE)
    killed = spawn(only_64, calls32=[(20, 0)])
    killed.communicate(timeout=30)
    assert killed.returncode == -signal.SIGSYS
