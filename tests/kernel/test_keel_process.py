"""What keel makes of a process: user, capabilities, filter, terminal, stdio, execve, PID 1."""

from __future__ import annotations

import errno
import os
import signal
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.keel_run import (
    ALL_CAPABILITIES,
    ALL_NEW,
    FIRST_ID,
    ID_COUNT,
    NEEDS_ROOT_AND_BUSYBOX,
    NEW_TIME,
    NEW_USER,
    NOEXEC,
    NOSUID,
    Box,
    Task,
    become,
    run,
)
from onggi.runtime.steps import (
    BecomeUser,
    BindTree,
    ChangeDirectory,
    JoinKeyring,
    LoadSeccomp,
    MountFilesystem,
    OpenTerminal,
    OpenTree,
    SetNoNewPrivileges,
    SetOomScore,
    SetRlimit,
    SetTimeOffsets,
    SetUmask,
    Step,
    UnshareCgroup,
    WriteIdMaps,
)
from onggi.sandbox.keel import Keel
from onggi.sandbox.messages import Exited

pytestmark = NEEDS_ROOT_AND_BUSYBOX

NET_BIND_SERVICE, KILL = 1 << 10, 1 << 5
ALLOW = struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF0000)


def deny(number: int, action: int) -> bytes:
    """A filter that answers one system call of x86-64 with `action` and allows the others."""
    load = struct.pack("<HBBI", 0x20, 0, 0, 0)
    jump = struct.pack("<HBBI", 0x15, 0, 1, number)
    return load + jump + struct.pack("<HBBI", 0x06, 0, 0, action) + ALLOW


def status_of(out: str) -> dict[str, str]:
    pairs = (line.split(":", 1) for line in out.splitlines() if ":" in line)
    return {key: value.strip() for key, value in pairs}


@pytest.fixture(scope="module")
def keel() -> Iterator[Keel]:
    with Keel() as program:
        yield program


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def terminal_steps() -> tuple[Step, ...]:
    return (
        MountFilesystem(fstype="tmpfs", source="t", target="/dev", options=("mode=755",)),
        MountFilesystem(
            fstype="devpts",
            source="devpts",
            target="/dev/pts",
            attributes=NOSUID | NOEXEC,
            options=("newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        ),
    )


@pytest.mark.parametrize("flags", [ALL_NEW, ALL_NEW & ~NEW_USER])
def test_user_groups_and_capabilities(keel: Keel, box: Box, flags: int) -> None:
    user = BecomeUser(
        uid=1000,
        gid=1001,
        groups=(5, 70),
        bounding=NET_BIND_SERVICE | KILL,
        effective=NET_BIND_SERVICE,
        permitted=NET_BIND_SERVICE | KILL,
        inheritable=NET_BIND_SERVICE,
        ambient=NET_BIND_SERVICE,
    )
    late = (SetUmask(mask=0o027), user)
    out = run(keel, box.plan("cat", "/proc/self/status", flags=flags, late=late)).succeed()
    status = status_of(out)
    assert status["Uid"].split() == ["1000"] * 4
    assert status["Gid"].split() == ["1001"] * 4
    assert status["Groups"].split() == ["5", "70"]
    assert status["Umask"] == "0027"
    sets = {key: int(status[f"Cap{key}"], 16) for key in ("Bnd", "Prm", "Eff", "Inh", "Amb")}
    assert sets["Bnd"] == NET_BIND_SERVICE | KILL
    assert {sets[key] for key in ("Prm", "Eff", "Inh", "Amb")} == {NET_BIND_SERVICE}


def test_the_application_starts_clean(keel: Keel, box: Box) -> None:
    held = os.open("/", os.O_RDONLY)
    try:
        names = run(keel, box.plan("ls", "/proc/self/fd"), borrowed=(held,)).succeed().split()
        out = run(keel, box.plan("cat", "/proc/self/status"), borrowed=(held,)).succeed()
    finally:
        os.close(held)
    status = status_of(out)
    assert names == ["0", "1", "2", "3"]  # 3 is the directory that ls reads
    assert status["Umask"] == "0022"
    assert [int(status[key], 16) for key in ("SigBlk", "SigIgn")] == [0, 0]
    assert status["NSsid"] == "1"
    plan = box.plan("cat", "/proc/self/environ", environment=("A=b", "PATH=/bin"))
    assert run(keel, plan).succeed() == "A=b\0PATH=/bin\0"


def test_the_host_sees_the_mapped_user(keel: Keel, box: Box) -> None:
    with Task(keel, box.plan("sleep", "60", late=(become(10, 11),))) as task:
        pid = task.until_started().pid
        status = status_of(Path(f"/proc/{pid}/status").read_text())
        assert status["Uid"].split() == [str(FIRST_ID + 10)] * 4
        assert status["Gid"].split() == [str(FIRST_ID + 11)] * 4
        assert Path(f"/proc/{pid}/uid_map").read_text().split() == [
            "0",
            str(FIRST_ID),
            str(ID_COUNT),
        ]


def test_stdout_can_be_opened_again_by_the_user(keel: Keel, box: Box) -> None:
    script = "echo out > /proc/self/fd/1; echo err > /proc/self/fd/2"
    outcome = run(keel, box.plan("sh", "-c", script, late=(become(1000, 1000),)))
    assert outcome.succeed() == "out\n"
    assert outcome.err == "err\n"


def test_standard_input(keel: Keel, box: Box) -> None:
    assert run(keel, box.plan("cat")).succeed() == ""
    with Task(keel, box.plan("cat", stdin=1)) as task:
        task.attached.sendall(b"through")
        task.attached.shutdown(1)
        assert task.finish().succeed() == "through"


def test_limits_and_oom_score(keel: Keel, box: Box) -> None:
    after = (SetOomScore(value=321), SetRlimit(resource=7, soft=100, hard=200))
    script = "cat /proc/self/oom_score_adj; ulimit -S -n; ulimit -H -n"
    out = run(keel, box.plan("sh", "-c", script, after=after)).succeed()
    assert out.split() == ["321", "100", "200"]


@pytest.mark.parametrize("late_filter", [False, True])
def test_no_room_for_open_files_is_the_applications_matter(
    keel: Keel, box: Box, late_filter: bool
) -> None:
    """keel's own pipes are made before the container's limits hold."""
    limit = SetRlimit(resource=7, soft=3, hard=3)
    load = LoadSeccomp(flags=0, program=ALLOW * 4096)
    user = become(1000, 1000)
    last = (SetNoNewPrivileges(), user, load) if late_filter else (load, user)
    late = (ChangeDirectory(path="/"), limit, *last)
    assert run(keel, box.plan("echo", "hi", late=late)).succeed() == "hi\n"


def test_time_offsets(keel: Keel, box: Box) -> None:
    before = (SetTimeOffsets(offsets="boottime 1000000 0\n"),)
    out = run(keel, box.plan("cat", "/proc/uptime", before=before)).succeed()
    assert float(out.split()[0]) > 1_000_000
    assert float(Path("/proc/uptime").read_text().split()[0]) < 1_000_000
    plan = box.plan("cat", "/proc/uptime", before=before, flags=ALL_NEW | NEW_TIME)
    assert float(run(keel, plan).succeed().split()[0]) > 1_000_000


def test_keyring_and_cgroup_namespace(keel: Keel, box: Box) -> None:
    inside = (JoinKeyring(name="box"), UnshareCgroup())
    out = run(keel, box.plan("cat", "/proc/self/cgroup", inside=inside)).succeed()
    assert all(line.endswith(":/") for line in out.splitlines())


def test_a_filter_and_no_new_privileges(keel: Keel, box: Box) -> None:
    mkdir_fails = deny(83, 0x00050000 | errno.ENOTTY)
    late = (SetNoNewPrivileges(), become(), LoadSeccomp(flags=0, program=mkdir_fails))
    script = "cat /proc/self/status; /bin/busybox mkdir /x"
    outcome = run(keel, box.plan("sh", "-c", script, late=late))
    status = status_of(outcome.out)
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert "Not a tty" in outcome.err or "Inappropriate ioctl" in outcome.err


@pytest.mark.parametrize("number", [46, 157, 436, 45, 3])
def test_a_filter_needs_to_allow_nothing_of_keels(keel: Keel, box: Box, number: int) -> None:
    """sendmsg, prctl, close_range, recvfrom, close end the process: execve comes first."""
    late = (LoadSeccomp(flags=0, program=deny(number, 0x80000000)),)
    with Task(keel, box.plan("sleep", "60", late=late)) as task:
        started = task.until_started()
        # Started means executed; the application itself may then call what is forbidden and end.
        assert started.pid > 0


def test_an_init_that_dies_before_execve_did_not_start(keel: Keel, box: Box) -> None:
    late = (LoadSeccomp(flags=0, program=deny(59, 0x80000000)),)
    failed = run(keel, box.plan("true", late=late)).failed
    assert (failed.opcode, failed.call, failed.errno) == (40, "execve", errno.ECHILD)
    assert failed.detail.endswith(f"(signal {signal.SIGSYS})")


@pytest.mark.parametrize("flags", [ALL_NEW, ALL_NEW & ~NEW_USER])
def test_a_terminal_of_its_own(keel: Keel, box: Box, flags: int) -> None:
    script = (
        "cat /proc/self/stat | cut -d' ' -f7; stat -c '%u:%g %F' /dev/pts/0 /dev/console;"
        " stty size; echo console > /dev/console; ls /dev/pts"
    )
    for applet in ("cut", "stty"):
        (box.layer / "bin" / applet).symlink_to("busybox")
    inside = (*terminal_steps(), OpenTerminal(rows=30, columns=99))
    late = (become(1000, 1000),)
    plan = box.plan("sh", "-c", script, flags=flags, terminal=1, inside=inside, late=late)
    lines = run(keel, plan).out.splitlines()
    assert lines[0] != "0"  # it has a controlling terminal
    assert lines[1:5] == ["1000:5 character special file"] * 2 + ["30 99", "console"]
    assert lines[5].split() == ["0", "ptmx"]


@pytest.mark.parametrize("trap", ["pts", "ptmx", "console"])
def test_a_terminal_is_never_the_hosts(keel: Keel, box: Box, trap: str) -> None:
    """CVE-2025-52565 and its kin: the image decides what lies at these names."""
    before: tuple[Step, ...] = ()
    inside: tuple[Step, ...] = (OpenTerminal(),)
    if trap == "pts":
        (box.layer / "dev/pts").symlink_to("/proc/1/root/dev/pts")
    elif trap == "ptmx":
        (box.layer / "dev/pts").mkdir()
        before = (OpenTree(slot=1, path="/dev/null"),)
        inside = (BindTree(slot=1, target="/dev/pts/ptmx"), OpenTerminal())
    else:
        (box.layer / "dev/pts").mkdir()
        (box.layer / "dev/console").symlink_to("/proc/self/status")
        inside = (terminal_steps()[1], OpenTerminal())
    failed = run(keel, box.plan("true", before=before, terminal=1, inside=inside)).failed
    assert failed.opcode == 29
    assert failed.errno in {errno.ELOOP, errno.ENODEV}


def test_the_candidates_are_tried_in_order(keel: Keel, box: Box) -> None:
    (box.layer / "etc/true").write_text("no program")
    candidates = ("/nowhere/true", "/etc/true", "/bin/true/x", "/bin/true")
    assert run(keel, box.plan("true", candidates=candidates)).exited.code == 0


def test_facts_about_a_file_that_cannot_be_executed(keel: Keel, box: Box) -> None:
    files = {
        "/bin/crlf": (b"#!/bin/sh\r\necho", 0o755, errno.ENOENT),
        "/bin/plain": (b"text", 0o644, errno.EACCES),
        "/bin/empty": (b"", 0o755, errno.ENOEXEC),
        "/bin/lost": (b"#! /usr/bin/python3 -u\n", 0o755, errno.ENOENT),
    }
    for path, (content, mode, _) in files.items():
        (box.layer / path[1:]).write_bytes(content)
        (box.layer / path[1:]).chmod(mode)
    for path, (content, mode, number) in files.items():
        failed = run(keel, box.plan("x", candidates=("/nowhere", path, "/bin/none"))).failed
        assert (failed.opcode, failed.call, failed.errno) == (40, "execve", number), path
        assert failed.facts["path"] == failed.detail == path
        assert int(failed.facts["mode"], 8) & 0o7777 == mode
        assert bytes.fromhex(failed.facts["head"]) == content
        assert failed.facts["noexec"] == "0"
    assert failed.facts["interpreter"] == "/usr/bin/python3"
    assert failed.facts["interpreter_errno"] == str(errno.ENOENT)
    failed = run(keel, box.plan("x", candidates=("/bin/no", "/sbin/no"))).failed
    assert failed.errno == errno.ENOENT
    assert failed.facts == {"path": "/bin/no"}


def test_a_mount_without_exec_is_a_fact(keel: Keel, box: Box) -> None:
    inside = (
        MountFilesystem(fstype="tmpfs", source="t", target="/bin", attributes=NOEXEC, copy_up=1),
    )
    failed = run(keel, box.plan("true", inside=inside)).failed
    assert (failed.errno, failed.facts["noexec"]) == (errno.EACCES, "1")


def test_keel_as_pid_1_reaps_and_forwards(keel: Keel, box: Box) -> None:
    script = (
        "trap 'cat /proc/1/comm; cat /proc/*/stat | grep -c \") Z\"; exit 7' TERM;"
        " (sleep 0.01 &) ; sleep 0.1; echo ready; while :; do sleep 0.02; done"
    )
    (box.layer / "bin/grep").symlink_to("busybox")
    with Task(keel, box.plan("sh", "-c", script, reap=1)) as task:
        pid = task.until_started().pid
        task.until(lambda: "ready" in task.outcome.out)
        os.kill(pid, signal.SIGTERM)
        outcome = task.finish()
    assert outcome.exited.code == 7
    assert outcome.out.split() == ["ready", "keel:init", "0"]


def test_keel_as_pid_1_answers_for_its_application(keel: Keel, box: Box) -> None:
    outcome = run(keel, box.plan("sh", "-c", "kill -9 $$", reap=1))
    assert outcome.exited.code == 128 + 9
    failed = run(keel, box.plan("x", reap=1, candidates=("/nowhere",))).failed
    assert (failed.call, failed.errno) == ("execve", errno.ENOENT)


def test_keel_as_pid_1_gives_the_terminal_away(keel: Keel, box: Box) -> None:
    inside = (*terminal_steps(), OpenTerminal())
    with Task(keel, box.plan("cat", terminal=1, reap=1, inside=inside, stdin=1)) as task:
        task.until_started()
        task.attached.sendall(b"\x03")
        outcome = task.finish()
    assert outcome.exited.code == 128 + signal.SIGINT


def test_a_killed_application_is_told_so(keel: Keel, box: Box) -> None:
    with Task(keel, box.plan("sleep", "60")) as task:
        os.kill(task.until_started().pid, signal.SIGKILL)
        exited = task.finish().exited
    assert isinstance(exited, Exited)
    assert (exited.code, exited.signal) == (-1, signal.SIGKILL)


def test_without_root_inside_capabilities_still_serve(keel: Keel, box: Box) -> None:
    """A map that has no 0: the steps rest on capabilities."""
    plan = box.plan("id", "-u", late=(ChangeDirectory(path="/"), become(5, 5)))
    only_five = f"5 {FIRST_ID + 5} 1"
    steps = tuple(
        WriteIdMaps(uid_map=only_five, gid_map=only_five, setgroups="deny")
        if isinstance(step, WriteIdMaps)
        else step
        for step in plan.steps
    )
    assert run(keel, type(plan)(steps)).succeed() == "5\n"


def test_every_capability_is_had_inside(keel: Keel, box: Box) -> None:
    late = (become(0, 0, ALL_CAPABILITIES),)
    status = status_of(run(keel, box.plan("cat", "/proc/self/status", late=late)).succeed())
    assert int(status["CapEff"], 16) == ALL_CAPABILITIES
