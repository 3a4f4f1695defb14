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

MACHINE = "mem=1G root=/dev/root rootfstype=hostfs rootflags=/ con=null con0=fd:0,fd:1".split()

#: What comes before either init: file systems, modules, a disk.
PREPARE = """#!/bin/sh
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
"""

RUN = """#!/bin/sh
export TMPDIR=/run/disk
cd {root}
{python} -m pytest -q -p no:cacheprovider --basetemp=/run/disk/t {options} {suites} \\
    >{out}/report 2>&1
echo $? >{out}/status
find /sys/fs/cgroup -mindepth 1 -type d -name 'onggi*' >{out}/left
sync
echo o >/proc/sysrq-trigger
sleep 60
"""

#: systemd as init: the host's files are not to be written to, and of its units none is wanted.
SYSTEMD = """
mount -t hostfs none {out} -o {out}
mount -t tmpfs none /var/tmp
export SYSTEMD_UNIT_PATH={out}/units:/run/systemd/transient:/run/systemd/system.control
export SYSTEMD_GENERATOR_PATH=/run/none SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/run/none
{before}
exec /lib/systemd/systemd --system --unit=suites.target --log-target=console --show-status=0 {words}
"""
#: systemd takes these from its own command line, as in containers, for which it takes the guest.
HYBRID = "systemd.unified_cgroup_hierarchy=0"

UNITS = {
    "suites.target": "[Unit]\nRequires=suites.service\n",
    "suites.service": """
[Unit]
DefaultDependencies=no
Requires=dbus.service
After=dbus.service
[Service]
Type=oneshot
Environment=HOME=/root TMPDIR=/var/tmp PYTHONDONTWRITEBYTECODE=1
Environment=PATH=/usr/bin:/bin:/usr/sbin:/sbin
UnsetEnvironment=SYSTEMD_UNIT_PATH
TimeoutStartSec=infinity
ExecStart=/bin/sh {out}/run
""",
    "dbus.socket": """
[Unit]
DefaultDependencies=no
[Socket]
ListenStream=/run/dbus/system_bus_socket
""",
    "dbus.service": """
[Unit]
DefaultDependencies=no
Requires=dbus.socket
[Service]
Type=notify
NotifyAccess=main
ExecStart=/usr/bin/dbus-daemon --system --address=systemd: --nofork --nopidfile --systemd-activation
""",
    "shutdown.target": "[Unit]\nDefaultDependencies=no\n",
}


def need_kernel() -> str:
    """The guest's kernel; skips where there is none."""
    kernel = shutil.which("linux.uml")
    if kernel is None:
        pytest.skip("linux.uml is not installed (Debian: user-mode-linux)")
    return kernel


def need_guest() -> None:
    """Skips where the host is like the guest."""
    if CgroupLayout.probe().mode == "v2":
        pytest.skip("this host is such a kernel itself")


def run_under_systemd(
    place: Path, suites: Sequence[str], *options: str, words: str = "", timeout_s: float
) -> str:
    """As `run_in_guest`, with systemd as the guest's init, and a message bus.

    `words`: for systemd, `HYBRID` for controllers on cgroup v1.
    """
    for program in ("/lib/systemd/systemd", "/usr/bin/dbus-daemon"):
        if not os.access(program, os.X_OK):
            pytest.skip(f"{program} is not installed (Debian: systemd, dbus)")
    (place / "units").mkdir()
    for name, text in UNITS.items():
        (place / "units" / name).write_text(text.format(out=place))
    before = "umount /sys/fs/cgroup" if words else ":"
    last = SYSTEMD.format(out=place, words=words, before=before)
    return _run(place, suites, options, last, ("ro",), timeout_s=timeout_s)


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
    need_guest()
    machine = ["rw"]
    if disk_mib:
        disk = place / "disk"
        with disk.open("wb") as file:
            file.truncate(disk_mib << 20)
        subprocess.run(["mkfs.ext4", "-q", str(disk)], check=True)
        machine.append(f"ubd0={disk}")
    last = f"exec /bin/sh {place}/run\n"
    return _run(place, suites, options, last, machine, modules=modules, timeout_s=timeout_s)


def _run(
    place: Path,
    suites: Sequence[str],
    options: Sequence[str],
    last: str,
    machine: Sequence[str],
    *,
    modules: Sequence[str] = (),
    timeout_s: float,
) -> str:
    """Boot with an init that ends with `last`, which leads to the script `run`."""
    kernel = need_kernel()
    words = {
        "root": TESTS.parent,
        "python": sys.executable,
        "suites": " ".join(str(TESTS / suite) for suite in suites),
        "options": " ".join(options),
        "out": place,
    }
    (place / "run").write_text(RUN.format(**words))
    init = place / "init"
    init.write_text(PREPARE.format(modules=" ".join(_with_needs(modules))) + last)
    init.chmod(0o755)
    guest = subprocess.run(
        [kernel, *MACHINE, *machine, "umid=guest", f"init={init}", f"uml_dir={place}/"],
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
