"""Cgroup v2 in the hands of users: a container's own, and one that root has delegated."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from faces.oci_rig import NEEDS_ROOT_AND_BUSYBOX, Runtime, cgroup
from faces.rootless_rig import Config, Rootless, rootless
from onggi.kernel.cgroups.layout import CgroupLayout
from visitor_rig import UID

LAYOUT = CgroupLayout.probe()
pytestmark = [
    NEEDS_ROOT_AND_BUSYBOX,
    pytest.mark.skipif(LAYOUT.mode != "v2", reason="host feature missing: cgroup v2 alone"),
]
MOUNT = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"]}
ROOT_INSIDE = 100000


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o711)  # root inside is to reach the root file system
    runtime = Runtime(tmp_path)
    yield runtime
    runtime.clean()
    assert runtime.leftovers() == []


@pytest.fixture
def visitor() -> Iterator[Rootless]:
    with rootless() as made:
        yield made
        made.clean()
        assert made.leftovers() == []


def _managing(config: Config) -> None:
    maps = [{"containerID": 0, "hostID": ROOT_INSIDE, "size": 65536}]
    config["linux"] |= {"uidMappings": maps, "gidMappings": maps}
    config["linux"]["namespaces"] += [{"type": "user"}, {"type": "cgroup"}]
    config["linux"]["resources"] = {"pids": {"limit": 50}}
    config["mounts"].append(MOUNT)


def _owners(container: str) -> dict[str, int]:
    (hierarchy,) = LAYOUT.hierarchies
    directory = Path(hierarchy.mount_point) / cgroup(container).path
    return {path.name: path.stat().st_uid for path in (directory, *directory.iterdir())}


def _own_cgroup(container: str, runtime: Runtime) -> str:
    pid = runtime.state(container)["pid"]
    return Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::/")


def test_a_container_that_may_write_to_its_own_cgroup_owns_it(runtime: Runtime) -> None:
    made = "mkdir /sys/fs/cgroup/below && echo 0 >/sys/fs/cgroup/below/cgroup.procs && echo made"
    limit = "echo max 2>&1 >/sys/fs/cgroup/pids.max; cat /sys/fs/cgroup/pids.max; sleep 1000"
    container = runtime.create(
        "a", runtime.bundle("sh", "-c", f"{made}; {limit}", change=_managing)
    )
    owners = _owners(_own_cgroup(container, runtime))
    delegated = Path("/sys/kernel/cgroup/delegate").read_text().split()
    assert {name for name, uid in owners.items() if uid == ROOT_INSIDE} == {
        container,
        *(name for name in delegated if name in owners),
    }
    assert owners["pids.max"] == 0
    runtime.call("start", container)
    while "50" not in runtime.output("a"):
        assert runtime.state(container)["status"] == "running"
    said = runtime.output("a").splitlines()
    assert said[0] == "made"
    assert said[-1] == "50"
    runtime.call("delete", "--force", container)


@pytest.mark.parametrize("lacks", ["writable", "cgroup", "user"])
def test_one_that_may_not_does_not(runtime: Runtime, lacks: str) -> None:
    def change(config: Config) -> None:
        _managing(config)
        linux = config["linux"]
        if lacks == "writable":
            config["mounts"][-1] = {**MOUNT, "options": ["ro"]}
        else:
            linux["namespaces"] = [n for n in linux["namespaces"] if n["type"] != lacks]
        if lacks == "user":
            del linux["uidMappings"], linux["gidMappings"]

    container = runtime.create("a", runtime.bundle("true", change=change))
    assert set(_owners(_own_cgroup(container, runtime)).values()) == {0}


def test_a_users_container_is_limited_in_what_root_has_delegated(visitor: Rootless) -> None:
    (hierarchy,) = LAYOUT.hierarchies
    tree = Path(hierarchy.mount_point) / f"rl{os.getpid()}"
    shell = tree / "shell"
    shell.mkdir(parents=True)
    (Path(hierarchy.mount_point) / "cgroup.subtree_control").write_text("+pids")
    for path in (tree, tree / "cgroup.procs", tree / "cgroup.subtree_control"):
        os.chown(path, UID, UID)
    visitor.before = f"echo 0 >{shell}/cgroup.procs\n"

    def change(config: Config) -> None:
        config["linux"]["resources"] = {"pids": {"limit": 20}}
        config["linux"]["namespaces"] = [
            *(n for n in config["linux"]["namespaces"] if n["type"] != "cgroup"),
            {"type": "cgroup"},
        ]
        config["mounts"][-1] = MOUNT

    try:
        visitor.creates("one", "sleep", "1000", change=change)
        visitor.calls("start", "one")
        assert (tree / "one/pids.max").read_text() == "20\n"
        assert visitor.calls("exec", "one", "cat", "/sys/fs/cgroup/pids.max").stdout == "20\n"
        visitor.calls("pause", "one")
        assert visitor.state("one")["status"] == "paused"
        visitor.calls("resume", "one")
        visitor.calls("exec", "one", "mkdir", "/sys/fs/cgroup/below")
        visitor.calls("delete", "--force", "one")
        assert not (tree / "one").exists()
    finally:
        visitor.clean()
        shell.rmdir()
        tree.rmdir()
