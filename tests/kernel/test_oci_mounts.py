"""Mounts of a configuration, as the container sees them and as the host does."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kernel.oci_rig import NEEDS_ROOT_AND_BUSYBOX, Bundle, bundle
from onggi.kernel.mounts import MountInfo, parse_mountinfo, read_mountinfo

pytestmark = NEEDS_ROOT_AND_BUSYBOX
__all__ = ["bundle"]


@contextmanager
def mounted(path: Path, kind: str = "tmpfs", *options: str) -> Iterator[Path]:
    path.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", kind, *options, "t", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-R", path], check=True)


def table(bundle: Bundle, before: str = "true") -> dict[str, MountInfo]:
    """The container's mounts by their place; the topmost where several are."""
    text = bundle.out(f"{before}; cat /proc/self/mountinfo")
    return {row.mount_point: row for row in parse_mountinfo(text.encode())}


def test_recursive_attributes_and_the_mounts_own(bundle: Bundle) -> None:
    with mounted(bundle.directory / "a") as a, mounted(a / "b"):
        bundle.mount("/own", "bind", a, "rbind", "ro", "nosuid")
        bundle.mount("/all", "bind", a, "rbind", "rro", "rnodev", "rnoexec", "rnosymfollow")
        bundle.mount("/mixed", "bind", a, "rbind", "ro", "rrw", "rnoatime", "nodev")
        rows = table(bundle)
    options = {place: set(row.options) for place, row in rows.items()}
    assert {"ro", "nosuid"} <= options["/own"]
    assert {"rw"} <= options["/own/b"]
    assert "nosuid" not in options["/own/b"]
    for place in ("/all", "/all/b"):
        assert {"ro", "nodev", "noexec", "nosymfollow"} <= options[place]
    assert {"rw", "noatime", "nodev"} <= options["/mixed"]
    assert {"rw", "noatime"} <= options["/mixed/b"]
    assert "nodev" not in options["/mixed/b"]


def owner(bundle: Bundle, path: str) -> str:
    return bundle.out(f"stat -c %u:%g {path}").strip()


def owned_file(bundle: Bundle, uid: int, gid: int) -> Path:
    directory = bundle.directory / "files"
    directory.mkdir()
    (directory / "f").touch()
    os.chown(directory / "f", uid, gid)
    return directory


def test_owners_by_mappings_of_the_mount_without_a_user_namespace(bundle: Bundle) -> None:
    files = owned_file(bundle, 1, 2)
    maps = {
        "uidMappings": [{"containerID": 0, "hostID": 5000, "size": 10}],
        "gidMappings": [{"containerID": 0, "hostID": 6000, "size": 10}],
    }
    bundle.mount("/files", "bind", files, "bind", "idmap", **maps)
    assert owner(bundle, "/files/f") == "5001:6002"
    bundle.config["mounts"][-1]["options"] = ["bind"]
    assert owner(bundle, "/files/f") == "5001:6002"
    assert (files / "f").stat().st_uid == 1


def test_owners_by_the_containers_own_mappings(bundle: Bundle) -> None:
    bundle.map_users()
    files = owned_file(bundle, 7, 8)
    bundle.mount("/files", "bind", files, "bind", "idmap")
    bundle.mount("/plain", "bind", files, "bind")
    assert owner(bundle, "/files/f") == "7:8"
    assert owner(bundle, "/plain/f") == "65534:65534"


@pytest.mark.skipif(
    tuple(int(n) for n in os.uname().release.split(".")[:2]) < (6, 3),
    reason="host feature missing: ID-mapped mounts of tmpfs (Linux 6.3)",
)
def test_owners_below_with_ridmap_only(bundle: Bundle) -> None:
    maps = {
        kind: [{"containerID": 0, "hostID": 5000, "size": 10}]
        for kind in ("uidMappings", "gidMappings")
    }
    with mounted(bundle.directory / "a") as a, mounted(a / "b") as b:
        (a / "f").touch()
        (b / "f").touch()
        bundle.mount("/top", "bind", a, "rbind", "idmap", **maps)
        bundle.mount("/all", "bind", a, "rbind", "ridmap", **maps)
        out = bundle.out("stat -c %u /top/f /top/b/f /all/f /all/b/f").split()
    assert out == ["5000", "0", "5000", "5000"]


def test_an_idmap_that_nothing_says_how(bundle: Bundle) -> None:
    bundle.mount("/files", "bind", owned_file(bundle, 1, 1), "bind", "idmap")
    assert "needs mappings, or a user namespace" in bundle.refused()


def test_places_are_made(bundle: Bundle) -> None:
    """A directory for a directory, a file for a file; in the root file system, for good."""
    (bundle.directory / "file").write_text("text")
    bundle.mount("/made/here", "bind", bundle.directory, "bind", "ro")
    bundle.mount("/made/too/file", "bind", bundle.directory / "file", "bind")
    bundle.mount("/made/tmp", "tmpfs", "tmpfs", "size=1m")
    assert bundle.out("cat /made/too/file; ls /made/here/config.json").startswith("text")
    assert (bundle.rootfs / "made/here").is_dir()
    assert (bundle.rootfs / "made/too/file").is_file()


def test_a_source_and_a_destination_that_are_relative(bundle: Bundle) -> None:
    (bundle.directory / "data").mkdir()
    (bundle.directory / "data/f").write_text("here")
    bundle.mount("data", "bind", "data", "bind")
    done = bundle.run("cat /data/f")
    assert done.stdout == "here"
    assert "$.mounts[7].destination: is relative" in done.stderr


def test_a_tmpfs_takes_the_mode_or_the_content_of_what_it_covers(bundle: Bundle) -> None:
    place = bundle.rootfs / "place"
    place.mkdir(mode=0o700)
    place.chmod(0o1751)
    (place / "file").write_text("kept")
    bundle.mount("/place", "tmpfs", "tmpfs")
    assert bundle.out("stat -c %a /place; ls /place").split() == ["1751"]
    bundle.config["mounts"][-1]["options"] = ["mode=711"]
    assert bundle.out("stat -c %a /place").split() == ["711"]
    bundle.config["mounts"][-1]["options"] = ["tmpcopyup"]
    assert bundle.out("stat -c %a /place; cat /place/file").split() == ["1751", "kept"]
    bundle.config["mounts"][-1] |= {"destination": "/absent", "options": []}
    assert bundle.out("stat -c %a /absent").split() == ["1777"]


def test_a_remount_changes_what_an_earlier_entry_has_mounted(bundle: Bundle) -> None:
    bundle.mount("/tmp", "tmpfs", "tmpfs", "size=1m")
    bundle.mount("/tmp", "none", "none", "remount", "bind", "ro", "noexec")
    assert {"ro", "noexec"} <= set(table(bundle)["/tmp"].options)


def test_options_longer_than_one_value_may_be(bundle: Bundle) -> None:
    layers = [bundle.directory / f"layer-{n}-{'x' * 60}" for n in range(6)]
    for n, layer in enumerate(layers):
        layer.mkdir()
        (layer / f"f{n}").touch()
    for name in ("upper", "work"):
        (bundle.directory / name).mkdir()
    bundle.mount(
        "/merged",
        "overlay",
        "overlay",
        "lowerdir=" + ":".join(map(str, layers)),
        f"upperdir={bundle.directory}/upper",
        f"workdir={bundle.directory}/work",
        "nosuid",
        "rslave",
    )
    assert bundle.out("touch /merged/new; ls /merged").split() == [f"f{n}" for n in range(6)] + [
        "new"
    ]
    assert (bundle.directory / "upper/new").exists()
    assert "nosuid" in table(bundle)["/merged"].options


def test_every_option_of_mount(bundle: Bundle) -> None:
    words = (
        "defaults sync dirsync mand lazytime nolazytime nomand async noatime nodiratime relatime "
        "strictatime silent loud acl iversion user noauto _netdev nofail rw dev exec suid"
    )
    bundle.mount("/tmp", "tmpfs", "tmpfs", *words.split())
    row = table(bundle)["/tmp"]
    assert "nosuid" not in row.options
    bundle.config["mounts"][-1]["options"] = ["frobnicate=1"]
    assert "tmpfs does not know one of the options" in bundle.refused()


@pytest.mark.parametrize(("name", "reaches"), [("rshared", True), ("rslave", False), ("", False)])
def test_mounts_reach_the_host_only_when_they_are_to(
    bundle: Bundle, name: str, reaches: bool
) -> None:
    with mounted(bundle.directory / "a") as a:
        subprocess.run(["mount", "--make-shared", a], check=True)
        (a / "in").mkdir()
        bundle.mount("/a", "bind", a, "rbind", *([name] if name else []))
        self_admin(bundle)
        bundle.out("mount -t tmpfs inside /a/in")
        seen = any(row.mount_point == str(a / "in") for row in read_mountinfo())
        assert seen is reaches
        if seen:
            subprocess.run(["umount", a / "in"], check=True)


def self_admin(bundle: Bundle) -> None:
    for name in ("bounding", "effective", "permitted"):
        bundle.process["capabilities"][name].append("CAP_SYS_ADMIN")


@pytest.mark.parametrize(("name", "reaches"), [("rslave", True), ("rprivate", False)])
def test_mounts_of_the_host_reach_the_container_only_when_they_are_to(
    bundle: Bundle, name: str, reaches: bool
) -> None:
    with mounted(bundle.directory / "a") as a:
        subprocess.run(["mount", "--make-shared", a], check=True)
        (a / "in").mkdir()
        bundle.mount("/a", "bind", a, "rbind", name)
        hook = f"mount -t tmpfs outside {a}/in"
        bundle.config["hooks"] = {
            "createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", hook], "env": ["PATH=/bin"]}]
        }
        assert ("/a/in" in table(bundle)) is reaches


@pytest.mark.parametrize(
    ("name", "field"),
    [("shared", "shared"), ("rshared", "shared"), ("private", ""), ("unbindable", "unbindable")],
)
def test_the_roots_propagation(bundle: Bundle, name: str, field: str) -> None:
    bundle.linux["rootfsPropagation"] = name
    rows = table(bundle)
    kinds = {optional.partition(":")[0] for optional in rows["/"].optional}
    assert kinds == ({field} if field else set())
    assert bool(rows["/proc"].optional) == (name == "rshared")


def test_a_root_that_is_read_only_but_for_its_mounts(bundle: Bundle) -> None:
    bundle.config["root"]["readonly"] = True
    bundle.mount("/tmp", "tmpfs", "tmpfs")
    out = bundle.out("touch /x; echo $?; touch /tmp/x; echo $?; touch /dev/x; echo $?").split()
    assert out == ["1", "0", "0"]
    assert not (bundle.rootfs / "x").exists()


@pytest.mark.parametrize("own", [True, False])
def test_cgroups_show_the_containers_own_only(bundle: Bundle, own: bool) -> None:
    """With a cgroup namespace its own is the root; without, its own directory is bound (v1)."""
    if own:
        bundle.linux["namespaces"].append({"type": "cgroup"})
    text = bundle.out(
        "cat /proc/self/cgroup; cat /sys/fs/cgroup/memory/cgroup.procs; "
        "touch /sys/fs/cgroup/memory/x || ls /sys/fs/cgroup"
    )
    rows = [line.split(":", 2) for line in text.splitlines() if line.count(":") >= 2]
    memory = next((path for _, names, path in rows if "memory" in names.split(",")), None)
    if memory is None:
        pytest.skip("host feature missing: a cgroup v1 memory hierarchy")
    assert memory == ("/" if own else f"/{bundle.name}" if memory[1:] == bundle.name else memory)
    assert (memory == "/") == own
    assert "\n1\n" in text


def test_a_cgroup2_that_is_asked_for_by_name(bundle: Bundle) -> None:
    bundle.linux["namespaces"].append({"type": "cgroup"})
    bundle.mount("/cg2", "cgroup2", "cgroup2", "ro", "nosuid")
    if not any(row.fstype == "cgroup2" for row in read_mountinfo()):
        assert "cgroup2 is not mounted on this host" in bundle.refused()
        return
    row = table(bundle)["/cg2"]
    assert (row.fstype, row.root) == ("cgroup2", "/")
    assert {"ro", "nosuid"} <= set(row.options)


def test_devices_where_dev_is_of_the_image_and_where_it_is_bound(bundle: Bundle) -> None:
    mounts = bundle.config["mounts"]
    bundle.config["mounts"] = [m for m in mounts if not m["destination"].startswith("/dev")]
    (bundle.rootfs / "dev/pts").mkdir()
    out = bundle.out("echo x > /dev/null; readlink /dev/fd; readlink /dev/ptmx")
    assert out.split() == ["/proc/self/fd", "pts/ptmx"]
    assert (bundle.rootfs / "dev/null").is_char_device()
    bundle.mount("/dev", "bind", "/dev", "rbind", "ro")
    names = bundle.out("ls /dev").split()
    assert set(names) <= set(os.listdir("/dev"))


def test_a_device_of_the_configuration(bundle: Bundle) -> None:
    bundle.linux["devices"] = [
        {
            "path": "/dev/a/b",
            "type": "c",
            "major": 1,
            "minor": 3,
            "fileMode": 0o640,
            "uid": 3,
            "gid": 4,
        },
        {"path": "/pipe", "type": "p", "fileMode": 0o600},
    ]
    out = bundle.out("stat -c '%F %a %u %g %t:%T' /dev/a/b; stat -c '%F %a' /pipe")
    assert out.splitlines() == ["character special file 640 3 4 1:3", "fifo 600"]


def test_a_device_whose_place_has_another_file(bundle: Bundle) -> None:
    """The specification wants an error where a file is that does not match."""
    (bundle.rootfs / "thing").touch()
    bundle.linux["devices"] = [{"path": "/thing", "type": "c", "major": 1, "minor": 3}]
    assert "the image has another file in its place" in bundle.refused()
