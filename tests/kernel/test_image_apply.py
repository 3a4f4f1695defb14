"""Layers unpacked on the real filesystem: what they become, and what is refused."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from image_tars import END, member, pax, pieces
from onggi.errors import EngineError, InvalidArgument, ResourceExhausted
from onggi.image.apply import Applied, apply_layer
from onggi.image.compression import Limits

CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")[:20]


def unpack(
    target: Path,
    data: bytes,
    limits: Limits | None = None,
) -> Applied:
    target.mkdir(exist_ok=True)
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return apply_layer(pieces(data + END), fd, limits=limits or Limits())
    finally:
        os.close(fd)


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    return tmp_path / "layer"


def is_whiteout(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def test_every_kind_of_file_with_its_attributes(layer: Path) -> None:
    time = 1_234_567_890 * 10**9 + 5
    own = {"uid": 70_001, "gid": 70_002}
    applied = unpack(
        layer,
        member(b"./", b"5", mode=0o750, mtime_ns=10**9)
        + member(b"d/", b"5", mode=0o1777, mtime_ns=2 * 10**9)
        + pax((b"mtime", b"1234567890.000000005"), (b"SCHILY.xattr.user.k", b"v\0"))
        + member(b"d/file", data=b"x" * 3000, mode=0o6755, **own)
        + member(b"d/link", b"1", link=b"d/file")
        + member(b"d/sym", b"2", link=b"/nowhere", mtime_ns=3 * 10**9, **own)
        + member(b"d/fifo", b"6", mode=0o622)
        + member(b"d/char", b"3", mode=0o666, major=1, minor=3)
        + member(b"d/block", b"4", mode=0o660, major=7, minor=300),
    )
    assert applied == Applied(8, 3000)
    assert stat.S_IMODE(layer.stat().st_mode) == 0o750
    assert layer.stat().st_mtime_ns == 10**9
    directory = (layer / "d").stat()
    assert (stat.S_IMODE(directory.st_mode), directory.st_mtime_ns) == (0o1777, 2 * 10**9)
    file = (layer / "d/file").stat()
    assert stat.S_IMODE(file.st_mode) == 0o6755
    assert (file.st_uid, file.st_gid, file.st_mtime_ns, file.st_nlink) == (70_001, 70_002, time, 2)
    assert os.getxattr(layer / "d/file", "user.k") == b"v\0"
    assert (layer / "d/link").samefile(layer / "d/file")
    assert os.readlink(layer / "d/sym") == "/nowhere"
    assert (layer / "d/sym").lstat().st_uid == 70_001
    assert (layer / "d/sym").lstat().st_mtime_ns == 3 * 10**9
    assert stat.S_ISFIFO((layer / "d/fifo").stat().st_mode)
    assert (layer / "d/char").stat().st_rdev == os.makedev(1, 3)
    assert (layer / "d/block").stat().st_rdev == os.makedev(7, 300)
    assert stat.S_IMODE((layer / "d/block").stat().st_mode) == 0o660


def test_file_capabilities_survive(layer: Path) -> None:
    record = (b"SCHILY.xattr.security.capability", CAPABILITY)
    unpack(layer, pax(record) + member(b"ping", mode=0o755, uid=5))
    assert os.getxattr(layer / "ping", "security.capability") == CAPABILITY


def test_labels_of_other_hosts_are_left_out(layer: Path) -> None:
    unpack(layer, pax((b"SCHILY.xattr.trusted.other", b"1")) + member(b"a"))
    assert os.listxattr(layer / "a") == []


def test_whiteouts_in_overlay_form(layer: Path) -> None:
    unpack(layer, member(b"a/.wh.gone") + member(b"b/.wh..wh..opq") + member(b"b/new"))
    assert is_whiteout(layer / "a/gone")
    assert os.getxattr(layer / "b", "user.overlay.opaque") == b"y"
    assert os.getxattr(layer / "b", "trusted.overlay.opaque") == b"y"
    assert sorted(os.listdir(layer / "b")) == ["new"]


def test_a_whiteout_beside_the_new_file_hides_only_what_is_below(layer: Path) -> None:
    unpack(
        layer,
        member(b"f")
        + member(b".wh.f")
        + member(b".wh.g")
        + member(b"g", data=b"new")
        + member(b"d/", b"5")
        + member(b".wh.d")
        + member(b".wh.e")
        + member(b"e/", b"5"),
    )
    assert (layer / "f").is_file()
    assert (layer / "g").read_bytes() == b"new"
    for name in ("d", "e"):
        assert os.getxattr(layer / name, "user.overlay.opaque") == b"y"


def test_aufs_bookkeeping_is_skipped(layer: Path) -> None:
    unpack(layer, member(b".wh..wh.plnk") + member(b".wh..wh.aufs") + member(b"a"))
    assert os.listdir(layer) == ["a"]


def test_directories_left_out_are_named_and_plain(layer: Path) -> None:
    given = member(b"g/", b"5", mode=0o2770, gid=9) + member(b"late/x") + member(b"late/", b"5")
    applied = unpack(layer, given + member(b"tmp/a/f") + member(b"g/a/f"))
    assert applied.missing == (b"", b"tmp", b"tmp/a", b"g/a")
    for name in ("tmp", "tmp/a", "g/a"):
        status = (layer / name).stat()
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o755, 0, 0)


def test_names_left_out_take_bounded_memory(layer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onggi.image.apply.MAX_MISSING_BYTES", 100)
    with pytest.raises(InvalidArgument, match="too many directories left out"):
        unpack(layer, member(b"/".join([b"d"] * 20)))


def test_a_later_member_replaces_an_earlier_one(layer: Path) -> None:
    unpack(
        layer,
        member(b"a", data=b"1")
        + member(b"a", data=b"2")
        + member(b"d/x/y", data=b"deep")
        + member(b"d", data=b"now a file")
        + member(b"s", b"2", link=b"/etc/passwd")
        + member(b"s", data=b"now a file")
        + member(b"t", b"2", link=b"/etc")
        + member(b"t/", b"5"),
    )
    assert (layer / "a").read_bytes() == b"2"
    assert (layer / "d").read_bytes() == b"now a file"
    assert (layer / "s").is_file()
    assert not (layer / "s").is_symlink()
    assert (layer / "t").is_dir()
    assert not (layer / "t").is_symlink()


def test_a_hole_stays_a_hole(layer: Path) -> None:
    unpack(
        layer,
        pax((b"GNU.sparse.size", b"1048576000"), (b"GNU.sparse.map", b"0,3,1048575997,3"))
        + member(b"s", data=b"abcxyz"),
    )
    status = (layer / "s").stat()
    assert status.st_size == 1_048_576_000
    assert status.st_blocks * 512 < 1 << 20
    with open(layer / "s", "rb") as file:
        assert file.read(4) == b"abc\0"
        file.seek(-4, 2)
        assert file.read() == b"\0xyz"


def test_more_directories_than_descriptors_kept(layer: Path) -> None:
    names = [b"d%d/e%d/" % (n % 150, n) for n in range(450)]
    unpack(layer, b"".join(member(n, b"5", mtime_ns=10**9) + member(n + b"f") for n in names))
    assert len(list(layer.glob("*/*/f"))) == 450
    assert all(path.stat().st_mtime_ns == 10**9 for path in layer.glob("*/*"))
    before = len(os.listdir("/proc/self/fd"))
    unpack(layer, member(b"again"))
    assert len(os.listdir("/proc/self/fd")) == before


OUTSIDE = "outside"


def changes(directory: Path) -> list[tuple[int, int]]:
    """The change times, which nobody can set, of a directory and what it holds."""
    paths = [directory, *sorted(directory.iterdir())]
    return [(path.lstat().st_ino, path.lstat().st_ctime_ns) for path in paths]


HOSTILE = {
    "absolute name": member(b"/bad"),
    "dot dot": member(b"../bad"),
    "dot dot inside": member(b"a/../../bad"),
    "dot dot that stays inside": member(b"a/../bad"),
    "dot dot directory": member(b"..", b"5"),
    "parent is a symlink": member(b"s", b"2", link=b"../outside") + member(b"s/bad"),
    "parent is a symlink to the root": member(b"s", b"2", link=b"/") + member(b"s/tmp/bad"),
    "grandparent is a symlink": member(b"a/s", b"2", link=b"..") + member(b"a/s/b/bad"),
    "parent is a symlink inside": member(b"d/", b"5")
    + member(b"s", b"2", link=b"d")
    + member(b"s/bad"),
    "parent is a file": member(b"f") + member(b"f/bad"),
    "parent is a device": member(b"c", b"3", major=1, minor=3) + member(b"c/bad"),
    "parent was replaced by a symlink": member(b"d/x")
    + member(b"d", b"2", link=b"../outside")
    + member(b"d/bad"),
    "hard link outside": member(b"bad", b"1", link=b"../outside/secret"),
    "hard link to an absolute name": member(b"bad", b"1", link=b"/etc/passwd"),
    "hard link through a symlink": member(b"s", b"2", link=b"../outside")
    + member(b"bad", b"1", link=b"s/secret"),
    "hard link to nothing": member(b"bad", b"1", link=b"missing"),
    "hard link to a directory": member(b"d/", b"5") + member(b"bad", b"1", link=b"d"),
    "hard link to the root": member(b"bad", b"1", link=b"./"),
    "symlink to nothing": member(b"bad", b"2"),
    "whiteout of dot dot": member(b"a/.wh..."),
    "whiteout of dot": member(b"a/.wh.."),
    "whiteout of the empty name": member(b"a/.wh."),
    "whiteout behind dot dot": member(b"../outside/.wh.secret"),
    "whiteout behind a symlink": member(b"s", b"2", link=b"../outside") + member(b"s/.wh.secret"),
    "opaque behind a symlink": member(b"s", b"2", link=b"../outside") + member(b"s/.wh..wh..opq"),
    "whiteout as a directory": member(b".wh.d/bad"),
    "root is a file": member(b"./", b"0"),
    "component longer than a name": member(b"n" * 256),
    "overlay attribute": pax((b"SCHILY.xattr.user.overlay.opaque", b"y")) + member(b"bad", b"5"),
    "overlay redirect": pax((b"SCHILY.xattr.user.overlay.redirect", b"/x")) + member(b"bad", b"5"),
    "trusted overlay attribute": pax((b"SCHILY.xattr.trusted.overlay.metacopy", b""))
    + member(b"bad"),
    "attribute that no kernel takes": pax((b"SCHILY.xattr.user." + b"n" * 300, b""))
    + member(b"bad"),
    "attribute on a symlink": pax((b"SCHILY.xattr.user.a", b"1")) + member(b"bad", b"2", link=b"x"),
    "damaged capability": pax((b"SCHILY.xattr.security.capability", b"1")) + member(b"bad"),
}


@pytest.mark.parametrize("archive", HOSTILE.values(), ids=HOSTILE.keys())
def test_refuses_and_touches_nothing_outside(tmp_path: Path, archive: bytes) -> None:
    outside = tmp_path / OUTSIDE
    outside.mkdir()
    (outside / "secret").write_text("keep")
    before = changes(outside)
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(InvalidArgument, match="archive member"):
        unpack(tmp_path / "layer", archive)
    assert os.listdir(outside) == ["secret"]
    assert changes(outside) == before
    assert os.listxattr(outside) == []
    assert sorted(os.listdir(tmp_path)) == ["layer", OUTSIDE]
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_too_many_entries(layer: Path) -> None:
    with pytest.raises(ResourceExhausted, match="3 entries"):
        unpack(layer, b"".join(member(b"%d" % n) for n in range(4)), limits=Limits(entries=3))
    unpack(layer, b"".join(member(b"%d" % n) for n in range(3)), limits=Limits(entries=3))


def test_a_full_disk_is_told(layer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(ResourceExhausted, match="'a'"):
        unpack(layer, member(b"a", data=b"x"))


def test_names_need_not_be_text(layer: Path) -> None:
    unpack(layer, member(b"\xff\xfe") + member(b"d\n/\x01"))
    assert os.listdir(os.fsencode(layer / "d\n")) == [b"\x01"]
    assert b"\xff\xfe" in os.listdir(os.fsencode(layer))


def test_every_refusal_is_ours(layer: Path) -> None:
    with pytest.raises(EngineError):
        unpack(layer, member(b"a")[:-1] + b"\0" + b"junk" * 128)
