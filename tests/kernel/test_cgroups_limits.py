"""Limits that the kernel enforces, seen from the process that meets them and from the host."""

import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from onggi.errors import FailedPrecondition, InvalidArgument, NotFound
from onggi.kernel.cgroups.bpf import attach_device_program
from onggi.kernel.cgroups.controllers import CONTROLLERS, place
from onggi.kernel.cgroups.devices import compile_device_program
from onggi.kernel.cgroups.driver import Cgroup
from onggi.kernel.cgroups.layout import CgroupLayout
from onggi.specs.runtime import (
    BlockIO,
    Cpu,
    DeviceRule,
    HugepageLimit,
    Memory,
    NetworkResources,
    Pids,
    Resources,
    ThrottleDevice,
)

PARENT = f"onggi-limits-{os.getpid()}"
MIB = 1 << 20
LAYOUT = CgroupLayout.probe()

Start = Callable[[str], subprocess.Popen[str]]


def needs(name: str) -> None:
    controller = next(c for c in CONTROLLERS if name in (c.v1_name, c.v2_name))
    if place(LAYOUT, controller) is None:
        pytest.skip(f"this host has no {name} controller: {LAYOUT.why_missing(name)}")


def on_v1(name: str) -> None:
    hierarchy = LAYOUT.hierarchy(name, "")
    if hierarchy is None:
        pytest.skip(f"this host has no cgroup v1 {name} hierarchy")


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.002)


def kernel_file(v1_name: str, file: str) -> str:
    """The content of a v1 file of the cgroup `one`, read without the driver."""
    hierarchy = LAYOUT.hierarchy(v1_name, "")
    assert hierarchy
    with open(f"{hierarchy.mount_point}/{PARENT}/one/{file}") as text:
        return text.read().strip()


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    made = Cgroup(LAYOUT, f"{PARENT}/one")
    made.create()
    yield made
    made.kill()
    until(made.remove)
    assert made.remove_parent_if_empty()


@pytest.fixture
def start(cgroup: Cgroup) -> Iterator[Start]:
    """Start a Python program which is in the cgroup before its first line."""
    started: list[subprocess.Popen[str]] = []

    def starter(program: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-Sc", f"import sys; sys.stdin.read(1)\n{program}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        started.append(process)
        for path in cgroup.procs_paths():
            with open(path, "w") as file:
                file.write(str(process.pid))
        assert process.stdin
        process.stdin.write("x")
        process.stdin.flush()
        return process

    yield starter
    cgroup.kill()
    for process in started:
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe
            pipe.close()


def answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


# memory


def test_a_process_that_takes_more_than_its_limit_is_killed_and_that_is_told(
    cgroup: Cgroup, start: Start
) -> None:
    needs("memory")
    cgroup.apply(Resources(memory=Memory(limit=32 * MIB, swap=32 * MIB)))
    eater = start("x = bytearray(256 << 20)\nprint('alive', flush=True)")
    assert eater.wait(timeout=20) == -signal.SIGKILL
    events = cgroup.oom()
    assert events is not None
    assert events.kills == 1
    assert events.limit_bytes == 32 * MIB
    assert events.peak_bytes is not None
    assert 31 * MIB < events.peak_bytes <= 32 * MIB


def test_a_kill_by_someone_is_not_taken_for_one_for_memory(cgroup: Cgroup, start: Start) -> None:
    needs("memory")
    cgroup.apply(Resources(memory=Memory(limit=64 * MIB)))
    victim = start("print(flush=True); input()")
    answer(victim)
    victim.kill()
    assert victim.wait() == -signal.SIGKILL
    events = cgroup.oom()
    assert events is not None
    assert events.kills == 0


def test_a_kill_in_a_cgroup_below_counts(cgroup: Cgroup, start: Start) -> None:
    needs("memory")
    cgroup.apply(Resources(memory=Memory(limit=32 * MIB, swap=32 * MIB)))
    eater = start("print(flush=True); sys.stdin.read(1)\nx = bytearray(256 << 20)")
    answer(eater)
    hierarchy = LAYOUT.hierarchy("memory", "memory")
    assert hierarchy
    below = f"{hierarchy.mount_point}/{cgroup.path}/below"
    os.mkdir(below)
    with open(f"{below}/cgroup.procs", "w") as file:
        file.write(str(eater.pid))
    assert eater.stdin
    eater.stdin.write("x")
    eater.stdin.flush()
    assert eater.wait(timeout=20) == -signal.SIGKILL
    events = cgroup.oom()
    assert events is not None
    assert events.kills == 1


def test_memory_limits_move_up_and_down(cgroup: Cgroup) -> None:
    on_v1("memory")
    for limit, swap in ((64, 128), (256, 512), (32, 48), (300, 400), (-1, None), (16, 16)):
        swap_bytes = None if swap is None else swap * MIB
        wanted = Memory(limit=-1 if limit < 0 else limit * MIB, swap=swap_bytes)
        assert cgroup.apply(Resources(memory=wanted)) == ()
        shown = cgroup.stats().memory
        assert shown is not None
        assert shown.limit_bytes == (None if limit < 0 else limit * MIB)
        if swap_bytes:
            assert kernel_file("memory", "memory.memsw.limit_in_bytes") == str(swap_bytes)


def test_a_limit_below_what_is_in_use_is_refused(cgroup: Cgroup, start: Start) -> None:
    on_v1("memory")
    holder = start("x = bytearray(64 << 20)\nprint(flush=True); input()")
    answer(holder)
    with pytest.raises(FailedPrecondition, match=r"memory\.limit_in_bytes = 1048576"):
        cgroup.apply(Resources(memory=Memory(limit=MIB, swap=MIB)))
    with pytest.raises(FailedPrecondition, match="bytes in use"):
        cgroup.apply(Resources(memory=Memory(limit=MIB, check_before_update=True)))
    assert holder.poll() is None


def test_memory_that_is_used_is_shown(cgroup: Cgroup, start: Start) -> None:
    needs("memory")
    answer(start("x = bytearray(b'x') * (32 << 20)\nprint(flush=True); input()"))
    shown = cgroup.stats().memory
    assert shown is not None
    assert shown.usage_bytes > 32 * MIB
    assert shown.anon_bytes > 30 * MIB
    assert shown.peak_bytes is None or shown.peak_bytes >= shown.usage_bytes


# pids

FORKS = """
import os
made = 0
try:
    for _ in range(50):
        if os.fork() == 0:
            sys.stdin.read()
            os._exit(0)
        made += 1
except BlockingIOError:
    print(made, "refused", flush=True)
else:
    print(made, "made", flush=True)
sys.stdin.read()
"""


def test_the_pids_limit_stops_fork(cgroup: Cgroup, start: Start) -> None:
    needs("pids")
    cgroup.apply(Resources(pids=Pids(limit=5)))
    assert answer(start(FORKS)) == "4 refused"
    shown = cgroup.stats().pids
    assert shown is not None
    assert (shown.current, shown.limit) == (5, 5)
    assert len(cgroup.processes()) == 5
    cgroup.apply(Resources(pids=Pids(limit=-1)))
    raised = cgroup.stats().pids
    assert raised is not None
    assert raised.limit is None


# cpu


def test_the_cpu_quota_throttles(cgroup: Cgroup, start: Start) -> None:
    needs("cpu")
    cgroup.apply(Resources(cpu=Cpu(quota=2000, period=20000)))
    start("while True: pass")

    def throttled() -> bool:
        shown = cgroup.stats().cpu
        return shown is not None and shown.throttled_periods >= 2 and shown.throttled_ns > 0

    until(throttled)
    shown = cgroup.stats().cpu
    assert shown is not None
    assert shown.usage_ns > 0
    assert shown.periods >= shown.throttled_periods


def test_cpu_limits_are_in_the_kernels_files(cgroup: Cgroup) -> None:
    on_v1("cpu")
    assert cgroup.apply(Resources(cpu=Cpu(shares=512, quota=50000, period=100000))) == ()
    assert kernel_file("cpu", "cpu.shares") == "512"
    assert kernel_file("cpu", "cpu.cfs_quota_us") == "50000"
    assert kernel_file("cpu", "cpu.cfs_period_us") == "100000"
    # burst ≤ quota holds at every instant: from both sides.
    for quota, burst in ((50000, 40000), (10000, 5000), (80000, 70000)):
        assert cgroup.apply(Resources(cpu=Cpu(quota=quota, burst=burst))) == ()
        assert kernel_file("cpu", "cpu.cfs_burst_us") == str(burst)
        assert kernel_file("cpu", "cpu.cfs_quota_us") == str(quota)


def test_idle_can_be_set_and_taken_back_with_shares(cgroup: Cgroup) -> None:
    on_v1("cpu")
    cgroup.apply(Resources(cpu=Cpu(idle=1)))
    assert kernel_file("cpu", "cpu.idle") == "1"
    cgroup.apply(Resources(cpu=Cpu(idle=0, shares=2048)))
    assert kernel_file("cpu", "cpu.idle") == "0"
    assert kernel_file("cpu", "cpu.shares") == "2048"


def test_a_quota_that_cannot_be_is_refused(cgroup: Cgroup) -> None:
    needs("cpu")
    with pytest.raises(InvalidArgument, match=r"cpu\.(cfs_quota_us|max) = 1"):
        cgroup.apply(Resources(cpu=Cpu(quota=1)))


def test_cpus_are_pinned_when_created_for_it_and_when_asked_later(
    cgroup: Cgroup, start: Start
) -> None:
    needs("cpuset")
    spinner = start("print(flush=True); input()")
    answer(spinner)
    last = max(os.sched_getaffinity(0))
    assert cgroup.apply(Resources(cpu=Cpu(cpus=str(last)))) == ()
    assert os.sched_getaffinity(spinner.pid) == {last}
    other = Cgroup(LAYOUT, f"{PARENT}/two")
    other.create(Resources(cpu=Cpu(cpus=str(last))))
    try:
        assert any("cpuset" in path for path in other.procs_paths()) or LAYOUT.mode == "v2"
        assert other.apply(Resources(cpu=Cpu(cpus=str(last)))) == ()
    finally:
        assert other.remove()


def test_a_cpu_that_does_not_exist_is_refused(cgroup: Cgroup) -> None:
    needs("cpuset")
    with pytest.raises(InvalidArgument, match=r"cpuset\.cpus = 4000"):
        cgroup.apply(Resources(cpu=Cpu(cpus="4000")))


# devices

USUAL = (
    DeviceRule(allow=False),
    DeviceRule(allow=True, type="c", access="m"),
    DeviceRule(allow=True, type="b", access="m"),
    DeviceRule(allow=True, type="c", major=1, minor=3),
    DeviceRule(allow=True, type="c", major=1, minor=5, access="r"),
)
OPENS = """
import os
said = []
for path, flags in (
    ("/dev/null", os.O_RDWR),
    ("/dev/zero", os.O_RDONLY),
    ("/dev/zero", os.O_RDWR),
    ("/dev/full", os.O_RDONLY),
):
    try:
        os.close(os.open(path, flags))
        said.append("yes")
    except PermissionError:
        said.append("no")
print(*said, flush=True)
sys.stdin.read()
"""


def test_devices_as_the_process_meets_them(cgroup: Cgroup, start: Start) -> None:
    cgroup.apply(Resources(devices=USUAL))
    assert answer(start(OPENS)) == "yes yes no no"


def test_devices_are_in_the_kernels_list(cgroup: Cgroup) -> None:
    on_v1("devices")
    cgroup.apply(Resources(devices=USUAL))
    listed = kernel_file("devices", "devices.list").splitlines()
    assert sorted(listed) == ["b *:* m", "c *:* m", "c 1:3 rwm", "c 1:5 r"]
    cgroup.apply(Resources(devices=(DeviceRule(allow=True),)))
    assert kernel_file("devices", "devices.list") == "a *:* rwm"


def test_the_kernel_takes_the_device_program_and_obeys_it(cgroup: Cgroup, start: Start) -> None:
    """On the v2 mount, whatever version the driver uses for devices here."""
    fd = cgroup.open_v2()
    if fd is None:
        pytest.skip("this host has no cgroup v2 mount")
    try:
        attach_device_program(fd, compile_device_program(USUAL))
        assert answer(start(OPENS)) == "yes yes no no"
        # A second one takes the first one's place.
        attach_device_program(fd, compile_device_program((DeviceRule(allow=True),)))
        assert answer(start(OPENS)) == "yes yes yes yes"
        attach_device_program(fd, compile_device_program((*USUAL, DeviceRule(allow=False))))
        assert answer(start(OPENS)) == "no no no no"
    finally:
        os.close(fd)


def test_the_verifier_takes_programs_of_every_shape(cgroup: Cgroup) -> None:
    fd = cgroup.open_v2()
    if fd is None:
        pytest.skip("this host has no cgroup v2 mount")
    numbers = ((None, None), (1, None), (None, 3), (1048575, 1048575))
    every = tuple(
        DeviceRule(allow, kind, major, minor, access)
        for allow in (True, False)
        for kind in "abc"
        for major, minor in numbers
        for access in ("r", "rw", "rwm")
    )
    try:
        for rule in every:
            attach_device_program(fd, compile_device_program((rule,)))
        attach_device_program(fd, compile_device_program(every))
        attach_device_program(fd, compile_device_program(()))
    finally:
        os.close(fd)


# the others


def test_io_is_counted_by_device(cgroup: Cgroup, start: Start, tmp_path: Path) -> None:
    needs("io")
    disk = disk_of(tmp_path)
    # Since Linux 6.9 v1 counts a disk only from the first rate that is set for it.
    rate = (ThrottleDevice(*disk, 1 << 40),)
    assert cgroup.apply(Resources(block_io=BlockIO(throttle_read_bps_device=rate))) == ()
    program = f"""
import mmap, os
fd = os.open({str(tmp_path / "file")!r}, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
page = mmap.mmap(-1, 65536)
page.write(b"x" * 65536)
os.pwrite(fd, page, 0)
os.fsync(fd)
os.preadv(fd, [page], 0)
"""
    assert start(program).wait(timeout=20) == 0
    (row,) = [row for row in cgroup.stats().io or () if (row.major, row.minor) == disk]
    assert row.write_bytes >= 65536
    assert row.read_bytes >= 65536
    assert row.write_ops >= 1
    assert row.read_ops >= 1


def test_io_throttles_are_in_the_kernels_files(cgroup: Cgroup, tmp_path: Path) -> None:
    on_v1("blkio")
    major, minor = disk_of(tmp_path)
    device = ThrottleDevice(major, minor, MIB)
    assert cgroup.apply(Resources(block_io=BlockIO(throttle_read_bps_device=(device,)))) == ()
    shown = kernel_file("blkio", "blkio.throttle.read_bps_device")
    assert shown == f"{major}:{minor} {MIB}"


def test_a_disk_that_does_not_exist_is_named(cgroup: Cgroup) -> None:
    needs("io")
    device = ThrottleDevice(4000, 1, MIB)
    with pytest.raises(NotFound, match="4000:1"):
        cgroup.apply(Resources(block_io=BlockIO(throttle_read_bps_device=(device,))))


def disk_of(path: Path) -> tuple[int, int]:
    """The whole disk under a path: rates are set on disks, not on partitions."""
    device = os.stat(path).st_dev
    where = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    if not where.exists():
        pytest.skip(f"{path} is on no block device")
    where = where.resolve()
    if (where / "partition").exists():
        where = where.parent
    major, minor = (where / "dev").read_text().split(":")
    return int(major), int(minor)


def test_a_hugepage_limit_enables_the_controller_on_v2(cgroup: Cgroup) -> None:
    needs("hugetlb")
    v2 = LAYOUT.v2
    if v2 is None or "hugetlb" not in v2.controllers:
        pytest.skip("this host has no hugetlb controller on cgroup v2")
    control = f"{v2.mount_point}/cgroup.subtree_control"
    with open(control) as file:
        before = file.read().split()
    resources = Resources(hugepage_limits=(HugepageLimit("2MB", 4 * MIB),))
    huge = Cgroup(LAYOUT, f"{PARENT}/huge")
    try:
        huge.create(resources)
        assert huge.apply(resources) == ()
        (row,) = [row for row in huge.stats().hugetlb if row.page_size == "2MB"]
        assert row.limit_bytes == 4 * MIB
        assert row.usage_bytes == 0
        # Also for one that is there already, and by name.
        assert cgroup.apply(Resources(unified={"hugetlb.2MB.max": str(2 * MIB)})) == ()
        assert {r.page_size: r.limit_bytes for r in cgroup.stats().hugetlb}["2MB"] == 2 * MIB
    finally:
        assert huge.remove()
        if "hugetlb" not in before:
            for path in (f"{v2.mount_point}/{PARENT}", v2.mount_point):
                with open(f"{path}/cgroup.subtree_control", "w") as file:
                    file.write("-hugetlb")


def test_network_classes_are_named_where_nobody_mounted_them(cgroup: Cgroup) -> None:
    if LAYOUT.hierarchy("net_cls", "") is not None:
        pytest.skip("this host has mounted net_cls")
    (warning,) = cgroup.apply(Resources(network=NetworkResources(class_id=1)))
    assert "net_cls" in warning or "class id" in warning


def test_statistics_equal_the_kernels_files(cgroup: Cgroup, start: Start) -> None:
    for name in ("cpuacct", "memory", "pids"):
        on_v1(name)
    process = start("x = bytearray(b'x') * (4 << 20)\nprint(flush=True); input()")
    answer(process)
    cgroup.freeze()  # the numbers stand still with the process
    shown = cgroup.stats()
    assert shown.cpu and shown.memory and shown.pids
    assert shown.cpu.usage_ns == int(kernel_file("cpuacct", "cpuacct.usage"))
    assert shown.cpu.user_ns == int(kernel_file("cpuacct", "cpuacct.usage_user"))
    assert shown.memory.usage_bytes == int(kernel_file("memory", "memory.usage_in_bytes"))
    stat = dict(line.split() for line in kernel_file("memory", "memory.stat").splitlines())
    assert shown.memory.anon_bytes == int(stat["total_rss"])
    assert shown.memory.cache_bytes == int(stat["total_cache"])
    assert shown.pids.current == 1
    cgroup.thaw()


def test_limits_and_statistics_equal_the_kernels_v2_files(cgroup: Cgroup, start: Start) -> None:
    v2 = LAYOUT.v2
    if v2 is None or not {"cpu", "memory", "pids"} <= set(v2.controllers):
        pytest.skip("this host has not cpu, memory and pids on cgroup v2")

    def text(file: str) -> str:
        with open(f"{v2.mount_point}/{cgroup.path}/{file}") as content:
            return content.read().strip()

    answer(start("x = bytearray(b'x') * (4 << 20)\nprint(flush=True); input()"))
    for limit in (64, 256, 32):
        memory = Memory(limit=limit * MIB, reservation=limit * MIB // 2)
        assert cgroup.apply(Resources(memory=memory, pids=Pids(limit=limit))) == ()
        assert text("memory.max") == str(limit * MIB)
        assert text("memory.low") == str(limit * MIB // 2)
        assert text("pids.max") == str(limit)
    cgroup.apply(Resources(cpu=Cpu(quota=50000, period=100000, shares=1024)))
    cgroup.apply(Resources(cpu=Cpu(period=20000, burst=1000)))
    assert (text("cpu.max"), text("cpu.weight")) == ("50000 20000", "100")
    assert text("cpu.max.burst") == "1000"
    cgroup.freeze()  # the numbers stand still with the process
    shown = cgroup.stats()
    assert shown.cpu and shown.memory and shown.pids
    used = dict(line.split() for line in text("cpu.stat").splitlines())
    assert shown.cpu.usage_ns == int(used["usage_usec"]) * 1000
    assert shown.memory.usage_bytes == int(text("memory.current"))
    stat = dict(line.split() for line in text("memory.stat").splitlines())
    assert shown.memory.anon_bytes == int(stat["anon"])
    assert (shown.pids.current, shown.pids.limit) == (1, 32)
    cgroup.thaw()


def test_the_page_size_is_what_limits_are_rounded_to(cgroup: Cgroup) -> None:
    needs("memory")
    cgroup.apply(Resources(memory=Memory(limit=MIB + 1)))
    shown = cgroup.stats().memory
    assert shown is not None
    assert shown.limit_bytes is not None
    assert MIB <= shown.limit_bytes < MIB + mmap.PAGESIZE
