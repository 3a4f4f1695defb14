"""Tars in every dialect that layers come in: members as strategies, whole archives, odd ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from image_tars import END, gnu_long, member, padded, patched, pax

_PARTS = st.sampled_from([b"a", b"b", b"c", b"d", b"\xc3\xa9", b"e f"])
NAMES = st.lists(_PARTS, min_size=1, max_size=3).map(b"/".join)
LONG_NAMES = st.builds(lambda head, size: head + b"/" + b"n" * size, NAMES, st.integers(90, 200))
_DATA = st.one_of(st.binary(max_size=40), st.integers(0, 1600).map(lambda size: b"x" * size))
_IDS = st.sampled_from([0, 1, 1000, 65535, 2_097_151])
_TIMES_S = st.sampled_from([0, 1, 1_700_000_000, 8**11 - 1])


def fields(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "mode": draw(st.sampled_from([0o644, 0o755, 0o600, 0o4755, 0o1777])),
        "uid": draw(_IDS),
        "gid": draw(_IDS),
        "mtime_ns": draw(_TIMES_S) * 10**9,
    }


def base_256(value: int, width: int) -> bytes:
    """A number as GNU tar and star write it when it has no room in octal digits."""
    raw = bytearray(value.to_bytes(width, "big", signed=True))
    raw[0] |= 0x80
    return bytes(raw)


Maker = Callable[[st.DrawFn, list[bytes]], bytes]


def _file(draw: st.DrawFn, known: list[bytes]) -> bytes:
    name = draw(NAMES)
    known.append(name)
    return member(name, data=draw(_DATA), **fields(draw))


def _directory(draw: st.DrawFn, _known: list[bytes]) -> bytes:
    return member(draw(NAMES), b"5", **fields(draw))


def _directory_without_slash(draw: st.DrawFn, _known: list[bytes]) -> bytes:
    name = draw(NAMES)
    return patched(member(name, b"5", **fields(draw)), len(name), b"\0")


def _v7(draw: st.DrawFn, known: list[bytes]) -> bytes:
    """Before POSIX: no magic, type NUL, a directory by its slash."""
    name = draw(NAMES)
    if draw(st.booleans()):
        known.append(name)
        block = member(name, data=draw(_DATA), **fields(draw))
    else:
        block = member(name + b"/", **fields(draw))
    return patched(patched(block, 156, b"\0"), 257, bytes(8))


def _contiguous(draw: st.DrawFn, _known: list[bytes]) -> bytes:
    return patched(member(draw(NAMES), data=draw(_DATA), **fields(draw)), 156, b"7")


def _prefix(draw: st.DrawFn, _known: list[bytes]) -> bytes:
    block = member(b"p", data=draw(_DATA), **fields(draw))
    return patched(block, 345, draw(LONG_NAMES)[:154] + b"\0")


def _link(draw: st.DrawFn, known: list[bytes]) -> bytes:
    target = draw(st.sampled_from(known)) if known else draw(NAMES)
    return member(draw(NAMES), b"1", link=target, **fields(draw))


def _symlink(draw: st.DrawFn, _known: list[bytes]) -> bytes:
    target = draw(st.sampled_from([b"a", b"../x", b"/etc/passwd", b"t" * 100, b"t" * 300]))
    return member(draw(NAMES), b"2", link=target, **fields(draw))


def _special(draw: st.DrawFn, _known: list[bytes]) -> bytes:
    kind = draw(st.sampled_from([b"3", b"4", b"6"]))
    numbers = {"major": draw(st.integers(1, 200)), "minor": draw(st.integers(0, 255))}
    return member(draw(NAMES), kind, **(numbers if kind != b"6" else {}), **fields(draw))


def _gnu_long(draw: st.DrawFn, _known: list[bytes]) -> bytes:
    block = gnu_long(b"L", draw(LONG_NAMES))
    if draw(st.booleans()):
        return block + member(b"short", data=draw(_DATA), **fields(draw))
    block += gnu_long(b"K", b"k" * draw(st.integers(1, 300)))
    return block + member(b"short", b"2", link=b"short", **fields(draw))


def _pax(draw: st.DrawFn, _known: list[bytes]) -> bytes:
    data = draw(_DATA)
    records = {
        b"path": draw(LONG_NAMES),
        b"uid": b"%d" % draw(st.sampled_from([0, 5, 2**31, 2**32 - 2])),
        b"gid": b"%d" % draw(_IDS),
        b"mtime": draw(st.sampled_from([b"1.5", b"-7", b"-1.25", b"1700000000.000000001"])),
        b"size": b"%d" % len(data),
        b"atime": b"12.25",
        b"comment": b"\xc3\xa9=\n",
        b"SCHILY.xattr.user.k": b"v",
    }
    kept = draw(st.lists(st.sampled_from(sorted(records)), unique=True, max_size=5))
    header = pax(*((key, records[key]) for key in kept))
    return (header if kept else b"") + member(draw(NAMES), data=data, **fields(draw))


def _global_comment(draw: st.DrawFn, _known: list[bytes]) -> bytes:
    return pax((b"comment", b"an id"), kind=b"g") + member(draw(NAMES), **fields(draw))


def _numbers(draw: st.DrawFn, _known: list[bytes]) -> bytes:
    """Numbers in base 256, with spaces, or without an end."""
    data = draw(_DATA)
    block = member(draw(NAMES), data=data, **fields(draw))
    at, value = draw(
        st.sampled_from(
            [
                (108, base_256(3_000_000, 8)),
                (116, b"     17 "),
                (116, b"00000017"),
                (124, base_256(len(data), 12)),
                (136, base_256(-5, 12)),
                (136, base_256(2**33, 12)),
                (136, bytes(12)),
            ]
        )
    )
    return patched(block, at, value)


_SPARSE_AT = [(512, 512), (2048, 1024), (5000, 0)]
_SPARSE_DATA = b"s" * 512 + b"t" * 1024


def _gnu_sparse(draw: st.DrawFn, _known: list[bytes]) -> bytes:
    block = member(draw(NAMES), b"S", size_bytes=len(_SPARSE_DATA), **fields(draw))
    block = patched(block, 257, b"ustar  \0")
    for number, (offset, length) in enumerate(_SPARSE_AT):
        block = patched(block, 386 + 24 * number, b"%011o\0%011o\0" % (offset, length))
    return patched(block, 483, b"%011o\0" % 5000) + _SPARSE_DATA


def _pax_sparse(draw: st.DrawFn, _known: list[bytes]) -> bytes:
    name, version = draw(NAMES), draw(st.sampled_from(["0.0", "0.1", "1.0"]))
    numbers = [b"%d" % number for piece in _SPARSE_AT for number in piece]
    data = _SPARSE_DATA
    records = [(b"GNU.sparse.name", name), (b"GNU.sparse.size", b"5000")]
    if version == "0.0":
        keys = (b"GNU.sparse.offset", b"GNU.sparse.numbytes") * len(_SPARSE_AT)
        records = [(b"path", name), (b"GNU.sparse.size", b"5000"), (b"GNU.sparse.numblocks", b"3")]
        records += zip(keys, numbers, strict=True)
    elif version == "0.1":
        records += [(b"GNU.sparse.numblocks", b"3"), (b"GNU.sparse.map", b",".join(numbers))]
    else:
        records = [
            (b"GNU.sparse.major", b"1"),
            (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.name", name),
            (b"GNU.sparse.realsize", b"5000"),
        ]
        data = padded(b"3\n" + b"".join(number + b"\n" for number in numbers)) + data
    return pax(*records) + member(b"GNUSparseFile.0/x", data=data, **fields(draw))


#: What every reader of layers takes, as far as its own dialects go.
MAKERS: tuple[Maker, ...] = (
    _file, _file, _file, _directory, _directory, _directory_without_slash, _v7, _contiguous,
    _prefix, _link, _link, _symlink, _special, _gnu_long, _pax, _pax, _global_comment, _numbers,
    _gnu_sparse, _pax_sparse,
)  # fmt: skip
#: umoci has no use for the types g, S and 7.
LAYER_MAKERS = tuple(
    maker for maker in MAKERS if maker not in (_global_comment, _gnu_sparse, _contiguous)
)


@st.composite
def members(draw: st.DrawFn, most: int = 6, makers: tuple[Maker, ...] = MAKERS) -> bytes:
    known: list[bytes] = []
    count = draw(st.integers(1, most))
    return b"".join(draw(st.sampled_from(makers))(draw, known) for _ in range(count))


@st.composite
def archives(draw: st.DrawFn, most: int = 6, makers: tuple[Maker, ...] = MAKERS) -> bytes:
    """Whole archives, the ends that writers forget among them."""
    body = draw(members(most, makers))
    last = b"last data"
    return draw(
        st.sampled_from(
            [
                body + END,
                body + END,
                body + END + bytes(9216),
                body + bytes(512),
                body,
                body + member(b"last", data=last)[: 512 + len(last)],
                body + member(b"last", data=last)[: 512 + len(last) + 7],
                body + member(b"last", data=last)[: 512 + len(last) - 1],
                body + END + b"junk",
                body + bytes(512) + member(b"behind") + END,
            ]
        )
    )
