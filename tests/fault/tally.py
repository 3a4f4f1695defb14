"""Faults of one operation: which are tried, and what they have shown."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from fault.injector import KINDS, Fault, Point
from onggi.errors import EngineError

#: How many faults of each operation are tried; `all`: every kind at every point.
WANTED = os.environ.get("ONGGI_FAULTS", "6")
SEED = int(os.environ.get("ONGGI_SEED", "20261124"))
_NOT_SURVIVED = (AssertionError, EngineError, subprocess.SubprocessError, OSError)


class Struck(NamedTuple):
    """`hit`: whether the fault came to pass. `recovery_s`: from the command's end until everything
    was as it should be. `silent`: an error came to pass, and the command succeeded nevertheless."""

    hit: bool
    recovery_s: float
    silent: bool


class Scene(Protocol):
    """Where an operation is carried out with faults."""

    def strike(self, fault: Fault) -> Struck:
        """Carry the operation out with one fault, and clean up.

        Raises:
            AssertionError: it was not survived, or the answer was not true.
        """

    def abandon(self) -> None:
        """After a fault that was not survived: end whatever runs, by force."""


def faults(name: str, points: list[Point], found: tuple[str, ...]) -> list[Fault]:
    """All faults at all points of an operation in any order, or as many as are wanted, every kind
    alike; those that were `found` once come last."""
    dice = random.Random(f"{SEED} {name}")
    every = [Fault(point, kind) for point in points for kind in KINDS]
    sample = dice.sample(every, len(every) if WANTED == "all" else min(int(WANTED), len(every)))
    return sample + [Fault.parse(text) for text in found]


class Failed(Exception):
    """The scene of these faults is not fit for more."""


class Tally:
    """What the faults of one operation have shown."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.points: list[Point] = []
        self.tried = self._hit = 0
        self._slowest_s, self._slowest = 0.0, "none"
        self._silent: Counter[str] = Counter()
        self.found: list[str] = []

    def strike(self, scene: Scene, fault: Fault) -> None:
        """Raises: Failed."""
        self.tried += 1
        try:
            struck = scene.strike(fault)
        except _NOT_SURVIVED as error:
            self._note(f"{fault}: {error!r}")
            scene.abandon()
            raise Failed from None
        self._hit += struck.hit
        if struck.silent:
            self._silent[f"{fault.point.role} {fault.point.call}"] += 1
        if struck.recovery_s > self._slowest_s:
            self._slowest_s, self._slowest = struck.recovery_s, str(fault)
        if self.tried % 100 == 0:
            print(self, flush=True)

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        """Go on after a scene that is not fit for more."""
        try:
            yield
        except Failed:
            return
        except _NOT_SURVIVED as error:
            self._note(f"before or after all faults: {error!r}")

    def _note(self, text: str) -> None:
        self.found.append(f"{self.name}, {text}")
        print(self.found[-1], flush=True)

    def __str__(self) -> str:
        roles = Counter(point.role for point in self.points)
        return (
            f"{self.name}: {len(self.points)} points {dict(roles)}, "
            f"{self.tried} faults, {self._hit} came to pass, {len(self.found)} not survived, "
            f"slowest recovery {self._slowest_s:.2f} s ({self._slowest}); "
            f"succeeded nevertheless: {dict(self._silent.most_common())}"
        )
