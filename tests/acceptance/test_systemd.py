"""onggi-runtime with --systemd-cgroup on a host whose init is systemd, beside runc."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faces.oci_rig import NEEDS_ROOT_AND_BUSYBOX, PLAIN, Runtime, eventually
from onggi.sandbox.oci.systemd.scopes import Holder, Scope
from onggi.sandbox.oci.systemd.units import unit_of
from onggi.specs.runtime import Resources
from visitor_rig import PYTHON_PATH, interpreter

pytestmark = [
    NEEDS_ROOT_AND_BUSYBOX,
    pytest.mark.skipif(
        not Path("/run/systemd/system").is_dir(), reason="host feature missing: systemd as init"
    ),
    pytest.mark.skipif(
        not Path("/sys/fs/cgroup/cgroup.controllers").exists(),
        reason="host feature missing: cgroup v2 alone",
    ),
]
SYSTEMD = ("--systemd-cgroup",)
USER = 1  # Debian's daemon: somebody whom every host knows
SLICE = "machine-test.slice"
UNIT = "pre-one.scope"
CGROUP = Path("/sys/fs/cgroup/machine.slice", SLICE, UNIT)
SHOWN = (
    "LoadState ActiveState Slice ControlGroup Delegate DefaultDependencies MemoryAccounting "
    "CPUAccounting TasksAccounting IOAccounting MemoryMax MemoryLow MemoryHigh MemorySwapMax "
    "TasksMax CPUQuotaPerSecUSec CPUQuotaPeriodUSec TimeoutStopUSec"
).split()
LIMITS = {
    "memory": {"limit": 1 << 26, "swap": 1 << 27, "reservation": 1 << 25},
    "cpu": {"quota": 12_345, "period": 50_000},
    "pids": {"limit": 20},
    "unified": {"memory.high": "60000000"},
}


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    runtime = Runtime(tmp_path)
    yield runtime
    runtime.clean()
    assert runtime.leftovers() == []
    assert show("LoadState") == {"LoadState": "not-found"}
    assert not CGROUP.exists()


def show(*names: str) -> dict[str, str]:
    """Properties of the unit, as systemctl tells them."""
    words = ["systemctl", "show", UNIT, *(f"--property={name}" for name in names)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


def bundle(runtime: Runtime, *args: str, path: str = f"{SLICE}:pre:one", **resources: Any) -> Path:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["cgroupsPath"] = path
        config["linux"]["resources"] = resources
        config["annotations"] = {"org.systemd.property.TimeoutStopSec": "7"}

    return runtime.bundle(*(args or ("/bin/sleep", "1000")), change=change)


def read(name: str) -> str:
    return (CGROUP / name).read_text().strip()


def test_the_life_of_a_container(runtime: Runtime) -> None:
    container = runtime.create("a", bundle(runtime, **LIMITS), globals_=SYSTEMD)
    told = show(*SHOWN, "CollectMode", "TimeoutStopUSec")
    expected = {
        "ActiveState": "active", "Slice": SLICE, "Delegate": "yes", "DefaultDependencies": "no",
        "MemoryMax": str(1 << 26), "MemorySwapMax": str(1 << 26), "MemoryLow": str(1 << 25),
        "MemoryHigh": "60000000", "TasksMax": "20", "CPUQuotaPerSecUSec": "250ms",
        "CPUQuotaPeriodUSec": "50ms", "CollectMode": "inactive-or-failed", "TimeoutStopUSec": "7s",
    }  # fmt: skip
    assert told | expected == told
    assert read("cgroup.procs") == str(runtime.state(container)["pid"])
    # systemd has whole percents of a processor; the cgroup has what was asked for
    assert read("cpu.max") == "12345 50000"
    runtime.call("start", container)
    runtime.wait(container, "running")
    assert runtime.call("exec", container, "cat", "/proc/self/cgroup").stdout.startswith("0::/")
    runtime.call("update", "--memory", "50000000", "--pids-limit", "9", container)
    assert show("MemoryMax", "TasksMax") == {"MemoryMax": "50000000", "TasksMax": "9"}
    assert (read("memory.max"), read("pids.max")) == ("49999872", "9")
    runtime.call("pause", container)
    assert runtime.state(container)["status"] == "paused"
    runtime.call("resume", container)
    runtime.call("kill", container, "KILL")
    runtime.wait(container, "stopped")
    runtime.call("delete", container)


def test_limits_and_devices_outlive_a_reload(runtime: Runtime) -> None:
    container = runtime.create("a", bundle(runtime, **LIMITS), globals_=SYSTEMD)
    runtime.call("start", container)
    before = {name: read(name) for name in ("memory.max", "memory.high", "pids.max", "memory.low")}
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    subprocess.run(["systemctl", "set-property", "--runtime", UNIT, "CPUWeight=50"], check=True)
    assert {name: read(name) for name in before} == before
    assert read("cpu.weight") == "50"
    denied = runtime.call("exec", container, "dd", "if=/dev/kmsg", "of=/dev/null", check=False)
    assert denied.returncode != 0


@pytest.mark.skipif(shutil.which("runc") is None, reason="runc is not installed")
def test_systemd_is_told_what_runc_tells_it(runtime: Runtime, tmp_path: Path) -> None:
    found = {}
    (tmp_path / "peer").mkdir()
    peer = Runtime(tmp_path / "peer", ["runc"])
    for each in (runtime, peer):
        container = each.create("a", bundle(each, **LIMITS), globals_=SYSTEMD)
        found[each] = show(*SHOWN)
        each.call("delete", "--force", container, globals_=SYSTEMD)
    assert found[runtime] == found[peer]


def test_a_name_that_is_taken(runtime: Runtime) -> None:
    words = ["systemd-run", "-q", "--scope", f"--unit={UNIT}", f"--slice={SLICE}", "sleep", "1000"]
    other = subprocess.Popen(words)
    try:
        eventually(lambda: show("ActiveState")["ActiveState"] == "active")
        words = ["create", "-b", str(bundle(runtime)), runtime.name("a")]
        done = runtime.call(*words, check=False, globals_=SYSTEMD)
        assert f"active unit {UNIT}" in done.stderr
        assert other.poll() is None
        assert runtime.call("list", "-q").stdout == ""
    finally:
        other.kill()
        other.wait()
    eventually(lambda: show("LoadState")["LoadState"] == "not-found")


def test_killed_for_memory_nothing_failed_is_left(runtime: Runtime) -> None:
    hungry = bundle(
        runtime, "/bin/sh", "-c", "x=aaaaaaaa; while :; do x=$x$x; done",
        memory={"limit": 1 << 24, "swap": 1 << 24},
    )  # fmt: skip
    words = ("run", "-b", str(hungry), runtime.name("a"))
    assert runtime.call(*words, check=False, globals_=SYSTEMD).returncode == 137


def test_when_the_container_ends_so_does_its_unit(runtime: Runtime) -> None:
    container = runtime.create("a", bundle(runtime, "/bin/true"), globals_=SYSTEMD)
    runtime.call("start", container)
    runtime.wait(container, "stopped")
    eventually(lambda: show("LoadState")["LoadState"] == "not-found")
    runtime.call("delete", container)


def test_when_its_maker_is_killed_an_empty_scope_goes(runtime: Runtime) -> None:
    with Scope(unit_of(f"{SLICE}:pre:one", "id", user=False)) as scope, Holder() as holder:
        scope.start("nobody's", holder.pid, Resources(), {}, unified=True)
        assert show("ActiveState") == {"ActiveState": "active"}
        assert read("cgroup.procs") == str(holder.pid)
        os.kill(holder.pid, 9)
        eventually(lambda: show("LoadState")["LoadState"] == "not-found")


def test_without_a_bus_systemds_own_socket_serves(runtime: Runtime) -> None:
    runtime.environment["DBUS_SYSTEM_BUS_ADDRESS"] = "unix:path=/nowhere"
    container = runtime.create("a", bundle(runtime), globals_=SYSTEMD)
    assert show("ActiveState") == {"ActiveState": "active"}
    runtime.call("delete", "--force", container)


def test_the_default_is_a_scope_of_the_id(runtime: Runtime) -> None:
    container = runtime.create("a", runtime.bundle("/bin/sleep", "1000"), globals_=SYSTEMD)
    directory = Path(f"/sys/fs/cgroup/system.slice/onggi-{container}.scope")
    assert directory.is_dir()
    runtime.call("delete", "--force", container)
    assert not directory.exists()


@pytest.fixture
def user_manager() -> Iterator[Path]:
    """The runtime directory of an ordinary user who has a systemd of his own."""
    place = Path(f"/run/user/{USER}")
    units = place / "units"
    units.mkdir(parents=True)
    (units / "main.target").write_text("[Unit]\n")
    place.chmod(0o700)
    os.chown(place, USER, USER)
    words = ["systemd-run", "-q", "--unit=manager.service", f"--uid={USER}", f"--gid={USER}"]
    properties = ("Type=notify", "Delegate=yes", "DefaultDependencies=no", "KillSignal=SIGKILL")
    words += ["--slice=user.slice", *(f"--property={each}" for each in properties)]
    words += [f"--setenv=XDG_RUNTIME_DIR={place}", f"--setenv=SYSTEMD_UNIT_PATH={units}"]
    subprocess.run([*words, "/lib/systemd/systemd", "--user", "--unit=main.target"], check=True)
    yield place
    subprocess.run(["systemctl", "stop", "manager.service"], check=True)
    shutil.rmtree(place)


def test_a_users_container_is_in_a_scope_of_his_own(
    runtime: Runtime, user_manager: Path, tmp_path: Path
) -> None:
    def rootless(config: dict[str, Any]) -> None:
        config["linux"]["cgroupsPath"] = ":pre:rootless"
        config["linux"]["resources"] = {"memory": {"limit": 1 << 26}, "pids": {"limit": 9}}
        config["mounts"] = config["mounts"][:2]

    for path in (tmp_path.parent, tmp_path):
        path.chmod(0o755)
    bundle = runtime.bundle("/bin/sleep", "1000", change=rootless)
    # as podman calls us: where he may make cgroups, and as root of a user namespace
    words = [
        "systemd-run",
        "-q",
        "--user",
        "--scope",
        "--",
        "unshare",
        "--map-root-user",
        "--mount",
    ]
    words += [interpreter(), *PLAIN[1:], f"--root={user_manager}/records"]
    environment = {"XDG_RUNTIME_DIR": str(user_manager), "PYTHONPATH": PYTHON_PATH,
                   "PATH": os.environ["PATH"], "USER": "visitor"}  # fmt: skip

    def call(*rest: str) -> None:
        with (tmp_path / "said").open("wb") as said:  # a pipe would stay open with the container
            done = subprocess.run(
                [*words, *rest], env=environment, stdin=subprocess.DEVNULL, stdout=said,
                stderr=said, check=False, user=USER, group=USER, extra_groups=(), cwd="/",
            )  # fmt: skip
        assert (done.returncode, (tmp_path / "said").read_text()) == (0, "")

    call("--systemd-cgroup", "create", "-b", str(bundle), "a")
    (scope,) = Path("/sys/fs/cgroup/user.slice/manager.service").rglob("pre-rootless.scope")
    assert scope.parent.name == "user.slice"
    assert (scope / "memory.max").read_text() == f"{1 << 26}\n"
    assert (scope / "pids.max").read_text() == "9\n"
    assert len((scope / "cgroup.procs").read_text().split()) == 1
    call("start", "a")
    call("update", "--pids-limit", "8", "a")
    assert (scope / "pids.max").read_text() == "8\n"
    call("delete", "--force", "a")
    assert not scope.exists()
