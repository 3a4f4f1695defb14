"""The cgroup suites once more on a kernel with cgroup v2 alone.

Most hosts of users are such; the kernel that the tests run on may not be.
"""

from pathlib import Path

from guest_rig import run_in_guest

SUITES = ("contract/test_cgroup_driver.py", "kernel/test_cgroups_limits.py")


def test_on_a_kernel_with_cgroup_v2_alone(tmp_path: Path) -> None:
    assert " passed" in run_in_guest(tmp_path, SUITES, "-k", "'host or limits'", timeout_s=100)


def test_users_cgroups_on_a_kernel_with_cgroup_v2_alone(tmp_path: Path) -> None:
    report = run_in_guest(tmp_path, ("faces/test_oci_delegation.py",), timeout_s=200)
    assert "5 passed" in report, report
