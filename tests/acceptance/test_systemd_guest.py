"""Containers in scopes of a real systemd: Debian's, as the init of a guest with cgroup v2 alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from guest_rig import run_under_systemd

SUITES = ("acceptance/test_systemd.py",)


@pytest.mark.timeout(300)
def test_under_systemd(tmp_path: Path) -> None:
    if Path("/run/systemd/system").is_dir():
        pytest.skip("systemd is this host's init itself: the suites run on it")
    report = run_under_systemd(tmp_path, SUITES, timeout_s=280)
    assert " passed" in report
    assert "skipped" not in report
