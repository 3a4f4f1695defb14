"""A container gets its share and no more: memory, processor, processes, disk. Each limit is looked
at from three sides: what the application meets, what Onggi says, what the kernel's files say."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from acceptance import kernel_side
from acceptance.rig import Onggi, until

MIB = 1 << 20
#: Without swap on top: whether the host has any must not matter.
LIMITS = ("-m", "64m", "--memory-swap", "64m", "--cpus", "0.5", "--pids-limit", "50")
PERIOD_QUOTA_NS = 50_000_000  # half of the 100 ms that a period lasts


@pytest.fixture
def limited(onggi: Onggi, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name that a test gives its container; removed at its end."""
    name = request.node.name.replace("[", "-").replace("]", "")
    yield name
    onggi.run("rm", "-f", name, check=False)


def stats(onggi: Onggi, container: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        onggi.out("stats", "--no-stream", "--format", "json", container)
    )
    return found


def test_more_memory_than_the_limit_is_killed_and_said_so(onggi: Onggi, limited: str) -> None:
    words = ("dd", "if=/dev/zero", "of=/dev/null", "bs=128M", "count=1")
    done = onggi.run("run", "--name", limited, *LIMITS, "busybox", *words, check=False)
    assert done.returncode == 137
    assert done.stderr == ("onggi: killed by the kernel: out of memory at its limit of 64 MiB\n")
    state = onggi.inspect(limited)["State"]
    assert (state["OOMKilled"], state["ExitCode"], state["Running"]) == (True, 137, False)
    assert "out of memory" in onggi.out("ps", "-a", "--filter", f"name={limited}")
    events = onggi.out("events", "--since", "1m", "--until", "0s", "--filter", "event=oom")
    assert onggi.inspect(limited)["Id"] in events


def test_less_memory_than_the_limit_is_not(onggi: Onggi, limited: str) -> None:
    words = ("dd", "if=/dev/zero", "of=/dev/null", "bs=32M", "count=1")
    assert onggi.run("run", "--name", limited, *LIMITS, "busybox", *words).returncode == 0
    assert onggi.inspect(limited)["State"]["OOMKilled"] is False


def test_a_child_that_is_killed_for_memory_does_not_hide(onggi: Onggi, limited: str) -> None:
    script = "dd if=/dev/zero of=/dev/null bs=128M count=1; echo went on; exit 3"
    done = onggi.run("run", "--name", limited, *LIMITS, "busybox", "sh", "-c", script, check=False)
    assert (done.returncode, "went on" in done.stdout) == (3, True)
    assert "out of memory" in done.stderr
    assert onggi.inspect(limited)["State"]["OOMKilled"] is True


def test_a_busy_loop_gets_half_a_processor(onggi: Onggi, limited: str) -> None:
    onggi.run("run", "-d", "--name", limited, *LIMITS, "busybox", "sh", "-c", "while :; do :; done")
    pid = onggi.pid(limited)

    def share() -> float:
        started_ns, used_ns = time.monotonic_ns(), kernel_side.cpu_usage_ns(pid)
        periods, held_back = kernel_side.cpu_periods(pid)
        time.sleep(1.0)
        usage_ns = kernel_side.cpu_usage_ns(pid) - used_ns
        elapsed_ns = time.monotonic_ns() - started_ns
        ended, ended_held_back = kernel_side.cpu_periods(pid)
        # Never more, however busy the host is; one period's quota for where the window was cut.
        assert usage_ns <= 1.1 * (elapsed_ns / 2) + PERIOD_QUOTA_NS
        # Held back by its quota, not by a lack of processors: it used up nearly every period.
        assert ended > periods
        if ended_held_back - held_back < 0.8 * (ended - periods):
            return 0.0
        return usage_ns / elapsed_ns

    # A host that has no half processor to spare for it proves nothing: try again for a while.
    until(lambda: 0.45 <= share() <= 0.55, "the loop gets half a processor, ± 10 %")
    # A sample of `stats` is a quarter of a second: two or three periods.
    told = (float(stats(onggi, limited)["CPUPerc"].rstrip("%")) for _ in range(100))
    until(lambda: 40 <= next(told) <= 60, "stats tell the same")


def test_a_fork_bomb_stops_at_the_limit(onggi: Onggi, limited: str) -> None:
    bomb = "bomb() { bomb | bomb & }; bomb; exec sleep 100"
    onggi.run("run", "-d", "--name", limited, *LIMITS, "busybox", "sh", "-c", bomb)
    pid = onggi.pid(limited)
    until(lambda: kernel_side.refused_forks(pid) > 0, "a fork is refused")
    peak = kernel_side.cgroup_file(pid, "pids", "pids.peak", "pids.peak")
    members = kernel_side.cgroup_file(pid, "pids", "cgroup.procs", "cgroup.procs")
    assert kernel_side.pids(pid, "max") == 50
    for _ in range(20):
        assert len(members.read_text().split()) <= 50
    assert int(stats(onggi, limited)["PIDs"]) <= 50
    if peak.exists():  # Linux 6.6
        assert int(peak.read_text()) == 50
    onggi.run("rm", "-f", limited)
    with contextlib.suppress(OSError):  # it goes while we look
        assert not members.read_text()


def test_stats_and_view_say_what_the_kernel_says(onggi: Onggi, limited: str) -> None:
    script = "sleep 100 & sleep 100 & sleep 100 & echo ready; wait"
    onggi.run("run", "-d", "--name", limited, *LIMITS, "busybox", "sh", "-c", script)
    until(lambda: onggi.out("logs", limited) == "ready", "it is ready")
    pid = onggi.pid(limited)
    before = kernel_side.cpu_usage_ns(pid)
    seen, shown = onggi.view(limited), stats(onggi, limited)
    after = kernel_side.cpu_usage_ns(pid)
    usage = seen["usage"]

    assert kernel_side.pids(pid, "current") == 4 == usage["pids"] == int(shown["PIDs"])
    assert kernel_side.pids(pid, "max") == 50 == usage["pids_limit"]
    assert kernel_side.memory_limit(pid) == 64 * MIB == usage["memory_limit_bytes"]
    assert shown["MemUsage"].endswith(" / 64MiB")
    # Nothing runs in it; the kernel batches its charges, in some dozens of pages per processor.
    assert abs(usage["memory_usage_bytes"] - kernel_side.memory_usage(pid)) <= MIB
    assert before <= usage["cpu_usage_ns"] <= after
    assert seen["limits"] == {
        "memory_bytes": str(64 * MIB), "memory_swap_bytes": str(64 * MIB),
        "nano_cpus": "500000000", "pids_limit": "50",
    }  # fmt: skip
    members = kernel_side.cgroup_file(pid, "pids", "cgroup.procs", "cgroup.procs")
    assert {p["host_pid"] for p in seen["processes"]} == set(map(int, members.read_text().split()))
    assert str(members.parent) in seen["cgroups"]


def test_inside_sees_its_own_limits(onggi: Onggi) -> None:
    script = (
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || "
        "cat /sys/fs/cgroup/memory.max; "
        "cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max; "
        "echo 99 > /sys/fs/cgroup/pids/pids.max || echo 99 > /sys/fs/cgroup/pids.max"
    )
    done = onggi.run("run", "--rm", *LIMITS, "busybox", "sh", "-c", script, check=False)
    assert done.stdout.split() == [str(64 * MIB), "50"]
    assert done.returncode != 0  # and cannot change them


@pytest.mark.parametrize(
    ("options", "controller", "v1", "v2", "expected"),
    [
        (("-m", "64m", "--memory-swap", "96m"), "memory", "memory.memsw.limit_in_bytes",
         "memory.swap.max", (96 * MIB, 32 * MIB)),
        (("--memory-reservation", "32m"), "memory", "memory.soft_limit_in_bytes", "memory.low",
         (32 * MIB, 32 * MIB)),
        (("--cpu-shares", "512"), "cpu", "cpu.shares", "cpu.weight", (512, 59)),
        (("--cpu-period", "50000", "--cpu-quota", "20000"), "cpu", "cpu.cfs_quota_us", "cpu.max",
         (20000, 20000)),
        (("--cpuset-cpus", "0"), "cpuset", "cpuset.cpus", "cpuset.cpus", (0, 0)),
        (("--pids-limit", "-1"), "pids", "pids.max", "pids.max", (-1, -1)),
        ((), "pids", "pids.max", "pids.max", (2048, 2048)),
    ],
    ids=("swap", "reservation", "shares", "quota", "cpuset", "pids-free", "pids-default"),
)  # fmt: skip
def test_a_limit_reaches_the_kernel(
    onggi: Onggi,
    limited: str,
    options: tuple[str, ...],
    controller: str,
    v1: str,
    v2: str,
    expected: tuple[int, int],
) -> None:
    onggi.run("run", "-d", "--name", limited, *options, "busybox", "sleep", "100")
    path = kernel_side.cgroup_file(onggi.pid(limited), controller, v1, v2)
    if not path.exists():
        pytest.skip(f"the host has no {path.name}")
    wanted = expected[0] if path.name == v1 else expected[1]
    assert kernel_side.number(path.read_text().split()[0]) == wanted
    if controller == "cpuset":
        assert kernel_side.status(onggi.pid(limited), "Cpus_allowed_list") == "0"


def test_a_disk_weight_that_the_host_lacks_is_said(onggi: Onggi, limited: str) -> None:
    done = onggi.run(
        "run", "-d", "--name", limited, "--blkio-weight", "300", "busybox", "sleep", "9"
    )
    pid = onggi.pid(limited)
    names = ("blkio.bfq.weight", "io.bfq.weight", "blkio.weight", "io.weight")
    files = [kernel_side.cgroup_file(pid, "blkio", name, name) for name in names]
    has = [file.read_text().split()[-1] for file in files if file.exists()]
    assert "300" in has or "weight" in done.stderr


def test_the_rate_of_disk_writes_is_held(onggi: Onggi, limited: str, tmp_path: Path) -> None:
    disk = kernel_side.disk_of(tmp_path)
    if disk is None:
        pytest.skip("the file system of the temporary directory is on no block device")
    rate, size = 8 * MIB, 8 * MIB

    def written_in_s(*options: str) -> float:
        """Seconds for `size` bytes past the page cache, as the kernel's clock has them."""
        dd = f"dd if=/dev/zero of=/disk/file bs=1M count={size // MIB} oflag=direct 2>&1"
        script = f"cat /proc/uptime; {dd} || exit 9; cat /proc/uptime"
        bind = ("-v", f"{tmp_path}:/disk")
        done = onggi.run("run", "--rm", *bind, *options, "busybox", "sh", "-c", script, check=False)
        if done.returncode == 9:
            pytest.skip(f"no direct writes on the file system of {disk}: {done.stdout}")
        rows = done.stdout.splitlines()
        return float(rows[-1].split()[0]) - float(rows[0].split()[0])

    held_s = written_in_s("--device-write-bps", f"{disk}:{rate}")
    assert held_s >= 0.9 * size / rate
    assert (tmp_path / "file").stat().st_size == size
    # It was the limit, not the disk.
    until(lambda: written_in_s() < held_s / 2, "the disk without limit is twice as fast")


def test_disk_use_is_counted(onggi: Onggi, limited: str, tmp_path: Path) -> None:
    disk = kernel_side.disk_of(tmp_path)
    if disk is None:
        pytest.skip("the file system of the temporary directory is on no block device")
    script = "dd if=/dev/zero of=/disk/file bs=1M count=4 oflag=direct 2>&1 && echo done; sleep 100"
    onggi.run(
        "run", "-d", "--name", limited, "-v", f"{tmp_path}:/disk", "busybox", "sh", "-c", script
    )
    until(lambda: onggi.out("logs", limited).endswith("done"), "it has written")
    usage = onggi.view(limited)["usage"]
    assert usage["block_write_bytes"] >= 4 * MIB
    number = Path(disk).stat().st_rdev
    path = kernel_side.cgroup_file(
        onggi.pid(limited), "blkio", "blkio.throttle.io_service_bytes", "io.stat"
    )
    rows = [
        r for r in path.read_text().splitlines() if f"{os.major(number)}:{os.minor(number)}" in r
    ]
    wrote = [w for r in rows for w in r.replace("wbytes=", "Write ").split()]
    assert int(wrote[wrote.index("Write") + 1]) == usage["block_write_bytes"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-m", "1m"), "less than 6291456 bytes"),
        (("-m", "64m", "--memory-swap", "32m"), "memory plus swap"),
        (("-m", "64m", "--memory-reservation", "65m"), "above --memory"),
        (("--cpus", "0.5", "--cpu-quota", "1"), "use one way"),
        (("--cpuset-cpus", "4000"), "4000"),
        (("--device-write-bps", "/dev/no-such-disk:1m"), "no such device"),
        (("--blkio-weight", "5"), "between 10 and 1000"),
    ],
)
def test_a_limit_that_cannot_be_is_refused_in_one_line(
    onggi: Onggi, options: tuple[str, ...], words: str
) -> None:
    done = onggi.run("run", "--rm", *options, "busybox", "true", check=False)
    if "no cpuset controller on this host" in done.stderr:
        pytest.skip("the host has no cpuset controller")
    assert done.returncode == 125
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("onggi: ")
