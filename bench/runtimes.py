"""`python -m bench.runtimes`: every verb of the OCI runtimes' command lines, side by side.

Whole processes, as an engine calls them, on one bundle with runc's default configuration. In each
round every runtime goes through one life of a container; onggi-runtime once with its warm process,
as from the second command on, and once without (`ONGGI_NO_WARM`). `--lent-share` gives all of them
and their warm process a share of the processor before everything else, for a machine that is busy.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.__main__ import APPLETS, hugetlb_lent
from bench.bundles import make_bundle
from bench.timing import middle

VERBS = ("run", "create", "start", "state", "exec", "kill", "delete")
_END_S = 10.0
_SHARE = Path("/sys/fs/cgroup/cpu/onggi-bench")


def main() -> int:
    """Measure, print a table and write JSON; returns the exit code."""
    parser = argparse.ArgumentParser(prog="bench.runtimes", description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--lent-share", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="onggi-bench-") as name, hugetlb_lent(Path(name)):
        place = Path(name)
        rootfs = place / "rootfs"
        for directory in ("bin", "proc", "sys", "dev"):
            (rootfs / directory).mkdir(parents=True)
        shutil.copy("/bin/busybox", rootfs / "bin/busybox")
        for applet in APPLETS:
            (rootfs / "bin" / applet).symlink_to("busybox")
        short = make_bundle(place, rootfs)
        long = place / "long"
        long.mkdir()
        config = json.loads((short / "config.json").read_text())
        config["process"]["args"] = ["/bin/sleep", "1000"]
        (long / "config.json").write_text(json.dumps(config))
        runtimes = _runtimes(place)
        with _share() if arguments.lent_share else contextlib.nullcontext():
            times = _measure(runtimes, short, long, arguments.rounds)
    _print(times)
    out = Path(__file__).parent / "out"
    out.mkdir(exist_ok=True)
    (out / "runtimes.json").write_text(json.dumps(times, indent=2) + "\n")
    return 0


def _runtimes(place: Path) -> dict[str, tuple[list[str], dict[str, str]]]:
    """The runtimes that are installed: words and environment of each."""
    own = shutil.which("onggi-runtime") or str(Path(sys.executable).parent / "onggi-runtime")
    known = {
        "runc": ("runc", {}),
        "crun": ("crun", {}),
        "onggi-runtime": (own, {}),
        "onggi-runtime, plain": (own, {"ONGGI_NO_WARM": "1"}),
    }
    found = {}
    for name, (program, environment) in known.items():
        if shutil.which(program) is None:
            print(f"  {name}: skipped: not installed")
            continue
        words = [program, "--root", f"{place}/{name.replace(', ', '-')}"]
        found[name] = (words, {**os.environ, **environment})
    return found


@contextlib.contextmanager
def _share() -> Iterator[None]:
    """Lend this process, its children and the warm process nearly all of the processor."""
    before = Path("/sys/fs/cgroup/cpu/cgroup.procs")
    _SHARE.mkdir(exist_ok=True)
    (_SHARE / "cpu.shares").write_text("262144")
    (_SHARE / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield
    finally:
        for pid in (_SHARE / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                before.write_text(pid)
        with contextlib.suppress(OSError):  # a measurement that failed leaves its container
            for below in _SHARE.iterdir():
                if below.is_dir():
                    below.rmdir()
            _SHARE.rmdir()


def _lend_to_warm() -> None:
    """The warm process leaves its starter's cgroups: bring it back, so that all have the same."""
    if not _SHARE.exists():
        return
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"onggi.faces.oci.warm_process" in (path / "cmdline").read_bytes():
                (_SHARE / "cgroup.procs").write_text(path.name)


def _measure(
    runtimes: dict[str, tuple[list[str], dict[str, str]]], short: Path, long: Path, rounds: int
) -> dict[str, dict[str, list[float]]]:
    times: dict[str, dict[str, list[float]]] = {n: {v: [] for v in VERBS} for n in runtimes}
    for number in range(rounds + 1):
        for name, (words, environment) in runtimes.items():
            taken = _one_life(words, environment, short, long)
            if number:  # the first is a warm-up
                for verb, milliseconds in taken.items():
                    times[name][verb].append(milliseconds)
        if not number:
            time.sleep(2)  # the warm process prepares
            _lend_to_warm()
    return times


def _one_life(
    words: list[str], environment: dict[str, str], short: Path, long: Path
) -> dict[str, float]:
    steps = {
        "run": ["run", "-b", str(short), "bench-run"],
        "create": ["create", "-b", str(long), "bench"],
        "start": ["start", "bench"],
        "state": ["state", "bench"],
        "exec": ["exec", "bench", "/bin/true"],
        "kill": ["kill", "bench", "KILL"],
        "delete": ["delete", "bench"],
    }
    taken = {}
    for verb, step in steps.items():
        if verb == "delete":
            _wait_until_stopped(words, environment)
        before = time.perf_counter()
        # never a pipe: the container has it too, and would hold it open
        done = subprocess.run(
            [*words, *step],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        taken[verb] = (time.perf_counter() - before) * 1000
        if done.returncode:
            raise RuntimeError(f"{' '.join([*words, *step])}: {done.returncode}")
    return taken


def _wait_until_stopped(words: list[str], environment: dict[str, str]) -> None:
    deadline = time.monotonic() + _END_S
    while time.monotonic() < deadline:
        done = subprocess.run([*words, "state", "bench"], env=environment, capture_output=True,
                              check=True)  # fmt: skip
        if json.loads(done.stdout)["status"] == "stopped":
            return
        time.sleep(0.01)
    raise RuntimeError("a killed container does not stop")


def _print(times: dict[str, dict[str, list[float]]]) -> None:
    print(f"{'median ms':24}" + "".join(f"{verb:>16}" for verb in VERBS))
    for name, verbs in times.items():
        cells = []
        for verb in VERBS:
            middle_ms = middle(verbs[verb])
            ratio = ""
            if name != "runc" and "runc" in times:
                ratio = f" (×{middle_ms / middle(times['runc'][verb]):.2f})"
            cells.append(f"{middle_ms:.1f}{ratio}")
        print(f"{name:24}" + "".join(f"{cell:>16}" for cell in cells))


if __name__ == "__main__":
    sys.exit(main())
