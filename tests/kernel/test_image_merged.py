"""The merged view without a mount, against overlayfs itself, and against hostile layers."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from onggi.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from onggi.image.merged import MergedView, read_file
from onggi.image.users import ResolvedUser, resolve_groups, resolve_user


def whiteout(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR, 0)


def opaque(path: Path) -> None:
    os.setxattr(path, "user.overlay.opaque", b"y")
    os.setxattr(path, "trusted.overlay.opaque", b"y")


@pytest.fixture
def layers(tmp_path: Path) -> list[str]:
    """Topmost first."""
    top, middle, base = (tmp_path / name for name in ("top", "middle", "base"))
    for path in ("etc/conf.d", "etc/gone.d/x", "opt/a/b", "usr/lib", "both"):
        (base / path).mkdir(parents=True)
    (base / "etc/passwd").write_text("base")
    (base / "etc/conf.d/one").write_text("1")
    (base / "opt/a/b/old").write_text("old")
    (base / "usr/lib/x").write_text("library")
    (base / "lib").symlink_to("usr/lib")
    (base / "abs").symlink_to("/etc/passwd")
    (base / "up").symlink_to("../../../../etc/passwd")
    (base / "loop").symlink_to("loop")
    (base / "both/file").write_text("file")
    (base / "file-or-dir").write_text("file")
    for path in ("etc/conf.d", "opt/a", "file-or-dir"):
        (middle / path).mkdir(parents=True)
    whiteout(middle / "etc/gone.d")
    whiteout(middle / "both")
    (middle / "etc/conf.d/two").write_text("2")
    opaque(middle / "opt/a")
    (middle / "opt/a/new").write_text("new")
    (middle / "file-or-dir/in").write_text("in")
    for path in ("etc", "both", "opt"):
        (top / path).mkdir(parents=True)
    (top / "etc/passwd").write_text("top")
    (top / "both/again").write_text("again")
    return [str(top), str(middle), str(base)]


@pytest.fixture
def view(layers: list[str]) -> Iterator[MergedView]:
    with MergedView(layers) as opened:
        yield opened


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/etc/passwd", b"top"),
        ("etc/passwd", b"top"),
        ("/etc/../etc/./passwd", b"top"),
        ("/../../etc/passwd", b"top"),
        ("/abs", b"top"),
        ("/up", b"top"),
        ("/lib/x", b"library"),
        ("/lib/../../etc/passwd", b"top"),
        ("/etc/conf.d/one", b"1"),
        ("/etc/conf.d/two", b"2"),
        ("/opt/a/new", b"new"),
        ("/file-or-dir/in", b"in"),
        ("/both/again", b"again"),
    ],
)
def test_reads_as_a_process_inside_would(view: MergedView, path: str, content: bytes) -> None:
    assert view.read_file(path, 100) == content
    assert view.stat(path).st_size == len(content)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/gone.d",
        "/etc/gone.d/x",
        "/opt/a/b",
        "/opt/a/b/old",
        "/both/file",
        "/none",
        "/etc/passwd/x",
        "/etc/passwd/..",
        "/lib/none",
    ],
)
def test_what_is_hidden_is_not_there(view: MergedView, path: str) -> None:
    assert not view.exists(path)
    with pytest.raises(NotFound):
        view.read_file(path, 100)


def test_lists_merged_directories(view: MergedView) -> None:
    assert view.list_directory("/etc") == ["conf.d", "passwd"]
    assert view.list_directory("/etc/conf.d") == ["one", "two"]
    assert view.list_directory("/lib") == ["x"]
    with pytest.raises(FailedPrecondition):
        view.list_directory("/etc/passwd")


def test_links_are_bounded_and_can_be_looked_at(view: MergedView) -> None:
    with pytest.raises(InvalidArgument, match="symlinks"):
        view.stat("/loop")
    assert stat.S_ISLNK(view.stat("/loop", follow_symlinks=False).st_mode)
    with pytest.raises(InvalidArgument):
        view.stat("/" + "a/" * 4000)


def test_overlayfs_shows_the_same_tree(layers: list[str], view: MergedView, tmp_path: Path) -> None:
    """In a mount namespace of its own, so that nothing can stay mounted."""
    (tmp_path / "mnt").mkdir()
    script = (
        "import os,sys\n"
        "for base,dirs,files in os.walk(sys.argv[1]):\n"
        "    for name in sorted(dirs+files):\n"
        "        path=os.path.join(base,name); s=os.lstat(path)\n"
        "        size=s.st_size*(s.st_mode>>12!=4)\n"
        "        print(os.path.relpath(path,sys.argv[1]), oct(s.st_mode), size)\n"
    )
    mounted = subprocess.run(
        [
            "unshare",
            "-m",
            "sh",
            "-ec",
            'mount -t overlay overlay -o "userxattr,lowerdir=$1" "$2"; exec "$3" -c "$4" "$2"',
            "sh",
            ":".join(layers),
            str(tmp_path / "mnt"),
            sys.executable,
            script,
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    ours = [
        f"{node.path.decode()} {oct(node.status.st_mode)}"
        f" {0 if node.is_directory else node.status.st_size}"
        for node, _ in view.walk()
        if node.path
    ]
    assert sorted(ours) == sorted(mounted)


def test_a_fifo_never_blocks_and_devices_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    os.mkfifo(tmp_path / "etc/passwd")
    os.mknod(tmp_path / "etc/group", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    for name in ("/etc/passwd", "/etc/group", "/etc"):
        with pytest.raises(FailedPrecondition, match="not a regular file"):
            read_file([str(tmp_path)], name, 100)


def test_a_symlink_never_leaves_the_layers(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("host")
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").symlink_to(tmp_path / "secret")
    (root / "etc/group").symlink_to("../../secret")
    (root / "magic").symlink_to("/proc/self/root")
    for name in ("/etc/passwd", "/etc/group", "/magic/etc/passwd"):
        with pytest.raises(NotFound):
            read_file([str(root)], name, 100)


def test_huge_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "huge").touch()
    os.truncate(tmp_path / "huge", 1 << 40)
    with pytest.raises(ResourceExhausted):
        read_file([str(tmp_path)], "/huge", 1000)


def test_no_descriptor_is_left_open(layers: list[str]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with MergedView(layers) as opened:
        opened.list_directory("/etc")
        list(opened.walk())
    with pytest.raises(NotFound):
        MergedView([*layers, "/nonexistent"])
    assert len(os.listdir("/proc/self/fd")) == before


PASSWD = """
# comment
root:x:0:0:root:/root:/bin/sh
app:x:1000:1001:App:/srv/app:/bin/sh
1000:x:77:78::/odd:/bin/sh
big:x:4294967296:0::/:/bin/sh
minus:x:-1:0::/:/bin/sh
short:x
"""
GROUP = """
root:x:0:
app:x:1001:
docker:x:999:root,app
wheel:x:10:app
wheel:x:10:app
999:x:5:
big:x:2147483648:app
"""


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(PASSWD)
    (tmp_path / "etc/group").write_text(GROUP)
    return tmp_path


def user(rootfs: Path, text: str) -> ResolvedUser:
    with MergedView([str(rootfs)]) as opened:
        return resolve_user(text, opened)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ResolvedUser(0, 0, (999,), "/root", "root")),
        ("root", ResolvedUser(0, 0, (999,), "/root", "root")),
        ("app", ResolvedUser(1000, 1001, (999, 10), "/srv/app", "app")),
        ("1000", ResolvedUser(1000, 1001, (999, 10), "/srv/app", "app")),
        ("0001000", ResolvedUser(1000, 1001, (999, 10), "/srv/app", "app")),
        ("12345", ResolvedUser(12345, 0, (), "/", "")),
        ("12345:6", ResolvedUser(12345, 6, (), "/", "")),
        ("app:docker", ResolvedUser(1000, 999, (), "/srv/app", "app")),
        ("app:999", ResolvedUser(1000, 999, (), "/srv/app", "app")),
        (":docker", ResolvedUser(0, 999, (), "/root", "root")),
        ("2147483647", ResolvedUser(2147483647, 0, (), "/", "")),
    ],
)
def test_user_forms(rootfs: Path, text: str, expected: ResolvedUser) -> None:
    assert user(rootfs, text) == expected


@pytest.mark.parametrize(
    "text", ["nobody", "app:nogroup", "-1", "+5", "0x10", "١٢", " app", "app "]
)
def test_missing_names_are_named(rootfs: Path, text: str) -> None:
    with pytest.raises(NotFound, match=r"/etc/(passwd|group)"):
        user(rootfs, text)


@pytest.mark.parametrize(
    "text", ["2147483648", "4294967296", "4294967295", "9" * 5000, "0:2147483648", "a:b:c", "a\0"]
)
def test_numbers_never_wrap(rootfs: Path, text: str) -> None:
    with pytest.raises(InvalidArgument):
        user(rootfs, text)


@pytest.mark.parametrize("text", ["big", "minus", "short"])
def test_malformed_entries_are_not_root(rootfs: Path, text: str) -> None:
    with pytest.raises(FailedPrecondition, match="malformed"):
        user(rootfs, text)


def test_without_the_files_only_numbers_work(tmp_path: Path) -> None:
    assert user(tmp_path, "") == ResolvedUser(0, 0)
    assert user(tmp_path, "5:6") == ResolvedUser(5, 6)
    with pytest.raises(NotFound):
        user(tmp_path, "root")


def test_a_fifo_as_passwd_is_refused(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    os.mkfifo(tmp_path / "etc/passwd")
    with pytest.raises(FailedPrecondition):
        user(tmp_path, "1000")


def test_a_huge_passwd_is_refused(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").touch()
    os.truncate(tmp_path / "etc/passwd", 1 << 33)
    with pytest.raises(ResourceExhausted):
        user(tmp_path, "app")


def test_additional_groups(rootfs: Path) -> None:
    with MergedView([str(rootfs)]) as opened:
        assert resolve_groups(["docker", "7", "999"], opened) == (999, 7)
        with pytest.raises(NotFound):
            resolve_groups(["none"], opened)
