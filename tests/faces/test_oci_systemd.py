"""onggi-runtime with --systemd-cgroup: containers in scopes, made by a systemd that is a double.

The double makes real cgroups, in the hierarchies in which systemd would. What a real systemd says
to the same is `acceptance/test_systemd_guest.py`'s.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faces.oci_rig import NEEDS_ROOT_AND_BUSYBOX, Runtime, cgroup, eventually
from onggi.kernel.cgroups.layout import CgroupLayout
from systemd_double import TRACKING, SystemdDouble

pytestmark = NEEDS_ROOT_AND_BUSYBOX
#: Of cgroup v1, what systemd manages.
_MANAGED = {"cpu", "memory", "pids", "devices", "blkio"}
SYSTEMD = ("--systemd-cgroup",)


class Rig:
    """A runtime whose systemd is a double. `slice`: a slice of this test alone."""

    def __init__(self, place: Path, systemd: SystemdDouble) -> None:
        self.runtime = Runtime(place)
        self.systemd = systemd
        self.slice = f"onggitest{os.getpid()}.slice"
        self.runtime.environment["DBUS_SYSTEM_BUS_ADDRESS"] = systemd.address

    def bundle(self, *args: str, **resources: Any) -> Path:
        def change(config: dict[str, Any]) -> None:
            config["linux"]["cgroupsPath"] = f"{self.slice}:pre:one"
            config["linux"]["resources"] = resources

        return self.runtime.bundle(*args, change=change)

    def create(self, name: str, bundle: Path) -> str:
        return self.runtime.create(name, bundle, globals_=SYSTEMD)

    def refused(self, name: str, bundle: Path) -> str:
        """The line that a `create` says when it fails."""
        words = ("create", "-b", str(bundle), self.runtime.name(name))
        done = self.runtime.call(*words, check=False, globals_=SYSTEMD)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    def directories(self) -> list[Path]:
        """The scope's cgroup in every hierarchy."""
        layout = CgroupLayout.probe()
        found = [Path(h.mount_point, self.slice, "pre-one.scope") for h in layout.hierarchies]
        return [path for path in found if path.is_dir()]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    layout = CgroupLayout.probe()
    managed = [
        Path(h.mount_point)
        for h in layout.hierarchies
        if h.version == 2 or _MANAGED & set(h.controllers)
    ]
    if (TRACKING / "cgroup.procs").exists():
        managed.append(TRACKING)
    with SystemdDouble(tmp_path, managed) as systemd:
        rig = Rig(tmp_path, systemd)
        yield rig
        systemd.result, systemd.refuse, systemd.before = "done", {}, lambda _: None
        rig.runtime.clean()
        assert rig.directories() == []
        for mount_point in (*(h.mount_point for h in layout.hierarchies), TRACKING):
            slice_ = Path(mount_point, rig.slice)
            if slice_.is_dir():
                slice_.rmdir()
    assert rig.runtime.leftovers() == []


def test_a_container_lives_in_its_scope(rig: Rig) -> None:
    bundle = rig.bundle(
        "/bin/sh", "-c", "cat; exec sleep 1000", memory={"limit": 1 << 26}, pids={"limit": 7}
    )
    container = rig.create("a", bundle)
    state = rig.runtime.state(container)
    told = rig.systemd.properties("pre-one.scope")
    assert told["Slice"] == rig.slice
    assert told["Delegate"] is True
    assert told["TasksMax"] == 7
    # systemd's own list of devices is asked for where systemd has one
    on_v1 = CgroupLayout.probe().hierarchy("devices", "") is not None
    assert told.get("DevicePolicy") == ("strict" if on_v1 else None)
    (holder,) = told["PIDs"]
    assert not Path(f"/proc/{holder}").exists()
    directories = rig.directories()
    assert directories
    if (TRACKING / "cgroup.procs").exists():
        directories.append(TRACKING / rig.slice / "pre-one.scope")
    for directory in directories:
        procs = (directory / "cgroup.procs").read_text().split()
        assert procs in ([str(state["pid"])], []), directory
    own = cgroup(f"{rig.slice}/pre-one.scope")
    assert own.processes() == (state["pid"],)
    assert own.stats().pids is None or own.stats().pids.limit == 7  # type: ignore[union-attr]
    rig.runtime.call("start", container)
    rig.runtime.wait(container, "running")
    silent = subprocess.DEVNULL
    rig.runtime.call("exec", "--detach", container, "sleep", "999", stdout=silent, stderr=silent)
    assert len(own.processes()) == 2
    for directory in directories:
        assert len((directory / "cgroup.procs").read_text().split()) in (0, 2), directory
    if (TRACKING / "cgroup.procs").exists():
        assert (directories[-1] / "cgroup.procs").read_text()
    rig.runtime.call("pause", container)
    assert rig.runtime.state(container)["status"] == "paused"
    rig.runtime.call("resume", container)
    rig.runtime.call("delete", "--force", container)
    assert rig.systemd.units == {}
    assert rig.systemd.methods()[-2:] == ["StopUnit", "ResetFailedUnit"]


def test_a_limit_of_one_process_is_one_of_the_containers(rig: Rig) -> None:
    container = rig.create("a", rig.bundle("/bin/sleep", "1000", pids={"limit": 1}))
    rig.runtime.call("start", container)
    rig.runtime.wait(container, "running")
    assert rig.systemd.properties("pre-one.scope")["TasksMax"] == 1


def test_run_in_the_foreground(rig: Rig) -> None:
    words = ("run", "-b", str(rig.bundle("/bin/sh", "-c", "exit 3")), rig.runtime.name("a"))
    assert rig.runtime.call(*words, check=False, globals_=SYSTEMD).returncode == 3
    assert rig.systemd.units == {}


def test_update_tells_systemd_too(rig: Rig) -> None:
    container = rig.create("a", rig.bundle("/bin/sleep", "1000", memory={"limit": 1 << 26}))
    rig.runtime.call("update", "--memory", "80m", "--cpu-quota", "12345", container)
    told = rig.systemd.properties("pre-one.scope")
    assert 80 << 20 in (told.get("MemoryMax"), told.get("MemoryLimit"))
    assert told["CPUQuotaPerSecUSec"] == 130_000
    limits = cgroup(f"{rig.slice}/pre-one.scope").stats().memory
    assert limits is not None
    assert limits.limit_bytes == 80 << 20


def test_an_update_that_systemd_refuses_changes_nothing(rig: Rig) -> None:
    container = rig.create("a", rig.bundle("/bin/sleep", "1000", memory={"limit": 1 << 26}))
    rig.systemd.refuse = {"SetUnitProperties": "AccessDenied"}
    done = rig.runtime.call("update", "--memory", "80m", container, check=False)
    assert done.returncode == 1
    assert "refuses SetUnitProperties" in done.stderr
    limits = cgroup(f"{rig.slice}/pre-one.scope").stats().memory
    assert limits is not None
    assert limits.limit_bytes == 1 << 26


@pytest.mark.parametrize(
    ("result", "refuse", "said"),
    [
        ("failed", {}, "its job ended with 'failed'"),
        ("done", {"StartTransientUnit": "LimitsExceeded"}, "refuses StartTransientUnit"),
        ("done", {"SetUnitProperties": "PropertyReadOnly"}, "refuses SetUnitProperties"),
    ],
)
def test_a_create_that_fails_leaves_no_unit(
    rig: Rig, result: str, refuse: dict[str, str], said: str
) -> None:
    rig.systemd.refuse = refuse

    def stopping_works(method: str) -> None:
        rig.systemd.result = result if method == "StartTransientUnit" else "done"

    rig.systemd.before = stopping_works
    assert said in rig.refused("a", rig.bundle(pids={"limit": 5}))
    assert rig.systemd.units == {}
    assert rig.directories() == []


def test_a_start_that_fails_leaves_no_unit(rig: Rig) -> None:
    assert "executable file not found" in rig.refused("a", rig.bundle("/bin/nothing"))
    assert rig.systemd.units == {}


@pytest.mark.parametrize("path", ["/system", "a.slice:b", "a.slice:../b:c", "init:a:b"])
def test_a_path_that_is_no_unit_never_reaches_systemd(rig: Rig, path: str) -> None:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["cgroupsPath"] = path

    assert "$.linux.cgroupsPath" in rig.refused("a", rig.runtime.bundle(change=change))
    assert rig.systemd.calls == []


def test_an_annotation_that_reaches_beyond_the_scope_never_reaches_systemd(rig: Rig) -> None:
    def change(config: dict[str, Any]) -> None:
        config["annotations"] = {"org.systemd.property.FailureAction": "'reboot-force'"}

    assert "may not be set" in rig.refused("a", rig.runtime.bundle(change=change))
    assert rig.systemd.calls == []


def foreign_scope(rig: Rig) -> subprocess.Popen[bytes]:
    """A process of somebody else's in the scope that the container is to have."""
    other = subprocess.Popen(["/bin/busybox", "sleep", "1000"])
    properties = [("Slice", ("s", rig.slice)), ("Description", ("s", "Session 1 of User root")),
                  ("PIDs", ("au", [other.pid]))]  # fmt: skip
    rig.systemd.on_StartTransientUnit("pre-one.scope", "replace", properties, [])
    return other


def remove_foreign_scope(rig: Rig, other: subprocess.Popen[bytes]) -> None:
    other.kill()
    other.wait()
    for directory in (*rig.directories(), TRACKING / rig.slice / "pre-one.scope"):
        if not directory.is_dir():
            continue
        eventually(lambda d=directory: not (d / "cgroup.procs").read_text())
        directory.rmdir()


def test_a_scope_of_somebody_else_is_neither_stopped_nor_emptied(rig: Rig) -> None:
    other = foreign_scope(rig)
    try:
        assert "active unit pre-one.scope" in rig.refused("a", rig.bundle())
        assert other.poll() is None
        assert "StopUnit" not in rig.systemd.methods()
        assert rig.systemd.properties("pre-one.scope")["Description"] == "Session 1 of User root"
    finally:
        remove_foreign_scope(rig, other)


def killed_at_start(rig: Rig) -> str:
    """A container whose `create` was killed as it asked for the scope."""
    creates: list[subprocess.Popen[bytes]] = []

    def kill(method: str) -> None:
        if method == "StartTransientUnit" and creates:
            creates[0].kill()
            creates[0].wait()

    rig.systemd.before = kill
    container = rig.runtime.name("a")
    words = [
        "--root",
        str(rig.runtime.root),
        *SYSTEMD,
        "create",
        "-b",
        str(rig.bundle()),
        container,
    ]
    creates.append(
        subprocess.Popen(
            [*rig.runtime.words, *words], env=rig.runtime.environment, stdin=subprocess.DEVNULL
        )
    )
    assert creates[0].wait(20) == -signal.SIGKILL
    rig.systemd.before = lambda _: None
    return container


def test_killed_while_the_scope_is_made_delete_finds_it(rig: Rig) -> None:
    container = killed_at_start(rig)
    eventually(lambda: rig.systemd.units)
    (holder,) = rig.systemd.properties("pre-one.scope")["PIDs"]
    eventually(lambda: not Path(f"/proc/{holder}").exists())
    rig.runtime.call("delete", "--force", container)
    assert rig.systemd.units == {}
    assert rig.directories() == []


def test_killed_before_the_scope_was_made_delete_leaves_anothers_alone(rig: Rig) -> None:
    rig.systemd.result = ""
    rig.systemd.refuse = {"StartTransientUnit": "LimitsExceeded"}
    container = killed_at_start(rig)
    rig.systemd.result, rig.systemd.refuse = "done", {}
    other = foreign_scope(rig)
    try:
        rig.runtime.call("delete", "--force", container)
        time.sleep(0.1)  # whoever was killed would have ended
        assert other.poll() is None
        assert "pre-one.scope" in rig.systemd.units
        assert not Path(rig.runtime.root, container).exists()
    finally:
        remove_foreign_scope(rig, other)


def test_a_systemd_that_is_away_is_no_reason_to_forget(rig: Rig) -> None:
    container = rig.create("a", rig.bundle("/bin/sleep", "1000"))
    rig.systemd.drop = "StopUnit"
    done = rig.runtime.call("delete", "--force", container, check=False)
    assert done.returncode == 1
    assert "closed the connection" in done.stderr
    rig.systemd.drop = ""
    rig.runtime.call("delete", "--force", container)
    assert rig.systemd.units == {}


def test_without_systemd_the_missing_socket_is_named(rig: Rig, tmp_path: Path) -> None:
    rig.runtime.environment["DBUS_SYSTEM_BUS_ADDRESS"] = f"unix:path={tmp_path}/nobody"
    said = rig.refused("a", rig.bundle())
    assert f"{tmp_path}/nobody: No such file or directory" in said
    assert "cgroupfs" in said
    assert list(rig.runtime.root.glob("*")) == []


def test_disabled_makes_no_cgroup(rig: Rig) -> None:
    bundle = rig.runtime.bundle("/bin/sleep", "1000")
    container = rig.runtime.create("a", bundle, globals_=("--cgroup-manager=disabled",))
    pid = rig.runtime.state(container)["pid"]
    assert Path(f"/proc/{pid}/cgroup").read_text() == Path("/proc/self/cgroup").read_text()
    assert not cgroup(container).exists
    assert rig.systemd.calls == []
