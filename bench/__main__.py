"""`python -m bench`: everything side by side in one run; a table, JSON and a picture."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench import bundles, cases, report
from bench.peers import ENGINES, Engine
from bench.timing import in_turns, middle

OUT = Path(__file__).parent / "out"
APPLETS = ("sh", "true", "sleep", "echo", "cat")


def main() -> int:
    """Measure and write; returns the exit code."""
    arguments = _arguments()
    results: dict[str, object] = {}
    with tempfile.TemporaryDirectory(prefix="onggi-bench-") as name, hugetlb_lent(Path(name)):
        place = Path(name)
        rootfs, archive = _busybox(place)
        if not arguments.engines_only:
            print("bundles")
            times = in_turns(bundles.actions(place, rootfs), arguments.rounds)
            results["bundle run (ms)"] = {n: middle(t) for n, t in times.items()}
        with _started(place, archive, arguments.only) as engines:
            _measure(engines, arguments, results)
    OUT.mkdir(exist_ok=True)
    about = {"kernel": platform.release(), "cpus": os.cpu_count(), "rounds": arguments.rounds}
    (OUT / "results.json").write_text(json.dumps({"about": about, **results}, indent=2) + "\n")
    (OUT / "results.svg").write_text(report.picture(results))
    print(report.table(results))
    print(f"\nwritten: {OUT}/results.json, {OUT}/results.svg")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=21, help="rounds of each measurement")
    parser.add_argument("--only", default="", help="comma-separated engines, for instance onggi")
    parser.add_argument("--grow", type=int, default=0, help="start this many containers as well")
    parser.add_argument("--engines-only", action="store_true", help="leave the runtimes out")
    return parser.parse_args()


def _measure(
    engines: list[Engine], arguments: argparse.Namespace, results: dict[str, object]
) -> None:
    measured = {
        "run --rm true (ms)": (cases.run_and_remove, arguments.rounds),
        "exec true (ms)": (cases.exec_true, arguments.rounds),
        "ps (ms)": (cases.list_running, arguments.rounds),
        "20 detached starts at once (per second)": (cases.twenty_at_once, 3),
        "memory (kB)": (cases.memory, 1),
    }
    for title, (case, rounds) in measured.items():
        print(title)
        results[title] = case(engines, rounds)
    ours = next((e for e in engines if e.name == "onggi"), None)
    if ours is not None:
        print("engine share")
        results["engine share of run (ms)"] = cases.engine_share(ours, arguments.rounds)
        if arguments.grow:
            print("growth")
            results["growth"] = cases.growth(ours, arguments.grow)


@contextlib.contextmanager
def _started(place: Path, archive: Path, only: str) -> Iterator[list[Engine]]:
    """The engines that are installed, started; stopped at the end whatever happens."""
    chosen = set(filter(None, only.split(",")))
    engines: list[Engine] = []
    with contextlib.ExitStack() as stack:
        for kind in ENGINES:
            if chosen and kind.name not in chosen:
                continue
            directory = place / kind.name
            directory.mkdir()
            engine = kind(directory)
            if missing := engine.missing():
                print(f"  {engine.name}: skipped: {missing} is not installed")
                continue
            stack.callback(engine.stop)
            engine.start(archive)
            engines.append(engine)
        yield engines


@contextlib.contextmanager
def hugetlb_lent(place: Path) -> Iterator[None]:
    """crun refuses a hybrid host as long as v2 has a controller: lend it hugetlb as v1."""
    controllers = Path("/sys/fs/cgroup/unified/cgroup.controllers")
    if not controllers.exists() or "hugetlb" not in controllers.read_text():
        yield
        return
    target = place / "hugetlb"
    target.mkdir()
    mount = ["mount", "-t", "cgroup", "-o", "hugetlb", "cgroup", str(target)]
    lent = subprocess.run(mount, check=False).returncode == 0
    try:
        yield
    finally:
        if lent:
            subprocess.run(["umount", str(target)], check=False)


def _busybox(place: Path) -> tuple[Path, Path]:
    """A root file system with busybox alone, as a directory and as a tar."""
    found = shutil.which("busybox")
    if found is None:
        sys.exit("bench: busybox is not installed: apt-get install busybox-static")
    rootfs = place / "rootfs"
    (rootfs / "bin").mkdir(parents=True)
    for name in ("proc", "dev", "sys", "tmp", "etc"):
        (rootfs / name).mkdir()
    shutil.copy(found, rootfs / "bin/busybox")
    for applet in APPLETS:
        (rootfs / "bin" / applet).symlink_to("busybox")
    archive = place / "busybox.tar"
    subprocess.run(["tar", "-C", str(rootfs), "-cf", str(archive), "."], check=True)
    return rootfs, archive


if __name__ == "__main__":
    sys.exit(main())
