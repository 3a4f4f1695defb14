"""Changing owners of a tree that belongs to somebody else: what is reached, and what is not."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from link_swapper import swapping
from onggi.engine.ownership import check_place, give
from onggi.errors import EngineError, FailedPrecondition, InvalidArgument
from onggi.kernel.descriptors import Descriptor

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def change(tree: Path, uid: int = 1000, gid: int = 2000, *, linked: bool = False) -> int:
    return give(Descriptor(os.open(tree, os.O_PATH)), uid, gid, linked=linked)


def owner(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "a/b").mkdir(parents=True)
    (root / "a/b/file").write_text("")
    os.mkfifo(root / "a/fifo")
    (root / "link").symlink_to(tmp_path)
    return root


def test_everything_once(tree: Path) -> None:
    everything = [tree, *tree.rglob("*")]
    assert change(tree) == len(everything) == 6
    assert {owner(path) for path in everything} == {(1000, 2000)}
    assert owner(tree.parent) == (0, 0)
    before = [path.lstat().st_ctime_ns for path in everything]
    assert change(tree) == 0
    assert [path.lstat().st_ctime_ns for path in everything] == before
    os.chown(tree / "a/fifo", 1000, 0)
    assert change(tree) == 1


def test_one_file(tree: Path) -> None:
    assert change(tree / "a/b/file") == 1
    assert owner(tree / "a/b") == (0, 0)


def test_a_set_user_id_program_of_roots_is_none_of_the_users(tree: Path) -> None:
    program = tree / "a/program"
    program.write_text("")
    program.chmod(0o6755)
    change(tree)
    assert program.stat().st_mode & 0o7777 == 0o755


def test_a_second_name_is_refused_before_anything_changes(tree: Path) -> None:
    os.link(tree / "a/b/file", tree.parent / "elsewhere")
    with pytest.raises(FailedPrecondition, match="file has 2 names"):
        change(tree)
    assert {owner(path) for path in [tree, *tree.rglob("*")]} == {(0, 0)}
    os.chown(tree / "a/b/file", 1000, 2000)
    assert change(tree) == 5  # whose owner is right already is no concern
    os.chown(tree / "a/b/file", 0, 0)
    assert change(tree, linked=True) == 1


def test_mounts_are_left_alone(tree: Path) -> None:
    other = tree.parent / "other"
    other.mkdir()
    (other / "file").write_text("")
    subprocess.run(["mount", "--bind", other, tree / "a/b"], check=True)
    try:
        change(tree)
    finally:
        subprocess.run(["umount", tree / "a/b"], check=True)
    assert owner(other) == owner(other / "file") == (0, 0)
    assert owner(tree / "a") == (1000, 2000)


def test_what_cannot_be_changed_is_named_in_one_line(tree: Path) -> None:
    (tree / "a/odd\nname").write_text("")
    subprocess.run(["mount", "--bind", tree, tree], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", tree], check=True)
        with pytest.raises(EngineError) as found:
            change(tree)
        assert str(found.value) == f"changing the owner of {tree}: Read-only file system"
    finally:
        subprocess.run(["umount", tree], check=True)
    os.link(tree / "a/odd\nname", tree / "second")
    with pytest.raises(FailedPrecondition) as refused:
        change(tree)
    assert "\n" not in str(refused.value)


def test_a_tree_too_deep_is_refused(tree: Path) -> None:
    fd = os.open(tree, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=fd)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    with pytest.raises(FailedPrecondition, match="too deep"):
        change(tree, linked=True)


def test_links_that_are_swapped_in_lead_nowhere(tree: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    (victim / "b").mkdir(parents=True)
    for number in range(50):
        (victim / f"b/f{number}").write_text("")
        (tree / f"a/b/f{number}").write_text("")
    # A walk that followed links would change the victim once in some 25 times.
    with swapping(tree, victim):
        for number in range(500):
            change(tree, 1000 + number % 2, linked=True)
    assert {owner(path) for path in [victim, *victim.rglob("*")]} == {(0, 0)}


@pytest.mark.parametrize("path", ["/", "/home", "/etc", "/usr/share", "/proc/1", "/dev/shm"])
def test_places_of_the_hosts(path: str) -> None:
    with (
        Descriptor(os.open(path, os.O_PATH)) as fd,
        pytest.raises(InvalidArgument, match="the host needs"),
    ):
        check_place(fd)
