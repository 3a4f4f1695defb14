"""Limits of a cgroup that lives are changed whole or not at all; and whether it stands still."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from onggi.errors import EngineError, NotFound
from onggi.kernel.cgroups.driver import Cgroup
from onggi.kernel.cgroups.layout import CgroupLayout
from onggi.kernel.cgroups.rule import Change, Lacking, Write
from onggi.kernel.cgroups.undo import inverse
from onggi.specs.runtime import Cpu, Memory, Pids, Resources

PARENT = f"onggi-update-{os.getpid()}"
#: Holds 32 MiB that cannot be given back.
HOG = "m = bytearray(b'x') * (32 << 20); print(flush=True); input()"


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    made = Cgroup(CgroupLayout.probe(), f"{PARENT}/one")
    made.create(Resources(memory=Memory(limit=1 << 30), pids=Pids(limit=100)))
    yield made
    made.kill()
    deadline = time.monotonic() + 20
    while not made.remove():
        assert time.monotonic() < deadline
        time.sleep(0.002)
    assert made.remove_parent_if_empty()


def value(cgroup: Cgroup, *names: str) -> str:
    """The first of these files that the host has."""
    for hierarchy in cgroup.layout.hierarchies:
        for name in names:
            path = Path(hierarchy.mount_point, cgroup.path, name)
            if path.exists():
                return path.read_text().strip()
    pytest.skip(f"this host has no {names}")


def limits(cgroup: Cgroup) -> tuple[str, ...]:
    return (
        value(cgroup, "memory.limit_in_bytes", "memory.max"),
        value(cgroup, "memory.memsw.limit_in_bytes", "memory.swap.max"),
        value(cgroup, "pids.max"),
        value(cgroup, "cpu.cfs_quota_us", "cpu.max"),
        value(cgroup, "cpu.shares", "cpu.weight"),
    )


BEFORE = Resources(
    memory=Memory(limit=256 << 20, swap=512 << 20), pids=Pids(limit=50), cpu=Cpu(shares=512)
)


def test_limits_go_up_and_down(cgroup: Cgroup) -> None:
    cgroup.apply(BEFORE)
    for size in (64 << 20, 512 << 20, 128 << 20):
        _, undo = cgroup.update(Resources(memory=Memory(limit=size, swap=2 * size)))
        assert limits(cgroup)[0] == str(size)
    cgroup.restore(undo)
    assert limits(cgroup)[0] == str(512 << 20)
    assert limits(cgroup)[2] == "50"


def test_a_refusal_leaves_what_was(cgroup: Cgroup) -> None:
    cgroup.apply(BEFORE)
    before = limits(cgroup)
    changed = Resources(
        cpu=Cpu(quota=50_000, period=100_000, shares=100),
        memory=Memory(limit=128 << 20, swap=128 << 20),
        pids=Pids(limit=1 << 40),  # more than the kernel has
    )
    with pytest.raises(EngineError, match=r"pids\.max"):
        cgroup.update(changed)
    assert limits(cgroup) == before


def test_a_limit_below_what_is_held_is_refused(cgroup: Cgroup) -> None:
    if not Path("/sys/fs/cgroup/memory").is_dir():
        pytest.skip("cgroup v2 takes any memory limit")
    cgroup.apply(Resources(memory=Memory(limit=256 << 20, swap=256 << 20)))
    gate = f"import sys; sys.stdin.readline()\n{HOG}"
    hog = subprocess.Popen(
        [sys.executable, "-Sc", gate], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert hog.stdin and hog.stdout
    try:
        for path in cgroup.procs_paths():
            Path(path).write_text(str(hog.pid))
        hog.stdin.write("go\n")
        hog.stdin.flush()
        hog.stdout.readline()
        before = limits(cgroup)
        small = Resources(memory=Memory(limit=8 << 20, swap=8 << 20), pids=Pids(limit=7))
        with pytest.raises(EngineError, match="more is in use"):
            cgroup.update(small)
        assert limits(cgroup) == before
    finally:
        hog.kill()
        hog.communicate()


def test_whether_it_stands_still(cgroup: Cgroup) -> None:
    assert not cgroup.frozen()
    cgroup.freeze()
    assert cgroup.frozen()
    cgroup.thaw()
    assert not cgroup.frozen()
    missing = Cgroup(cgroup.layout, f"{PARENT}/none")
    assert not missing.frozen()
    with pytest.raises(NotFound):
        missing.update(Resources())


class Texts:
    """Files from a dictionary."""

    def __init__(self, **files: str) -> None:
        self._files = {name.replace("__", "."): text for name, text in files.items()}

    def read(self, name: str) -> str | None:
        return self._files.get(name)

    def names(self) -> list[str]:
        return list(self._files)


@pytest.mark.parametrize(
    ("change", "files", "back"),
    [
        (Write("pids.max", "5"), Texts(pids__max="max\n"), "max"),
        (Write("cpu.max", "5 10"), Texts(cpu__max="max 100000\n"), "max 100000"),
        (Write("cpuset.cpus", "0"), Texts(cpuset__cpus="\n"), "\n"),
        (Write("memory.oom_control", "1"),
         Texts(memory__oom_control="oom_kill_disable 0\nunder_oom 0\n"), "0"),
        (Write("io.max", "8:0 rbps=5"), Texts(io__max=""), "8:0 rbps=max"),
        (Write("io.max", "8:0 rbps=5"),
         Texts(io__max="8:16 rbps=1\n8:0 rbps=9 wbps=max\n"), "8:0 rbps=9 wbps=max"),
        (Write("blkio.throttle.read_bps_device", "8:0 5"),
         Texts(blkio__throttle__read_bps_device=""), "8:0 0"),
        (Write("io.bfq.weight", "5"), Texts(io__bfq__weight="default 100\n8:0 7\n"), "default 100"),
    ],
)  # fmt: skip
def test_what_brings_a_file_back(change: Write, files: Texts, back: str) -> None:
    assert inverse((change,), files) == (Write(change.file, back),)


def test_what_cannot_be_brought_back_is_left_out() -> None:
    changes: tuple[Change, ...] = (Lacking("no such thing"), Write("memory.high", "1"))
    assert inverse(changes, Texts()) == ()
