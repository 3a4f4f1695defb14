"""Every effectful system call of engine, monitor and keel may fail, or be the last one: nothing is
leaked, nothing is stuck, and the next engine agrees with the machine within five seconds."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance import rig
from fault.engine_rig import OPERATIONS, Operation, Scene, adopting, faults
from fault.injector import Fault, Injector, Point, build
from onggi.errors import EngineError

WANTED = os.environ.get("ONGGI_FAULTS", "6")
SEED = int(os.environ.get("ONGGI_SEED", "20261124"))

pytestmark = pytest.mark.timeout(120 if WANTED == "6" else 8 * 3600)


@pytest.fixture(scope="module")
def injector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Injector]:
    built = build(tmp_path_factory.mktemp("injector"))
    with adopting():
        yield built


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_a_fault_at_any_point(operation: Operation, injector: Injector, tmp_path: Path) -> None:
    tally = Tally(operation)
    rest: list[Fault] | None = None
    while (rest is None and not tally.found) or rest:
        with tally.noting(), rig.engine(tmp_path / f"{tally.tried}") as onggi:
            scene = Scene(onggi.root, injector, operation)
            if rest is None:
                tally.points = sorted({*scene.points(), *scene.points()})
                assert len(tally.points) > 5, "the operation makes calls that were seen"
                dice = random.Random(f"{SEED} {operation.name}")
                rest = faults(operation.name, tally.points, WANTED, dice)
            while rest:
                tally.strike(scene, rest.pop())
    print(tally)
    assert not tally.found, f"seed {SEED}:\n" + "\n".join(tally.found)


class _Failed(Exception):
    """The engine of these faults is not fit for more."""


_NOT_SURVIVED = (AssertionError, EngineError, subprocess.SubprocessError, OSError)


class Tally:
    """What the faults of one operation have shown."""

    def __init__(self, operation: Operation) -> None:
        self._operation = operation
        self.points: list[Point] = []
        self.tried = self._hit = 0
        self._slowest_s, self._slowest = 0.0, "none"
        self._silent: Counter[str] = Counter()
        self.found: list[str] = []

    def strike(self, scene: Scene, fault: Fault) -> None:
        """Raises: _Failed."""
        self.tried += 1
        try:
            struck = scene.strike(fault)
        except _NOT_SURVIVED as error:
            self._note(f"{fault}: {error!r}")
            scene.abandon()
            raise _Failed from None
        self._hit += struck.hit
        if struck.silent:
            self._silent[f"{fault.point.role} {fault.point.call}"] += 1
        if struck.recovery_s > self._slowest_s:
            self._slowest_s, self._slowest = struck.recovery_s, str(fault)
        if self.tried % 100 == 0:
            print(self, flush=True)

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        """Go on after an engine that is not fit for more."""
        try:
            yield
        except _Failed:
            return
        except _NOT_SURVIVED as error:
            self._note(f"before or after all faults: {error!r}")

    def _note(self, text: str) -> None:
        self.found.append(f"{self._operation.name}, {text}")
        print(self.found[-1], flush=True)

    def __str__(self) -> str:
        roles = Counter(point.role for point in self.points)
        return (
            f"{self._operation.name}: {len(self.points)} points {dict(roles)}, "
            f"{self.tried} faults, {self._hit} came to pass, {len(self.found)} not survived, "
            f"slowest recovery {self._slowest_s:.2f} s ({self._slowest}); "
            f"succeeded nevertheless: {dict(self._silent.most_common())}"
        )
