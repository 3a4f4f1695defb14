"""The tar reader: dialects it must read, and archives it must refuse."""

from __future__ import annotations

import tarfile

import pytest

from image_tars import END, gnu_long, member, padded, patched, pax, pieces, python_tar, raw_pax
from onggi.errors import InvalidArgument
from onggi.image.tar_reader import Entry, TarReader


def read(data: bytes) -> list[tuple[Entry, bytes]]:
    reader = TarReader(pieces(data))
    return [(entry, reader.read_data(1 << 20)) for entry in reader]


def entries(data: bytes) -> list[Entry]:
    return list(TarReader(pieces(data)))


@pytest.mark.parametrize(
    "tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
)
def test_reads_what_python_writes(tar_format: int) -> None:
    long_name = "/".join(["d" * 40] * 3) + "/file"
    data = python_tar(
        [
            ({"name": "a", "mode": 0o4755, "uid": 7, "gid": 8, "mtime": 99}, b"hello"),
            ({"name": long_name}, b"x" * 600),
            ({"name": "l", "type": tarfile.SYMTYPE, "linkname": "t" * 90}, b""),
        ],
        tar_format,
    )
    (a, content), (b, more), (link, _) = read(data)
    assert (a.name, a.mode, a.uid, a.gid, a.mtime_ns) == (b"a", 0o4755, 7, 8, 99 * 10**9)
    assert content == b"hello"
    assert b.name == long_name.encode()
    assert more == b"x" * 600
    assert link.link == b"t" * 90


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_reads_names_without_room_in_the_header(tar_format: int) -> None:
    name, target = "n" * 300, "t" * 3000
    fields = {"name": name, "type": tarfile.SYMTYPE, "linkname": target, "uid": 2**31, "mtime": 1.5}
    (entry,) = entries(python_tar([(fields, b"")], tar_format))
    assert (entry.name, entry.link) == (name.encode(), target.encode())
    assert entry.uid == 2**31
    assert entry.mtime_ns == (1_500_000_000 if tar_format == tarfile.PAX_FORMAT else 10**9)


def test_reads_extended_attributes_and_fractions_of_a_second() -> None:
    data = pax((b"SCHILY.xattr.user.a", b"1\0\n2"), (b"mtime", b"1.000000001")) + member(b"a") + END
    (entry,) = entries(data)
    assert entry.xattrs == {"user.a": b"1\0\n2"}
    assert entry.mtime_ns == 1_000_000_001


def test_a_global_comment_is_ignored() -> None:
    (entry,) = entries(pax((b"comment", b"a commit"), kind=b"g") + member(b"a") + END)
    assert entry.name == b"a"


def test_data_that_nobody_reads_is_skipped() -> None:
    assert [e.name for e in entries(member(b"a", data=b"x" * 1025) + member(b"b") + END)] == [
        b"a",
        b"b",
    ]


def test_an_archive_may_end_without_a_mark() -> None:
    assert [e.name for e in entries(member(b"a"))] == [b"a"]
    assert entries(b"") == []
    assert entries(END + bytes(9216)) == []


@pytest.mark.parametrize(
    ("magic", "name"),
    [
        (b"ustar\x0000", b"p/a"),
        (b"ustar\0\0\0", b"p/a"),
        (b"ustar\x0099", b"p/a"),
        (b"ustar  \0", b"a"),
    ],
)
def test_the_prefix_is_ustars_whatever_its_version(magic: bytes, name: bytes) -> None:
    """As Go and Python have it; old GNU tar keeps times in its place."""
    block = patched(patched(member(b"a"), 345, b"p"), 257, magic)
    assert [entry.name for entry in entries(block + END)] == [name]


@pytest.mark.parametrize("padding", [0, 1, 87, 423, 424])
def test_the_last_member_may_lack_padding(padding: int) -> None:
    """umoci writes such archives, and Go's reader takes them."""
    archive = member(b"a", data=b"a") + member(b"b", data=b"x" * 600)[: 512 + 600 + padding]
    assert [(entry.name, data) for entry, data in read(archive)] == [
        (b"a", b"a"),
        (b"b", b"x" * 600),
    ]
    assert [entry.name for entry in entries(archive)] == [b"a", b"b"]
    whole = list(TarReader(iter([archive])))
    assert [entry.name for entry in whole] == [b"a", b"b"]


def test_the_stream_is_read_to_its_end() -> None:
    chunks = pieces(member(b"a") + END + bytes(9216) + b"trailing")
    list(TarReader(chunks))
    assert next(chunks, None) is None


def sparse_gnu(entries_at: list[tuple[int, int]], real: int, stored: bytes) -> bytes:
    block = member(b"s", b"S", size_bytes=len(stored))
    for number, (offset, length) in enumerate(entries_at):
        block = patched(block, 386 + 24 * number, b"%011o\0%011o\0" % (offset, length))
    return patched(block, 483, b"%011o\0" % real) + padded(stored)


def test_reads_old_gnu_sparse_files() -> None:
    ((entry, data),) = read(sparse_gnu([(512, 3), (1024, 0)], 1024, b"abc") + END)
    assert entry.sparse == [(512, 3), (1024, 0)]
    assert entry.real_size_bytes == 1024
    assert data == b"abc"


@pytest.mark.parametrize(
    "archive",
    [
        pax(
            (b"GNU.sparse.size", b"9"),
            (b"GNU.sparse.numblocks", b"2"),
            (b"GNU.sparse.offset", b"0"),
            (b"GNU.sparse.numbytes", b"1"),
            (b"GNU.sparse.offset", b"5"),
            (b"GNU.sparse.numbytes", b"2"),
        )
        + member(b"s", data=b"abc"),
        pax(
            (b"GNU.sparse.size", b"9"),
            (b"GNU.sparse.name", b"s"),
            (b"GNU.sparse.map", b"0,1,5,2"),
        )
        + member(b"GNUSparseFile.0/s", data=b"abc"),
        pax(
            (b"GNU.sparse.major", b"1"),
            (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.name", b"s"),
            (b"GNU.sparse.realsize", b"9"),
        )
        + member(b"GNUSparseFile.0/s", data=padded(b"2\n0\n1\n5\n2\n") + b"abc"),
    ],
    ids=["0.0", "0.1", "1.0"],
)
def test_reads_pax_sparse_files(archive: bytes) -> None:
    ((entry, data), (after, _)) = read(archive + member(b"after") + END)
    assert (entry.name, entry.sparse, entry.real_size_bytes) == (b"s", [(0, 1), (5, 2)], 9)
    assert data == b"abc"
    assert after.name == b"after"


def number(at: int, value: bytes) -> bytes:
    return patched(member(b"bad"), at, value) + END


HOSTILE = {
    "no tar": b"<html>" + bytes(600),
    "wrong checksum": b"x" + member(b"bad")[1:],
    "cut in a header": member(b"bad")[:300],
    "cut in data": member(b"bad", data=b"x" * 600)[:700],
    "cut at the data's last byte": member(b"bad", data=b"x" * 600)[: 512 + 599],
    "cut in a PAX header's padding": pax((b"path", b"bad"))[:600],
    "goes on where padding is due": member(b"bad", data=b"x" * 600)[: 512 + 600] + member(b"b"),
    "cut behind an extended header": pax((b"path", b"bad")),
    "end mark behind an extended header": pax((b"path", b"bad")) + END,
    "goes on behind one zero block": bytes(512) + member(b"bad"),
    "two PAX headers": pax((b"path", b"a")) + pax((b"path", b"b")) + member(b"bad") + END,
    "two PAX sizes": pax((b"size", b"1"), (b"size", b"2")) + member(b"bad") + END,
    "one PAX size twice": pax((b"size", b"0"), (b"size", b"0")) + member(b"bad") + END,
    "PAX size against header": pax((b"size", b"512")) + member(b"bad") + padded(b"x") + END,
    "two PAX paths": pax((b"path", b"a"), (b"path", b"b")) + member(b"bad") + END,
    "PAX path and GNU long name": gnu_long(b"L", b"a")
    + pax((b"path", b"b"))
    + member(b"bad")
    + END,
    "two GNU long names": gnu_long(b"L", b"a") * 2 + member(b"bad") + END,
    "empty GNU long name": member(b"x", b"L", b"\0") + member(b"bad") + END,
    "global PAX path": pax((b"path", b"a"), kind=b"g") + member(b"bad") + END,
    "global PAX size": pax((b"size", b"9"), kind=b"g") + member(b"bad") + END,
    "negative PAX size": pax((b"size", b"-1")) + member(b"bad") + END,
    "huge PAX size": pax((b"size", b"9" * 30)) + member(b"bad") + END,
    "signed PAX size": pax((b"size", b"+1")) + member(b"bad") + END,
    "negative PAX uid": pax((b"uid", b"-1")) + member(b"bad") + END,
    "uid that means 'keep'": pax((b"uid", b"4294967295")) + member(b"bad") + END,
    "huge mtime": pax((b"mtime", b"9" * 13)) + member(b"bad") + END,
    "mtime that is none": pax((b"mtime", b"nan")) + member(b"bad") + END,
    "NUL in a PAX path": pax((b"path", b"a\0b")) + member(b"bad") + END,
    "NUL in a GNU long name": gnu_long(b"L", b"a\0b") + member(b"bad") + END,
    "PAX record longer than its header": raw_pax(b"99 path=a\n") + member(b"bad") + END,
    "PAX record of length 0": raw_pax(b"0 path=a\n") + member(b"bad") + END,
    "PAX record without a newline": raw_pax(b"9 path=ab") + member(b"bad") + END,
    "PAX record without a key": raw_pax(b"5 =a\n") + member(b"bad") + END,
    "PAX header of 2 MiB": raw_pax(b"x" * (2 << 20)) + member(b"bad") + END,
    "name longer than a path": pax((b"path", b"n/" * 2049)) + member(b"bad") + END,
    "link longer than a path": pax((b"linkpath", b"n" * 4097)) + member(b"bad", b"2") + END,
    "GNU long name longer than a path": gnu_long(b"L", b"n" * 5000) + member(b"bad") + END,
    "empty name": member(b"") + END,
    "negative size": number(124, b"\xff" * 12),
    "huge size": number(124, b"\x80" + b"\x7f" * 11),
    "size in hexadecimal": number(124, b"00000x10000\0"),
    "size with a sign": number(124, b"-0000010000\0"),
    "size with an underscore": number(124, b"0000_010000\0"),
    "negative mode": number(100, b"\xff" * 8),
    "mode of 57 bits": number(100, b"\x81" + bytes(7)),
    "negative uid": number(108, b"\xff" * 8),
    "huge device number": patched(member(b"bad", b"3"), 329, b"7777777\0") + END,
    "prefix without a magic": patched(patched(member(b"bad"), 345, b"p"), 257, bytes(8)) + END,
    "unknown type": member(b"bad", b"Z") + END,
    "volume label": member(b"bad", b"V") + END,
    "data behind a symlink": member(b"bad", b"2", b"x") + END,
    "data behind a hard link": member(b"bad", b"1", b"x") + END,
    "data behind a directory": member(b"bad", b"5", b"x") + END,
    "sparse pieces overlap": sparse_gnu([(0, 3), (2, 1)], 9, b"abcd") + END,
    "sparse pieces beyond the size": sparse_gnu([(8, 3)], 9, b"abc") + END,
    "sparse pieces of more than the data": sparse_gnu([(0, 4)], 9, b"abc") + END,
    "sparse size beyond any disk": pax((b"GNU.sparse.size", b"9" * 16), (b"GNU.sparse.map", b"0,1"))
    + member(b"bad", data=b"a")
    + END,
    "odd sparse map": pax((b"GNU.sparse.size", b"9"), (b"GNU.sparse.map", b"0,1,2"))
    + member(b"bad", data=b"a")
    + END,
    "sparse offsets out of order": pax(
        (b"GNU.sparse.size", b"9"), (b"GNU.sparse.numbytes", b"1"), (b"GNU.sparse.offset", b"0")
    )
    + member(b"bad", data=b"a")
    + END,
    "endless sparse map": pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.realsize", b"9"))
    + member(b"bad", data=padded(b"9999999999\n"))
    + END,
    "sparse map that is no number": pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.realsize", b"9"))
    + member(b"bad", data=padded(b"x" * 100))
    + END,
    "sparse map of exabytes that are not there": pax(
        (b"GNU.sparse.major", b"1"), (b"GNU.sparse.realsize", b"9"), (b"size", b"%d" % 2**62)
    )
    + member(b"bad"),
    "sparse name without a map": pax((b"GNU.sparse.name", b"other")) + member(b"bad") + END,
    "NUL in a PAX key": pax((b"\0NU.sparse.major", b"1")) + member(b"bad") + END,
    "sparse directory": pax((b"GNU.sparse.size", b"0"), (b"GNU.sparse.map", b""))
    + member(b"bad", b"5")
    + END,
}


@pytest.mark.parametrize("archive", HOSTILE.values(), ids=HOSTILE.keys())
def test_refuses(archive: bytes) -> None:
    with pytest.raises(InvalidArgument):
        read(archive)


def test_a_refusal_names_the_member() -> None:
    with pytest.raises(InvalidArgument, match="'bad'"):
        read(HOSTILE["data behind a symlink"])


def test_a_refusal_shows_no_control_characters() -> None:
    with pytest.raises(InvalidArgument) as caught:
        read(member(b"a\x1b[31m\nb", b"Z") + END)
    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)
