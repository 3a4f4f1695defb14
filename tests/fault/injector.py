"""Builds `injector.c` and drives it: which calls processes and what they spawn make, and faults in
them."""

from __future__ import annotations

import collections
import contextlib
import errno
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

ERRORS = ("EIO", "ENOSPC", "ENOMEM", "EMFILE", "EINTR")
KINDS = ("KILL", *ERRORS)
#: Whom to follow, and whose calls theirs are; no role: that of the process's name.
Roots = Sequence[tuple[str, int]]


class Point(NamedTuple):
    """The `number`-th time that anybody of a role makes a call."""

    role: str
    call: str
    number: int


def points_of(counts: Mapping[tuple[str, str], int], roles: Sequence[str]) -> list[Point]:
    """Every call that was counted, by role and name, of these roles."""
    return [
        Point(role, call, number)
        for (role, call), count in sorted(counts.items())
        if role in roles
        for number in range(1, count + 1)
    ]


class Fault(NamedTuple):
    """`kind`: KILL, or the errno that the call answers."""

    point: Point
    kind: str

    def __str__(self) -> str:
        return f"{self.point.role} {self.point.call} {self.point.number} {self.kind}"

    @classmethod
    def parse(cls, text: str) -> Fault:
        """What `str` of a fault says."""
        role, call, number, kind = text.split()
        return cls(Point(role, call, int(number)), kind)


class Injector:
    """The built program."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextlib.contextmanager
    def counting(self, roots: Roots) -> Iterator[collections.Counter[tuple[str, str]]]:
        """Count calls by role and name while the block runs."""
        counts: collections.Counter[tuple[str, str]] = collections.Counter()
        with self._following(roots) as tracer:
            yield counts
            said = _end(tracer)
        for role, call, number in (line.split() for line in said.splitlines()):
            counts[role, call] += int(number)

    @contextlib.contextmanager
    def striking(self, roots: Roots, fault: Fault) -> Iterator[list[bool]]:
        """One fault while the block runs; afterwards the list says whether it came to pass."""
        role, call, number = fault.point
        kind = "KILL" if fault.kind == "KILL" else str(getattr(errno, fault.kind))
        hit: list[bool] = []
        with self._following(roots, role, call, str(number), kind) as tracer:
            yield hit
            hit.append(_end(tracer).startswith("hit"))

    @contextlib.contextmanager
    def _following(self, roots: Roots, *words: str) -> Iterator[subprocess.Popen[str]]:
        named = ",".join(f"{role}={pid}" for role, pid in roots)
        tracer = subprocess.Popen(
            [str(self._path), named, *words], stdout=subprocess.PIPE, text=True
        )
        with tracer:
            try:
                assert tracer.stdout is not None
                assert tracer.stdout.readline() == "ready\n", "the injector follows nobody"
                yield tracer
            finally:
                tracer.terminate()


def _end(tracer: subprocess.Popen[str]) -> str:
    tracer.terminate()
    assert tracer.stdout is not None
    return tracer.stdout.read()


def build(directory: Path) -> Injector:
    """Compile it; skips where that, or tracing, is not possible."""
    if platform.machine() != "x86_64":
        pytest.skip("needs x86-64: the injector writes its registers")
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler (cc) for the injector")
    path = directory / "injector"
    source = Path(__file__).with_name("injector.c")
    words = [compiler, "-O1", "-Wall", "-Wextra", "-Werror", "-o", str(path), str(source)]
    subprocess.run(words, check=True)
    _need_tracing(path)
    return Injector(path)


def _need_tracing(injector: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        words = [str(injector), f"engine={sleeper.pid}", "engine", "kill", "1", "KILL"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as tracer:
            assert tracer.stdout is not None
            allowed = tracer.stdout.readline() == b"ready\n"
            tracer.terminate()
        sleeper.kill()
    if not allowed:
        pytest.skip("this host lets nobody trace (ptrace)")
