"""onggi-runtime with --systemd-cgroup where systemd has its controllers on cgroup v1."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faces.oci_rig import NEEDS_ROOT_AND_BUSYBOX, Runtime, cgroup, eventually

pytestmark = [
    NEEDS_ROOT_AND_BUSYBOX,
    pytest.mark.skipif(
        not (
            Path("/run/systemd/system").is_dir()
            and Path("/sys/fs/cgroup/systemd/cgroup.procs").exists()
        ),
        reason="host feature missing: systemd as init, on cgroup v1",
    ),
]
SYSTEMD = ("--systemd-cgroup",)
UNIT = "pre-one.scope"
PATH = f"machine.slice/machine-test.slice/{UNIT}"


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    runtime = Runtime(tmp_path)
    yield runtime
    runtime.clean()
    assert runtime.leftovers() == []


def show(*names: str) -> dict[str, str]:
    words = ["systemctl", "show", UNIT, *(f"--property={name}" for name in names)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


def test_the_life_of_a_container(runtime: Runtime) -> None:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["cgroupsPath"] = "machine-test.slice:pre:one"
        config["linux"]["resources"] = {"memory": {"limit": 1 << 26}, "pids": {"limit": 9}}

    bundle = runtime.bundle("/bin/sleep", "1000", change=change)
    container = runtime.create("a", bundle, globals_=SYSTEMD)
    names = ("MemoryLimit", "TasksMax", "DevicePolicy", "Delegate", "ActiveState")
    assert show(*names) == {
        "MemoryLimit": str(1 << 26), "TasksMax": "9", "DevicePolicy": "strict", "Delegate": "yes",
        "ActiveState": "active",
    }  # fmt: skip
    pid = str(runtime.state(container)["pid"])
    joined = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    for kind in ("name=systemd", "memory", "pids", "devices", "blkio", "cpu,cpuacct", ""):
        assert any(line.endswith(f":{kind}:/{PATH}") for line in joined), (kind, joined)
    runtime.call("start", container)
    runtime.wait(container, "running")
    devices = Path("/sys/fs/cgroup/devices", PATH, "devices.list")
    before = sorted(devices.read_text().splitlines())
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    subprocess.run(["systemctl", "set-property", "--runtime", UNIT, "CPUShares=50"], check=True)
    assert sorted(devices.read_text().splitlines()) == before
    assert "a *:* rwm" not in before
    inside = runtime.call("exec", container, "cat", "/proc/self/cgroup").stdout.splitlines()
    assert sorted(inside) == sorted(Path(f"/proc/{pid}/cgroup").read_text().splitlines())
    runtime.call("update", "--memory", "50000000", container)
    assert show("MemoryLimit") == {"MemoryLimit": "50000000"}
    runtime.call("kill", container, "KILL")
    runtime.wait(container, "stopped")
    runtime.call("delete", container)
    eventually(lambda: show("LoadState")["LoadState"] == "not-found")
    assert not cgroup(PATH).exists
    assert not Path("/sys/fs/cgroup/systemd", PATH).exists()
