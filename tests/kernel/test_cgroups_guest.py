"""The cgroup suites once more on a kernel with cgroup v2 alone: User-Mode Linux over hostfs.

Most hosts of users are such; the kernel that the tests run on may not be.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from onggi.kernel.cgroups.layout import CgroupLayout

TESTS = Path(__file__).parent.parent
SUITES = ("contract/test_cgroup_driver.py", "kernel/test_cgroups_limits.py")

INIT = """#!/bin/sh
export PATH=/usr/bin:/bin:/usr/sbin:/sbin PYTHONDONTWRITEBYTECODE=1
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mkdir /dev/shm
mount -t tmpfs none /dev/shm
mount -t cgroup2 none /sys/fs/cgroup
cd {root}
{python} -m pytest -q -p no:cacheprovider --basetemp=/dev/shm/t \\
    -k 'host or limits' {suites} >{out}/report 2>&1
echo $? >{out}/status
find /sys/fs/cgroup -name 'onggi*' >{out}/left
echo o >/proc/sysrq-trigger
sleep 60
"""


def test_on_a_kernel_with_cgroup_v2_alone(tmp_path: Path) -> None:
    if CgroupLayout.probe().mode == "v2":
        pytest.skip("this host is such a kernel itself")
    uml = shutil.which("linux.uml")
    if uml is None:
        pytest.skip("linux.uml is not installed (Debian: user-mode-linux)")
    init = tmp_path / "init"
    suites = " ".join(str(TESTS / suite) for suite in SUITES)
    script = INIT.format(root=TESTS.parent, python=sys.executable, suites=suites, out=tmp_path)
    init.write_text(script)
    init.chmod(0o755)
    guest = subprocess.run(
        [
            uml,
            "mem=768M",
            "root=/dev/root",
            "rootfstype=hostfs",
            "rootflags=/",
            "rw",
            f"init={init}",
            "con=null",
            "con0=fd:0,fd:1",
            f"uml_dir={tmp_path}/",
            "umid=cgroups",
        ],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=100,
        check=False,
    )
    report = tmp_path / "report"
    assert report.exists(), guest.stdout.decode(errors="replace")
    assert (tmp_path / "status").read_text() == "0\n", report.read_text()
    assert (tmp_path / "left").read_text() == ""
    assert " passed" in report.read_text()
