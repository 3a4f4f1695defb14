"""The runtimes below the engines, on one and the same bundle: crun, runc, bubblewrap, onggi's own.

Onggi is measured as its library does it: plan made, keel spawned, exit seen, in a warm process; and
once more with the plan at hand, which is keel alone.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
from pathlib import Path

from bench.timing import Action, command
from onggi.runtime.host import probe
from onggi.runtime.plan import plan
from onggi.runtime.request import StartRequest, Supervision
from onggi.runtime.steps import Plan
from onggi.sandbox.keel import Keel
from onggi.sandbox.messages import Closed, Exited, Failed
from onggi.sandbox.monitor import Monitor
from onggi.specs.runtime import Config, parse_config


def make_bundle(place: Path, rootfs: Path) -> Path:
    """A bundle of `rootfs` with runc's own default configuration, running `true`."""
    bundle = place / "bundle"
    bundle.mkdir()
    if shutil.which("runc") is None:
        raise RuntimeError("runc is not installed, and it writes the bundle that all are given")
    subprocess.run(["runc", "spec"], cwd=bundle, check=True)
    config = json.loads((bundle / "config.json").read_text())
    config["root"] = {"path": str(rootfs), "readonly": True}
    config["process"]["terminal"] = False
    config["process"]["args"] = ["/bin/true"]
    config["process"]["rlimits"] = []
    (bundle / "config.json").write_text(json.dumps(config))
    return bundle


def actions(place: Path, rootfs: Path) -> dict[str, Action]:
    """What to time, by name. A runtime that is not installed is skipped by name."""
    bundle = make_bundle(place, rootfs)
    found: dict[str, Action] = {}
    for runtime in ("crun", "runc"):
        if shutil.which(runtime) is None:
            print(f"  {runtime}: skipped: not installed")
            continue
        words = [runtime, "--root", f"{place}/{runtime}", "run", "-b", str(bundle), "bench"]
        found[runtime] = command(words)
    if shutil.which("bwrap") is None:
        print("  bwrap: skipped: not installed")
    else:
        words = ["bwrap", "--unshare-all", "--ro-bind", str(rootfs), "/", "--proc", "/proc",
                 "--dev", "/dev", "/bin/true"]  # fmt: skip
        found["bwrap"] = command(words)
    found.update(_library(place, bundle))
    return found


def _library(place: Path, bundle: Path) -> dict[str, Action]:
    host, keel = probe(), Keel()
    text = (bundle / "config.json").read_bytes()
    run_dir, mountpoint = place / "task", place / "root"
    run_dir.mkdir()
    mountpoint.mkdir()
    request = StartRequest(
        supervision=Supervision(run_dir=str(run_dir), record_name="exit"),
        root_mountpoint=str(mountpoint),
        bundle=str(bundle),
    )

    def make() -> Plan:
        config: Config = parse_config(text)
        return plan(config, host, request)

    made = make()
    return {
        "onggi (plan + keel)": lambda: _run(keel, make()),
        "onggi (keel alone)": lambda: _run(keel, made),
    }


def _run(keel: Keel, made: Plan) -> None:
    with Monitor.spawn(keel, made) as monitor:
        monitor.go()
        while True:
            event = monitor.receive()
            if event is None:
                select.select([monitor.fileno()], [], [])
            elif isinstance(event, Failed):
                raise RuntimeError(f"keel: {event}")
            elif isinstance(event, Exited):
                if event.code:
                    raise RuntimeError(f"keel: the application answered {event.code}")
                break
            elif isinstance(event, Closed):
                raise RuntimeError("keel: the monitor went away")
        pid = monitor.pid
    if pid:
        os.waitpid(pid, 0)
