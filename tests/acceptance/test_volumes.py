"""What is mounted from the host and from volumes: seen inside, found outside with sensible owners,
and gone when it should be. 0 inside is 0 on disk, though the process is no root of the host's."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance import kernel_side
from acceptance.rig import APPLETS_OF, Onggi, until


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A directory of the host that everybody may enter."""
    path = tmp_path / "shared"
    path.mkdir()
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def _no_volume_stays(onggi: Onggi) -> Iterator[None]:
    yield
    left = onggi.out("ps", "-aq").split()
    if left:  # by a test that has failed
        onggi.run("rm", "-f", *left)
    # At once: what was run with --rm and has ended holds nothing.
    for name in onggi.out("volume", "ls", "-q").split():
        onggi.run("volume", "rm", name)


def sh(onggi: Onggi, *options: str, script: str, check: bool = True) -> str:
    """What a shell prints that `run --rm` was given these options for."""
    return onggi.out("run", "--rm", *options, "busybox", "sh", "-c", script, check=check)


def owner(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_uid, status.st_gid


# -- directories and files of the host -------------------------------------------------------


def test_owners_are_the_same_on_both_sides(onggi: Onggi, shared: Path) -> None:
    (shared / "given").write_text("given\n")
    os.chown(shared / "given", 1000, 2000)
    script = (
        "stat -c %u:%g /d/given; echo 1 > /d/root; echo 1 > /d/user; chown 1000:1000 /d/user; "
        "mkdir /d/made; cat /proc/self/uid_map"
    )
    inside, *_, base, size = sh(onggi, "-v", f"{shared}:/d", script=script).split()
    assert inside == "1000:2000"
    assert (int(base) > 0, size) == (True, "65536")
    assert owner(shared / "root") == owner(shared / "made") == (0, 0)
    assert owner(shared / "user") == (1000, 1000)


def test_a_user_writes_as_itself(onggi: Onggi, shared: Path) -> None:
    os.chown(shared, 1000, 1000)
    words = ("-u", "1000:1000", "-v", f"{shared}:/d", "-d", "--name", "writer", "busybox")
    onggi.run("run", *words, "sh", "-c", "echo 1 > /d/mine; exec sleep 1000")
    assert owner(shared / "mine") == (1000, 1000)
    base = kernel_side.uid_range(onggi.pid("writer")).start
    assert kernel_side.status(onggi.pid("writer"), "Uid").split()[0] == str(base + 1000)
    onggi.run("rm", "-f", "writer")
    # And root's files stay root's, to a user inside as to one outside.
    (shared / "roots").write_text("secret")
    (shared / "roots").chmod(0o600)
    script = "cat /d/roots; echo more >> /d/roots"
    assert sh(onggi, "-u", "1000", "-v", f"{shared}:/d", script=script, check=False) == ""
    assert (shared / "roots").read_text() == "secret"


def test_read_only_is_read_only(onggi: Onggi, shared: Path) -> None:
    (shared / "file").write_text("kept\n")
    script = (
        "cat /d/file; echo x > /d/file; rm /d/file; touch /d/x; mount -o remount,rw /d; "
        "mount -o remount,bind,rw /d; chmod 777 /d/file; echo x > /d/file"
    )
    for option in (f"{shared}:/d:ro", None):
        mount = ("--mount", f"type=bind,source={shared},target=/d,readonly")
        words = ("-v", option) if option else mount
        assert sh(onggi, *words, script=script, check=False) == "kept"
    assert (shared / "file").read_text() == "kept\n"
    assert os.listdir(shared) == ["file"]


def test_a_source_that_is_missing(onggi: Onggi, shared: Path) -> None:
    sh(onggi, "-v", f"{shared}/made:/d", script="touch /d/x")
    assert owner(shared / "made") == (0, 0)
    words = (
        "run",
        "--rm",
        "--mount",
        f"type=bind,source={shared}/none,target=/d",
        "busybox",
        "true",
    )
    done = onggi.run(*words, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (125, 1)
    assert f"{shared}/none" in done.stderr
    assert not (shared / "none").exists()


def test_a_relative_source_starts_from_here(
    onggi: Onggi, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shared / "here").write_text("here\n")
    monkeypatch.chdir(shared.parent)
    # The command is found without the working directory.
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    assert sh(onggi, "-v", "./shared:/d", script="cat /d/here") == "here"


def test_one_file_on_a_file_of_the_image(onggi: Onggi, shared: Path) -> None:
    file = shared / "passwd"
    file.write_text("root:x:0:0:mine:/mine:/bin/sh\n")
    words = ("-v", f"{file}:/etc/passwd:ro", "-v", f"{file}:/new/place/file")
    assert sh(onggi, *words, script="cat /etc/passwd; cat /new/place/file").count("mine") == 4
    assert "mine" not in sh(onggi, script="cat /etc/passwd")


def test_mounts_within_mounts(onggi: Onggi, shared: Path) -> None:
    (shared / "outer").write_text("outer")
    words = ("-v", "inner:/d/inner", "--tmpfs", "/d/inner/deep", "-v", f"{shared}:/d")
    script = (
        "touch /d/inner/x /d/inner/deep/y; ls /d; cut -d' ' -f5 /proc/self/mountinfo | grep ^/d/"
    )
    told = sh(onggi, *words, script=script)
    assert told.split() == ["inner", "outer", "/d/inner", "/d/inner/deep"]
    assert sorted(os.listdir(shared)) == ["inner", "outer"]
    assert sh(onggi, "-v", "inner:/d", script="ls /d").split() == ["deep", "x"]


def test_a_link_of_the_image_does_not_lead_out(onggi: Onggi, shared: Path) -> None:
    # A mount's target is found within the root, wherever a link of the container's points.
    onggi.run("run", "--name", "linked", "busybox", "ln", "-s", "../../../../outside", "/link")
    tar = onggi.run("export", "-o", str(shared / "tar"), "linked") and (shared / "tar").read_bytes()
    onggi.run("rm", "linked")
    onggi.run("import", "-c", 'CMD ["sh"]', "-", "linked", stdin=tar)
    words = ("run", "--rm", "--tmpfs", "/link/made", "linked", "sh", "-c", "ls -d /outside/made")
    assert onggi.out(*words) == "/outside/made"
    assert not Path("/outside").exists()
    onggi.run("rmi", "linked")


def test_a_file_system_in_memory(onggi: Onggi) -> None:
    look = "df -k /t | tail -n 1; stat -c %a /t; grep ' /t ' /proc/mounts; touch /t/x && echo wrote"
    mount = ("--mount", "type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=700")
    for words, mode in ((mount, "700"), (("--tmpfs", "/t:size=1m,mode=750"), "750")):
        size, got, options, wrote = sh(onggi, *words, script=look).splitlines()
        assert (size.split()[1], got, wrote) == ("1024", mode, "wrote")
        assert {"nosuid", "nodev", "noexec"} <= set(options.split()[3].split(","))
    full = "dd if=/dev/zero of=/t/x bs=1M count=2 2>&1; true"
    assert "No space left" in sh(onggi, *mount, script=full)


# -- volumes ---------------------------------------------------------------------------------


def test_a_named_volume_outlives_containers(onggi: Onggi) -> None:
    assert onggi.out("volume", "create", "-l", "kind=test", "kept") == "kept"
    sh(onggi, "-v", "kept:/d", script="echo kept > /d/x; chown 1000 /d/x")
    assert sh(onggi, "-v", "kept:/d:ro", script="cat /d/x; touch /d/y 2>&1; true").startswith(
        "kept\n"
    )
    assert sh(onggi, "--mount", "source=kept,target=/d", script="stat -c %u /d/x") == "1000"
    (found,) = json.loads(onggi.out("volume", "inspect", "kept"))
    assert (found["Name"], found["Driver"], found["Labels"]) == ("kept", "local", {"kind": "test"})
    place = Path(found["Mountpoint"])
    assert sorted(os.listdir(place)) == ["x"]
    assert owner(place / "x") == (1000, 0)
    assert onggi.out("volume", "ls", "-q", "--filter", "label=kind=test") == "kept"
    assert onggi.out("volume", "rm", "kept") == "kept"
    assert not place.exists()


def test_a_volume_in_use_is_not_removed(onggi: Onggi) -> None:
    onggi.run("run", "-d", "--name", "user", "-v", "used:/d", "busybox", "sleep", "1000")
    for state in ("running", "exited"):
        assert onggi.inspect("user")["State"]["Status"] == state
        done = onggi.run("volume", "rm", "used", check=False)
        assert done.returncode != 0
        assert "is used by user" in done.stderr
        onggi.run("kill", "user", check=False)
        onggi.run("wait", "user")
    (mount,) = onggi.inspect("user")["Mounts"]
    assert (mount["Type"], mount["Name"], mount["Destination"], mount["RW"]) == (
        "volume", "used", "/d", True,
    )  # fmt: skip
    onggi.run("rm", "-v", "user")
    assert onggi.out("volume", "ls", "-q") == "used"  # -v is about those without a name


@pytest.mark.parametrize(
    ("run", "remove", "stays"),
    [(("--name", "anon"), ("rm", "anon"), True), (("--name", "anon"), ("rm", "-v", "anon"), False),
     (("--name", "anon", "--rm"), (), False)],
    ids=("rm", "rm-v", "run-rm"),
)  # fmt: skip
def test_a_volume_without_a_name(
    onggi: Onggi, run: tuple[str, ...], remove: tuple[str, ...], stays: bool
) -> None:
    onggi.run("run", *run, "-v", "/d", "busybox", "touch", "/d/x")
    if remove:
        (name,) = onggi.out("volume", "ls", "-q").split()
        assert len(name) == 64
        assert onggi.inspect("anon")["Mounts"][0]["Name"] == name
        onggi.run(*remove)
    if stays:
        assert onggi.out("volume", "ls", "-q") == name
    else:
        until(lambda: onggi.out("volume", "ls", "-q") == "", "the volume has gone")


@pytest.fixture(scope="module")
def with_volume(onggi: Onggi) -> str:
    """An image that declares /vol: a user's directory with a file and a link in it."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:

        def add(name: str, kind: bytes = tarfile.DIRTYPE, uid: int = 0, **more: object) -> None:
            info = tarfile.TarInfo(name)
            info.type, info.uid, info.gid, info.mode = kind, uid, uid, 0o755
            data = more.pop("data", b"")
            for key, value in more.items():
                setattr(info, key, value)
            assert isinstance(data, bytes)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))

        add("bin")
        add("bin/busybox", tarfile.REGTYPE, data=Path(APPLETS_OF).read_bytes())
        for applet in ("sh", "ls", "cat", "touch", "stat", "readlink", "id", "sleep"):
            add(f"bin/{applet}", tarfile.SYMTYPE, linkname="busybox")
        add("vol", uid=1000, mode=0o750)
        add("vol/seed", tarfile.REGTYPE, 1000, data=b"seed\n", mode=0o640)
        add("vol/link", tarfile.SYMTYPE, linkname="/etc/passwd")
        add("vol/below", uid=1000)
        add("vol/below/deep", tarfile.REGTYPE, data=b"deep\n")
    changes = ("-c", "VOLUME /vol", "-c", "USER 1000:1000", "-c", 'CMD ["cat", "/vol/seed"]')
    onggi.run("import", *changes, "-", "with-volume", stdin=content.getvalue())
    return "with-volume"


def test_a_volume_that_the_image_declares(onggi: Onggi, with_volume: str) -> None:
    assert onggi.out("run", "--name", "first", with_volume) == "seed"
    (mount,) = onggi.inspect("first")["Mounts"]
    place = Path(mount["Source"])
    assert (mount["Type"], mount["Destination"], place.is_dir()) == ("volume", "/vol", True)
    onggi.run("rm", "-v", "first")
    until(lambda: not place.exists(), "the volume has gone with its container")


def test_a_new_volume_begins_with_what_the_image_has(onggi: Onggi, with_volume: str) -> None:
    look = (
        "stat -c '%u:%g %a' /vol /vol/seed; readlink /vol/link; cat /vol/below/deep; "
        "touch /vol/mine; ls /vol"
    )
    told = onggi.out("run", "--rm", "-v", "filled:/vol", with_volume, "sh", "-c", look).split("\n")
    expected = [
        "1000:1000 750",
        "1000:1000 640",
        "/etc/passwd",
        "deep",
        "below",
        "link",
        "mine",
        "seed",
    ]
    assert told == expected
    # Once: what was changed in it stays, and a volume that has content is left as it is.
    change = ("-v", "filled:/vol", with_volume, "sh", "-c", "echo changed > /vol/seed")
    onggi.run("run", "--rm", *change)
    assert onggi.out("run", "--rm", "-v", "filled:/vol", with_volume) == "changed"
    empty = ("--mount", "source=empty,target=/vol,volume-nocopy", with_volume, "ls", "/vol")
    assert onggi.out("run", "--rm", "-u", "0", *empty) == ""
    bound = ("run", "--rm", "-u", "0", "--tmpfs", "/vol", with_volume, "ls", "/vol")
    assert onggi.out(*bound) == ""


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("-v", "a:b:c:d"), "not SOURCE:TARGET"),
        (("-v", "/a:relative"), "not an absolute path"),
        (("-v", "/a:/"), "root"),
        (("-v", "bad name:/d"), "neither a path nor a volume"),
        (("-v", "/a:/d", "--tmpfs", "/d"), "two mounts"),
        (("--mount", "type=nothing,target=/d"), "not bind, volume or tmpfs"),
        (("--mount", "type=bind,target=/d"), "needs a source"),
        (("--mount", "type=tmpfs,source=/a,target=/d"), "no source"),
        (("--tmpfs", "/d:nonsense"), "unknown option"),
    ],
)
def test_a_mount_that_cannot_be(onggi: Onggi, words: tuple[str, ...], why: str) -> None:
    done = onggi.run("run", "--rm", *words, "busybox", "true", check=False)
    assert (done.returncode, done.stderr.count("\n")) == (125, 1)
    assert why in done.stderr
