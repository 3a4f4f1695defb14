"""`python -m tests.conformance`: suites that others wrote, on Onggi's runtime and on its peers."""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from . import cell, report, sources
from .running import Result, run_all
from .suites import SUITES

PEERS = ("runc", "crun")
CACHE = Path("build/conformance")


def main() -> int:
    """Run, print the table, and answer 1 when something differs that is not in the list."""
    arguments = _arguments()
    runtimes = _runtimes(arguments.runtimes.split(","))
    cache = CACHE.resolve()
    built = sources.ready(cache)
    with tempfile.TemporaryDirectory(prefix="oc-") as name:
        _hierarchies_of_our_own(Path(name))
        cases = [
            case
            for suite in arguments.suites.split(",")
            for case in SUITES[suite](built.of(suite))
            if re.search(arguments.only, case.name)
        ]
        logs = cache / "logs"
        results: list[Result] = []
        for result in run_all(cases, runtimes, logs, arguments.at_once):
            results.append(result)
            print(f"{result.verdict:5} {result.runtime:14} {result.case.suite}: {result.case.name}")
    whole = not arguments.only and set(arguments.suites.split(",")) == set(SUITES)
    return report.say(results, cache / "results.json", whole=whole)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.conformance", description=__doc__)
    parser.add_argument(
        "--runtimes", default=",".join((report.OURS, *PEERS)), help="names or paths"
    )
    parser.add_argument("--suites", default=",".join(SUITES))
    parser.add_argument("--only", default="", help="cases whose name has this expression")
    parser.add_argument("--at-once", type=int, default=os.cpu_count() or 1)
    return parser.parse_args()


def _runtimes(names: list[str]) -> dict[str, Path]:
    found = {}
    beside = Path(sys.executable).parent
    for name in names:
        program = shutil.which(name, path=f"{beside}:{os.environ['PATH']}:/usr/sbin:/sbin")
        if program is None:
            sys.exit(f"conformance: {name} is not installed: scripts/packages conformance")
        found[Path(name).name] = Path(program).absolute()
    return found


def _hierarchies_of_our_own(directory: Path) -> None:
    """A mount namespace for the whole run, where every v1 controller has its hierarchy.

    crun refuses a hybrid host as long as cgroup v2 has a controller: there it is lent to v1.
    """
    cell.call("unshare", cell.CLONE_NEWNS)
    cell.call("mount", None, "/", None, ctypes.c_ulong(cell.MS_REC | cell.MS_PRIVATE), None)
    places = cell.places()
    if cell.CGROUPS not in places and (cell.CGROUPS / "unified/cgroup.controllers").exists():
        places.setdefault(cell.CGROUPS / "hugetlb", ("cgroup", "hugetlb"))
    cell.own_cgroups(directory, places)


if __name__ == "__main__":
    sys.exit(main())
