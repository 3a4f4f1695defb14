"""The engine and onggi-runtime on the kernel of Debian 12 with cgroup v2 alone, as many users have.

Such a kernel has no erofs from files, no options of overlayfs by descriptor, and no time namespaces
in this build; limits are those of cgroup v2. `ONGGI_GUEST=all` (`make test-cgroup2`) runs every
suite of onggi-runtime, which takes minutes; else it is the one of all verbs and cgroups.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from guest_rig import TESTS, run_in_guest

ENGINE = ("acceptance/test_smoke.py", "acceptance/test_limits.py")
RUNTIME = ("faces/test_oci_lifecycle.py",)


@pytest.mark.timeout(600)
def test_the_engine(tmp_path: Path) -> None:
    report = run_in_guest(
        tmp_path,
        ENGINE,
        modules=("overlay", "bridge", "veth", "nf_tables"),
        disk_mib=1024,
        timeout_s=500,
    )
    assert " passed" in report


@pytest.mark.timeout(1800)
def test_onggi_runtime(tmp_path: Path) -> None:
    suites: tuple[str, ...] = RUNTIME
    if os.environ.get("ONGGI_GUEST") == "all":
        found = (*TESTS.glob("kernel/test_oci_*.py"), *TESTS.glob("faces/test_oci_*.py"))
        suites = tuple(sorted(str(path.relative_to(TESTS)) for path in found))
    report = run_in_guest(tmp_path, suites, modules=("overlay",), disk_mib=2048, timeout_s=1700)
    assert " passed" in report
