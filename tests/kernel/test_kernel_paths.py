"""Paths inside a root that is hostile: links out of it, special files, names swapped meanwhile."""

from __future__ import annotations

import errno
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from onggi.errors import FailedPrecondition, InvalidArgument, ResourceExhausted, SyscallError
from onggi.kernel import constants as c
from onggi.kernel import paths, syscalls
from onggi.kernel.descriptors import Descriptor


class Tree:
    """`root` is the hostile root, `outside` a host directory beside it with a secret."""

    def __init__(self, base: Path) -> None:
        self.path = base / "root"
        self.outside = base / "outside"
        self.path.mkdir()
        self.outside.mkdir()
        (self.outside / "secret").write_text("secret")
        self.owner = Descriptor(os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        self.fd = self.owner.fileno()


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    made = Tree(tmp_path)
    with made.owner:
        yield made


def errno_of(act: Callable[[], object]) -> int:
    with pytest.raises(SyscallError) as caught:
        act()
    return caught.value.errno


def inode(descriptor: Descriptor) -> int:
    with descriptor as number:
        return os.fstat(number).st_ino


@contextmanager
def swapping(directory: Path, one: str, other: str) -> Iterator[None]:
    """Another process exchanges two names as fast as it can."""
    ready_r, ready_w = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            syscalls.prctl(c.PR_SET_PDEATHSIG, signal.SIGKILL)
            number = os.open(directory, os.O_PATH)
            os.write(ready_w, b"x")
            while os.getppid() == parent:
                syscalls.renameat2(number, one, number, other, c.RENAME_EXCHANGE)
        finally:
            os._exit(1)
    try:
        os.close(ready_w)
        assert os.read(ready_r, 1) == b"x"
        yield
    finally:
        os.close(ready_r)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


# Opening


@pytest.mark.parametrize("target", ["/", "/..", "../../../..", "../outside", "{outside}"])
def test_no_link_leads_out(tree: Tree, target: str) -> None:
    os.symlink(target.format(outside=tree.outside), tree.path / "link")
    secrets = ["link/secret", "link/outside/secret", f"link{tree.outside}/secret"]
    for secret in secrets:
        assert errno_of(lambda p=secret: paths.open_in_root(tree.fd, p, os.O_PATH)) == errno.ENOENT


def test_the_root_is_its_own_parent(tree: Tree) -> None:
    os.symlink("/", tree.path / "top")
    here = os.fstat(tree.fd).st_ino
    for path in ("/", ".", "..", "/../..", "top", "top/../..", "top/top/."):
        assert inode(paths.open_in_root(tree.fd, path, os.O_PATH)) == here


def test_absolute_links_end_at_the_root(tree: Tree) -> None:
    (tree.path / "usr").mkdir()
    (tree.path / "usr/file").write_text("inside")
    os.symlink("/usr", tree.path / "lib")
    assert paths.read_file_bounded(tree.fd, "/lib/file", 100) == b"inside"


def test_links_of_procfs_lead_nowhere() -> None:
    with Descriptor(os.open("/proc", os.O_PATH | os.O_CLOEXEC)) as proc:
        for path in ("self/root", "self/cwd/x", "self/exe", "self/fd/0", "self/ns/mnt"):
            assert errno_of(lambda p=path: paths.open_in_root(proc, p, os.O_PATH)) == errno.ELOOP


def test_a_final_link_is_opened_itself_only_when_asked(tree: Tree) -> None:
    os.symlink("nothing", tree.path / "link")
    with paths.open_in_root(tree.fd, "link", os.O_PATH | os.O_NOFOLLOW) as link:
        assert os.readlink("", dir_fd=link) == "nothing"
    assert errno_of(lambda: paths.open_in_root(tree.fd, "link", os.O_PATH)) == errno.ENOENT
    os.symlink("loop", tree.path / "loop")
    assert errno_of(lambda: paths.open_in_root(tree.fd, "loop", os.O_PATH)) == errno.ELOOP
    with pytest.raises(InvalidArgument, match="NUL"):
        paths.open_in_root(tree.fd, "a\0b", os.O_PATH)


def test_a_race_that_the_kernel_gives_up_is_run_again(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel cannot be made to lose it on demand, so the first answers are ours."""
    real, lost = paths.openat2, 0

    def losing(*arguments: int, **options: int) -> Descriptor:
        nonlocal lost
        lost += 1
        if lost < paths.MAX_TRIES:
            raise SyscallError("openat2", "", errno.EAGAIN)
        return real(*arguments, **options)

    monkeypatch.setattr(paths, "openat2", losing)
    paths.open_in_root(tree.fd, "..", os.O_PATH).close()
    assert lost == paths.MAX_TRIES >= 100
    lost = -1
    assert errno_of(lambda: paths.open_in_root(tree.fd, "..", os.O_PATH)) == errno.EAGAIN


def test_a_swapped_directory_never_leads_out(tree: Tree) -> None:
    (tree.path / "dir").mkdir()
    (tree.path / "dir/secret").write_text("inside")
    (tree.path / "dir/sub").mkdir()
    os.symlink(tree.outside, tree.path / "link")
    read = 0
    with swapping(tree.path, "dir", "link"):
        for path in ("dir/secret", "dir/sub/../secret", "dir/../dir/secret") * 300:
            try:
                content = paths.read_file_bounded(tree.fd, path, 100)
            except SyscallError as error:
                assert error.errno in (errno.ENOENT, errno.EAGAIN)
            else:
                assert content == b"inside"
                read += 1
    assert read > 0


# Reading


def test_a_file_of_exactly_the_bound_is_read(tree: Tree) -> None:
    (tree.path / "file").write_bytes(b"x" * 5000)
    (tree.path / "empty").write_bytes(b"")
    assert paths.read_file_bounded(tree.fd, "file", 5000) == b"x" * 5000
    assert paths.read_file_bounded(tree.fd, "empty", 0) == b""
    with pytest.raises(ResourceExhausted, match="'file' in the root is larger than 4999 bytes"):
        paths.read_file_bounded(tree.fd, "file", 4999)
    os.truncate(tree.path / "file", 1 << 40)
    with pytest.raises(ResourceExhausted):
        paths.read_file_bounded(tree.fd, "file", 4999)


def test_what_is_not_a_regular_file_is_never_opened(tree: Tree) -> None:
    os.mkfifo(tree.path / "fifo")
    os.mknod(tree.path / "device", 0o20666, os.makedev(1, 5))
    (tree.path / "directory").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tree.path / "socket"))
    os.symlink("fifo", tree.path / "link")
    kinds = {
        "fifo": "a FIFO",
        "link": "a FIFO",
        "device": "a character device",
        "directory": "a directory",
        "socket": "a socket",
    }
    for name, kind in kinds.items():
        with pytest.raises(FailedPrecondition, match=f"'{name}' in the root is {kind}, not"):
            paths.read_file_bounded(tree.fd, name, 100)
    with pytest.raises(FailedPrecondition, match="a symbolic link"):
        paths.read_file_bounded(tree.fd, "link", 100, follow_symlinks=False)
    assert errno_of(lambda: paths.read_file_bounded(tree.fd, "nosuch", 100)) == errno.ENOENT


def test_a_file_swapped_for_a_fifo_never_blocks(tree: Tree) -> None:
    (tree.path / "file").write_text("content")
    os.mkfifo(tree.path / "fifo")
    seen = set()
    with swapping(tree.path, "file", "fifo"):
        for _ in range(500):
            try:
                seen.add(paths.read_file_bounded(tree.fd, "file", 100))
            except FailedPrecondition:
                seen.add(b"refused")
    assert seen <= {b"content", b"refused"}
    assert seen


def test_a_file_of_procfs_that_waits_is_not_waited_for() -> None:
    """Once its messages are read, /proc/kmsg, a regular file, blocks whoever opened it plainly."""
    if not os.access("/proc/kmsg", os.R_OK):
        pytest.skip("/proc/kmsg is not here")
    with (
        Descriptor(os.open("/proc", os.O_PATH | os.O_CLOEXEC)) as proc,
        paths.open_regular(proc, "kmsg") as file,
    ):
        assert os.get_blocking(file) is False


# Making


def test_directories_are_made_with_exactly_the_mode_and_owner(tree: Tree) -> None:
    old = os.umask(0o077)
    try:
        with paths.make_directories(tree.fd, "/a/b/./c//", mode=0o751, uid=7, gid=8) as made:
            assert os.path.samestat(os.fstat(made), os.stat(tree.path / "a/b/c"))
    finally:
        os.umask(old)
    for name in ("a", "a/b", "a/b/c"):
        facts = os.stat(tree.path / name)
        assert (facts.st_mode & 0o7777, facts.st_uid, facts.st_gid) == (0o751, 7, 8)
    before = os.stat(tree.path / "a")
    paths.make_directories(tree.fd, "a", mode=0o700).close()
    paths.make_directories(tree.fd, "a/new", mode=0o700).close()
    after = os.stat(tree.path / "a")
    assert (before.st_mode, before.st_uid) == (after.st_mode, after.st_uid)
    assert inode(paths.make_directories(tree.fd, "/")) == os.fstat(tree.fd).st_ino


def test_directories_are_made_behind_links_inside_the_root(tree: Tree) -> None:
    (tree.path / "run").mkdir()
    (tree.path / "var").mkdir()
    os.symlink("/run", tree.path / "var/run")
    os.symlink("../../../..", tree.path / "up")
    paths.make_directories(tree.fd, "var/run/x/y").close()
    paths.make_directories(tree.fd, "up/z/../w").close()
    paths.make_directories(tree.fd, "../../v").close()
    assert (tree.path / "run/x/y").is_dir()
    assert (tree.path / "w").is_dir()
    assert (tree.path / "v").is_dir()
    assert sorted(os.listdir(tree.path.parent)) == ["outside", "root"]


def test_what_stands_in_the_way_is_named(tree: Tree) -> None:
    (tree.path / "file").write_text("")
    os.symlink("nothing", tree.path / "link")
    assert errno_of(lambda: paths.make_directories(tree.fd, "file/x")) == errno.ENOTDIR
    assert errno_of(lambda: paths.make_directories(tree.fd, "file")) == errno.ENOTDIR
    with pytest.raises(SyscallError, match="'link' is a symbolic link to nothing"):
        paths.make_directories(tree.fd, "link/x")
    assert not (tree.path / "nothing").exists()
    assert errno_of(lambda: paths.make_directories(tree.fd, "x" * 300)) == errno.ENAMETOOLONG


def test_directories_are_never_made_outside(tree: Tree) -> None:
    (tree.path / "dir").mkdir()
    os.symlink(tree.outside, tree.path / "link")
    made = 0
    with swapping(tree.path, "dir", "link"):
        for number in range(300):
            try:
                paths.make_directories(tree.fd, f"dir/d{number}/e").close()
                made += 1
            except SyscallError as error:
                assert error.errno in (errno.ENOENT, errno.EAGAIN)
    assert made > 0
    assert os.listdir(tree.outside) == ["secret"]


def test_two_who_make_the_same_directories_agree(tree: Tree) -> None:
    names = [f"{number}/a/b" for number in range(100)]
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            for name in names:
                paths.make_directories(tree.fd, name).close()
            code = 0
        finally:
            os._exit(code)
    for name in names:
        paths.make_directories(tree.fd, name).close()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert all((tree.path / name).stat().st_mode & 0o7777 == 0o755 for name in names)


def test_a_new_file_is_new(tree: Tree) -> None:
    with paths.create_file(tree.fd, "file", mode=0o646, uid=7, gid=8) as file:
        os.write(file, b"content")
    facts = os.stat(tree.path / "file")
    assert (facts.st_mode & 0o7777, facts.st_uid, facts.st_gid) == (0o646, 7, 8)
    os.symlink(tree.outside / "new", tree.path / "link")
    assert errno_of(lambda: paths.create_file(tree.fd, "file")) == errno.EEXIST
    assert errno_of(lambda: paths.create_file(tree.fd, "link")) == errno.EEXIST
    assert os.listdir(tree.outside) == ["secret"]


def test_nothing_stays_open(tree: Tree) -> None:
    before = os.listdir("/proc/self/fd")
    (tree.path / "file").write_text("")
    for act in (
        lambda: paths.make_directories(tree.fd, "file/a"),
        lambda: paths.open_regular(tree.fd, "nosuch"),
        lambda: paths.read_file_bounded(tree.fd, "/", 1),
        lambda: paths.make_directories(tree.fd, "a/b/c/" + "x" * 300),
    ):
        with pytest.raises((SyscallError, FailedPrecondition)):
            act()
    assert os.listdir("/proc/self/fd") == before
