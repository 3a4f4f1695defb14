"""Trees out of tars: what is refused, what is left to a directory, and what bounds the memory."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from image_tars import END, member, pieces
from onggi.errors import InvalidArgument, ResourceExhausted
from onggi.image.compression import Limits
from onggi.image.erofs import nodes, tree
from onggi.image.erofs.format import (
    NotExpressible,
    chunk_bits,
    crc32c,
    pack_device_number,
    pack_directory_block,
    pack_inode,
)
from onggi.image.erofs.tree import LayerTree, index_layer
from onggi.image.tar_reader import REGULAR, Entry

NOBODY = 0xFFFFFFFF


def layer(data: bytes, limits: Limits | None = None) -> LayerTree:
    return index_layer(pieces(data + END), lambda _: None, limits or Limits())


def image(data: bytes, place: Path) -> bytes:
    with open(place / "image", "w+b") as file:
        layer(data).write(file.fileno(), len(data + END))
    return (place / "image").read_bytes()


def acl(*entries: tuple[int, int, int], version: int = 2) -> bytes:
    return struct.pack("<I", version) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def test_the_castagnoli_checksum() -> None:
    assert crc32c(b"123456789") ^ 0xFFFFFFFF == 0xE3069283


def test_device_numbers_as_the_kernel_packs_them() -> None:
    assert pack_device_number(1, 3) == 0x103
    assert pack_device_number(0xFFF, 0xFFFFF) == 0xFFFFFFFF
    assert pack_device_number(8, 0x12345) == 0x12300845


@pytest.mark.parametrize(
    ("size", "bits"), [(1, 0), (512, 0), (513, 1), (1024, 1), (1025, 2), (1 << 40, 31)]
)
def test_one_chunk_holds_a_file(size: int, bits: int) -> None:
    assert chunk_bits(size) == bits


def test_an_inode_field_by_field() -> None:
    inode = pack_inode(9, 0o104755, 2**40, uid=2**32 - 2, gid=7, mtime_ns=-1, address=3, links=2)
    assert inode == struct.pack(
        "<HHHHQIIIIqII16x", 9, 0, 0o104755, 0, 2**40, 3, 0, 2**32 - 2, 7, -1, 999_999_999, 2
    )


def test_a_directory_block() -> None:
    block = pack_directory_block([(b".", 40, 2), (b"..", 40, 2), (b"x", 99, 1)])
    assert block == (
        struct.pack("<QHBB", 40, 36, 2, 0)
        + struct.pack("<QHBB", 40, 37, 2, 0)
        + struct.pack("<QHBB", 99, 39, 1, 0)
        + b"...x"
    )


def test_the_superblock(tmp_path: Path) -> None:
    data = member(b"f", data=b"x" * 1000)
    made = image(data, tmp_path)
    magic, checksum, compatible, bits, _, root, inodes = struct.unpack_from("<IIIBBHQ", made, 1024)
    assert (magic, compatible, bits, root, inodes) == (0xE0F5E1E2, 3, 9, 48, 2)
    assert checksum == crc32c(made[1024:1028] + bytes(4) + made[1032:1536])
    blocks, meta = struct.unpack_from("<II", made, 1024 + 36)
    assert (blocks * 512, meta) == (len(made), 0)
    assert any(made[1072:1088])
    (features,) = struct.unpack_from("<I", made, 1024 + 80)
    devices, slot = struct.unpack_from("<HH", made, 1024 + 86)
    assert (features, devices, slot * 128) == (12, 1, 1152)
    assert struct.unpack_from("<I", made, 1152 + 64) == (len(data + END) // 512,)


def test_a_file_points_into_the_tar(tmp_path: Path) -> None:
    made = image(member(b"a", data=b"x" * 700) + member(b"f", data=b"y" * 1000), tmp_path)
    at = 1536 + 64 + 12 * 4 + 5  # the root with its entries
    at = -(-at // 32) * 32
    at += 96
    layout, _, mode, _, size, chunks = struct.unpack_from("<HHHHQI", made, at)
    assert (layout, mode, size, chunks) == (9, 0o100644, 1000, 0x21)
    assert struct.unpack_from("<HHI", made, at + 64) == (0, 1, 4)


REFUSED = {
    "an absolute name": member(b"/a"),
    "'..' in a name": member(b"a/../b"),
    "the root is no directory": member(b"./", b"2", link=b"x"),
    "a whiteout as a directory": member(b".wh.a/b"),
    "its parent is a symlink": member(b"a", b"2", link=b"/etc") + member(b"a/passwd"),
    "its parent is a symlink or": member(b".wh.a") + member(b"a/b"),
    "a hard link to nothing": member(b"a", b"1", link=b"."),
    "'..' in a": member(b"a", b"1", link=b"../b"),
    "a hard link to a directory": member(b"d/", b"5") + member(b"a", b"1", link=b"d"),
    "the target of the hard link is not": member(b"a", b"1", link=b"b"),
    "of the hard link is not": member(b"d/f") + member(b"d", b"1", link=b"d/f"),
    "a symlink to nothing": member(b"a", b"2", link=b""),
    "File name too long": member(b"n" * 256),
    "nnn...': File name too": member(b"n" * 256, b"1", link=b"absent"),
    "name too long": member(b"d/" + b"n" * 256 + b"/f"),
    "too long": member(b".wh." + b"n" * 256),
    "a whiteout of b''": member(b".wh."),
    "a whiteout of b'..'": member(b".wh..."),
    "carries the attribute 'user.overlay.x'": member(b"a", xattrs={"user.overlay.x": b"1"}),
    "carries the attribute 'trusted.": member(b"d/", b"5", xattrs={"trusted.overlay.x": b"1"}),
    "attribute 'user.k': Operation not permitted": member(b"a", b"6", xattrs={"user.k": b"1"}),
    "attribute 'user.': Invalid argument": member(b"a", xattrs={"user.": b"1"}),
    "'security.capability': Invalid": member(b"a", xattrs={"security.capability": bytes(20)}),
    "Numerical result out of range": member(b"a", xattrs={"user." + "n" * 251: b"1"}),
    "Argument list too long": member(b"a", xattrs={"user.k": bytes(65537)}),
}


@pytest.mark.parametrize("why", REFUSED)
def test_hostile_members_are_refused(why: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        layer(member(b"before") + REFUSED[why])
    assert why in caught.value.message
    assert caught.value.message.startswith("archive member")


def test_a_nul_in_an_attribute_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="a NUL in the attribute"):
        layer(member(b"a", xattrs={"user.a\0b": b"1"}))


def test_more_entries_than_allowed() -> None:
    with pytest.raises(ResourceExhausted, match="more than 3 entries"):
        layer(member(b"a") * 4, Limits(entries=3))
    assert layer(member(b"a") * 3, Limits(entries=3)).entries == 3


def test_names_that_would_make_countless_directories() -> None:
    name = b"/".join([b"d"] * 2000)
    with pytest.raises(InvalidArgument, match="too many directories left out"):
        layer(b"".join(member(b"%d/" % number + name) for number in range(40)))


@pytest.mark.parametrize(
    "xattrs",
    [
        {"user.k": bytes(65536)},
        {f"user.{number}": bytes(60_000) for number in range(5)},
        {"system.posix_acl_other": b"1"},
        {"system.posix_acl_default": acl((1, 6, NOBODY), (4, 4, NOBODY), (32, 4, NOBODY))},
        *(
            {"system.posix_acl_access": value}
            for value in (
                b"",
                acl((1, 6, NOBODY), (4, 4, NOBODY), (16, 4, NOBODY), (32, 4, NOBODY), version=1),
                acl((1, 6, NOBODY), (4, 4, NOBODY), (32, 4, NOBODY)),
                acl((1, 7, NOBODY), (4, 4, NOBODY), (16, 4, NOBODY), (32, 4, NOBODY)),
                acl((1, 6, 5), (4, 4, NOBODY), (16, 4, NOBODY), (32, 4, NOBODY)),
                acl((1, 6, NOBODY), (2, 4, NOBODY), (4, 4, NOBODY), (16, 4, NOBODY)),
                acl((4, 4, NOBODY), (1, 6, NOBODY), (16, 4, NOBODY), (32, 4, NOBODY)),
                acl((1, 6, NOBODY), (4, 9, NOBODY), (16, 4, NOBODY), (32, 4, NOBODY)),
            )
        ),
    ],
)
def test_what_the_kernel_would_change_is_left_to_a_directory(
    xattrs: dict[str, bytes], tmp_path: Path
) -> None:
    made = layer(member(b"f", xattrs=xattrs, mode=0o644) + member(b"g"))
    assert made.entries == 2
    fd = os.open(tmp_path / "image", os.O_WRONLY | os.O_CREAT)
    try:
        with pytest.raises(NotExpressible, match=r"archive member b?'f'"):
            made.write(fd, 4096)
    finally:
        os.close(fd)
    assert (tmp_path / "image").read_bytes() == b""


def test_the_mode_of_a_listed_directory_does_not_change(tmp_path: Path) -> None:
    listed = acl((1, 7, NOBODY), (4, 5, NOBODY), (16, 5, NOBODY), (32, 5, NOBODY))
    first = member(b"d/", b"5", mode=0o755, xattrs={"system.posix_acl_access": listed})
    assert image(first + member(b"d/", b"5", mode=0o755), tmp_path)
    with pytest.raises(NotExpressible, match="its mode changes"):
        image(first + member(b"d/", b"5", mode=0o700), tmp_path)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tree, "MAX_HELD_BYTES", 1000)
    assert image(member(b"a") * 15, tmp_path)
    with pytest.raises(NotExpressible, match="more than 1000 bytes of metadata"):
        image(b"".join(member(b"%d" % number) for number in range(16)), tmp_path)
    with pytest.raises(NotExpressible, match="bytes of metadata"):
        image(member(b"d/", b"5", xattrs={"user.k": bytes(1000)}), tmp_path)


@pytest.mark.parametrize("offset", [2**32 * 512, (2**32 - 1) * 512])
def test_a_tar_of_two_tebibytes(offset: int) -> None:
    entry = Entry(b"f", REGULAR, 0o644, 0, 0, 1024, 0, b"")
    with pytest.raises(NotExpressible, match="2 TiB"):
        nodes.file_leaf(entry, 0o100644, {}, offset)
    entry = Entry(b"f", REGULAR, 0o644, 0, 0, 1024, 0, b"", sparse=[(0, 1024)])
    entry.real_size_bytes = 1024
    with pytest.raises(NotExpressible, match="2 TiB"):
        nodes.file_leaf(entry, 0o100644, {}, offset)


def test_the_metadata_of_such_a_tar_is_not_written(tmp_path: Path) -> None:
    with open(tmp_path / "image", "wb") as file, pytest.raises(NotExpressible):
        layer(member(b"f")).write(file.fileno(), 2**41)


def test_everything_is_handed_on_and_in_order() -> None:
    data = member(b"a", data=b"x" * 5000) + END + bytes(9216) + b"trailing"
    seen: list[bytes] = []
    assert index_layer(pieces(data), seen.append).entries == 1
    assert b"".join(seen) == data


def test_what_writing_raises_is_passed_on() -> None:
    def full(_: bytes) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        index_layer(pieces(member(b"a") + END), full)


def test_links_are_counted() -> None:
    data = (
        member(b"a")
        + member(b"d/b", b"1", link=b"a")
        + member(b"d/c", b"1", link=b"d/b")
        + member(b"e", b"1", link=b"a")
        + member(b"e", b"1", link=b"a")
        + member(b"d", b"6")
    )
    made = layer(data)
    assert made.missing == [b""]
    leaf = made.root.children[b"a"]
    assert isinstance(leaf, nodes.Leaf)
    assert made.root.children[b"e"] is leaf
    assert leaf.links == 2
