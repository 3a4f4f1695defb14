"""The whole engine on the kernel of Debian 12 with cgroup v2 alone, as many users have it.

Such a kernel has no erofs from files, no options of overlayfs by descriptor, and no time namespaces
in this build; limits are those of cgroup v2.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from guest_rig import run_in_guest

SUITES = ("acceptance/test_smoke.py", "acceptance/test_limits.py")


@pytest.mark.timeout(600)
def test_on_an_older_kernel_with_cgroup_v2_alone(tmp_path: Path) -> None:
    report = run_in_guest(
        tmp_path,
        SUITES,
        modules=("overlay", "bridge", "veth", "nf_tables"),
        disk_mib=1024,
        timeout_s=500,
    )
    assert " passed" in report
