"""What a person reads when a step fails: for every way an application can fail, its own words."""

from __future__ import annotations

import errno as e
import struct
from collections.abc import Mapping

import msgspec
import pytest

from onggi.errors import EngineError, Internal, StartFailed, SyscallError
from onggi.runtime import steps as s
from onggi.runtime.executable import read_elf, read_script
from onggi.runtime.failure import StepError, explain_failure, explain_warning
from onggi.runtime.plan import plan, plan_exec
from unit.plan_cases import EXEC, HOST, OVERLAY, default_config, process, with_process


class Report(msgspec.Struct, frozen=True):
    step_index: int
    opcode: int
    errno: int
    call: str = "call"
    detail: str = "detail"
    facts: Mapping[str, str] = {}


PLAN = plan(with_process(default_config(), args=("app",)), HOST, OVERLAY)


def elf(machine: int = 62, loader: bytes = b"", wide: bool = True, order: str = "<") -> bytes:
    """The head of an ELF program with one PT_INTERP if a loader is given."""
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1 if order == "<" else 2, 1]) + bytes(9)
    count = 1 if loader else 0
    if wide:
        head = ident + struct.pack(
            f"{order}HHIQQQIHHHHHH", 2, machine, 1, 0, 64, 0, 0, 64, 56, count, 0, 0, 0
        )
        table = struct.pack(f"{order}IIQQQQQQ", 3, 4, 120, 0, 0, len(loader) + 1, 0, 1)
    else:
        head = ident + struct.pack(
            f"{order}HHIIIIIHHHHHH", 2, machine, 1, 0, 52, 0, 0, 52, 32, count, 0, 0, 0
        )
        table = struct.pack(f"{order}IIIIIIII", 3, 84, 0, 0, len(loader) + 1, 0, 4, 1)
    return head + (table + loader + b"\0" if loader else b"")


def execute(errno: int, plan: s.Plan = PLAN, **facts: str | bytes) -> StartFailed:
    texts = {k: v.hex() if isinstance(v, bytes) else v for k, v in facts.items()}
    report = Report(len(plan.steps) - 1, s.Execute.opcode, errno, "execve", "/x/app", texts)
    error = explain_failure(report, plan, platform="linux/arm64", machine="x86_64")
    assert isinstance(error, StartFailed)
    assert str(error).isprintable()
    assert error.message.startswith("cannot start ")
    assert not error.message.endswith(".")
    return error


APP = {"path": "/bin/app", "mode": "100755", "uid": "0", "gid": "0", "noexec": "0"}


def planned(*args: str) -> s.Plan:
    return plan(with_process(default_config(), args=args), HOST, OVERLAY)


def test_a_name_that_is_nowhere_in_path() -> None:
    error = execute(e.ENOENT, path="/usr/bin/app")
    assert error.message == ("cannot start app: not found in the container's PATH (/usr/bin:/bin)")
    assert error.exit_code == 127


def test_a_path_that_is_not_there() -> None:
    error = execute(e.ENOENT, planned("/opt/app"))
    assert error.message == "cannot start /opt/app: no such file in the container"
    assert error.exit_code == 127


def test_a_whole_command_as_one_word() -> None:
    assert "each word on its own" in str(execute(e.ENOENT, planned("echo hi")))


@pytest.mark.parametrize(
    ("errno", "facts", "words", "code"),
    [
        (
            e.ENOENT,
            {"head": b"#!/bin/bash -e\necho"},
            "interpreter /bin/bash is not in the image",
            127,
        ),
        (e.ENOENT, {"head": b"#! /bin/sh\r\necho"}, "carriage return (CRLF)", 127),
        (e.ENOENT, {"head": elf(loader=b"/lib64/ld-linux-x86-64.so.2")}, "built for glibc", 127),
        (e.ENOENT, {"head": elf(loader=b"/lib/ld-musl-x86_64.so.1")}, "built for musl", 127),
        (e.ENOENT, {"head": elf(3, b"/lib/ld-linux.so.2", wide=False)}, "/lib/ld-linux.so.2", 127),
        (e.ENOENT, {"head": b"\x7fELF", "interpreter": "/lib/x"}, "needs the loader /lib/x", 127),
        (e.ENOENT, {"head": b"?"}, "something that it needs to run is not in the image", 127),
        (e.EACCES, {"mode": "40755"}, "is a directory", 126),
        (e.EACCES, {"mode": "20666"}, "is not a regular file", 126),
        (e.EACCES, {"mode": "100644"}, "is not executable (mode 0644) — chmod +x", 126),
        (e.EACCES, {"noexec": "1"}, "mounted noexec", 126),
        (
            e.EACCES,
            {"head": b"#!/bin/x\n", "interpreter": "/bin/x", "interpreter_errno": "13"},
            "its interpreter /bin/x is not executable",
            126,
        ),
        (
            e.EACCES,
            {"mode": "100750", "uid": "7"},
            "may not execute it (mode 0750, owner 7:0)",
            126,
        ),
        (e.ENOEXEC, {"head": b""}, "is empty", 126),
        (
            e.ENOEXEC,
            {"head": elf(183)},
            "built for aarch64, this machine is x86_64 (image linux/arm64)",
            126,
        ),
        (e.ENOEXEC, {"head": elf(183)}, "use the image for linux/amd64", 126),
        (e.ENOEXEC, {"head": elf(22, order=">")}, "built for s390x", 126),
        (e.ENOEXEC, {"head": elf(4711)}, "built for unknown (4711)", 126),
        (e.ENOEXEC, {"head": elf(62)}, "a damaged x86_64 program", 126),
        (e.ENOEXEC, {"head": elf(3, wide=False)}, "a damaged i386 program", 126),
        (e.ENOEXEC, {"head": b"echo hi\n"}, "text without a first line", 126),
        (e.ENOEXEC, {"head": b"\xef\xbb\xbf#!/bin/sh\n"}, "byte order mark", 126),
        (e.ENOEXEC, {"head": b"#!\n"}, "names no usable interpreter", 126),
        (e.ENOEXEC, {"head": b"MZ\x90"}, "a Windows program", 126),
        (e.ENOEXEC, {"head": b"\xcf\xfa\xed\xfe"}, "a macOS program", 126),
        (e.ENOEXEC, {"head": bytes(64)}, "not a program for linux", 126),
        (e.ENOEXEC, {}, "not a format that this kernel executes", 126),
        (e.ENOEXEC, {"head": "nonsense"}, "not a format that this kernel executes", 126),
        (e.E2BIG, {}, "arguments and environment are too long", 126),
        (e.EAGAIN, {}, "too many processes", 126),
        (e.ETXTBSY, {}, "open for writing", 126),
        (e.EMFILE, {}, "too many files are open", 126),
        (e.EISDIR, {}, "is a directory", 126),
    ],
)
def test_a_file_that_cannot_be_executed(
    errno: int, facts: dict[str, str | bytes], words: str, code: int
) -> None:
    error = execute(errno, **{**APP, **facts})
    assert words in str(error)
    assert "/bin/app" in error.message
    assert error.exit_code == code


def test_a_path_that_may_not_be_searched() -> None:
    error = execute(e.EACCES, path="/root/app")
    assert "permission denied on the way to it" in error.message
    assert error.exit_code == 126


def test_hostile_facts_are_harmless() -> None:
    error = execute(e.ENOENT, path="/a\x1b[2J", mode="1x", uid="\n", head=b"#!/\x1b]0;x\x07\n")
    assert "\x1b" not in str(error)
    for head in (elf()[:20], elf(loader=b"/l")[:-4], b"\x7fELF" + b"\xff" * 100, b"#!", b"#!\r\n"):
        for errno in (e.ENOENT, e.EACCES, e.ENOEXEC):
            assert execute(errno, **{**APP, "head": head}).exit_code in (126, 127)
    long = execute(e.ENOENT, **{**APP, "head": b"#!/" + b"a" * 4000 + b"\n"})
    assert len(long.message) < 400


def test_reading_heads() -> None:
    found = read_script(b"#!\t /usr/bin/env  python\r\n")
    assert found is not None
    assert (found.interpreter, found.carriage_return) == ("/usr/bin/env", False)
    assert read_script(b"echo") is None
    program = read_elf(elf(40, b"/lib/ld-linux-armhf.so.3", wide=False))
    assert program is not None
    assert (program.machine, program.loader) == ("arm", "/lib/ld-linux-armhf.so.3")


# -- other steps ------------------------------------------------------------------------------


def failed(step: s.Step, errno: int, call: str, detail: str = "x") -> EngineError:
    made = s.Plan((s.Supervise(run_dir="/r"), s.OpenTree(slot=1, path="/srv"), step))
    return explain_failure(Report(2, step.opcode, errno, call, detail), made)


@pytest.mark.parametrize(
    ("step", "errno", "call", "words"),
    [
        (s.OpenTree(slot=2, path="/none"), e.ENOENT, "open_tree", "not there on the host: make it"),
        (s.IdmapTree(slot=1), e.EINVAL, "mount_setattr", "takes no ID-mapped mounts"),
        (s.IdmapTree(slot=1), e.EINVAL, "mount_setattr", "map the owners of /srv"),
        (s.CloneInto(flags=0x10000000), e.EPERM, "clone3", "user namespaces are disabled"),
        (s.CloneInto(flags=0x10000000), e.ENOSPC, "clone3", "too many namespaces"),
        (s.CloneInto(flags=0, cgroup_slot=1), e.EACCES, "clone3", "systemd-run --user --scope"),
        (s.JoinCgroups(paths=("/c",)), e.ENOENT, "open", "the cgroup is gone"),
        (s.JoinCgroups(paths=("/c",)), e.ENOSPC, "write", "cpuset"),
        (s.JoinCgroups(paths=("/c",)), e.EBUSY, "write", "leaf"),
        (s.MountOverlay(slot=2, lowers=(1,)), e.ENODEV, "fsopen", "modprobe overlay"),
        (
            s.MountFilesystem(fstype="proc", source="p", target="/p"),
            e.EPERM,
            "fsmount",
            "/proc is whole",
        ),
        (
            s.MountFilesystem(fstype="x", source="p", target="/p"),
            e.EINVAL,
            "fsconfig",
            "does not know",
        ),
        (
            s.MountFilesystem(fstype="x", source="p", target="/p"),
            e.ENOSPC,
            "move_mount",
            "fs.mount-max",
        ),
        (s.BindTree(slot=1, target="/t"), e.ENOTDIR, "move_mount", "cannot bind /srv on /t"),
        (s.MakeDirectory(path="/t"), e.ENOSPC, "mkdirat", "no space is left"),
        (s.MakeDirectory(path="/t"), e.EMFILE, "openat2", "too many open files"),
        (s.MakeDevice(path="/t", kind=99, major=1, minor=1), e.EPERM, "mknodat", "CAP_MKNOD"),
        (s.OpenTerminal(), e.ENOENT, "openat2", "no devpts"),
        (s.WriteSysctl(key="net.x", value="1"), e.ENOENT, "openat2", "no such parameter"),
        (s.LoadSeccomp(flags=0, program=b""), e.EINVAL, "seccomp", "one of the filter's flags"),
        (s.BecomeUser(uid=7, gid=7), e.EINVAL, "setresuid", "is not mapped"),
        (s.SetRlimit(resource=7, soft=1, hard=1), e.EPERM, "prlimit", "set RLIMIT_NOFILE"),
        (s.AttachRoot(slot=1, path="/p"), e.EACCES, "open", "0711"),
        (s.SetHostname(name="x"), e.ENOSYS, "sethostname", "seccomp"),
    ],
)
def test_a_step_that_fails_says_what_it_was_to_do_and_what_to_do(
    step: s.Step, errno: int, call: str, words: str
) -> None:
    error = failed(step, errno, call)
    assert isinstance(error, StepError)
    assert isinstance(error, SyscallError)
    assert words in str(error)
    assert (error.number, error.errno, error.call) == (2, errno, call)
    assert error.message.startswith("cannot ")
    assert error.hint


def test_the_kind_is_that_of_the_errno() -> None:
    assert failed(s.OpenTree(slot=2, path="/n"), e.ENOENT, "open_tree").kind == "NotFound"
    assert failed(s.MakeDirectory(path="/t"), e.ENOSPC, "mkdirat").kind == "ResourceExhausted"


@pytest.mark.parametrize(
    ("errno", "words"),
    [
        (e.ENOENT, "/nope does not exist"),
        (e.ENOTDIR, "not a directory"),
        (e.EXDEV, "lies outside"),
        (e.EIO, "input/output error"),
    ],
)
def test_the_working_directory(errno: int, words: str) -> None:
    made = plan_exec(process(cwd="/nope"), default_config(), HOST, EXEC)
    index = next(i for i, step in enumerate(made.steps) if isinstance(step, s.ChangeDirectory))
    error = explain_failure(Report(index, s.ChangeDirectory.opcode, errno, "openat2"), made)
    assert isinstance(error, StartFailed)
    assert words in error.message
    assert error.exit_code == 126


def test_an_init_that_was_killed() -> None:
    report = Report(
        len(PLAN.steps) - 1, s.Execute.opcode, e.ECHILD, "execve", "init ended before (signal 9)"
    )
    error = explain_failure(report, PLAN)
    assert not isinstance(error, StartFailed)
    assert "memory limit" in str(error)
    assert error.kind == "FailedPrecondition"


@pytest.mark.parametrize("report", [Report(0, 0, e.EBADMSG), Report(999, 5, e.EIO)])
def test_a_plan_that_keel_cannot_read_is_a_defect(report: Report) -> None:
    assert isinstance(explain_failure(report, PLAN), Internal)


def test_a_warning_is_one_line_with_its_reason_and_remedy() -> None:
    number, step = next(
        (i, step)
        for i, step in enumerate(PLAN.steps)
        if isinstance(step, s.IdmapTree) and step.optional
    )
    text = explain_warning(Report(number, step.opcode, e.EINVAL, "mount_setattr"), PLAN)
    assert text.startswith(
        "could not map the owners of /data/hosts: mount_setattr: invalid argument"
    )
    assert "takes no ID-mapped mounts" in text
    assert explain_warning(Report(999, 1, e.EIO), PLAN) == "step 999: call: input/output error"


def file_capabilities(*words: int, effective: int = 1, revision: int = 2) -> bytes:
    return struct.pack(f"<{1 + len(words)}I", revision << 24 | effective, *words)


NET_RAW, SYSLOG = 1 << 13, 1 << (34 - 32)


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (file_capabilities(NET_RAW, 0, 0, 0), "NET_RAW"),
        (file_capabilities(NET_RAW, 0, SYSLOG, 0, 0, revision=3), "NET_RAW, SYSLOG"),
        (file_capabilities(NET_RAW, 0, revision=1), "NET_RAW"),
        (file_capabilities(1 | NET_RAW, 0, 0, 0), "NET_RAW"),  # it has CHOWN
    ],
)
def test_file_capabilities_that_the_container_does_not_have(data: bytes, names: str) -> None:
    error = execute(e.EPERM, **APP, capabilities=data)
    assert f"capabilities that the container does not have: {names} — " in str(error)
    assert f"--cap-add {names.rpartition(' ')[2]}" in str(error)
    assert "setcap -r /bin/app" in str(error)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"x", file_capabilities(NET_RAW, 0), file_capabilities(1, 0, 0, 0),
        file_capabilities(NET_RAW, 0, 0, 0, effective=0), file_capabilities(0, NET_RAW, 0, 0),
        file_capabilities(NET_RAW, 0, 0, 0, revision=9),
    ],
)  # fmt: skip
def test_file_capabilities_that_are_no_reason(data: bytes) -> None:
    assert "the kernel forbids it" in str(execute(e.EPERM, **APP, capabilities=data))
