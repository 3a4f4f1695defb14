"""The real CRIU, where it can work."""

from __future__ import annotations

import shutil
import subprocess

import pytest


def need_criu() -> None:
    """Skips where there is none, or where CRIU itself says that it cannot work on this kernel."""
    path = shutil.which("criu")
    if path is None:
        pytest.skip("host feature missing: criu is not installed")
    said = subprocess.run([path, "check"], capture_output=True, text=True, check=False)
    if said.returncode != 0:
        version = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
        why = (said.stderr + said.stdout).strip() or f"`criu check` answers {said.returncode}"
        pytest.skip(f"host feature missing: criu {version.stdout.split()[1]} on this kernel: {why}")
