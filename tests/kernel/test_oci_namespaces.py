"""Every namespace: new, joined by its path, or that of the host; and those that do not fit."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kernel.oci_rig import NEEDS_ROOT_AND_BUSYBOX, Bundle, bundle

pytestmark = NEEDS_ROOT_AND_BUSYBOX
__all__ = ["bundle"]

HAS_TIME = Path("/proc/self/ns/time").exists()
NEEDS_TIME = pytest.mark.skipif(not HAS_TIME, reason="host feature missing: time namespaces")

#: The specification's name of each type → its file in /proc/PID/ns.
FILES = {
    "cgroup": "cgroup",
    "ipc": "ipc",
    "mount": "mnt",
    "network": "net",
    "pid": "pid",
    **({"time": "time"} if HAS_TIME else {}),
    "user": "user",
    "uts": "uts",
}
OTHERS = [
    *(kind for kind in FILES if kind not in ("mount", "user", "time")),
    pytest.param("time", marks=NEEDS_TIME),
]


@contextmanager
def holder(*kinds: str, users: int = 0) -> Iterator[int]:
    """A process in new namespaces of these types, whose first ids are `users` on the host."""
    flags = {"mount": "-m", "network": "-n", "user": "-U", "time": "-T", "cgroup": "-C"}
    words = [flags.get(kind, f"-{kind[0]}") for kind in kinds]
    if "pid" in kinds:
        words += ["--fork", "--kill-child"]
    with subprocess.Popen(["unshare", *words, "sleep", "1000"]) as process:
        try:
            pid = settled(process.pid, "pid" in kinds, FILES[kinds[0]])
            if "user" in kinds:
                for name in ("uid_map", "gid_map"):
                    Path(f"/proc/{pid}/{name}").write_text(f"0 {users} 65536\n")
            yield pid
        finally:
            process.kill()


def settled(pid: int, forks: bool, file: str) -> int:
    """The process that sleeps, once it does."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        sleeper = int(children[0]) if forks and children else pid
        if Path(f"/proc/{sleeper}/comm").read_text() == "sleep\n":
            return sleeper
        time.sleep(0.01)
    raise AssertionError(f"no process in a namespace {file}")


def inside(bundle: Bundle) -> dict[str, str]:
    """The container's namespaces by type."""
    script = "; ".join(f"readlink /proc/self/ns/{file}" for file in FILES.values())
    return dict(zip(FILES, bundle.out(script).split(), strict=True))


def of_process(pid: int | str) -> dict[str, str]:
    return {kind: os.readlink(f"/proc/{pid}/ns/{file}") for kind, file in FILES.items()}


def test_all_that_are_new(bundle: Bundle) -> None:
    bundle.namespaces(*(kind for kind in FILES if kind != "user"))
    bundle.map_users()
    host = of_process("self")
    assert not set(inside(bundle).items()) & set(host.items())


@pytest.mark.parametrize("users", [False, True])
@pytest.mark.parametrize("missing", OTHERS)
def test_one_that_is_the_hosts(bundle: Bundle, missing: str, users: bool) -> None:
    bundle.namespaces(*(kind for kind in FILES if kind not in ("user", missing)))
    if users:
        bundle.map_users()
    host, own = of_process("self"), inside(bundle)
    same = {kind for kind in FILES if host[kind] == own[kind]}
    assert same == ({missing} if users else {missing, "user"})


def test_none_but_a_mount_namespace(bundle: Bundle) -> None:
    bundle.namespaces("mount")
    host, own = of_process("self"), inside(bundle)
    assert {kind for kind in FILES if host[kind] != own[kind]} == {"mount"}


@pytest.mark.parametrize("kind", OTHERS)
def test_one_that_is_joined(bundle: Bundle, kind: str) -> None:
    with holder(kind) as pid:
        path = f"/proc/{pid}/ns/{FILES[kind]}"
        bundle.namespaces(*(k for k in FILES if k not in ("user", kind)), **{kind: path})
        assert inside(bundle)[kind] == os.readlink(path)


def test_all_that_belong_to_another(bundle: Bundle) -> None:
    """As in a pod whose user namespace is shared: ids and rights are those of the joined one."""
    kinds = ("user", "ipc", "network", "uts")
    with holder(*kinds, users=2_000_000) as pid:
        joined = {kind: f"/proc/{pid}/ns/{FILES[kind]}" for kind in kinds}
        bundle.namespaces("mount", "pid", "cgroup", **joined)
        bundle.directory.chmod(0o755)
        for path in (bundle.rootfs, *bundle.rootfs.rglob("*")):
            os.chown(path, 2_000_000, 2_000_000, follow_symlinks=False)
        own, theirs = inside(bundle), of_process(pid)
        assert all(own[kind] == theirs[kind] for kind in kinds)
        assert bundle.out("cat /proc/self/uid_map").split() == ["0", "2000000", "65536"]


def test_a_user_namespace_joined_alone(bundle: Bundle) -> None:
    """The other namespaces are new, and belong to the one that is joined."""
    with holder("user", users=2_000_000) as pid:
        bundle.namespaces("mount", "pid", "ipc", "network", "uts", user=f"/proc/{pid}/ns/user")
        bundle.config["hostname"] = "mine"
        bundle.directory.chmod(0o755)
        for path in (bundle.rootfs, *bundle.rootfs.rglob("*")):
            os.chown(path, 2_000_000, 2_000_000, follow_symlinks=False)
        assert bundle.out("hostname; id -u").split() == ["mine", "0"]


def test_mappings_of_a_joined_namespace_count_for_idmapped_mounts(bundle: Bundle) -> None:
    files = bundle.directory / "files"
    files.mkdir()
    (files / "f").touch()
    os.chown(files / "f", 7, 7)
    with holder("user", users=2_000_000) as pid:
        bundle.namespaces("mount", "pid", "network", user=f"/proc/{pid}/ns/user")
        bundle.mount("/files", "bind", files, "bind", "idmap")
        bundle.directory.chmod(0o755)
        for path in (bundle.rootfs, *bundle.rootfs.rglob("*")):
            os.chown(path, 2_000_000, 2_000_000, follow_symlinks=False)
        assert bundle.out("stat -c %u /files/f").split() == ["7"]


@pytest.mark.parametrize("kind", OTHERS)
def test_a_path_of_another_type_is_refused(bundle: Bundle, kind: str) -> None:
    """config-linux.md#namespaces: an error if the path is not of that type."""
    other = "uts" if kind != "uts" else "ipc"
    bundle.namespaces("mount", **{kind: f"/proc/self/ns/{other}"})
    assert "setns" in bundle.refused()


def test_paths_that_are_no_namespaces(bundle: Bundle) -> None:
    for path, words in (("/etc/hostname", "setns"), ("/nowhere", "No such file")):
        bundle.namespaces("mount", network=path)
        assert words in bundle.refused()
    bundle.namespaces("mount", network="ns/net")
    assert "$.linux.namespaces[1].path: 'ns/net' is not absolute" in bundle.refused()


@NEEDS_TIME
def test_clocks_with_offsets(bundle: Bundle) -> None:
    bundle.namespaces("mount", "pid", "time")
    bundle.linux["timeOffsets"] = {
        "boottime": {"secs": 864_000},
        "monotonic": {"secs": 432_000, "nanosecs": 5},
    }
    rows = [line.split() for line in bundle.out("cat /proc/self/timens_offsets").splitlines()]
    assert {row[0]: row[1:] for row in rows} == {
        "monotonic": ["432000", "5"],
        "boottime": ["864000", "0"],
    }
    assert float(bundle.out("cat /proc/uptime").split()[0]) > 864_000


def test_a_mount_namespace_that_is_joined_keeps_its_tree(bundle: Bundle) -> None:
    with holder("mount") as pid:
        bundle.namespaces("uts", mount=f"/proc/{pid}/ns/mnt")
        bundle.process["env"] = ["PATH=/usr/bin:/bin"]
        done = bundle.run("readlink /proc/self/ns/mnt; ls -d /usr/bin")
        assert done.stdout.split()[0] == os.readlink(f"/proc/{pid}/ns/mnt")
        assert "$.root: is that of the mount namespace that is joined" in done.stderr


def test_no_mount_namespace_is_refused_because_of_the_host(bundle: Bundle) -> None:
    bundle.namespaces("pid")
    assert "the container's mounts would be the host's" in bundle.refused()
