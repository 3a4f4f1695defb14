"""The mount calls on the real kernel, each in a forked child with a mount namespace of its own."""

from __future__ import annotations

import errno
import os
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from onggi.errors import SyscallError
from onggi.kernel import constants as c
from onggi.kernel import mounts, namespaces, syscalls
from onggi.kernel.descriptors import Descriptor

MS_PRIVATE = mounts.MS_PRIVATE


def in_child(act: Callable[[], None], *, unshare: int = c.CLONE_NEWNS) -> None:
    """Do it in a child with new namespaces; its traceback, if any, fails the test."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            syscalls.unshare(unshare)
            if unshare & c.CLONE_NEWNS:
                syscalls.mount_setattr(c.AT_FDCWD, "/", propagation=MS_PRIVATE, recursive=True)
            act()
            status = 0
        except BaseException:  # noqa: BLE001 - the parent reports it
            os.write(writing, traceback.format_exc().encode()[-60000:])
        finally:
            os._exit(status)
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
        report = pipe.read()
    _, status = os.waitpid(pid, 0)
    if report:
        pytest.fail(report)
    assert status == 0


def tmpfs(attributes: int = 0, **options: str) -> Descriptor:
    """A detached tmpfs."""
    with syscalls.fsopen("tmpfs") as fs:
        for key, value in options.items():
            syscalls.fsconfig_string(fs, key, value)
        syscalls.fsconfig_create(fs)
        return syscalls.fsmount(fs, attributes)


def errno_of(act: Callable[[], object]) -> int:
    with pytest.raises(SyscallError) as caught:
        act()
    return caught.value.errno


def mounted(path: Path) -> mounts.MountInfo | None:
    found = [info for info in mounts.read_mountinfo() if info.mount_point == str(path)]
    return found[-1] if found else None


def test_a_file_system_is_made_mounted_and_seen(tmp_path: Path) -> None:
    target = tmp_path / "a b\n\\c"
    target.mkdir()

    def act() -> None:
        with tmpfs(mounts.MOUNT_ATTR_NOEXEC, source="x y#z", size="64k", mode="0711") as tree:
            (Path(f"/proc/self/fd/{tree}") / "file").write_text("detached")
            syscalls.move_mount(tree, c.AT_FDCWD, str(target))
        info = mounted(target)
        assert info is not None
        assert (info.fstype, info.source) == ("tmpfs", "x y#z")
        assert "noexec" in info.options
        assert "size=64k" in info.super_options
        assert target.stat().st_mode & 0o7777 == 0o711
        assert (target / "file").read_text() == "detached"
        assert syscalls.mount_identity(c.AT_FDCWD, str(target)) == (info.mount_id, True)
        assert syscalls.mount_identity(c.AT_FDCWD, str(target / "file")) == (info.mount_id, False)
        syscalls.umount2(str(target))
        assert mounted(target) is None

    in_child(act)
    assert mounted(target) is None
    assert list(target.iterdir()) == []


def test_an_unknown_file_system() -> None:
    with pytest.raises(
        SyscallError, match=r"fsopen\('nosuchfs'\): ENODEV.*load its module"
    ) as caught:
        syscalls.fsopen("nosuchfs")
    assert caught.value.call == "fsopen"


def test_the_kernels_own_words_are_the_hint() -> None:
    with syscalls.fsopen("tmpfs") as fs:
        with pytest.raises(SyscallError, match="tmpfs") as caught:
            syscalls.fsconfig_string(fs, "nosuch", "1")
        assert caught.value.hint is not None
        assert "nosuch" in caught.value.hint
        assert errno_of(lambda: syscalls.fsconfig_flag(fs, "alsonot")) == errno.EINVAL
        assert errno_of(lambda: syscalls.fsconfig_descriptor(fs, "size", fs)) == errno.EINVAL
        assert errno_of(lambda: syscalls.fsmount(fs)) == errno.EINVAL
    assert errno_of(lambda: syscalls.fsconfig_create(1_000_000)) == errno.EBADF


def test_flags_and_descriptors_configure_an_overlay(tmp_path: Path) -> None:
    def act() -> None:
        with tmpfs() as tree:
            syscalls.move_mount(tree, c.AT_FDCWD, str(tmp_path))
        for name in ("lower", "upper", "work", "merged"):
            (tmp_path / name).mkdir()
        (tmp_path / "lower" / "file").write_text("from below")
        with syscalls.fsopen("overlay") as fs:
            syscalls.fsconfig_flag(fs, "userxattr")
            for key, name in (("lowerdir+", "lower"), ("upperdir", "upper"), ("workdir", "work")):
                with Descriptor(os.open(tmp_path / name, os.O_PATH | os.O_CLOEXEC)) as layer:
                    syscalls.fsconfig_descriptor(fs, key, layer)
            syscalls.fsconfig_create(fs)
            with syscalls.fsmount(fs) as tree:
                syscalls.move_mount(tree, c.AT_FDCWD, str(tmp_path / "merged"))
        (tmp_path / "merged" / "new").write_text("")
        assert (tmp_path / "merged" / "file").read_text() == "from below"
        assert (tmp_path / "upper" / "new").exists()

    with syscalls.fsopen("overlay") as fs, Descriptor(os.open("/", os.O_PATH)) as root:
        try:
            syscalls.fsconfig_descriptor(fs, "lowerdir+", root)
        except SyscallError:
            pytest.skip("overlay takes no layers as descriptors before Linux 6.13")
    in_child(act)


def test_a_superblock_is_reconfigured(tmp_path: Path) -> None:
    def act() -> None:
        with tmpfs(size="64k") as tree, syscalls.fspick(tree) as fs:
            syscalls.fsconfig_string(fs, "size", "128k")
            syscalls.fsconfig_reconfigure(fs)
            syscalls.move_mount(tree, c.AT_FDCWD, str(tmp_path))
        info = mounted(tmp_path)
        assert info is not None
        assert "size=128k" in info.super_options

    in_child(act)
    assert errno_of(lambda: syscalls.fspick(c.AT_FDCWD, str(tmp_path))) == errno.EINVAL


def test_attributes_are_set_and_cleared_on_the_whole_tree(tmp_path: Path) -> None:
    def act() -> None:
        with tmpfs() as tree:
            syscalls.move_mount(tree, c.AT_FDCWD, str(tmp_path))
        below = tmp_path / "below"
        below.mkdir()
        with tmpfs() as tree:
            syscalls.move_mount(tree, c.AT_FDCWD, str(below))
        options = mounts.parse_options(("rbind", "rro", "noatime", "rnoexec"))
        copy = tmp_path / "copy"
        copy.mkdir()
        with syscalls.open_tree(c.AT_FDCWD, str(tmp_path), recursive=True) as tree:
            syscalls.mount_setattr(
                tree,
                attributes_set=options.attributes_set,
                attributes_clear=options.attributes_clear,
            )
            syscalls.mount_setattr(
                tree,
                attributes_set=options.recursive_set,
                attributes_clear=options.recursive_clear,
                recursive=True,
            )
            syscalls.move_mount(tree, c.AT_FDCWD, str(copy))
        top, inner = mounted(copy), mounted(copy / "below")
        assert top is not None
        assert inner is not None
        assert set(top.options) == {"ro", "noexec", "noatime"}
        assert set(inner.options) == {"ro", "noexec", "relatime"}
        with pytest.raises(OSError, match="Read-only"):
            (copy / "below" / "file").write_text("")
        (below / "file").write_text("the original stays writable")
        syscalls.mount_setattr(c.AT_FDCWD, str(copy), attributes_clear=mounts.MOUNT_ATTR_RDONLY)
        (copy / "file").write_text("")

    in_child(act)


def test_a_bind_without_recursion_leaves_the_mounts_below_out(tmp_path: Path) -> None:
    def act() -> None:
        with tmpfs() as tree:
            syscalls.move_mount(tree, c.AT_FDCWD, str(tmp_path))
        (tmp_path / "copy").mkdir()
        with syscalls.open_tree(c.AT_FDCWD, "/proc") as tree:
            syscalls.move_mount(tree, c.AT_FDCWD, str(tmp_path / "copy"))
        info = mounted(tmp_path / "copy")
        assert info is not None
        assert info.fstype == "proc"
        with syscalls.open_tree(c.AT_FDCWD, "/proc", clone=False) as handle:
            assert syscalls.mount_identity(handle) == syscalls.mount_identity(c.AT_FDCWD, "/proc")

    in_child(act)


def test_propagation(tmp_path: Path) -> None:
    def act() -> None:
        with tmpfs() as tree:
            syscalls.move_mount(tree, c.AT_FDCWD, str(tmp_path))
        syscalls.mount_setattr(c.AT_FDCWD, str(tmp_path), propagation=mounts.MS_SHARED)
        info = mounted(tmp_path)
        assert info is not None
        assert [field.partition(":")[0] for field in info.optional] == ["shared"]
        syscalls.mount_setattr(c.AT_FDCWD, str(tmp_path), propagation=mounts.MS_UNBINDABLE)
        info = mounted(tmp_path)
        assert info is not None
        assert info.optional == ("unbindable",)
        both = mounts.MS_SHARED | MS_PRIVATE
        assert (
            errno_of(lambda: syscalls.mount_setattr(c.AT_FDCWD, str(tmp_path), propagation=both))
            == errno.EINVAL
        )

    in_child(act)


def test_what_mount_calls_refuse(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    link = tmp_path / "link"
    link.symlink_to(plain)

    def act() -> None:
        at = c.AT_FDCWD
        assert errno_of(lambda: syscalls.open_tree(at, "/nosuch")) == errno.ENOENT
        assert errno_of(lambda: syscalls.umount2(str(plain))) == errno.EINVAL
        assert errno_of(lambda: syscalls.umount2("/proc", 0x4000)) == errno.EINVAL
        assert errno_of(lambda: syscalls.mount_identity(at, "/nosuch")) == errno.ENOENT
        assert errno_of(lambda: syscalls.pivot_root(str(plain), str(plain))) == errno.EBUSY
        atime = mounts.MOUNT_ATTR_NOATIME
        with tmpfs() as tree:
            # The kernel's rule that parse_options obeys: the mode is cleared before it is set.
            assert (
                errno_of(lambda: syscalls.mount_setattr(tree, attributes_set=atime)) == errno.EINVAL
            )
            (tmp_path / "file").write_text("")
            file = str(tmp_path / "file")
            assert errno_of(lambda: syscalls.move_mount(tree, at, file)) == errno.EINVAL
            # A link that an attacker put at the target is not followed.
            assert errno_of(lambda: syscalls.move_mount(tree, at, str(link))) == errno.EINVAL
            syscalls.move_mount(tree, at, str(plain))
        readonly = mounts.MOUNT_ATTR_RDONLY
        through_link = errno_of(
            lambda: syscalls.mount_setattr(at, str(link), attributes_set=readonly)
        )
        assert through_link == errno.EINVAL
        with Descriptor(os.open(plain, os.O_RDONLY | os.O_CLOEXEC)):
            assert errno_of(lambda: syscalls.umount2(str(plain))) == errno.EBUSY
            syscalls.umount2(str(plain), c.MNT_DETACH | c.UMOUNT_NOFOLLOW)
        assert mounted(plain) is None

    in_child(act)


def test_owners_are_mapped_through_a_user_namespace(tmp_path: Path) -> None:
    ready_r, ready_w = os.pipe()
    end_r, end_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            syscalls.unshare(c.CLONE_NEWUSER)
            os.write(ready_w, b"x")
            os.close(end_w)
            os.read(end_r, 1)
        finally:
            os._exit(0)
    try:
        os.close(ready_w)
        assert os.read(ready_r, 1) == b"x"
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{pid}/{name}").write_text("0 200000 1000\n")
        with syscalls.pidfd_open(pid) as pidfd, namespaces.open_namespace(pidfd, "user") as userns:
            assert namespaces.kind_of(userns) == "user"
            assert namespaces.namespace_id(pid, "user") == os.fstat(userns).st_ino
            uids, gids = namespaces.read_id_maps(pid)
            assert uids == gids == (namespaces.IdRange(0, 200000, 1000),)

            def act() -> None:
                with tmpfs() as source:
                    inner = Path(f"/proc/self/fd/{source}/file")
                    inner.write_text("")
                    os.chown(inner, 7, 8)
                    with syscalls.open_tree(source) as tree:
                        syscalls.mount_setattr(tree, userns_fd=userns)
                        mapped = os.stat(f"/proc/self/fd/{tree}/file")
                        assert (mapped.st_uid, mapped.st_gid) == (200007, 200008)
                        again = errno_of(lambda: syscalls.mount_setattr(tree, userns_fd=userns))
                        assert again == errno.EPERM
                    assert inner.stat().st_uid == 7
                with syscalls.open_tree(c.AT_FDCWD, "/proc") as tree:
                    with pytest.raises(SyscallError, match="no ID-mapped mounts") as caught:
                        syscalls.mount_setattr(tree, userns_fd=userns)
                    assert caught.value.errno == errno.EINVAL

            in_child(act)
    finally:
        os.close(end_w)
        os.waitpid(pid, 0)
        os.close(ready_r)
        os.close(end_r)


def test_pivot_root_leaves_the_host_behind() -> None:
    def act() -> None:
        with tmpfs() as tree:
            syscalls.move_mount(tree, c.AT_FDCWD, "/mnt")
        os.chdir("/mnt")
        syscalls.pivot_root(".", ".")
        syscalls.umount2(".", c.MNT_DETACH)
        os.chdir("/")
        assert os.listdir("/") == []

    in_child(act)
    assert os.path.exists("/proc/self")


def test_an_ordinary_user_is_told_what_is_missing() -> None:
    def act() -> None:
        os.setresuid(65534, 65534, 65534)
        with pytest.raises(SyscallError, match="CAP_SYS_ADMIN"):
            syscalls.fsopen("tmpfs")
        with pytest.raises(SyscallError, match="CAP_SYS_ADMIN") as caught:
            syscalls.unshare(c.CLONE_NEWNS)
        assert caught.value.kind == "PermissionDenied"

    in_child(act)


def test_user_namespaces_that_are_switched_off_are_named(tmp_path: Path) -> None:
    """In a user namespace, its own limit can be set to none without touching the host."""

    def act() -> None:
        for name, value in (("setgroups", "deny"), ("uid_map", "0 0 1"), ("gid_map", "0 0 1")):
            Path(f"/proc/self/{name}").write_text(value)
        Path("/proc/sys/user/max_user_namespaces").write_text("0")
        with pytest.raises(SyscallError, match=r"unshare\(.*NEWUSER\): ENOSPC.*limits") as caught:
            syscalls.unshare(c.CLONE_NEWUSER)
        assert caught.value.kind == "ResourceExhausted"

    in_child(act, unshare=c.CLONE_NEWUSER)
