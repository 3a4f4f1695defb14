"""The three suites: which cases each has, how one is run, and what its output says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# Stand-ins for what a suite needs and Debian does not carry.
STANDS = Path(__file__).parent / "stands"
PASS, FAIL, SKIP = "pass", "fail", "skip"
_RESULT = re.compile(r"^(not )?ok\b *\d*(.*)$", re.MULTILINE)
_BATS_TEST = re.compile(r'^@test "((?:[^"\\]|\\.)*)"', re.MULTILINE)
_SPECIAL = re.compile(r"([.^$*+?()\[\]{}|\\])")
# A file runs its tests when it is loaded; here it only says which.
_LISTING = """
import runpy, sys, tests_utils
tests_utils.tests_main = lambda tests: print(*tests)
runpy.run_path(sys.argv[1], run_name="__main__")
"""


@dataclass(frozen=True)
class Case:
    """One case of a suite: its name in the table, and the command with what it needs."""

    suite: str
    name: str
    argv: tuple[str, ...]
    runtime_variable: str
    variables: tuple[tuple[str, str], ...] = ()
    # None: an empty directory of its own.
    directory: Path | None = None
    # Names that the case expects where it runs.
    links: tuple[tuple[str, Path], ...] = ()


def verdict(output: str, exit_code: int) -> str:
    """What a program of the Test Anything Protocol says about itself, as one word.

    Results below a result (indented) are its container's, and what is marked TODO is known.
    """
    results = [(bool(m[1]), m[2]) for m in _RESULT.finditer(output)]
    if exit_code != 0 or any(bad and "# TODO" not in rest for bad, rest in results):
        return FAIL
    if not results:
        return FAIL
    skipped = [re.search(r"# ?skip", rest, re.IGNORECASE) is not None for _, rest in results]
    return SKIP if all(skipped) else PASS


def runtime_tools(source: Path) -> list[Case]:
    """runtime-tools' validation: a program is a case."""
    return [
        Case("runtime-tools", program.name, (str(program),), "RUNTIME", directory=source)
        for program in sorted((source / "programs").iterdir())
    ]


def crun(source: Path) -> list[Case]:
    """crun's Python tests: a file has many, one is chosen by a variable."""
    cases = []
    variables = (
        ("INIT", str(source / "tests/init")),
        ("PYTHONPATH", f"{STANDS}:{source / 'tests'}"),
        ("PYTHONDONTWRITEBYTECODE", "1"),
    )
    for file in sorted((source / "tests").glob("test_*.py")):
        names = subprocess.run(
            [sys.executable, "-B", "-c", _LISTING, file.name],
            cwd=file.parent,
            env={**os.environ, **dict(variables)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for name in names:
            chosen = (*variables, ("RUN_TESTS", name))
            argv = (sys.executable, str(file))
            title = f"{file.stem.removeprefix('test_')}: {name}"
            links = (("tests", source / "tests"),)
            cases.append(Case("crun", title, argv, "OCI_RUNTIME", chosen, links=links))
    return cases


def runc(source: Path) -> list[Case]:
    """runc's bats files, a test at a time."""
    directory = source / "tests/integration"
    cases = []
    for file in sorted(directory.glob("*.bats")):
        for title in _BATS_TEST.findall(file.read_text()):
            name = re.sub(r"\\(.)", r"\1", title)
            chosen = "^" + _SPECIAL.sub(r"\\\1", name) + "$"
            argv = ("bats", "--tap", "--filter", chosen, str(file))
            cases.append(Case("runc", f"{file.stem}: {name}", argv, "RUNC", directory=directory))
    return cases


SUITES = {"runtime-tools": runtime_tools, "crun": crun, "runc": runc}
