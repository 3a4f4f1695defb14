"""User-Mode Linux as a second host: an older kernel (Debian's), cgroup v2 alone, the same files.

The guest runs test suites of this tree over hostfs, on a disk of its own where they need one that
takes mounts. It shares the processor with everybody, and is five to ten times slower.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from onggi.kernel.cgroups.layout import CgroupLayout

TESTS = Path(__file__).parent
MODULES = Path("/usr/lib/uml/modules")

MACHINE = (
    "mem=1G root=/dev/root rootfstype=hostfs rootflags=/ rw con=null con0=fd:0,fd:1 umid=guest"
).split()

INIT = """#!/bin/sh
export PATH=/usr/bin:/bin:/usr/sbin:/sbin PYTHONDONTWRITEBYTECODE=1
mount -t proc none /proc
mount -t sysfs none /sys
mountpoint -q /dev || mount -t devtmpfs none /dev
mkdir -p /dev/shm /dev/pts
mount -t tmpfs none /dev/shm
mount -t devpts -o ptmxmode=0666 none /dev/pts
ln -s /proc/self/fd /dev/fd
for number in 0:stdin 1:stdout 2:stderr; do ln -s fd/${{number%:*}} /dev/${{number#*:}}; done
mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs none /run
ip link set lo up
for module in {modules}; do busybox insmod $module; done
mkdir /run/disk
if [ -b /dev/ubda ]; then mount -t ext4 /dev/ubda /run/disk; else mount -t tmpfs t /run/disk; fi
cd {root}
{python} -m pytest -q -p no:cacheprovider --basetemp=/run/disk/t {options} {suites} \\
    >{out}/report 2>&1
echo $? >{out}/status
find /sys/fs/cgroup -mindepth 1 -type d -name 'onggi*' >{out}/left
sync
echo o >/proc/sysrq-trigger
sleep 60
"""


def need_guest() -> str:
    """The guest's kernel; skips where the host is like the guest, or there is none."""
    if CgroupLayout.probe().mode == "v2":
        pytest.skip("this host is such a kernel itself")
    kernel = shutil.which("linux.uml")
    if kernel is None:
        pytest.skip("linux.uml is not installed (Debian: user-mode-linux)")
    return kernel


def run_in_guest(
    place: Path,
    suites: Sequence[str],
    *options: str,
    modules: Sequence[str] = (),
    disk_mib: int = 0,
    timeout_s: float,
) -> str:
    """pytest's report on `suites` (paths below `tests/`) in a fresh guest, where all passed.

    `modules`: of the guest's kernel, with what they need. `disk_mib`: of an ext4 disk, for what a
    tmpfs cannot do on that kernel.
    """
    kernel = need_guest()
    init = place / "init"
    init.write_text(
        INIT.format(
            root=TESTS.parent,
            python=sys.executable,
            suites=" ".join(str(TESTS / suite) for suite in suites),
            options=" ".join(options),
            modules=" ".join(_with_needs(modules)),
            out=place,
        )
    )
    init.chmod(0o755)
    words = [kernel, *MACHINE, f"init={init}", f"uml_dir={place}/"]
    if disk_mib:
        disk = place / "disk"
        with disk.open("wb") as file:
            file.truncate(disk_mib << 20)
        subprocess.run(["mkfs.ext4", "-q", str(disk)], check=True)
        words.append(f"ubd0={disk}")
    guest = subprocess.run(
        words,
        env={**os.environ, "TMPDIR": str(place)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=timeout_s,
        check=False,
    )
    report = place / "report"
    assert report.exists(), guest.stdout.decode(errors="replace")
    text = report.read_text()
    assert (place / "status").read_text() == "0\n", text
    assert (place / "left").read_text() == ""
    return text


def _with_needs(modules: Sequence[str]) -> list[str]:
    """Module files in the order in which they can be loaded."""
    if not modules:
        return []
    (release,) = MODULES.iterdir()
    needs = {}
    for line in (release / "modules.dep").read_text().splitlines():
        file, _, others = line.partition(":")
        needs[Path(file).stem] = (file, others.split())
    ordered: dict[str, None] = {}
    for module in modules:
        file, others = needs[module]
        ordered.update(dict.fromkeys([*reversed(others), file]))
    return [str(release / file) for file in ordered]
