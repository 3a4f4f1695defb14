"""Fixtures: one engine for a module, or one for a test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance import probe as hostile
from acceptance import rig


@pytest.fixture(autouse=True, scope="session")
def _needs() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if shutil.which("busybox") is None:
        pytest.skip("needs busybox-static")


@pytest.fixture(scope="module")
def onggi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[rig.Onggi]:
    """An engine that the module's tests share."""
    with rig.engine(tmp_path_factory.mktemp("og") / "root") as running:
        yield running


@pytest.fixture
def own_onggi(tmp_path: Path) -> Iterator[rig.Onggi]:
    """An engine of the test's own, to be killed for instance."""
    with rig.engine(tmp_path / "root") as running:
        yield running


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> hostile.Probe:
    """The hostile program, compiled once."""
    return hostile.build(tmp_path_factory.mktemp("probe"))
