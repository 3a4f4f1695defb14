"""Where mounts come from, when others may change that: parts of volumes, sources whose owners
change, mounts that spread. Both sides are looked at, and each source is attacked."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance.rig import Onggi, until
from link_swapper import swapping

USER = ("-u", "1000:1000")


@pytest.fixture(autouse=True)
def _nothing_stays(onggi: Onggi) -> Iterator[None]:
    yield
    left = onggi.out("ps", "-aq").split()
    if left:
        onggi.run("rm", "-f", *left)
    for name in onggi.out("volume", "ls", "-q").split():
        onggi.run("volume", "rm", name)


def sh(onggi: Onggi, *options: str, script: str, check: bool = True) -> str:
    return onggi.out("run", "--rm", *options, "busybox", "sh", "-c", script, check=check)


def part(volume: str, subpath: str, *more: str) -> tuple[str, str]:
    words = (f"type=volume,src={volume},dst=/x,volume-subpath={subpath}", *more)
    return "--mount", ",".join(words)


def place(onggi: Onggi, volume: str) -> Path:
    (found,) = json.loads(onggi.out("volume", "inspect", volume))
    return Path(found["Mountpoint"])


def owners(*paths: Path) -> set[tuple[int, int]]:
    return {(s.st_uid, s.st_gid) for s in (os.lstat(path) for path in paths)}


def refused(onggi: Onggi, *words: str) -> str:
    """What is said, in one line, by a run that does not start."""
    done = onggi.run("run", "--rm", *words, "busybox", "true", check=False)
    assert (done.returncode, done.stderr.count("\n")) == (125, 1), done.stderr
    return done.stderr


# -- a part of a volume ----------------------------------------------------------------------


@pytest.fixture
def parts(onggi: Onggi) -> str:
    """A volume with directories, a file, and links that stay in it and lead out of it."""
    script = (
        "mkdir -p /d/a/b; echo in-b > /d/a/b/f; ln -s a/b /d/inner; ln -s /etc /d/absolute; "
        "ln -s ../../../.. /d/up; ln -s loop /d/loop; mkfifo /d/fifo"
    )
    sh(onggi, "-v", "parts:/d", script=script)
    return "parts"


def test_a_part_of_a_volume(onggi: Onggi, parts: str) -> None:
    assert sh(onggi, *part(parts, "a/b"), script="cat /x/f; echo new > /x/g; ls /x/..").startswith(
        "in-b\n"
    )
    assert (place(onggi, parts) / "a/b/g").read_text() == "new\n"
    podmans = ("--mount", f"type=volume,src={parts},dst=/x,subpath=inner,ro")
    assert sh(onggi, *podmans, script="ls /x; touch /x/h 2>&1", check=False).startswith("f\ng\n")
    assert not (place(onggi, parts) / "a/b/h").exists()
    assert sh(onggi, *part(parts, "a/b/f"), script="cat /x") == "in-b"
    # What is mounted is that directory alone, as the kernel tells it.
    onggi.run("run", "-d", "--name", "part", *part(parts, "a/b"), "busybox", "sleep", "1000")
    lines = Path(f"/proc/{onggi.pid('part')}/mountinfo").read_text().splitlines()
    (root,) = [line.split()[3] for line in lines if line.split()[4] == "/x"]
    assert root.endswith("/volumes/parts/_data/a/b")
    # And copies to a container that does not run go there too.
    onggi.run("kill", "part")
    onggi.run("wait", "part")
    assert onggi.run("cp", "part:/x/f", "-").stdout.startswith("f\0")


@pytest.mark.parametrize(
    ("subpath", "why"),
    [
        ("absolute", "leads out"),
        ("absolute/passwd", "leads out"),
        ("up", "leads out"),
        ("up/etc", "leads out"),
        ("loop", "goes round"),
        ("missing", "has no missing"),
        ("a/b/f/g", "has no a/b/f/g"),
        ("fifo", "neither a directory nor a file"),
        ("../../..", "not a path in the volume"),
        ("a/../../b", "not a path in the volume"),
        ("/etc", "not a path in the volume"),
    ],
)
def test_a_part_that_is_none(onggi: Onggi, parts: str, subpath: str, why: str) -> None:
    assert why in refused(onggi, *part(parts, subpath))


def test_a_part_of_a_new_volume_is_missing(onggi: Onggi) -> None:
    assert "has no a" in refused(onggi, *part("fresh", "a"))
    assert "needs a source" in refused(onggi, "--mount", "type=volume,dst=/x,volume-subpath=a")


def test_a_link_that_is_swapped_in_leads_nowhere(onggi: Onggi, tmp_path: Path) -> None:
    secret = tmp_path / "host"
    (secret / "b").mkdir(parents=True)
    (secret / "b/secret").write_text("the host's\n")
    sh(onggi, "-v", "swapped:/d", script="mkdir -p /d/a/b; echo mine > /d/a/b/mine")
    codes = set()
    with swapping(place(onggi, "swapped"), secret):
        for number in range(24):
            words = part("swapped", ("a/b", "a")[number % 2])
            done = onggi.run("run", "--rm", *words, "busybox", "find", "/x", check=False)
            assert set(done.stdout.split()) <= {"/x", "/x/b", "/x/mine", "/x/b/mine"}
            codes.add(done.returncode)
    assert codes <= {0, 1, 125}


# -- owners ----------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory of the host's root, with a file, a directory and a link that leads out."""
    root = tmp_path / "tree"
    (root / "below").mkdir(parents=True)
    (root / "below/file").write_text("x")
    outside = tmp_path / "outside"
    outside.write_text("y")
    (root / "link").symlink_to(outside)
    return root


def test_owners_become_the_users(onggi: Onggi, tree: Path) -> None:
    script = "stat -c %u:%g /d /d/below /d/below/file /d/link; echo z > /d/below/mine"
    told = sh(onggi, *USER, "-v", f"{tree}:/d:U", script=script)
    assert told.split() == ["1000:1000"] * 4
    inner = (tree, tree / "below", tree / "below/file", tree / "link", tree / "below/mine")
    assert owners(*inner) == {(1000, 1000)}
    assert owners(tree.parent / "outside", tree.parent) == {(0, 0)}
    # Again: nothing is touched that is right already.
    before = [os.lstat(path).st_ctime_ns for path in inner]
    sh(onggi, *USER, "--mount", f"type=bind,src={tree},dst=/d,U=true", script="true")
    assert [os.lstat(path).st_ctime_ns for path in inner] == before
    # The host's ids are the same ones, without a range of its own.
    sh(onggi, "-u", "7:8", "--userns", "host", "-v", f"{tree}:/d:U,ro", script="true")
    assert owners(*inner) == {(7, 8)}


def test_owners_of_a_volume_and_of_a_part(onggi: Onggi) -> None:
    sh(onggi, "-v", "owned:/d", script="mkdir /d/a; touch /d/a/x /d/y; ln /d/a/x /d/a/z")
    root = place(onggi, "owned")
    sh(onggi, *USER, *part("owned", "a", "chown"), script="echo mine > /x/z")
    assert owners(root / "a", root / "a/x", root / "a/z") == {(1000, 1000)}
    assert owners(root, root / "y") == {(0, 0)}
    sh(onggi, *USER, "-v", "owned:/d:U", script="echo mine > /d/y")
    assert owners(root, root / "y") == {(1000, 1000)}


def test_owners_that_the_container_would_not_see_are_refused(onggi: Onggi, tmp_path: Path) -> None:
    """A file system without ID-mapped mounts shows its owners as nobody's."""
    root = tmp_path / "unmapped"
    root.mkdir()
    subprocess.run(["mount", "-t", "ramfs", "onggi-test", root], check=True)
    try:
        assert sh(onggi, "-v", f"{root}:/d", script="stat -c %u /d") == "65534"
        said = refused(onggi, *USER, "-v", f"{root}:/d:U")
        assert f"cannot map the owners of {root}" in said
    finally:
        subprocess.run(["umount", root], check=True)


def test_memory_belongs_to_the_user(onggi: Onggi) -> None:
    mount = ("--mount", "type=tmpfs,dst=/t,tmpfs-mode=700,U=true")
    assert sh(onggi, *USER, *mount, script="touch /t/x; stat -c %u /t /t/x") == "1000\n1000"


def test_a_file_with_names_elsewhere_keeps_its_owner(onggi: Onggi, tree: Path) -> None:
    """A user of the host puts a link to a file of root's where root will say `:U`."""
    precious = tree.parent / "precious"
    precious.write_text("root's")
    os.link(precious, tree / "below/innocent")
    said = refused(onggi, *USER, "-v", f"{tree}:/d:U")
    assert "innocent has 2 names" in said
    assert owners(precious, tree, tree / "below/file") == {(0, 0)}


def test_what_is_mounted_in_a_source_keeps_its_owner(onggi: Onggi, tree: Path) -> None:
    other = tree.parent / "other"
    other.mkdir()
    (other / "file").write_text("")
    (tree / "mounted").mkdir()
    subprocess.run(["mount", "--bind", other, tree / "mounted"], check=True)
    try:
        sh(onggi, *USER, "-v", f"{tree}:/d:U", script="true")
        assert owners(other, other / "file") == {(0, 0)}
        assert owners(tree, tree / "below/file") == {(1000, 1000)}
    finally:
        subprocess.run(["umount", tree / "mounted"], check=True)


@pytest.mark.parametrize("path", ["/", "/etc", "/usr/lib", "/var", "/proc/self", "/tmp"])
def test_the_hosts_own_directories_keep_their_owners(onggi: Onggi, path: str) -> None:
    before = os.stat(path).st_uid
    assert "the host needs them" in refused(onggi, *USER, "-v", f"{path}:/d:U")
    assert os.stat(path).st_uid == before


def test_a_link_to_the_hosts_directories_is_no_way_around(onggi: Onggi, tree: Path) -> None:
    (tree / "usr").symlink_to("/usr/lib")
    assert "/usr/lib" in refused(onggi, *USER, "-v", f"{tree}/usr:/d:U")
    assert owners(Path("/usr/lib")) == {(0, 0)}


# -- mounts that spread ----------------------------------------------------------------------


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A shared mount of the host, with another one in it."""
    root = tmp_path / "shared"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "onggi-test", root], check=True)
    try:
        subprocess.run(["mount", "--make-shared", root], check=True)
        for name in ("host", "inside", "sub"):
            (root / name).mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "onggi-test", root / "sub"], check=True)
        (root / "sub/inside").mkdir()
        yield root
    finally:
        subprocess.run(["umount", "-R", root], check=True)


@pytest.mark.parametrize("word", ["private", "rprivate", "slave", "rslave", "shared", "rshared"])
def test_what_is_mounted_later(onggi: Onggi, shared: Path, word: str) -> None:
    script = (
        "mount -t tmpfs one /d/inside && touch /d/inside/x; "
        "mount -t tmpfs two /d/sub/inside && touch /d/sub/inside/x; exec sleep 1000"
    )
    words = ("--cap-add", "SYS_ADMIN", "-v", f"{shared}:/d:{word}", "busybox", "sh", "-c", script)
    onggi.run("run", "-d", "--name", "spread", *words)
    until(lambda: onggi.out("exec", "spread", "ls", "/d/sub/inside") == "x", "it has mounted")
    assert onggi.out("exec", "spread", "ls", "/d/inside") == "x"
    subprocess.run(["mount", "-t", "tmpfs", "onggi-test", shared / "host"], check=True)
    (shared / "host/y").write_text("")
    receives = "private" not in word
    assert onggi.out("exec", "spread", "ls", "/d/host") == ("y" if receives else "")
    gives = ["x"] if word.endswith("shared") else []
    assert os.listdir(shared / "inside") == os.listdir(shared / "sub/inside") == gives
    (mount,) = onggi.inspect("spread")["Mounts"]
    assert mount["Propagation"] == word


@pytest.mark.parametrize("word", ["slave", "rshared"])
def test_a_source_that_shares_nothing_is_refused(onggi: Onggi, shared: Path, word: str) -> None:
    subprocess.run(["mount", "--make-private", shared], check=True)
    said = refused(onggi, "--mount", f"type=bind,src={shared},dst=/d,bind-propagation={word}")
    assert f"cannot be {word}" in said
    assert "--make-shared" in said


@pytest.mark.parametrize(
    ("more", "below", "top"),
    [
        ("", "rw", "rw"),
        ("readonly", "ro", "ro"),
        ("readonly,bind-recursive=enabled", "ro", "ro"),
        ("readonly,bind-recursive=readonly", "ro", "ro"),
        ("readonly,bind-recursive=writable", "rw", "ro"),
        ("bind-recursive=disabled", "none", "rw"),
        ("bind-nonrecursive", "none", "rw"),
        ("bind-nonrecursive=false,readonly=true", "ro", "ro"),
        ("readonly=0,consistency=cached,relabel=shared", "rw", "rw"),
    ],
)
def test_submounts(onggi: Onggi, shared: Path, more: str, below: str, top: str) -> None:
    script = (
        "for d in /d/sub /d; do touch $d/made && rm $d/made && echo rw || echo ro; done; ls /d/sub"
    )
    mount = ",".join(filter(None, (f"type=bind,src={shared},dst=/d", more)))
    told = sh(onggi, "--mount", mount, script=f"{script} 2>/dev/null").split()
    assert told[1] == top
    assert (told[0] if "inside" in told else "none") == below


def test_programs_and_devices_of_a_source_can_be_off(onggi: Onggi, shared: Path) -> None:
    for place in (shared, shared / "sub"):
        (place / "program").write_text("#!/bin/sh\necho ran\n")
        (place / "program").chmod(0o755)
    script = "/d/program; /d/sub/program; true"
    assert sh(onggi, "-v", f"{shared}:/d", script=script) == "ran\nran"
    assert sh(onggi, "-v", f"{shared}:/d:noexec,nosuid,nodev", script=script) == ""


# -- volumes of other containers, and other directories as volumes --------------------------------


def test_the_volumes_of_another_container(onggi: Onggi, tree: Path) -> None:
    words = ("-v", "named:/named", "-v", f"{tree}:/bind", "-v", "/anon", "--tmpfs", "/mem")
    onggi.run("run", "--name", "first", *words, "busybox", "touch", "/named/x", "/anon/y", "/mem/z")
    look = "ls /named /anon /bind/below; ls -d /mem; touch /named/new"
    told = sh(onggi, "--volumes-from", "first", script=look, check=False)
    assert {"x", "y", "file"} <= set(told.split())
    assert "/mem" not in told.split()
    assert (place(onggi, "named") / "new").exists()
    only = sh(onggi, "--volumes-from", "first:ro", script="rm /named/x; touch /anon/n", check=False)
    assert only == ""
    assert (place(onggi, "named") / "x").exists()
    # The user's own mount comes first; the anonymous volume stays while anybody has it.
    own = ("--volumes-from", "first", "--tmpfs", "/named")
    onggi.run("run", "-d", "--name", "second", *own, "busybox", "sleep", "1000")
    assert onggi.out("exec", "second", "ls", "/named") == ""
    onggi.run("rm", "-v", "first")
    assert onggi.out("exec", "second", "ls", "/anon") == "y"
    assert "no such container" in refused(onggi, "--volumes-from", "nobody")


def test_a_directory_of_the_host_as_a_volume(onggi: Onggi, tree: Path) -> None:
    options = ("-o", "type=none", "-o", f"device={tree}", "-o", "o=bind")
    onggi.run("volume", "create", "-d", "local", *options, "bound")
    sh(onggi, "-v", "bound:/d", script="cat /d/below/file; echo w > /d/written")
    assert (tree / "written").read_text() == "w\n"
    (found,) = json.loads(onggi.out("volume", "inspect", "bound"))
    assert found["Options"] == {"type": "none", "device": str(tree), "o": "bind"}
    done = onggi.run("volume", "create", "-o", "type=none", "-o", "o=bind,ro", "-o",
                     f"device={tree}", "bound", check=False)  # fmt: skip
    assert "with other options" in done.stderr
    onggi.run("volume", "rm", "bound")
    assert (tree / "written").exists()
    mount = (
        "type=volume,src=again,dst=/d,volume-driver=local,volume-opt=type=none,"
        f'volume-opt=device={tree},"volume-opt=o=bind,ro",volume-label=a=b,volume-label=c'
    )
    assert sh(onggi, "--mount", mount, script="cat /d/written; rm /d/written", check=False) == "w"
    (found,) = json.loads(onggi.out("volume", "inspect", "again"))
    assert found["Labels"] == {"a": "b", "c": ""}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("type=nfs", "device=:/x", "o=addr=10.0.0.1"), "mount it on the host"),
        (("type=tmpfs", "device=tmpfs"), "--tmpfs"),
        (("type=ext4", "device=/dev/vda"), "mount it on the host"),
        (("type=none", "device=relative", "o=bind"), "no directory of the host"),
        (("type=none", "device=/srv"), "no directory of the host"),
        (("type=none", "device=/srv", "o=bind,suid"), "no option 'suid'"),
        (("size=1g",), "no option size"),
    ],
)
def test_a_volume_that_cannot_be(onggi: Onggi, options: tuple[str, ...], why: str) -> None:
    words = [word for option in options for word in ("-o", option)]
    done = onggi.run("volume", "create", *words, "odd", check=False)
    assert (done.returncode, done.stderr.count("\n")) == (125, 1)
    assert why in done.stderr
    assert onggi.out("volume", "ls", "-q") == ""


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("-v", "vol:/d:rshared"), "a volume is private"),
        (("-v", "/srv:/d:O"), "overlay"),
        (("--mount", "type=image,src=busybox,dst=/d"), "onggi cp"),
        (("--mount", "type=npipe,src=a,dst=/d"), "Windows"),
        (("--mount", "type=cluster,src=a,dst=/d"), "no swarm"),
        (("--mount", "type=volume,src=vol,dst=/d,volume-driver=nfs"), "no volume driver"),
        (("--mount", "type=bind,src=/srv,dst=/d,bind-recursive=readonly"), "needs readonly"),
        (("--mount", "type=bind,src=/srv,dst=/d,ro,bind-recursive=readonly,rslave"), "rprivate"),
        (("--mount", "type=bind,src=/srv,dst=/d,volume-nocopy"), "has no volume-nocopy"),
        (("--mount", "type=tmpfs,dst=/d,bind-propagation=rslave"), "has no bind-propagation"),
    ],
)  # fmt: skip
def test_a_mount_that_is_not_there(onggi: Onggi, words: tuple[str, ...], why: str) -> None:
    assert why in refused(onggi, *words)


def test_words_that_change_nothing(onggi: Onggi, tree: Path) -> None:
    assert sh(onggi, "-v", f"{tree}:/d:rw,z,cached", script="ls /d/below") == "file"
    assert sh(onggi, "-v", "quiet:/d:ro,nocopy,Z", script="touch /d/x", check=False) == ""
