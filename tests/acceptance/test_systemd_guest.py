"""Containers in scopes of a real systemd: Debian's, as the init of a guest.

`ONGGI_GUEST=all` (`make test-cgroup2`) brings podman there as the caller too.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from guest_rig import HYBRID, run_under_systemd

SUITES = ["acceptance/test_systemd.py"]
if os.environ.get("ONGGI_GUEST") == "all":
    SUITES.append("acceptance/test_caller_podman.py::test_the_life_of_a_container")


@pytest.fixture
def guest() -> None:
    if Path("/run/systemd/system").is_dir():
        pytest.skip("systemd is this host's init itself: the suites run on it")


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("guest")
def test_under_systemd(tmp_path: Path) -> None:
    report = run_under_systemd(tmp_path, SUITES, timeout_s=580)
    assert " passed" in report
    assert "skipped" not in report


@pytest.mark.timeout(200)
@pytest.mark.usefixtures("guest")
def test_under_systemd_with_cgroup_v1(tmp_path: Path) -> None:
    suites = ("acceptance/test_systemd_v1.py",)
    assert "1 passed" in run_under_systemd(tmp_path, suites, words=HYBRID, timeout_s=180)
