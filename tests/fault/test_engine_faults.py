"""Every effectful system call of engine, monitor and keel may fail, or be the last one: nothing is
leaked, nothing is stuck, and the next engine agrees with the machine within five seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance import rig
from fault.engine_rig import FOUND, OPERATIONS, Operation, Scene, adopting
from fault.injector import Fault, Injector, build
from fault.tally import SEED, WANTED, Tally, faults

pytestmark = pytest.mark.timeout(120 if WANTED == "6" else 8 * 3600)


@pytest.fixture(scope="module")
def injector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Injector]:
    built = build(tmp_path_factory.mktemp("injector"))
    with adopting():
        yield built


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_a_fault_at_any_point(operation: Operation, injector: Injector, tmp_path: Path) -> None:
    tally = Tally(operation.name)
    rest: list[Fault] | None = None
    while (rest is None and not tally.found) or rest:
        with tally.noting(), rig.engine(tmp_path / f"{tally.tried}") as onggi:
            scene = Scene(onggi.root, injector, operation)
            if rest is None:
                tally.points = sorted({*scene.points(), *scene.points()})
                assert len(tally.points) > 5, "the operation makes calls that were seen"
                rest = faults(operation.name, tally.points, FOUND.get(operation.name, ()))
            while rest:
                tally.strike(scene, rest.pop())
    print(tally)
    assert not tally.found, f"seed {SEED}:\n" + "\n".join(tally.found)
