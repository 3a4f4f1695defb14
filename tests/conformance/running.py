"""Run cases, a few at a time, each in a cell of its own, and keep what they said."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .cell import LATE, UNMADE
from .suites import FAIL, STANDS, Case, verdict

CELL = Path(__file__).with_name("cell.py")
# crun's tests use options that runc does not have.
ADAPTERS = {("crun", "runc"): STANDS / "runc_as_crun"}
TIMEOUT_S = 60


@dataclass(frozen=True)
class Result:
    """What a case came to with a runtime, and where its output is."""

    case: Case
    runtime: str
    verdict: str
    log: Path


def run_all(
    cases: Iterable[Case], runtimes: dict[str, Path], logs: Path, at_once: int
) -> Iterator[Result]:
    """Every case with every runtime; results as they come."""
    todo = [(case, name) for case in cases for name in runtimes]
    with ThreadPoolExecutor(at_once) as pool:
        yield from pool.map(lambda t: _run(t[0], t[1], runtimes[t[1]], logs), todo)


def _run(case: Case, name: str, program: Path, logs: Path) -> Result:
    log = logs / name / case.suite / (re.sub(r"[^\w.-]+", "_", case.name) + ".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    # Short, since sockets are bound below, and open to the ids of user namespaces.
    place = Path(tempfile.mkdtemp(prefix="oc-"))
    place.chmod(0o755)
    inside = place / "t"
    inside.mkdir()
    for link, target in case.links:
        (inside / link).symlink_to(target)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(inside),
        "TMPDIR": str(inside),
        "LANG": "C.UTF-8",
        "TERM": "xterm",
        **dict(case.variables),
        case.runtime_variable: str(ADAPTERS.get((case.suite, name), program)),
    }
    command = [sys.executable, str(CELL), str(TIMEOUT_S), str(place), *case.argv]
    try:
        with log.open("wb") as output:
            done = subprocess.run(
                command,
                cwd=case.directory or inside,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
    finally:
        shutil.rmtree(place, ignore_errors=True)
    text = log.read_text(errors="replace")
    if done.returncode == UNMADE:
        raise RuntimeError(f"{case.suite}: {case.name}: {text}")
    if done.returncode == LATE:
        log.write_text(text + f"\n(no end after {TIMEOUT_S} s)\n")
    came_to = verdict(text, done.returncode) if done.returncode != LATE else FAIL
    return Result(case, name, came_to, log)
