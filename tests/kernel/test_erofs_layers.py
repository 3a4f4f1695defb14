"""Layers as EROFS images on the real kernel: what is in them, what overlayfs makes of them."""

from __future__ import annotations

import hashlib
import mmap
import os
import signal
import stat
import struct
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from erofs_rig import indexed, mounted, picture, unpacked, why_not, write
from image_tars import END, member, patched, pax, python_tar
from onggi.errors import DataLoss, EngineError, InvalidArgument, NotFound, SyscallError
from onggi.image.erofs.format import NotExpressible
from onggi.image.erofs.mount import mount_layer, probe
from onggi.image.layer_rules import ParentAttributes
from onggi.kernel import constants as c
from onggi.kernel import syscalls
from onggi.kernel.mounts import read_mountinfo

CAPABILITY = bytes.fromhex("01000002") + bytes(16)


@pytest.fixture(scope="module", autouse=True)
def erofs(tmp_path_factory: pytest.TempPathFactory) -> None:
    if reason := why_not(tmp_path_factory.mktemp("probe")):
        pytest.skip(f"no erofs from files: {reason}")


def acl(*entries: tuple[int, int, int]) -> bytes:
    return b"\2\0\0\0" + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NOBODY = 0xFFFFFFFF
ACL = acl((1, 6, NOBODY), (2, 4, 1000), (4, 4, NOBODY), (16, 4, NOBODY), (32, 0, NOBODY))


def both_alike(data: bytes, place: Path) -> None:
    applied = unpacked(data, place / "directory")
    with mounted(data, place) as root:
        there = picture(os.fsencode(place / "directory"), applied.missing)
        assert picture(root, applied.missing) == there


def test_every_kind_of_file_is_as_if_unpacked(tmp_path: Path) -> None:
    own = {"uid": 70_001, "gid": 2**32 - 2}
    both_alike(
        member(b"./", b"5", mode=0o750, mtime_ns=10**9)
        + member(b"d/", b"5", mode=0o3777, mtime_ns=2 * 10**9, **own)
        + member(b"d/file", data=b"x" * 3000, mode=0o6755, mtime_ns=10**18 + 5, **own)
        + member(b"d/empty", mode=0o600, mtime_ns=-1)
        + member(b"d/link", b"1", link=b"d/file")
        + member(b"d/sym", b"2", link=b"/nowhere", mtime_ns=3 * 10**9, **own)
        + member(b"d/symlink of symlink", b"1", link=b"d/sym")
        + member(b"d/fifo", b"6", mode=0o622)
        + member(b"d/char", b"3", mode=0o666, major=1, minor=3)
        + member(b"d/link of char", b"1", link=b"d/char")
        + member(b"d/block", b"4", mode=0o660, major=0xFFF, minor=0xFFFFF)
        + member(b"n" * 255, data=b"n")
        + member(b"left/out/f", data=b"f")
        + END,
        tmp_path,
    )


@pytest.mark.parametrize(("size", "cut"), [(1, 511), (1, 1), (511, 1), (513, 511), (70_001, 3)])
def test_a_tar_that_ends_inside_a_block_becomes_a_directory(
    size: int, cut: int, tmp_path: Path
) -> None:
    """The kernel cannot read such a block; one behind all data does no harm."""
    content = bytes(1 + at % 255 for at in range(size))
    archive = (member(b"first", data=b"1") + member(b"last", data=content))[:-cut]
    with pytest.raises(NotExpressible, match="inside a file's block"):
        write(indexed(archive, tmp_path), tmp_path)
    unpacked(archive, tmp_path / "directory")
    assert (tmp_path / "directory/last").read_bytes() == content
    (tmp_path / "mark").mkdir()
    both_alike(member(b"last", data=content) + END + bytes(100), tmp_path / "mark")


@pytest.mark.parametrize("length", [1, 63, 64, 446, 447, 448, 449, 512, 513, 4094, 4095])
def test_symlinks_of_every_length(length: int, tmp_path: Path) -> None:
    target = (b"0123456789" * 410)[:length]
    with mounted(member(b"l", b"2", link=target) + END, tmp_path) as root:
        assert os.readlink(root + b"/l") == target
        assert os.lstat(root + b"/l").st_size == length


@pytest.mark.parametrize("size", [1, 511, 512, 513, 4095, 4096, 4097, 100_000, 3_000_001])
def test_files_of_every_size_read_back(size: int, tmp_path: Path) -> None:
    content = (hashlib.sha256(b"%d" % size).digest() * (size // 32 + 1))[:size]
    data = member(b"before", data=b"-" * 700) + member(b"f", data=content) + member(b"g", data=b"g")
    with mounted(data + END, tmp_path) as root:
        with open(root + b"/f", "rb") as file:
            assert file.read() == content
            with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory:
                assert memory[:] == content
                assert hashlib.sha256(memory).digest() == hashlib.sha256(content).digest()
        assert os.stat(root + b"/f").st_blocks == -(-size // 512)


@pytest.mark.parametrize(
    "xattrs",
    [
        {"user.k": b"v\0", "user.empty": b""},
        {"security.capability": CAPABILITY},
        {"user.at the end of a block": b"x" * 380, "user.b": b"y" * 3, "user.c": b""},
        {"user." + "n" * 250: b"v" * 1000, "user.\udcff": b"2"},
        {"system.posix_acl_access": ACL},
        {f"user.{n}": bytes([n]) * n for n in range(60)},
    ],
)
def test_attributes_are_as_if_set(xattrs: dict[str, bytes], tmp_path: Path) -> None:
    fields = {"xattrs": xattrs, "mode": 0o640}
    below = b"".join(member(b"d/%d" % number, data=b"x") for number in range(20))
    both_alike(
        member(b"d/", b"5", **fields) + below + member(b"f", data=b"data", **fields) + END, tmp_path
    )


def test_children_have_their_own_list_not_the_directory_s_default(tmp_path: Path) -> None:
    lists = {"system.posix_acl_default": ACL, "system.posix_acl_access": ACL}
    both_alike(
        member(b"d/", b"5", mode=0o640, xattrs=lists, mtime_ns=5)
        + member(b"d/file", mode=0o644)
        + member(b"d/e/", b"5", mode=0o755)
        + member(b"d/left/out", mode=0o600)
        + member(b"r/", b"5", mode=0o640, xattrs=lists)
        + member(b"r")
        + member(b"r/", b"5", mode=0o640)
        + END,
        tmp_path,
    )


def test_an_access_control_list_works(tmp_path: Path) -> None:
    fields = {"xattrs": {"system.posix_acl_access": ACL}, "mode": 0o640}
    data = member(b"./", b"5", mode=0o755) + member(b"f", data=b"secret", **fields) + END
    with mounted(data, tmp_path) as root:
        for user, may in ((1000, True), (1001, False)):
            pid = os.fork()
            if pid == 0:
                os.setgroups([])
                os.setresgid(user, user, user)
                os.setresuid(user, user, user)
                try:
                    os.close(os.open(root + b"/f", os.O_RDONLY))
                except OSError:
                    os._exit(1)
                os._exit(0)
            assert (os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0) == may


def test_a_large_attribute_that_no_directory_could_hold(tmp_path: Path) -> None:
    data = member(b"f", xattrs={"user.large": b"x" * 60_000}, data=b"d") + END
    with mounted(data, tmp_path) as root:
        assert os.getxattr(root + b"/f", "user.large") == b"x" * 60_000
        assert Path(os.fsdecode(root + b"/f")).read_bytes() == b"d"


@pytest.mark.parametrize("count", [0, 1, 14, 15, 16, 17, 40, 3000])
def test_directories_of_every_size(count: int, tmp_path: Path) -> None:
    names = [b"n%d" % (number * 7919 % 100_003) for number in range(count)]
    odd = [b"!", b"-", b"...", b"..a", b".a", b"\x01", b"\xff", b"~", b"n" * 255]
    names += odd[: count // 2]
    data = member(b"d/", b"5") + b"".join(member(b"d/" + name, data=name) for name in names)
    with mounted(data + END, tmp_path) as root:
        assert sorted(os.listdir(root + b"/d")) == sorted(names)
        for name in names:
            assert Path(os.fsdecode(root + b"/d/" + name)).read_bytes() == name
        for name in (b"n", b"zz", b"n" * 254, b".b"):
            assert not os.path.lexists(root + b"/d/" + name)
        assert os.stat(root + b"/d/..").st_ino == os.stat(root + b"/.").st_ino


def sparse(name: bytes, real_size: int, *where: tuple[int, int], filler: bytes = b"\0") -> bytes:
    """A PAX 1.0 sparse member."""
    numbers = [len(where), *(number for piece in where for number in piece)]
    table = "".join(f"{number}\n" for number in numbers).encode()
    table += bytes(-len(table) % 512)
    content = b"".join(bytes([65 + at]) * length for at, (_, length) in enumerate(where))
    records = (
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", name),
        (b"GNU.sparse.realsize", str(real_size).encode()),
    )
    body = table + content
    return pax(*records) + member(b"x", data=body)[:512] + body + filler * (-len(body) % 512)


@pytest.mark.parametrize(
    ("real_size", "where"),
    [
        (0, []),
        (100, []),
        (1 << 20, []),
        (512 * 9, [(512 * 8, 512)]),
        (512 * 9, [(0, 512), (512 * 3, 1024), (512 * 8, 512)]),
        (512 * 9, [(0, 512), (512, 512), (512 * 8, 512)]),
        (512 * 8 + 100, [(512 * 2, 512), (512 * 8, 100)]),
        (512 * 8 + 100, [(4096, 100)]),
        (512 * 8 + 100, [(2048, 512 * 4 + 100)]),
        (1 << 30, [(1 << 20, 1 << 20)]),
        (700, [(0, 700)]),
        (512 * 4, [(0, 512), (512, 0), (1024, 512), (2048, 0)]),
    ],
)
def test_sparse_files(real_size: int, where: list[tuple[int, int]], tmp_path: Path) -> None:
    data = sparse(b"s", real_size, *where, filler=b"j") + member(b"b", data=b"behind") + END
    content = bytearray(min(real_size, 1 << 22))
    for at, (offset, length) in enumerate(where):
        content[offset : offset + length] = bytes([65 + at]) * length
    with mounted(data, tmp_path) as root:
        with open(root + b"/s", "rb") as file:
            assert os.fstat(file.fileno()).st_size == real_size
            assert file.read(len(content)) == content
        assert Path(os.fsdecode(root + b"/b")).read_bytes() == b"behind"


@pytest.mark.parametrize(
    ("real_size", "where"),
    [
        (4096, [(100, 512)]),
        (4096, [(0, 100)]),
        (4096, [(0, 100), (512, 512)]),
        (1 << 40, [(512, 512)]),
    ],
)
def test_what_blocks_cannot_say_is_left_to_a_directory(
    real_size: int, where: list[tuple[int, int]], tmp_path: Path
) -> None:
    tree = indexed(member(b"a") + sparse(b"s", real_size, *where) + END, tmp_path)
    assert tree.entries == 2
    with pytest.raises(NotExpressible, match="'s'.*sparse"):
        write(tree, tmp_path)
    assert (tmp_path / "image").stat().st_size == 0


def test_old_gnu_sparse_files(tmp_path: Path) -> None:
    block = member(b"s", b"S", b"")[:512]
    for at, number in ((124, 1024), (386, 4096), (398, 512), (410, 16384), (422, 512)):
        block = patched(block, at, b"%011o\0" % number)
    block = patched(block, 483, b"%011o\0" % 20000)
    block = patched(block, 257, b"ustar  \0")
    data = block + b"A" * 512 + b"B" * 512 + END
    both_alike(data, tmp_path)


def test_archives_of_tar_itself(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "d").mkdir(parents=True)
    (source / "d/file").write_bytes(os.urandom(10_000))
    (source / ("long" * 40)).write_text("long name")
    os.symlink("t" * 300, source / "link")
    os.link(source / "d/file", source / "hard")
    with open(source / "holes", "wb") as file:
        file.truncate(1 << 20)
        file.seek(1 << 19)
        file.write(b"x" * 5000)
    for kind in ("gnu", "posix"):
        place = tmp_path / kind
        place.mkdir()
        command = ["tar", "--sparse", f"--format={kind}", "-C", source, "-cf", place / "t", "."]
        subprocess.run(command, check=True)
        both_alike((place / "t").read_bytes(), place)


def test_a_layer_by_python(tmp_path: Path) -> None:
    name = "/".join(["d" * 40] * 4) + "/file"
    fields = {"name": name, "mtime": 1.5, "mode": 0o4755, "uid": 7}
    link = {"name": "l", "type": tarfile.SYMTYPE, "linkname": "x" * 150}
    both_alike(python_tar([(fields, b"x" * 600), (link, b"")], tarfile.PAX_FORMAT), tmp_path)


def test_the_same_tar_gives_the_same_bytes_however_it_is_cut(tmp_path: Path) -> None:
    data = b"".join(member(b"d/%d" % n, data=b"x" * n) for n in range(300))
    data += member(b"l", b"1", link=b"d/5") + END
    tree = indexed(data, tmp_path)
    first = write(tree, tmp_path)
    assert write(tree, tmp_path) == first
    other = tmp_path / "other"
    other.mkdir()
    assert write(indexed(data, other), other) == first
    assert (other / "tar").read_bytes() == data


def test_a_layer_left_without_parents_is_dressed(tmp_path: Path) -> None:
    data = member(b"a/b/f") + member(b"c/f") + member(b"a/", b"5", mode=0o711) + END
    tree = indexed(data, tmp_path)
    assert tree.missing == [b"", b"a/b", b"c"]
    tree.dress(b"", ParentAttributes(0o700, 1, 2))
    tree.dress(b"a/b", ParentAttributes(0o1777, 70_000, 3))
    with pytest.raises(InvalidArgument, match="no directory"):
        tree.dress(b"a/b/f", ParentAttributes(0o1777, 1, 3))
    write(tree, tmp_path)
    with mount_layer(str(tmp_path / "image"), str(tmp_path / "tar")) as fd:
        for path, expected in {
            ".": (0o700, 1, 2),
            "a": (0o711, 0, 0),
            "a/b": (0o1777, 70_000, 3),
            "c": (0o755, 0, 0),
        }.items():
            status = os.stat(path, dir_fd=fd)
            assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == expected


# Mounting.


def image(place: Path, data: bytes = b"") -> tuple[str, str]:
    """A layer's two files."""
    place.mkdir(exist_ok=True)
    write(indexed((data or member(b"f", data=b"content", mode=0o4755)) + END, place), place)
    return str(place / "image"), str(place / "tar")


def mounts_of(place: Path) -> list[str]:
    return [str(info) for info in read_mountinfo() if str(place) in str(info)]


def test_a_mount_is_detached_readonly_and_keeps_setuid(tmp_path: Path) -> None:
    metadata, tar = image(tmp_path)
    with mount_layer(metadata, tar) as fd:
        assert mounts_of(tmp_path) == []
        with pytest.raises(OSError, match="Read-only"):
            os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
        assert not os.fstatvfs(fd).f_flag & os.ST_NOSUID
        assert os.fstatvfs(fd).f_flag & os.ST_RDONLY
        assert stat.S_IMODE(os.stat("f", dir_fd=fd).st_mode) == 0o4755
    assert os.listdir(tmp_path) and mounts_of(tmp_path) == []


def test_files_are_given_as_descriptors_and_may_be_deleted(tmp_path: Path) -> None:
    names = image(tmp_path)
    descriptors = [os.open(name, os.O_RDONLY) for name in names]
    try:
        for name in names:
            os.unlink(name)
        mount = mount_layer(descriptors[0], descriptors[1])
    finally:
        for fd in descriptors:
            os.close(fd)
    with mount as fd:
        assert Path(f"/proc/self/fd/{fd}/f").read_bytes() == b"content"


def test_long_paths(tmp_path: Path) -> None:
    place = tmp_path / ("long" * 60) / ("path" * 60)
    place.parent.mkdir()
    metadata, tar = image(place)
    with mount_layer(metadata, tar) as fd:
        assert Path(f"/proc/self/fd/{fd}/f").read_bytes() == b"content"


def test_a_deep_tree_is_removed_by_two_unlinks(tmp_path: Path) -> None:
    deep = b"/".join([b"d"] * 2000)
    metadata, tar = image(tmp_path, member(deep, data=b"deep"))
    with mount_layer(metadata, tar) as fd:
        path = f"/proc/self/fd/{fd}/" + "/".join(["d"] * 2000)
        fd2 = os.open(path[:-2], os.O_RDONLY)
        try:
            assert os.listdir(fd2) == ["d"]
        finally:
            os.close(fd2)


def test_damage_is_told(tmp_path: Path) -> None:
    metadata, tar = image(tmp_path)
    good = Path(metadata).read_bytes()
    for at in (1024, 1024 + 40, 1024 + 80):
        bad = bytearray(good)
        bad[at] ^= 1
        Path(metadata).write_bytes(bad)
        with pytest.raises((DataLoss, SyscallError)) as caught:
            mount_layer(metadata, tar)
        assert isinstance(caught.value, DataLoss), (at, caught.value)
    Path(metadata).write_bytes(good[:100])
    with pytest.raises(DataLoss, match="damaged"):
        mount_layer(metadata, tar)
    with pytest.raises(NotFound):
        mount_layer(metadata + "x", tar)
    with pytest.raises(NotFound):
        mount_layer(metadata, tar + "x")


def test_random_damage_crashes_nothing(tmp_path: Path) -> None:
    metadata, tar = image(tmp_path, b"".join(member(b"d/%d" % n, data=b"x" * n) for n in range(40)))
    good = Path(metadata).read_bytes()
    for at in range(1536, len(good), 97):
        bad = bytearray(good)
        bad[at] ^= 0x55
        Path(metadata).write_bytes(bad)
        try:
            with mount_layer(metadata, tar) as fd:
                for name in os.listdir(fd):
                    os.stat(name, dir_fd=fd, follow_symlinks=False)
        except (EngineError, OSError):
            continue


def test_the_probe_leaves_nothing(tmp_path: Path) -> None:
    descriptors = os.listdir("/proc/self/fd")
    assert probe(str(tmp_path)) == ""
    assert os.listdir(tmp_path) == []
    assert len(os.listdir("/proc/self/fd")) == len(descriptors)


def test_the_probe_says_why_not(tmp_path: Path) -> None:
    assert "No such file" in probe(str(tmp_path / "missing"))
    # The kernel mounts no files that lie in memory.
    assert "ENOTBLK" in probe("/dev/shm")
    assert not [name for name in os.listdir("/dev/shm") if name.startswith("probe.")]


@contextmanager
def user_namespace(first: int) -> Iterator[int]:
    """A user namespace whose 65536 ids are the host's from `first`."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            syscalls.unshare(c.CLONE_NEWUSER)
            os.write(writing, b"!")
            signal.pause()
        finally:
            os._exit(0)
    try:
        os.close(writing)
        assert os.read(reading, 1) == b"!"
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{pid}/{name}").write_text(f"0 {first} 65536")
        fd = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
        try:
            yield fd
        finally:
            os.close(fd)
    finally:
        os.close(reading)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_clone_of_a_detached_mount_is_idmapped(tmp_path: Path) -> None:
    metadata, tar = image(tmp_path, member(b"f", uid=5, gid=6))
    with (
        mount_layer(metadata, tar) as fd,
        user_namespace(200_000) as userns,
        syscalls.open_tree(c.AT_FDCWD, f"/proc/{os.getpid()}/fd/{fd}") as clone,
    ):
        syscalls.mount_setattr(clone, userns_fd=userns)
        status = os.stat("f", dir_fd=clone)
        assert (status.st_uid, status.st_gid) == (200_005, 200_006)
        assert os.stat("f", dir_fd=fd).st_uid == 5
        assert status.st_ino == os.stat("f", dir_fd=fd).st_ino


# Overlayfs over such layers.


@contextmanager
def overlay(
    stack: ExitStack, lowers: list[bytes], place: Path, *, userxattr: bool
) -> Iterator[str]:
    """A detached overlay over layers given as tars, topmost first."""
    with syscalls.fsopen("overlay") as context:
        for number, data in enumerate(lowers):
            (place / str(number)).mkdir()
            path = stack.enter_context(mounted(data + END, place / str(number)))
            # A clone, as keel makes it: the kernel takes no mount twice.
            clone = stack.enter_context(syscalls.open_tree(c.AT_FDCWD, os.fsdecode(path)))
            syscalls.fsconfig_descriptor(context, "lowerdir+", clone)
        for name in ("upper", "work"):
            (place / name).mkdir()
            syscalls.fsconfig_string(context, f"{name}dir", str(place / name))
        if userxattr:
            syscalls.fsconfig_flag(context, "userxattr")
        syscalls.fsconfig_create(context)
        with syscalls.fsmount(context) as fd:
            yield f"/proc/self/fd/{fd}"


@pytest.mark.parametrize("userxattr", [False, True])
def test_overlayfs_over_layers(userxattr: bool, tmp_path: Path) -> None:
    bottom = (
        member(b"./", b"5", mode=0o755)
        + member(b"gone", data=b"hidden")
        + member(b"stays", data=b"below", mode=0o4755, uid=3)
        + member(b"opaque/old", data=b"hidden")
        + member(b"merged/old", data=b"old")
        + member(b"replaced/old", data=b"hidden")
    )
    top = (
        member(b".wh.gone")
        + member(b"opaque/.wh..wh..opq")
        + member(b"opaque/new", data=b"new")
        + member(b"merged/new", data=b"new", xattrs={"user.k": b"v"})
        + member(b".wh.replaced")
        + member(b"replaced/", b"5")
        + member(b"replaced/new", data=b"new")
    )
    with (
        ExitStack() as stack,
        overlay(stack, [top, bottom], tmp_path, userxattr=userxattr) as root,
    ):
        assert sorted(os.listdir(root)) == ["merged", "opaque", "replaced", "stays"]
        assert os.listdir(f"{root}/opaque") == ["new"]
        assert os.listdir(f"{root}/replaced") == ["new"]
        assert sorted(os.listdir(f"{root}/merged")) == ["new", "old"]
        assert not os.path.lexists(f"{root}/gone")
        assert os.getxattr(f"{root}/merged/new", "user.k") == b"v"
        status = os.stat(f"{root}/stays")
        assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o4755, 3)
        # Copied up, a file keeps its number, as it does over a directory.
        with open(f"{root}/stays", "r+b") as file:
            file.write(b"BELOW")
        assert Path(f"{root}/stays").read_bytes() == b"BELOW"
        assert os.stat(f"{root}/stays").st_ino == status.st_ino
        os.unlink(f"{root}/merged/old")
        os.rename(f"{root}/merged/new", f"{root}/moved")
        assert os.listdir(f"{root}/merged") == []
    assert mounts_of(tmp_path) == []


def test_a_program_of_a_layer_runs(tmp_path: Path) -> None:
    program = Path("/bin/true").read_bytes()
    with mounted(member(b"true", data=program, mode=0o755) + END, tmp_path) as root:
        subprocess.run([root + b"/true"], check=True, pass_fds=[int(root.rsplit(b"/", 1)[1])])


def test_streams_that_break_off_are_refused(tmp_path: Path) -> None:
    data = member(b"f", data=b"x" * 3000) + END
    for end in (100, 512, 600, 3400):
        with pytest.raises(InvalidArgument, match="cut short"):
            indexed(data[:end], tmp_path)
