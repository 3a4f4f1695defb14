"""keel's steps for hooks, agents, labels and schedulers, one by one: what fails says which call."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from kernel.keel_run import NEEDS_ROOT_AND_BUSYBOX, RDONLY, Box, become, run
from onggi.runtime.steps import (
    BindTree,
    ChangeMount,
    ConnectAgent,
    IdmapTree,
    LoadSeccomp,
    MountFilesystem,
    OpenTree,
    RunHook,
    RunHostHook,
    SetCpuAffinity,
    SetIoPriority,
    SetLabel,
    SetMemoryPolicy,
    SetPersonality,
    SetScheduler,
    Step,
)
from onggi.sandbox.keel import Keel

pytestmark = NEEDS_ROOT_AND_BUSYBOX

ALLOW_ALL = b"\x06\0\0\0\0\0\xff\x7f"
NEW_LISTENER = 1 << 3


@pytest.fixture(scope="module")
def keel() -> Iterator[Keel]:
    with Keel() as program:
        yield program


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def host_hook(*words: str, **more: int) -> RunHostHook:
    return RunHostHook(
        kind="prestart",
        path=words[0],
        arguments=words,
        environment=(),
        directory="/",
        timeout_ms=more.get("timeout_ms", 0),
        state=("a", "b", "c"),
    )


def hook(*words: str) -> RunHook:
    return RunHook(
        kind="startContainer",
        path=words[0],
        arguments=words,
        environment=("A=1",),
        directory="/",
        timeout_ms=0,
        state=("<", ">"),
    )


def test_a_hook_on_the_host_knows_the_child(keel: Keel, box: Box, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    script = f"cat > {seen}; echo $$ >> {seen}"
    out = run(keel, box.plan("sh", "-c", "echo $$", after=(host_hook("/bin/sh", "-c", script),)))
    assert out.succeed() == "1\n"
    state = seen.read_text().split("\n")[0]
    match = re.match(r"a(\d+)b(\d+)c", state)
    assert match is not None, state
    assert match[1] == match[2] != "1"


def test_a_hook_inside_has_inits_rights_and_ids(keel: Keel, box: Box) -> None:
    (box.layer / "tmp").chmod(0o777)
    script = "cat; id -u; echo $A; exit 7"
    late = (become(1000, 1000), hook("/bin/sh", "-c", script))
    failed = run(keel, box.plan("true", late=late)).failed
    assert (failed.call, failed.errno) == ("hook", errno.ECANCELED)
    assert failed.detail == "startContainer hook /bin/sh exited with 7: <1>1000\n1\n"


@pytest.mark.parametrize(
    ("words", "number", "detail"),
    [
        (("/bin/sh", "-c", "exit 3"), errno.ECANCELED, "prestart hook /bin/sh exited with 3"),
        (
            ("/bin/sh", "-c", "kill -9 $$"),
            errno.ECANCELED,
            "prestart hook /bin/sh was ended by signal 9",
        ),
        (("/nowhere",), errno.ENOENT, "/nowhere"),
        (("/proc/version",), errno.EACCES, "/proc/version"),
    ],
)
def test_a_hook_that_fails(
    keel: Keel, box: Box, words: tuple[str, ...], number: int, detail: str
) -> None:
    failed = run(keel, box.plan("true", after=(host_hook(*words),))).failed
    assert (failed.opcode, failed.call, failed.errno) == (11, "hook", number)
    assert failed.detail == detail


def test_only_the_end_of_what_a_hook_says_is_told(keel: Keel, box: Box) -> None:
    script = "yes begin | head -c 100000; echo; echo end; exit 1"
    failed = run(keel, box.plan("true", after=(host_hook("/bin/sh", "-c", script),))).failed
    assert failed.detail.endswith("end\n")
    assert len(failed.detail) < 800


def test_a_hook_that_closes_its_output_is_still_waited_for(keel: Keel, box: Box) -> None:
    script = "exec >&- 2>&-; sleep 0.3; exit 5"
    failed = run(keel, box.plan("true", after=(host_hook("/bin/sh", "-c", script),))).failed
    assert failed.detail == "prestart hook /bin/sh exited with 5"


def test_a_hook_inherits_no_descriptor_and_no_ignored_signal(keel: Keel, box: Box) -> None:
    script = "ls /proc/self/fd; grep SigIgn /proc/self/status; umask; exit 1"
    failed = run(keel, box.plan("true", after=(host_hook("/bin/sh", "-c", script),))).failed
    words = failed.detail.partition(": ")[2].split()
    assert words == ["0", "1", "2", "3", "SigIgn:", "0" * 16, "0022"]


def test_an_agent_that_is_not_there(keel: Keel, box: Box, tmp_path: Path) -> None:
    for path, number in (
        (str(tmp_path / "nobody"), errno.ENOENT),
        ("/" + "x" * 108, errno.ENAMETOOLONG),
    ):
        step = ConnectAgent(slot=1, state_slot=2, path=path, state=("a",))
        failed = run(keel, box.plan("true", after=(step,))).failed
        assert (failed.opcode, failed.call, failed.errno) == (12, "connect", number)


def test_an_agent_that_hangs_up_ends_the_start(keel: Keel, box: Box, tmp_path: Path) -> None:
    """Without anybody to ask, the application would wait at the first call for ever."""
    path = str(tmp_path / "agent")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        step = ConnectAgent(slot=1, state_slot=2, path=path, state=("x" * 4_000_000, "y"))
        load = LoadSeccomp(flags=NEW_LISTENER, program=ALLOW_ALL, agent=1, state=2)

        def hang_up() -> None:
            connection, _ = listening.accept()
            connection.close()

        thread = Thread(target=hang_up)
        thread.start()
        failed = run(keel, box.plan("true", after=(step,), late=(load,))).failed
        thread.join(20)
    assert (failed.opcode, failed.call) == (37, "sendmsg")
    assert failed.errno in (errno.EPIPE, errno.ECONNRESET)


def refused_label(keel: Keel, box: Box, inside: tuple[Step, ...], before: tuple[Step, ...]) -> int:
    label = SetLabel(file="exec", fallback="", label="somebody")
    failed = run(keel, box.plan("true", before=before, inside=inside, late=(label,))).failed
    assert failed.opcode == 48
    return failed.errno


def test_a_label_goes_to_procfs_or_the_start_fails(keel: Keel, box: Box, tmp_path: Path) -> None:
    """CVE-2019-16884: what covers /proc, or a file in it, never gets the label."""
    trap = tmp_path / "trap"
    (trap / "self/attr").mkdir(parents=True)
    (trap / "1/attr").mkdir(parents=True)
    for name in ("self", "1"):
        (trap / name / "attr/exec").touch()
    tree = OpenTree(slot=1, path=str(trap))
    tmpfs = MountFilesystem(fstype="tmpfs", source="t", target="/proc")
    assert refused_label(keel, box, (BindTree(slot=1, target="/proc"),), (tree,)) == errno.EXDEV
    assert refused_label(keel, box, (tmpfs,), ()) == errno.EXDEV
    over = BindTree(slot=1, target="/proc/1/attr")
    assert refused_label(keel, box, (over,), (tree,)) == errno.EXDEV
    assert all(not (trap / name / "attr/exec").read_text() for name in ("self", "1"))


def test_a_label_that_no_module_takes(keel: Keel, box: Box) -> None:
    lsms = Path("/sys/kernel/security/lsm")
    if lsms.exists() and {"apparmor", "selinux", "smack"} & set(lsms.read_text().split(",")):
        pytest.skip("host feature missing: a kernel without a module that takes labels")
    assert refused_label(keel, box, (), ()) == errno.EINVAL
    fallback = SetLabel(file="nothing/exec", fallback="exec", label="x")
    failed = run(keel, box.plan("true", late=(fallback,))).failed
    assert (failed.call, failed.errno) == ("write", errno.EINVAL)
    assert failed.detail == "x to /proc/1/attr/exec"


@pytest.mark.parametrize(
    ("step", "call", "number"),
    [
        (SetScheduler(policy=99), "sched_setattr", errno.EINVAL),
        (SetCpuAffinity(cpus=(8191,)), "sched_setaffinity", errno.EINVAL),
        (SetCpuAffinity(cpus=(8192,)), "mask", errno.ERANGE),
        (SetIoPriority(priority=7 << 13), "ioprio_set", errno.EINVAL),
        (SetMemoryPolicy(mode=99, nodes=(0,)), "set_mempolicy", errno.EINVAL),
        (ChangeMount(target="/tmp", attributes_set=RDONLY), "mount_setattr", errno.EINVAL),
        (ChangeMount(target="/absent", attributes_set=RDONLY), "openat2", errno.ENOENT),
    ],
)
def test_what_the_kernel_does_not_take(
    keel: Keel, box: Box, step: Step, call: str, number: int
) -> None:
    where = {"after": (step,)} if step.actor == "monitor" else {"inside": (step,)}
    failed = run(keel, box.plan("true", **where)).failed
    assert (failed.opcode, failed.call) == (step.opcode, call)
    assert failed.errno in (number, errno.ENOSYS)  # a kernel without the feature


def test_a_personality_is_the_applications(keel: Keel, box: Box) -> None:
    step = SetPersonality(persona=0x0040000)  # ADDR_NO_RANDOMIZE
    out = run(keel, box.plan("cat", "/proc/self/personality", late=(step,))).succeed()
    assert out == "00040000\n"


def test_owners_by_a_namespace_that_nobody_lives_in(keel: Keel, box: Box, tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (files / "f").touch()
    os.chown(files / "f", 3, 4)
    before = (OpenTree(slot=1, path=str(files)),)
    maps = {"uid_map": f"0 {1_000_100} 10\n", "gid_map": f"0 {1_000_200} 10\n"}
    after = (IdmapTree(slot=1, **maps),)
    inside = (BindTree(slot=1, target="/files"),)
    plan = box.plan("stat", "-c", "%u:%g", "/files/f", before=before, after=after, inside=inside)
    assert run(keel, plan).succeed() == "103:204\n"
    bad = IdmapTree(slot=1, uid_map="nonsense\n", gid_map="0 0 1\n")
    failed = run(keel, box.plan("true", before=before, after=(bad,))).failed
    assert (failed.opcode, failed.call, failed.errno) == (7, "write", errno.EINVAL)
