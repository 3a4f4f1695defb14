"""`python -m bench.networks`: networks and ports side by side, in network namespaces of its own.

Starts are timed in turns in one namespace; throughput is measured engine after engine, each in a
fresh one, because the engines' firewalls would judge each other's packets.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import report
from bench.__main__ import OUT, hugetlb_lent
from bench.names import answers_per_s
from bench.peers import Docker, Engine, Onggi, Podman
from bench.timing import in_turns, middle

LAN = "198.51.100.1"
SECONDS = 3
SERVE = ("iperf3", "iperf3", "-s")


class NetworkedDocker(Docker):
    """dockerd with its default bridge and rules."""

    options = ()


class NetworkedPodman(Podman):
    """podman with a configuration of networks that goes with its root."""

    def words(self, *arguments: str) -> list[str]:
        base = super().words()
        return [*base, "--network-config-dir", f"{self.place}/networks", *arguments]


ENGINES: tuple[type[Engine], ...] = (Onggi, NetworkedDocker, NetworkedPodman)


def main() -> int:
    """Measure and write; returns the exit code."""
    arguments = _arguments()
    if not arguments.inside:
        # Everything below makes bridges and rules: none of it in the host's own namespace.
        return subprocess.run(
            ["unshare", "--net", sys.executable, "-m", "bench.networks", "--inside", *sys.argv[1:]],
            check=False,
        ).returncode
    _make_host()
    if arguments.one:
        print(json.dumps(_throughput(arguments.one)))
        return 0
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="onggi-bench-") as name, hugetlb_lent(Path(name)):
        place = Path(name)
        with _started(place, arguments.only) as engines:
            results["run --rm true on the bridge (ms)"] = _runs(engines, arguments.rounds)
            results["run --rm -p true (ms)"] = _runs(engines, arguments.rounds, "-p", "8081:80")
            ours = next((e for e in engines if e.name == "onggi"), None)
            if ours is not None and arguments.many:
                results["200 published ports"] = _ports(ours, 200)
                results["many running containers"] = _many(ours, arguments.many)
    for name in ("onggi", "docker", "podman"):
        if not arguments.only or name in arguments.only.split(","):
            for case, value in _elsewhere(name).items():
                results.setdefault(case, {})[name] = value
    OUT.mkdir(exist_ok=True)
    (OUT / "networks.json").write_text(json.dumps(results, indent=2) + "\n")
    print(report.table(results))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.networks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="rounds of each measurement")
    parser.add_argument("--only", default="", help="comma-separated engines, for instance onggi")
    parser.add_argument("--many", type=int, default=0, help="also: 200 ports, and so many running")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def _make_host() -> None:
    """This namespace as a host: loopback, and an address that is not loopback."""
    for words in (
        "link set lo up",
        "link add lan0 type veth peer name lan1",
        "link set lan1 up",
        f"address add {LAN}/24 dev lan0",
        "link set lan0 up",
        "route add default via 198.51.100.254 dev lan0",
    ):
        subprocess.run(["ip", *words.split()], check=True)


@contextlib.contextmanager
def _started(place: Path, only: str) -> Iterator[list[Engine]]:
    """The engines that are installed, started; stopped at the end whatever happens."""
    archive = _image(place)
    chosen = set(filter(None, only.split(",")))
    with contextlib.ExitStack() as stack:
        engines: list[Engine] = []
        for kind in ENGINES:
            if chosen and kind.name not in chosen:
                continue
            directory = place / kind.name
            directory.mkdir()
            engine = kind(directory)
            if missing := engine.missing():
                print(f"  {engine.name}: skipped: {missing} is not installed", file=sys.stderr)
                continue
            stack.callback(engine.stop)
            engine.start(archive)
            engines.append(engine)
        yield engines


def _image(place: Path) -> Path:
    """A root file system with busybox and iperf3, as a tar."""
    rootfs = place / "rootfs"
    for name in ("bin", "proc", "dev", "sys", "tmp", "etc"):
        (rootfs / name).mkdir(parents=True)
    for program in ("busybox", "iperf3"):
        found = shutil.which(program)
        if found is None:
            sys.exit(f"bench: {program} is not installed")
        shutil.copy(found, rootfs / "bin" / program)
    for applet in ("sh", "true", "sleep", "wget", "nc"):
        (rootfs / "bin" / applet).symlink_to("busybox")
    listed = subprocess.run(
        ["ldd", rootfs / "bin/iperf3"], capture_output=True, text=True, check=False
    )
    for word in listed.stdout.split():
        if word.startswith("/"):
            target = rootfs / word.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(word, target)
    archive = place / "image.tar"
    subprocess.run(["tar", "-C", str(rootfs), "-cf", str(archive), "."], check=True)
    return archive


# -- starts ------------------------------------------------------------------------------------


def _runs(engines: list[Engine], rounds: int, *options: str) -> dict[str, float]:
    actions = {
        e.name: e.action("run", *e.run_options(), "--rm", *options, "busybox", "true")
        for e in engines
    }
    return {name: middle(times) for name, times in in_turns(actions, rounds).items()}


def _ports(engine: Engine, count: int) -> dict[str, float]:
    """Rules with one and with `count` published ports, and what the last start costs."""
    times, rules = [], {}
    for number in range(count):
        if number in (0, count - 20):
            # The kernel goes on with a new link for seconds (duplicate addresses, groups): both
            # bursts that are compared begin when it is done with those before.
            time.sleep(3)
        start = engine.action(
            "run", "-d", "--name", f"port-{number}", "-p", f"{20000 + number}:80", "busybox",
            "sleep", "600",
        )  # fmt: skip
        before = time.perf_counter()
        start()
        times.append((time.perf_counter() - before) * 1000)
        if number in (0, count - 1):
            rules[number] = _rules()
    _remove_all(engine, [f"port-{n}" for n in range(count)])
    return {
        "rules_with_1": rules[0],
        f"rules_with_{count}": rules[count - 1],
        "first_ms": middle(times[:20]),
        "last_ms": middle(times[-20:]),
        "ratio": middle(times[-20:]) / middle(times[:20]),
    }


def _rules() -> int:
    listed = subprocess.run(["nft", "-j", "list", "ruleset"], capture_output=True, check=True)
    return sum("rule" in entry for entry in json.loads(listed.stdout)["nftables"])


def _many(engine: Engine, count: int) -> dict[str, float]:
    """`count` running containers: started, listed, and removed; and answers while 50 more start."""
    before = time.perf_counter()
    for number in range(count):
        engine.run("run", "-d", "--name", f"many-{number}", "busybox", "sleep", "3600")
    started_s = time.perf_counter() - before
    listed = in_turns({"ps": engine.action("ps")}, 11)["ps"]
    answers = _while_starting(engine, 50)
    names = [f"many-{n}" for n in range(count)]
    before = time.perf_counter()
    _remove_all(engine, names)
    return {
        "count": count,
        "starts_per_s": count / started_s,
        "ps_ms": middle(listed),
        "answer_p99_ms": statistics.quantiles(answers, n=100, method="inclusive")[98],
        "answer_max_ms": max(answers),
        "removed_s": time.perf_counter() - before,
    }


def _while_starting(engine: Engine, count: int) -> list[float]:
    """Milliseconds of `engine status` answers while `count` containers start at once."""
    from bench.wire import status_times  # noqa: PLC0415

    names = [f"burst-{n}" for n in range(count)]
    threads = [
        threading.Thread(
            target=engine.run, args=("run", "-d", "--name", name, "busybox", "sleep", "600")
        )
        for name in names
    ]
    with status_times(str(engine.place)) as times:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    _remove_all(engine, names)
    return times


def _remove_all(engine: Engine, names: list[str]) -> None:
    for first in range(0, len(names), 50):
        engine.run("rm", "-f", *names[first : first + 50])


# -- throughput --------------------------------------------------------------------------------


def _elsewhere(name: str) -> dict[str, float]:
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-m", "bench.networks", "--inside", "--one", name],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        print(f"  {name}: throughput left out: {done.stderr.strip()[-300:]}")
        return {}
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _throughput(name: str) -> dict[str, float]:
    """Gigabits per second: host → published port, container → container; names per second."""
    with (
        tempfile.TemporaryDirectory(prefix="onggi-bench-") as place,
        hugetlb_lent(Path(place)),
        _started(Path(place), name) as engines,
    ):
        if not engines:
            return {}
        engine = engines[0]
        engine.run("network", "create", "bench-net")
        engine.run("run", *engine.run_options(), "-d", "--name", "server", "-p", "5201:5201",
                   "--network", "bench-net", "busybox", "iperf3", "-s")  # fmt: skip
        _wait_for(LAN, 5201)
        form = '{{(index .NetworkSettings.Networks "bench-net").IPAddress}}'
        address = engine.run("inspect", "-f", form, "server")
        try:
            return {
                "host → published port (Gbit/s)": _iperf(["iperf3", "-c", LAN]),
                "host → 127.0.0.1 (Gbit/s)": _iperf(["iperf3", "-c", "127.0.0.1"]),
                "container → container (Gbit/s)": _iperf(
                    engine.words("run", *engine.run_options(), "--rm", "--network", "bench-net",
                                 "busybox", "iperf3", "-c", address),
                    engine.env,
                ),
                "names of containers (answers per second)": answers_per_s(
                    engine, "bench-net", "server"),
            }  # fmt: skip
        finally:
            engine.run("rm", "-f", "server")
            engine.run("network", "rm", "bench-net")


def _iperf(words: list[str], env: dict[str, str] | None = None) -> float:
    """The best of three runs: noise only ever slows."""
    rates = []
    for _ in range(3):
        done = subprocess.run(
            [*words, "-t", str(SECONDS), "-J"],
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            check=True,
        )
        rates.append(json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"] / 1e9)
    return max(rates)


def _wait_for(address: str, port: int) -> None:
    import socket  # noqa: PLC0415

    for _ in range(100):
        with contextlib.suppress(OSError), socket.create_connection((address, port), 1):
            time.sleep(0.3)  # iperf3 takes this for a client that went away
            return
        time.sleep(0.1)
    raise RuntimeError("the server does not answer")


if __name__ == "__main__":
    sys.exit(main())
