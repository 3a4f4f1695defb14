"""Every effectful system call of onggi-runtime, its front, its warm process, keel and init may
fail, or be the last one: the answer is true, and `delete --force` leaves nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path

import pytest

from faces.oci_rig import NEEDS_ROOT_AND_BUSYBOX
from faces.oci_warm_rig import Warm
from fault.engine_rig import adopting
from fault.injector import Fault, Injector, build
from fault.oci_rig import OPERATIONS, Operation, Scene, Zygote
from fault.tally import SEED, WANTED, Tally, faults

pytestmark = [
    NEEDS_ROOT_AND_BUSYBOX,
    pytest.mark.timeout(120 if WANTED == "6" else 8 * 3600),
]
#: Faults that were not survived once, tried each time: by operation, and by way.
FOUND = {
    ("create", "plain"): ("keel:init accept4 1 ENOSPC",),
    ("create", "warm"): ("child dup2 1 EMFILE",),
    ("start", "warm"): ("child fchdir 1 EMFILE", "child sendmsg 2 EIO"),
    # between the execve and the word of it
    ("exec -d", "plain"): tuple(f"keel:create sendmsg {n} KILL" for n in range(2, 6)),
    ("exec -d", "warm"): tuple(f"keel:create sendmsg {n} KILL" for n in range(2, 6)),
    ("kill", "warm"): ("child dup2 6 ENOMEM",),
}


@pytest.fixture(scope="module")
def injector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Injector]:
    built = build(tmp_path_factory.mktemp("injector"))
    with adopting():
        yield built


@pytest.fixture(scope="module")
def warm(injector: Injector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    warm = Warm(tmp_path_factory.mktemp("front") / "bin")
    yield warm
    warm.end()


@pytest.mark.parametrize("way", ["plain", "warm"])
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_a_verb_with_a_fault_at_any_point(
    operation: Operation, way: str, injector: Injector, warm: Warm, tmp_path: Path
) -> None:
    tally = Tally(f"{operation.name}, {way}")
    rest: list[Fault] | None = None
    while (rest is None and not tally.found) or rest:
        place = tmp_path / f"{tally.tried}"
        place.mkdir()
        with (
            tally.noting(),
            Zygote() if way == "plain" else nullcontext() as zygote,
            closing(Scene(place, warm, zygote, injector, operation)) as scene,
        ):
            if rest is None:
                tally.points = sorted({*scene.points(), *scene.points()})
                assert len(tally.points) > 5, "the operation makes calls that were seen"
                rest = faults(tally.name, tally.points, FOUND.get((operation.name, way), ()))
            while rest:
                tally.strike(scene, rest.pop())
    print(tally)
    assert not tally.found, f"seed {SEED}:\n" + "\n".join(tally.found)
