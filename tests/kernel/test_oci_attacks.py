"""Roots and configurations that are out to harm the host, against `onggi-runtime`.

The root file system is the attacker's: links and files where a runtime mounts, writes or reads.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from kernel.oci_rig import NEEDS_ROOT_AND_BUSYBOX, Bundle, bundle

pytestmark = NEEDS_ROOT_AND_BUSYBOX
__all__ = ["bundle"]


@pytest.fixture
def outside(bundle: Bundle) -> Path:
    """A directory of the host that nothing of the container may touch."""
    directory = bundle.directory / "outside"
    directory.mkdir()
    (directory / "secret").write_text("secret")
    return directory


def untouched(outside: Path) -> bool:
    return os.listdir(outside) == ["secret"] and (outside / "secret").read_text() == "secret"


def replace(path: Path, target: str | Path) -> None:
    path.rmdir()
    path.symlink_to(target)


@pytest.mark.parametrize("name", ["proc", "sys"])
def test_links_where_procfs_and_sysfs_belong(bundle: Bundle, outside: Path, name: str) -> None:
    """CVE-2019-19921: a link in the image; CVE-2025-52881 for what is then written there."""
    bundle.linux["sysctl"] = {"net.ipv4.ip_forward": "1"}
    for target in (outside, "/tmp", "dev"):
        path = bundle.rootfs / name
        replace(path, target)
        assert f"mount point /{name}" in bundle.refused()
        path.unlink()
        path.mkdir()
    assert untouched(outside)


@pytest.mark.parametrize("name", ["dev", "dev/shm", "dev/pts", "dev/mqueue", "tmp", "etc"])
def test_links_where_anything_else_is_mounted(bundle: Bundle, outside: Path, name: str) -> None:
    """CVE-2021-30465: links are followed inside the root, and lead nowhere else."""
    if name.startswith("dev/"):
        mounts = bundle.config["mounts"]
        bundle.config["mounts"] = [m for m in mounts if m["destination"] != "/dev"]
        (bundle.rootfs / name).mkdir()
    replace(bundle.rootfs / name, outside)
    bundle.mount("/tmp", "tmpfs", "tmpfs")
    bundle.mount("/etc", "tmpfs", "tmpfs")
    bundle.run("touch /tmp/x /etc/x /dev/x")
    assert untouched(outside)


@pytest.mark.parametrize("name", ["null", "console", "ptmx", "fd", "stdout", "zero"])
def test_links_and_files_where_devices_belong(bundle: Bundle, outside: Path, name: str) -> None:
    """CVE-2025-31133 and CVE-2025-52565: /dev is the image's own here."""
    mounts = bundle.config["mounts"]
    bundle.config["mounts"] = [m for m in mounts if not m["destination"].startswith("/dev")]
    (bundle.rootfs / "dev/pts").mkdir()
    bundle.mount("/dev/pts", "devpts", "devpts", "newinstance", "ptmxmode=0666")
    (bundle.rootfs / "dev" / name).symlink_to(outside / "secret")
    done = bundle.run("echo x > /dev/null; cat /proc/kcore; echo $?")
    assert untouched(outside)
    if done.returncode == 0:
        assert "secret" not in done.stdout
    else:
        assert name in ("null", "zero"), done.stderr


def test_a_null_device_that_is_none_masks_nothing(bundle: Bundle, outside: Path) -> None:
    """CVE-2025-31133: what is bound over a masked path must be the null device."""
    mounts = bundle.config["mounts"]
    bundle.config["mounts"] = [m for m in mounts if not m["destination"].startswith("/dev")]
    bundle.mount("/dev", "bind", outside, "bind")
    (outside / "null").touch()
    assert "/dev/null is not the null device" in bundle.refused()
    (outside / "null").unlink()
    (outside / "null").symlink_to("/etc")
    assert "/dev/null is not the null device" in bundle.refused()
    (outside / "null").unlink()
    assert untouched(outside)


@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_a_proc_that_is_covered_takes_no_writes(bundle: Bundle, outside: Path, kind: str) -> None:
    """CVE-2019-16884: labels and parameters never go to what only looks like procfs."""
    bundle.linux["sysctl"] = {"net.ipv4.ip_forward": "1"}
    if kind == "tmpfs":
        bundle.mount("/proc", "tmpfs", "tmpfs")
    else:
        bundle.mount("/proc", "bind", outside, "bind")
    assert "/proc" in bundle.refused()
    assert untouched(outside)


@pytest.mark.parametrize("place", ["/proc/sys/net/ipv4/ip_forward", "/proc/sys", "/proc/sys/net"])
def test_a_parameter_that_is_covered_takes_no_writes(
    bundle: Bundle, outside: Path, place: str
) -> None:
    """CVE-2025-52881: a mount over the file, or over a directory on the way to it."""
    (outside / "net/ipv4").mkdir(parents=True)
    (outside / "net/ipv4/ip_forward").write_text("kept")
    (outside / "ipv4").mkdir()
    (outside / "ipv4/ip_forward").write_text("kept")
    source = outside / "secret" if place.endswith("forward") else outside
    bundle.mount(place, "bind", source, "bind")
    bundle.linux["sysctl"] = {"net.ipv4.ip_forward": "1"}
    assert "ip_forward" in bundle.refused()
    assert (outside / "secret").read_text() == "secret"
    assert (outside / "net/ipv4/ip_forward").read_text() == "kept"
    assert (outside / "ipv4/ip_forward").read_text() == "kept"


@pytest.mark.parametrize("place", ["/proc/self/attr/exec", "/proc/self/cwd/x", "/proc/self/fd"])
def test_nothing_is_mounted_on_a_processs_own_files(
    bundle: Bundle, outside: Path, place: str
) -> None:
    """/proc/self leads elsewhere for each process: a mount there would be on init's."""
    source = outside if place.endswith("fd") else outside / "secret"
    bundle.mount(place, "bind", source, "bind")
    assert place in bundle.refused()
    assert untouched(outside)


def test_masks_do_not_follow_links_out_of_the_root(bundle: Bundle, outside: Path) -> None:
    (bundle.rootfs / "out").symlink_to(outside)
    (bundle.rootfs / "here").symlink_to("../../../../../../../../etc")
    bundle.linux["maskedPaths"] = ["/out", "/here", "/out/secret"]
    bundle.linux["readonlyPaths"] = ["/out", "/here"]
    bundle.out("true")
    assert untouched(outside)
    assert os.listdir("/etc")


def test_a_place_that_is_exchanged_while_it_is_mounted_upon(bundle: Bundle, outside: Path) -> None:
    """CVE-2021-30465: a sibling changes a directory into a link and back, all the time."""
    volume = bundle.directory / "volume"
    (volume / "a").mkdir(parents=True)
    (volume / "b").symlink_to("../../../../../../../../" + str(outside))
    bundle.mount("/v", "bind", volume, "bind")
    bundle.mount("/v/a", "tmpfs", "tmpfs", "size=1m")
    exchanged, done = exchange(volume / "a", volume / "b")
    try:
        for _ in range(200):
            bundle.run("touch /v/a/evil /v/b/evil")
            assert untouched(outside)
            assert not any(str(outside) in line for line in mounts_of_the_host())
            if exchanged() > 100_000:
                break
    finally:
        done.set()
    assert exchanged() > 100_000


def exchange(one: Path, other: Path):  # type: ignore[no-untyped-def]
    """Swap two names for ever (renameat2, RENAME_EXCHANGE); how often so far, and how to stop."""
    libc = ctypes.CDLL(None, use_errno=True)
    done = threading.Event()
    count = [0]

    def run() -> None:
        names = os.fsencode(one), os.fsencode(other)
        while not done.is_set():
            for _ in range(1000):
                libc.renameat2(-100, names[0], -100, names[1], 2)
            count[0] += 1000

    threading.Thread(target=run, daemon=True).start()
    return lambda: count[0], done


def mounts_of_the_host() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()


def test_release_agents_are_out_of_reach(bundle: Bundle) -> None:
    """CVE-2022-0492: as root with a new user namespace, where no filter forbids one."""
    bundle.linux["namespaces"].append({"type": "cgroup"})
    script = (
        "find=/sys/fs/cgroup; for f in $(busybox find /sys/fs/cgroup -name release_agent); do "
        "echo /tmp/x > $f && echo WRITTEN; done; "
        "unshare -UrmC sh -c 'mkdir /tmp/c; for k in rdma memory freezer; do "
        "mount -t cgroup -o $k c /tmp/c && echo /tmp/x > /tmp/c/release_agent && echo WRITTEN; "
        "done'; true"
    )
    done = bundle.run(script)
    assert done.returncode == 0
    assert "WRITTEN" not in done.stdout
    for agent in Path("/sys/fs/cgroup").glob("*/release_agent"):
        assert "/tmp/x" not in agent.read_text()


def test_groups_cannot_be_dropped_where_they_deny(bundle: Bundle) -> None:
    """With setgroups denied a user cannot leave the groups that keep it from something."""
    bundle.process["user"] = {"uid": 1000, "gid": 1000, "additionalGids": [7]}
    done = bundle.run("unshare -Ur sh -c 'cat /proc/self/setgroups /proc/self/status'")
    if done.returncode == 0:
        assert done.stdout.startswith("deny\n")
        assert "Groups:\t65534" in done.stdout
    bundle.process["user"] = {"uid": 0, "gid": 0}
    bundle.map_users(size=1000)
    assert bundle.out("grep Groups /proc/self/status").split() == ["Groups:"]


def test_abstract_sockets_of_the_host_are_not_those_of_a_network_namespace(
    bundle: Bundle,
) -> None:
    name = f"onggi-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")
        listener.listen()
        assert name in Path("/proc/net/unix").read_text()
        assert name not in bundle.out("cat /proc/net/unix")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe{}",
        b'{"ociVersion": 1}',
        b'{"ociVersion": "1.0.0", "process": []}',
        b'{"ociVersion": "1.0.0", "linux": {"namespaces": [["pid"]]}}',
        b'{"ociVersion": "1.0.0", "mounts": {"a": 1}}',
        b'{"ociVersion": "1.0.0", "annotations": {"a": 1}}',
        b'{"ociVersion": "1.0.0", "hooks": {"prestart": {}}}',
        b'{"ociVersion": "1.0.0", "x": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        b'{"ociVersion": "1.0.0", "mounts": null, "x": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001,
        b'{"ociVersion": "1.0.0", "process": {"user": {"uid": 1e999}}}',
        b'{"ociVersion": "1.0.0", "process": {"user": {"uid": ' + b"9" * 5000 + b"}}}",
    ],
    ids=range(15),
)
def test_configurations_that_are_none(bundle: Bundle, text: bytes) -> None:
    (bundle.directory / "config.json").write_bytes(text)
    done = bundle.call("run", bundle.name)
    assert done.returncode != 0
    assert done.stderr.startswith("$")
    assert "Traceback" not in done.stderr
    assert len(done.stderr) < 1000


def test_a_configuration_of_100_mb_takes_neither_time_nor_memory(bundle: Bundle) -> None:
    path = bundle.directory / "config.json"
    with path.open("wb") as file:
        file.write(b'{"ociVersion": "1.0.0", "annotations": {"a": "')
        for _ in range(100):
            file.write(b"x" * 1_000_000)
        file.write(b'"}}')
    limited = ["prlimit", f"--as={400 << 20}", "--cpu=10"]
    done = subprocess.run(
        [*limited, *bundle.words("run", bundle.name)],
        capture_output=True,
        text=True,
        check=False,
        cwd=bundle.directory,
    )
    assert done.returncode != 0
    assert "longer than" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_configuration_that_is_no_file(bundle: Bundle) -> None:
    """A FIFO holds nobody up, a directory and a device are refused."""
    path = bundle.directory / "config.json"
    os.mkfifo(path)
    assert bundle.call("run", bundle.name).returncode != 0
    path.unlink()
    path.mkdir()
    done = bundle.call("run", bundle.name)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    path.rmdir()
    path.symlink_to("/dev/zero")
    assert bundle.call("run", bundle.name).returncode != 0


def test_the_state_that_hooks_read_is_json_whatever_the_annotations(bundle: Bundle) -> None:
    bundle.config["annotations"] = {'"},"pid":1,"x":{"': "\ue000", "pid": "\\u0000 \n"[1:]}
    out = bundle.directory / "state.json"
    bundle.config["hooks"] = {
        "prestart": [
            {"path": "/bin/sh", "args": ["sh", "-c", f"cat > {out}"], "env": ["PATH=/bin"]}
        ]
    }
    bundle.out("true")
    state = json.loads(out.read_text())
    assert state["id"] == bundle.name
    assert state["annotations"]['"},"pid":1,"x":{"']


@pytest.mark.parametrize("words", [(), ("--no-pivot",)])
def test_no_procfs_without_its_masks_can_be_mounted(bundle: Bundle, words: tuple[str, ...]) -> None:
    """Not even by root of a user namespace of the container's own, as no whole one is left."""
    for name in ("bounding", "effective", "permitted"):
        bundle.process["capabilities"][name].append("CAP_SETFCAP")  # to map root
    script = "unshare -Urmpf sh -c 'echo in; mount -t proc proc /proc && echo MOUNTED'; true"
    done = bundle.run(script, *words)
    assert done.stdout.split() == ["in"], done.stderr
