"""Thousands of containers made, started and deleted, many at a time: the machine is as before.

ONGGI_CYCLES says how many; every way of ending one has its share.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from acceptance.wire_rig import settled_descriptors
from faces.oci_rig import NEEDS_ROOT_AND_BUSYBOX, Runtime, eventually
from faces.oci_warm_rig import Warm
from fault.engine_rig import adopting, children, descendants
from onggi.kernel.cgroups.layout import CgroupLayout

CYCLES = int(os.environ.get("ONGGI_CYCLES", "200"))
AT_ONCE = 64
_CALL_S = 60

pytestmark = [NEEDS_ROOT_AND_BUSYBOX, pytest.mark.timeout(120 if CYCLES <= 200 else 4 * 3600)]


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    warm = Warm(tmp_path / "bin")
    runtime = Runtime(tmp_path, [str(warm.front)])
    del runtime.environment["ONGGI_NO_WARM"]
    with adopting():
        yield runtime
        runtime.clean()
        warm.end()


class Crew:
    """Containers through their lives; what a verb answered in vain is kept."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._ends = runtime.bundle("/bin/true")
        self._stays = runtime.bundle("/bin/sleep", "1000")
        self.refused: list[str] = []

    def cycle(self, number: int) -> None:
        """One life: it ends by itself, is killed, is deleted as it runs, or never started."""
        container = self._runtime.name(f"c{number}")
        way = number % 4
        bundle = self._ends if way == 0 else self._stays
        self._call("create", "-b", str(bundle), container)
        if way != 3:
            self._call("start", container)
        if way == 1:
            self._call("exec", container, "/bin/true")
            self._call("kill", container, "KILL")
        if way in (0, 1):
            self._wait_for_end(container)
        self._call("delete", *(("--force",) if way == 2 else ()), container)

    def _wait_for_end(self, container: str) -> None:
        deadline = time.monotonic() + _CALL_S
        while '"stopped"' not in self._call("state", container):
            if time.monotonic() > deadline:
                self.refused.append(f"{container} does not end")
                return
            time.sleep(0.02)

    def _call(self, *words: str) -> str:
        out = self._runtime.place / f"{threading.get_ident()}.out"
        with open(out, "w+") as file:
            done = subprocess.run(
                [*self._runtime.words, "--root", str(self._runtime.root), *words],
                env=self._runtime.environment, stdin=subprocess.DEVNULL, stdout=file,
                stderr=file, timeout=_CALL_S, check=False,
            )  # fmt: skip
            file.seek(0)
            said = file.read()
        out.unlink()
        if done.returncode:
            self.refused.append(f"{' '.join(words)}: {done.returncode}: {said.strip()}")
        return said


def left(runtime: Runtime, known: Set[int]) -> list[str]:
    """What the kernel and the disk have of its containers; processes but the known ones."""
    found = [
        name
        for pid, name in descendants().items()
        if pid not in known and not name.startswith("python")
    ]
    for hierarchy in CgroupLayout.probe().every:
        found += map(str, Path(hierarchy.mount_point).glob(f"{runtime.prefix}*"))
    found += map(str, runtime.root.glob("*"))
    found += [row for row in rows_of("/proc/net/unix") if str(runtime.root) in row]
    return found + [row for row in rows_of("/proc/keys") if runtime.prefix in row]


def mounts_of(runtime: Runtime) -> list[str]:
    return [row for row in rows_of("/proc/self/mountinfo") if str(runtime.place) in row]


def rows_of(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def totals() -> str:
    """Of the whole machine, where others work too: told, not compared."""
    cgroups = {row.split()[0]: int(row.split()[2]) for row in rows_of("/proc/cgroups")[1:]}
    processes = sum(name.isdecimal() for name in os.listdir("/proc"))
    return f"{processes} processes, cgroups {cgroups}, files {rows_of('/proc/sys/fs/file-nr')[0]}"


def test_the_machine_is_as_it_was(runtime: Runtime) -> None:
    crew, known = Crew(runtime), descendants().keys()
    for number in range(4):
        crew.cycle(number)
    server = eventually(lambda: next(iter(warm_processes()), 0))
    eventually(lambda: len(children(server)) == 3)
    eventually(lambda: left(runtime, known) == [])  # keyrings are collected when nobody looks
    mounts, descriptors = mounts_of(runtime), settled_descriptors(server)
    print(f"before: {len(mounts)} mounts, {descriptors} descriptors; {totals()}")
    began = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(crew.cycle, range(4, 4 + CYCLES)))
    took_s = time.monotonic() - began
    assert crew.refused == []
    eventually(lambda: left(runtime, known) == [])
    assert mounts_of(runtime) == mounts
    eventually(lambda: len(children(server)) == 3)
    assert settled_descriptors(server) == descriptors
    print(f"{CYCLES} cycles, {AT_ONCE} at a time, in {took_s:.1f} s; {totals()}")


def warm_processes() -> list[int]:
    """Those of this test: the others' children are not ours."""
    found = []
    for pid in children(os.getpid()):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        found += [pid] if b"onggi.faces.oci.warm_process" in words else []
    return found
