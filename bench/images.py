"""`python -m bench.images`: pull to runnable, push, load, save, disk; side by side, cold stores."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import report
from bench.__main__ import OUT, hugetlb_lent
from bench.image_material import Layout, Registry, debian_tar, disk_bytes, layouts
from bench.peers import Docker, Engine, Onggi, Podman


class OnggiErofs(Onggi):
    """Layers as EROFS images over their tars."""

    name = "onggi"
    settings = 'snapshotter = "erofs"'

    def start(self, archive: Path) -> None:
        (self.place / "config.toml").write_text(f"[image]\n{self.settings}\n")


class OnggiOverlay(OnggiErofs):
    """Layers as directories."""

    name = "onggi, overlay"
    settings = 'snapshotter = "overlay"'


class OnggiDiscarding(OnggiErofs):
    """Compressed layers go behind the user's back, and are made again for a push or a save."""

    name = "onggi, discarding"
    settings = 'snapshotter = "erofs"\ndiscard_blobs = true'


class ColdDocker(Docker):
    def start(self, archive: Path) -> None:
        super().start(archive)
        self.run("rmi", "busybox")


class ColdPodman(Podman):
    def start(self, archive: Path) -> None:
        """Nothing is resident."""

    def words(self, *arguments: str) -> list[str]:
        if arguments[0] in ("pull", "push"):
            arguments = (arguments[0], "--tls-verify=false", *arguments[1:])
        return super().words(*arguments)


KINDS = (OnggiErofs, OnggiOverlay, OnggiDiscarding, ColdDocker, ColdPodman)


def main() -> int:
    """Measure and write; returns the exit code."""
    parser = argparse.ArgumentParser(prog="bench.images", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="comma-separated engines")
    parser.add_argument("--big", action="store_true", help="also the memory of a pull of 2 GB")
    arguments = parser.parse_args()
    results: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory(prefix="onggi-bench-") as name:
        place = Path(name)
        with (
            hugetlb_lent(place),
            _engines(place, arguments.only) as engines,
            _registries(place) as (source, target),
        ):
            made = layouts(_tar(place), place / "layouts")
            for title, layout in made.items():
                image = source.fill(layout, layout.name)
                _measure(title, image, layout, engines, target, arguments.rounds, results)
            if arguments.big:
                ours = [engine for engine in engines if isinstance(engine, Onggi)]
                results["peak memory of a pull of 2 GB (MB)"] = _big(place, source, ours)
    OUT.mkdir(exist_ok=True)
    about = {"kernel": platform.release(), "cpus": os.cpu_count(), "rounds": arguments.rounds}
    text = json.dumps({"about": about, **results}, indent=2)
    (OUT / "images.json").write_text(text + "\n")
    (OUT / "images.svg").write_text(report.picture(results))
    print(report.table(results))
    return 0


def _tar(place: Path) -> Path:
    """Debian with Python; kept between runs, for it takes a minute to make."""
    kept = OUT / "debian-python.tar"
    if not kept.exists():
        OUT.mkdir(exist_ok=True)
        maker = place / "maker"
        maker.mkdir()
        onggi = Onggi(maker)
        made = debian_tar(onggi.words(), place)
        onggi.stop()
        shutil.move(made, kept)
    return kept


@contextlib.contextmanager
def _registries(place: Path) -> Iterator[tuple[Registry, Registry]]:
    """One to pull from, one to push to."""
    pair = Registry(place / "source"), Registry(place / "target")
    try:
        for registry in pair:
            registry.start()
        yield pair
    finally:
        for registry in pair:
            registry.stop()


@contextlib.contextmanager
def _engines(place: Path, only: str) -> Iterator[list[Engine]]:
    chosen = set(filter(None, only.split(",")))
    busybox = place / "busybox.tar"
    subprocess.run(["tar", "-C", "/bin", "-cf", str(busybox), "busybox"], check=True)
    with contextlib.ExitStack() as stack:
        started: list[Engine] = []
        for kind in KINDS:
            if chosen and kind.name.split(",")[0] not in chosen:
                continue
            directory = place / kind.__name__
            directory.mkdir()
            engine = kind(directory)
            if missing := engine.missing():
                print(f"  {engine.name}: skipped: {missing} is not installed")
                continue
            stack.callback(engine.stop)
            engine.start(busybox)
            started.append(engine)
        yield started


def _timed(act: Callable[[], object]) -> float:
    before = time.perf_counter()
    act()
    return (time.perf_counter() - before) * 1000


def _measure(
    title: str,
    image: str,
    layout: Path,
    engines: list[Engine],
    target: Registry,
    rounds: int,
    results: dict[str, dict[str, object]],
) -> None:
    archive = layout.parent / f"{layout.name}.tar"
    subprocess.run(["skopeo", "copy", "-q", f"oci:{layout}:latest",
                    f"docker-archive:{archive}:{image}"], check=True)  # fmt: skip
    taken: dict[str, dict[str, list[float]]] = {}
    for number in range(rounds + 1):
        for engine in engines:
            figures = _round(engine, image, archive, target, layout.parent / "saved.tar")
            if number:  # the first round warms programs and caches
                for case, value in figures.items():
                    taken.setdefault(case, {}).setdefault(engine.name, []).append(value)
            print(f"  {title}, {engine.name}: {figures}", flush=True)
    for case, values in taken.items():
        results[f"{title}: {case}"] = {n: statistics.median(v) for n, v in values.items()}


def _round(
    engine: Engine, image: str, archive: Path, target: Registry, saved: Path
) -> dict[str, float]:
    """One engine's figures, from an empty store to an empty store."""
    figures: dict[str, float] = {}
    before = disk_bytes(engine.place)
    figures["pull (ms)"] = _timed(lambda: engine.run("pull", image))
    words = engine.run_words("--rm", image, "/bin/true")
    figures["first run (ms)"] = _timed(lambda: engine.run(*words))
    figures["pull to first run's end (ms)"] = figures["pull (ms)"] + figures["first run (ms)"]
    figures["disk (MB)"] = (_settled_bytes(engine.place) - before) / 1e6
    target.empty()
    pushed = f"{target.address}/pushed:latest"
    engine.run("tag", image, pushed)
    figures["push (ms)"] = _timed(lambda: engine.run("push", pushed))
    saved.unlink(missing_ok=True)
    figures["save (ms)"] = _timed(lambda: engine.run("save", "-o", str(saved), image))
    saved.unlink()
    engine.run("rmi", pushed)
    engine.run("rmi", image)
    figures["load (ms)"] = _timed(lambda: engine.run("load", "-i", str(archive)))
    engine.run("rmi", image)
    return figures


def _settled_bytes(place: Path) -> int:
    """What an engine takes on disk once it has put things in order behind its user's back."""
    last, same = -1, 0
    while same < 5:
        now = disk_bytes(place)
        same = same + 1 if now == last else 0
        last = now
        time.sleep(2 if same else 0.5)
    return last


def _big(place: Path, source: Registry, engines: list[Onggi]) -> dict[str, object]:
    """Pull 2 GB, half of which does not compress; the engine's highest resident memory."""
    layout = Layout(place / "big")
    for number in range(8):
        layout.add_layer(_tar_of(os.urandom(1 << 27) + bytes(1 << 27), number))
    layout.finish()
    image = source.fill(layout.path, "big")
    found: dict[str, object] = {}
    for engine in engines:
        pid = engine.resident()[0]
        peak = _Peak(pid)
        engine.run("pull", image)
        found[engine.name] = peak.stop()
        engine.run("rmi", image)
    return found


def _tar_of(data: bytes, number: int) -> bytes:
    import io  # noqa: PLC0415
    import tarfile  # noqa: PLC0415

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        member = tarfile.TarInfo(f"big-{number}")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


class _Peak:
    """The highest resident memory of a process while it lasts, in megabytes."""

    def __init__(self, pid: int) -> None:
        self._path = Path(f"/proc/{pid}/status")
        self._highest = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            rows = self._path.read_text().splitlines()
            resident = next(row for row in rows if row.startswith("VmRSS"))
            self._highest = max(self._highest, int(resident.split()[1]))

    def stop(self) -> float:
        self._ended.set()
        self._thread.join()
        return self._highest / 1000


if __name__ == "__main__":
    sys.exit(main())
