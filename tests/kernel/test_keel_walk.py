"""keel's walk: namespaces joined, warnings, and failures that leave nothing behind."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernel.keel_run import (
    ALL_NEW,
    NEEDS_ROOT_AND_BUSYBOX,
    NEW_CGROUP,
    NEW_IPC,
    NEW_NET,
    NEW_NS,
    NEW_PID,
    NEW_USER,
    NEW_UTS,
    TIMEOUT_S,
    Box,
    Task,
    become,
    run,
)
from onggi.runtime.steps import (
    AttachRoot,
    BecomeUser,
    BindTree,
    ChangeDirectory,
    CloneInto,
    Execute,
    IdmapTree,
    JoinCgroups,
    LoadSeccomp,
    MakeDirectory,
    MaskPath,
    MountFilesystem,
    MountOverlay,
    OpenTerminal,
    OpenTree,
    Plan,
    SetHostname,
    SetRlimit,
    Step,
    Supervise,
    WriteIdMaps,
    WriteSysctl,
)
from onggi.sandbox.keel import Keel
from onggi.sandbox.messages import Closed, Failed, Started

pytestmark = NEEDS_ROOT_AND_BUSYBOX

JOINED = NEW_NS | NEW_PID | NEW_NET | NEW_UTS | NEW_IPC


@pytest.fixture(scope="module")
def keel() -> Iterator[Keel]:
    with Keel() as program:
        yield program


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def enter(box: Box, script: str, clone: CloneInto, *more: Step) -> Plan:
    """An exec: no root of its own, the joined one."""
    run_dir = Path(tempfile.mkdtemp(dir=box.run_dir))
    execute = Execute(arguments=("sh", "-c", script), environment=(), candidates=("/bin/sh",))
    return Plan((Supervise(run_dir=str(run_dir)), clone, *more, execute))


@pytest.mark.parametrize("flags", [ALL_NEW, ALL_NEW & ~NEW_USER])
def test_joining_all_of_a_containers_namespaces_by_pidfd(keel: Keel, box: Box, flags: int) -> None:
    running = box.plan("sleep", "60", flags=flags, inside=(SetHostname(name="first"),))
    with Task(keel, running) as first:
        started = first.until_started()
        assert started.pidfd is not None
        clone = CloneInto(flags=0, pidfd_joins=(0, JOINED | flags & NEW_USER))
        script = "hostname; id -u; cat /proc/1/comm; echo $PPID; ls -d /home"
        late = (ChangeDirectory(path="/"), become(7, 7))
        outcome = run(keel, enter(box, script, clone, *late), borrowed=(started.pidfd,))
    assert outcome.out.split() == ["first", "7", "sleep", "0"]
    assert "/home" in outcome.err


def test_joining_namespaces_by_path(keel: Keel, box: Box) -> None:
    with Task(keel, box.plan("sleep", "60", inside=(SetHostname(name="first"),))) as first:
        pid = first.until_started().pid
        kinds = {"user": "user", "mount": "mnt", "pid": "pid", "network": "net", "uts": "uts"}
        joins = tuple(f"{kind}:/proc/{pid}/ns/{name}" for kind, name in kinds.items())
        clone = CloneInto(flags=NEW_IPC, joins=joins)
        links = " ".join(f"/proc/self/ns/{name}" for name in ("user", "mnt", "pid", "net", "ipc"))
        (box.layer / "bin/readlink").symlink_to("busybox")
        script = f"hostname; for n in {links}; do readlink $n; done"
        with Task(keel, enter(box, script, clone)) as second:
            lines = second.finish().succeed().split()
        theirs = [os.readlink(f"/proc/{pid}/ns/{n}") for n in ("user", "mnt", "pid", "net", "ipc")]
    assert lines[0] == "first"
    assert lines[1:5] == theirs[:4]
    assert lines[5] not in {theirs[4], os.readlink("/proc/self/ns/ipc")}


def test_a_hosts_network_for_a_container_with_its_own_users(keel: Keel, box: Box) -> None:
    """The network namespace belongs to the host: it is joined before host privileges are gone."""
    own = f"net:/proc/{os.getpid()}/ns/net"
    plan = box.plan("readlink", "/proc/self/ns/net")
    (box.layer / "bin/readlink").symlink_to("busybox")
    steps = tuple(
        CloneInto(flags=ALL_NEW & ~NEW_NET, joins=(own,)) if isinstance(step, CloneInto) else step
        for step in plan.steps
    )
    assert run(keel, Plan(steps)).succeed().strip() == os.readlink("/proc/self/ns/net")


def test_namespaces_that_cannot_be_joined(keel: Keel, box: Box, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    expected = {
        "net:/nowhere": ("open", errno.ENOENT),
        f"net:{tmp_path}/file": ("setns", errno.EINVAL),
        "net:/proc/self/ns/uts": ("setns", errno.EINVAL),
        "moon:/proc/self/ns/uts": ("setns", errno.EINVAL),
    }
    for join, (call, number) in expected.items():
        outcome = run(keel, enter(box, "true", CloneInto(flags=0, joins=(join,))))
        failed = outcome.failed
        assert (failed.opcode, failed.call, failed.errno) == (4, call, number), join
        assert join in failed.detail


def test_born_in_a_cgroup(keel: Keel, box: Box) -> None:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    unified = next((Path(mount[1]) for mount in mounts if mount[2] == "cgroup2"), None)
    if unified is None:
        pytest.skip("host feature missing: cgroup2 mount")
    cgroup = unified / f"onggi-test-keel-{os.getpid()}"
    cgroup.mkdir()
    try:
        fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
        plan = box.plan("cat", "/proc/self/cgroup")
        for flags in (ALL_NEW | NEW_CGROUP, ALL_NEW):
            steps = tuple(
                CloneInto(flags=flags, cgroup_slot=0) if isinstance(step, CloneInto) else step
                for step in plan.steps
            )
            out = run(keel, Plan(steps), borrowed=(fd,)).succeed()
            assert ("0::/\n" in out) == bool(flags & NEW_CGROUP)
            assert (f"0::/{cgroup.name}\n" in out) == (not flags & NEW_CGROUP)
        outside = enter(
            box, "cat /proc/self/cgroup", CloneInto(flags=NEW_IPC, joins=(), cgroup_slot=0)
        )
        assert f"0::/{cgroup.name}\n" in run(keel, outside, borrowed=(fd,)).succeed()
        joined = CloneInto(flags=0, joins=("uts:/proc/self/ns/uts",), cgroup_slot=0)
        out = run(keel, enter(box, "cat /proc/self/cgroup", joined), borrowed=(fd,)).succeed()
        assert f"0::/{cgroup.name}\n" in out
        before = (JoinCgroups(paths=(f"{cgroup}/cgroup.procs",)),)
        out = run(keel, box.plan("cat", "/proc/self/cgroup", before=before)).succeed()
        assert f"0::/{cgroup.name}\n" in out
        os.close(fd)
    finally:
        cgroup.rmdir()


@pytest.fixture
def frozen() -> Iterator[Path]:
    """A cgroup of the v1 freezer in which everything stops; it goes on when the file is written."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    found = (Path(mount[1]) for mount in mounts if "freezer" in mount[3].split(","))
    hierarchy = next(found, None)
    if hierarchy is None:
        pytest.skip("host feature missing: the cgroup v1 freezer")
    cgroup = hierarchy / f"onggi-test-keel-{os.getpid()}"
    cgroup.mkdir()
    try:
        (cgroup / "freezer.state").write_text("FROZEN")
        yield cgroup
    finally:
        (cgroup / "freezer.state").write_text("THAWED")
        cgroup.rmdir()


def stopped_in(cgroup: Path) -> int | None:
    """The one process that was caught by its own move into the cgroup."""
    tasks = (cgroup / "tasks").read_text().split()
    frozen = (cgroup / "freezer.state").read_text() == "FROZEN\n"
    return int(tasks[0]) if len(tasks) == 1 and frozen else None


def test_joining_a_v1_cgroup_is_the_first_that_init_does(
    keel: Keel, box: Box, frozen: Path
) -> None:
    before = (JoinCgroups(paths=(f"{frozen}/tasks",)),)
    with Task(keel, box.plan("cat", "/proc/self/cgroup", before=before)) as task:
        init = wait_until(lambda: stopped_in(frozen))
        assert Path(f"/proc/{init}/comm").read_text() == "keel:monitor\n"  # no name of its own yet
        assert Path(f"/proc/{init}/stat").read_text().split()[3] == str(task.spawned_pid)
        (frozen / "freezer.state").write_text("THAWED")
        assert f":freezer:/{frozen.name}\n" in task.finish().succeed()


def test_an_exec_joins_a_v1_cgroup_although_it_is_nobody_on_the_host(
    keel: Keel, box: Box, frozen: Path
) -> None:
    with Task(keel, box.plan("sleep", "60")) as first:
        started = first.until_started()
        assert started.pidfd is not None
        clone = CloneInto(flags=0, pidfd_joins=(0, JOINED | NEW_USER))
        plan = enter(box, "cat /proc/self/cgroup", clone, ChangeDirectory(path="/"), become(7, 7))
        plan = Plan((plan.steps[0], JoinCgroups(paths=(f"{frozen}/tasks",)), *plan.steps[1:]))
        with Task(keel, plan, borrowed=(started.pidfd,)) as second:
            init = wait_until(lambda: stopped_in(frozen))
            assert Path(f"/proc/{init}/comm").read_text() == "keel:monitor\n"
            own = os.readlink(f"/proc/{started.pid}/ns/user")
            assert os.readlink(f"/proc/{init}/ns/user") == own
            (frozen / "freezer.state").write_text("THAWED")
            assert f":freezer:/{frozen.name}\n" in second.finish().succeed()


@pytest.mark.parametrize("joins", [(), ("uts:/proc/self/ns/uts",)])
def test_a_cgroup_that_init_cannot_join(
    keel: Keel, box: Box, tmp_path: Path, joins: tuple[str, ...]
) -> None:
    """With joins init's word may overtake that of the stage which made it."""
    paths = ("/dev/null", "/dev/full", "/dev/zero")
    run_dir = tmp_path / "other"
    run_dir.mkdir()
    execute = Execute(arguments=("true",), environment=(), candidates=("/bin/true",))
    clone = CloneInto(flags=NEW_IPC, joins=joins)
    supervise = Supervise(run_dir=str(run_dir))
    failed = run(keel, Plan((supervise, JoinCgroups(paths=paths), clone, execute))).failed
    assert (failed.step_index, failed.opcode, failed.call) == (1, JoinCgroups.opcode, "write")
    assert (failed.errno, failed.detail) == (errno.ENOSPC, "/dev/full")
    twice = (JoinCgroups(paths=paths[:1]), JoinCgroups(paths=paths[:1]))
    failed = run(keel, Plan((supervise, *twice, clone, execute))).failed
    assert (failed.step_index, failed.errno) == (2, errno.E2BIG)
    optional = JoinCgroups(paths=paths[:1], optional=True)
    failed = run(keel, Plan((supervise, optional, clone, execute))).failed
    assert (failed.step_index, failed.call) == (1, "decode")


def test_optional_steps_warn_on_either_side(keel: Keel, box: Box) -> None:
    after = (SetRlimit(resource=99, soft=1, hard=1, optional=True),)
    late = (
        WriteSysctl(key="not.there", value="1", optional=True),
        WriteSysctl(key="net.ipv4.ip_forward", value="1"),
    )
    outcome = run(keel, box.plan("cat", "/proc/sys/net/ipv4/ip_forward", after=after, late=late))
    assert outcome.succeed() == "1\n"
    assert [(w.opcode, w.errno) for w in outcome.warned] == [
        (9, errno.EINVAL),
        (31, errno.ENOENT),
    ]


def test_steps_of_both_sides_may_alternate(keel: Keel, box: Box) -> None:
    """Descriptors that the monitor fills late reach init."""
    late: list[Step] = []
    for n in range(3):
        late += [
            OpenTree(slot=20 + n, path=str(box.layer / "bin")),
            IdmapTree(slot=20 + n),
            BindTree(slot=20 + n, target=f"/bound/{n}"),
        ]
    late += [OpenTree(slot=n, path="/dev/null") for n in range(30, 99)]
    late += [OpenTree(slot=n, path="/dev/null") for n in range(110, 170)]
    late += [BindTree(slot=98, target="/x98"), BindTree(slot=169, target="/x169")]
    script = "ls -d /bound/*/sh; stat -c %F /x98 /x169"
    out = run(keel, box.plan("sh", "-c", script, late=late)).succeed()
    assert out == "/bound/0/sh\n/bound/1/sh\n/bound/2/sh\n" + "character special file\n" * 2


FAILING: dict[str, tuple[Step, int, int]] = {
    "monitor before the clone": (OpenTree(slot=9, path="/nowhere"), 2, errno.ENOENT),
    "maps, a second time": (WriteIdMaps(uid_map="0 0 1", gid_map="0 0 1"), 5, errno.EPERM),
    "cgroups": (JoinCgroups(paths=("/nowhere/tasks",)), 6, errno.ENOENT),
    "idmap": (IdmapTree(slot=77), 7, errno.EBADF),
    "rlimit": (SetRlimit(resource=99, soft=1, hard=1), 9, errno.EINVAL),
    "overlay": (MountOverlay(slot=5, lowers=(77, 78)), 22, errno.EBADF),
    "root": (AttachRoot(slot=77, path="/"), 23, errno.EBADF),
    "file system": (MountFilesystem(fstype="nofs", source="", target="/tmp"), 24, errno.ENODEV),
    "bind": (BindTree(slot=77, target="/tmp"), 25, errno.EBADF),
    "hostname": (SetHostname(name="x" * 65), 20, errno.EINVAL),
    "terminal": (OpenTerminal(), 29, errno.ENOENT),
    "sysctl": (WriteSysctl(key="not.there", value="1"), 31, errno.ENOENT),
    "mask": (MaskPath(path="/proc/interrupts"), 33, errno.ENOENT),
    "filter": (LoadSeccomp(flags=0, program=b"\xff" * 8), 37, errno.EINVAL),
    "user": (BecomeUser(uid=70000, gid=0), 38, errno.EINVAL),
    "capabilities": (become(0, 0, 0, effective=1), 38, errno.EPERM),
    "directory": (ChangeDirectory(path="/nowhere"), 39, errno.ENOENT),
}


@pytest.mark.parametrize("name", FAILING)
def test_a_failing_step_is_reported_and_leaves_nothing(keel: Keel, box: Box, name: str) -> None:
    step, opcode, number = FAILING[name]
    mounts = Path("/proc/self/mountinfo").read_text()
    descriptors = os.listdir("/proc/self/fd")
    plan = box.plan(
        "true",
        before=(step,) if opcode in (2, 6) else (),
        after=(step,) if 2 < opcode < 16 and opcode != 6 else (),
        late=(step,) if opcode >= 16 else (),
        terminal=int(opcode == 29),
        record_name="exit",
    )
    outcome = run(keel, plan)
    failed = outcome.failed
    assert (failed.opcode, failed.errno) == (opcode, number), failed
    assert plan.steps[failed.step_index] is step
    assert not any(isinstance(event, Started) for event in outcome.events)
    assert list(box.run_dir.iterdir()) == []
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert os.listdir("/proc/self/fd") == descriptors


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"KEEL\x02" + data[5:],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:12] + struct.pack("<H", 99) + data[14:],
    ],
)
def test_a_damaged_plan_does_nothing(
    keel: Keel, box: Box, damage: Callable[[bytes], bytes]
) -> None:
    class Damaged(Plan, frozen=True):
        def encode(self) -> bytes:
            return damage(Plan.encode(self))

    failed = run(keel, Damaged(box.plan("true").steps)).failed
    assert (failed.call, failed.errno) == ("decode", errno.EBADMSG)
    assert list(box.run_dir.iterdir()) == []


def first_child(pid: int) -> int | None:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return int(text.split()[0]) if text else None


def wait_until(found: Callable[[], int | None]) -> int:
    deadline = time.monotonic() + TIMEOUT_S
    while (value := found()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return value


IN_UNMOUNT, IN_DELETE_SELF = 0x2000, 0x400


def watch_unmount(path: str) -> int:
    """An inotify descriptor that hears when the file system of `path` is gone."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert fd >= 0
    assert libc.inotify_add_watch(fd, path.encode(), IN_DELETE_SELF) >= 0
    return int(fd)


def test_the_end_does_not_wait_for_unmounts_but_the_sockets_end_does(keel: Keel, box: Box) -> None:
    inside = (MountFilesystem(fstype="tmpfs", source="t", target="/tmp"),)
    with Task(keel, box.plan("sleep", "60", inside=inside)) as task:
        pid = task.until_started().pid
        own = os.readlink(f"/proc/{pid}/ns/mnt")
        held = [os.readlink(fd) for fd in Path(f"/proc/{task.spawned_pid}/fd").iterdir()]
        assert held.count(own) == 1
        clone = CloneInto(flags=NEW_IPC, joins=(f"mnt:/proc/{pid}/ns/mnt",))
        with Task(keel, enter(box, "exec sleep 60", clone)) as second:
            second.until_started()
            held = [os.readlink(fd) for fd in Path(f"/proc/{second.spawned_pid}/fd").iterdir()]
            assert own not in held
        heard = watch_unmount(f"/proc/{pid}/root/tmp")
        try:
            os.kill(pid, signal.SIGKILL)
            task.until(lambda: any(isinstance(e, Closed) for e in task.outcome.events))
            _, mask = struct.unpack_from("iI", os.read(heard, 64))
            assert mask & IN_UNMOUNT
        finally:
            os.close(heard)


def long_work() -> tuple[Step, ...]:
    """Steps that keep init busy long enough to be met before execve."""
    return tuple(MakeDirectory(path=f"/tmp/{'d/' * 200}{n}") for n in range(1000))


def test_init_dies_with_a_monitor_that_is_killed_before_execve(
    keel: Keel, box: Box, tmp_path: Path
) -> None:
    with Task(keel, box.plan("sleep", "60", late=long_work())) as task:
        assert task.spawned_pid is not None
        monitor = task.spawned_pid
        init = wait_until(lambda: first_child(monitor))
        pidfd = os.pidfd_open(init)
        os.kill(monitor, signal.SIGKILL)
        assert select.select([pidfd], [], [], TIMEOUT_S)[0], "init outlives its monitor"
        os.close(pidfd)


def test_an_init_that_is_killed_is_a_failure(keel: Keel, box: Box, tmp_path: Path) -> None:
    with Task(keel, box.plan("sleep", "60", late=long_work())) as task:
        assert task.spawned_pid is not None
        monitor = task.spawned_pid
        os.kill(wait_until(lambda: first_child(monitor)), signal.SIGKILL)
        failed = task.finish().failed
    assert isinstance(failed, Failed)
    assert failed.errno != 0


def test_a_container_outlives_its_killed_monitor(keel: Keel, box: Box) -> None:
    with Task(keel, box.plan("sleep", "60", late=(become(),))) as task:
        started = task.until_started()
        assert task.spawned_pid is not None
        assert started.pidfd is not None
        os.kill(task.spawned_pid, signal.SIGKILL)
        os.waitpid(task.spawned_pid, 0)
        assert not select.select([started.pidfd], [], [], 0.05)[0]
        signal.pidfd_send_signal(started.pidfd, signal.SIGKILL)
        assert select.select([started.pidfd], [], [], TIMEOUT_S)[0]


def test_what_a_container_can_see_of_an_exec_cannot_be_inspected(
    keel: Keel, box: Box, tmp_path: Path
) -> None:
    """While keel is in the container's pid namespace, before execve."""
    with Task(keel, box.plan("sleep", "60")) as first:
        started = first.until_started()
        assert started.pidfd is not None
        clone = CloneInto(flags=0, pidfd_joins=(0, JOINED | NEW_USER))
        blocked = enter(box, "true", clone, *long_work())
        spy = enter(box, "cat /proc/[0-9]*/comm; ls -l /proc/*/fd /proc/*/exe; true", clone)
        with Task(keel, blocked, borrowed=(started.pidfd,)) as second:
            assert second.spawned_pid is not None
            monitor = second.spawned_pid
            wait_until(lambda: first_child(monitor))
            outcome = run(keel, spy, borrowed=(started.pidfd,))
            second.finish()
    assert "keel:init" in outcome.out
    assert "memfd" not in outcome.out
    assert "Permission denied" in outcome.err
