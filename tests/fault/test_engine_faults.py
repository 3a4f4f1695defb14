"""Every effectful system call of engine, monitor and keel may fail, or be the last one: nothing is
leaked, nothing is stuck, and the next engine agrees with the machine within five seconds."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
from pathlib import Path

import pytest

from acceptance import rig
from fault.engine_rig import (
    OPERATIONS,
    Fault,
    Operation,
    abandon,
    clean,
    faults,
    need_strace,
    points_of,
    strike,
)

WANTED = os.environ.get("ONGGI_FAULTS", "6")
SEED = int(os.environ.get("ONGGI_SEED", "20261124"))

pytestmark = pytest.mark.timeout(120 if WANTED == "6" else 4 * 3600)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_a_fault_at_any_point(operation: Operation, tmp_path: Path) -> None:
    need_strace()
    with rig.engine(tmp_path / "first") as onggi:
        points = points_of(onggi, operation, tmp_path / "trace")
    assert sum(points.values()) > 5, "the operation makes calls that were seen"
    tried = faults(points, WANTED, random.Random(f"{SEED} {operation.name}"))
    found: list[str] = []
    slowest, rest = 0.0, list(tried)
    while rest:
        with contextlib.suppress(_Failed), rig.engine(tmp_path / str(len(rest))) as onggi:
            while rest:
                slowest = max(slowest, _try(onggi, operation, rest.pop(), found))
    print(
        f"{operation.name}: {sum(points.values())} points, {len(tried)} faults, "
        f"{len(found)} not survived, slowest recovery {slowest:.2f} s"
    )
    assert not found, f"seed {SEED}:\n" + "\n".join(found)


class _Failed(Exception):
    """The engine of these faults is not fit for more."""


def _try(onggi: rig.Onggi, operation: Operation, fault: Fault, found: list[str]) -> float:
    try:
        took_s = strike(onggi, operation, fault)
        clean(onggi)
    except (AssertionError, subprocess.TimeoutExpired) as error:
        found.append(f"{operation.name}, {fault.injection}: {error}")
        print(found[-1], flush=True)
        abandon(onggi)
        raise _Failed from None
    return took_s
