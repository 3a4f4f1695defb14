"""Recipes: how a compressed layer can be made again, bit by bit, from its plain tar.

A recipe is found by trying: each compressor that we have makes the stream, as far as it agrees with
the blob. Go's gzip, GNU gzip and pigz write other streams than zlib, so theirs have no recipe.
Knows nothing of stores.

Source: RFC 1952, RFC 8878 section 3.1.1.
"""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

from msgspec import Struct

from onggi.image.compression import CHUNK_BYTES, Compressor, Read

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_OWN: tuple[Literal["plain", "gzip", "zstd"], ...] = ("plain", "gzip", "zstd")
_HEAD_BYTES = 1 << 16
_GZIP = b"\x1f\x8b\x08"
_ZSTD = b"\x28\xb5\x2f\xfd"
_GZIP_FIXED_BYTES = 10
_FHCRC, _FEXTRA, _FNAME, _FCOMMENT = 2, 4, 8, 16
#: The levels that people use come first.
_ZLIB_LEVELS = (6, 9, 1, 5, 4, 7, 8, 3, 2)
_ZSTD_LEVELS = (3, 19, 1, 9, *(level for level in range(2, 19) if level not in {3, 9}))


class Recipe(Struct, frozen=True, omit_defaults=True):
    """What makes a blob of a plain tar of `size_bytes`.

    `plain`: as it is. `gzip`, `zstd`: `compression.Compressor`. `zlib`: a raw deflate stream behind
    `header`. `libzstd`: a frame with a checksum, with the content's size, or without.
    """

    program: Literal["plain", "gzip", "zstd", "zlib", "libzstd"]
    size_bytes: int
    level: int = 0
    header: bytes = b""
    has_checksum: bool = False
    has_size: bool = False

    def make(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The blob, out of the plain tar cut in any pieces."""
        if self.program == "plain":
            yield from chunks
        elif self.program == "zlib":
            yield from _gzip_member(chunks, self.level, self.header)
        else:
            engine = self._engine()
            for chunk in chunks:
                yield engine.compress(chunk)
            yield engine.finish()

    def _engine(self) -> Any:
        if self.program == "libzstd":
            return _ZstdFrame(self)
        return Compressor("gzip" if self.program == "gzip" else "zstd")


class _ZstdFrame:
    def __init__(self, recipe: Recipe) -> None:
        options: dict[int, int] = {
            zstd.CompressionParameter.compression_level: recipe.level,
            zstd.CompressionParameter.checksum_flag: int(recipe.has_checksum),
        }
        self._engine = zstd.ZstdCompressor(options=options)
        if recipe.has_size:
            self._engine.set_pledged_input_size(recipe.size_bytes)

    def compress(self, data: bytes) -> bytes:
        return self._engine.compress(data)

    def finish(self) -> bytes:
        return self._engine.flush()


def find_recipe(open_plain: Callable[[], Read], open_blob: Callable[[], Read]) -> Recipe | None:
    """A recipe whose result was compared with the whole blob; None if we have none.

    Each call of the arguments starts to read from the beginning.
    """
    head = open_blob()(_HEAD_BYTES)
    size_bytes: int | None = None
    for recipe in _candidates(head):
        if recipe.program == "libzstd" and recipe.has_size and size_bytes is None:
            size_bytes = sum(len(chunk) for chunk in chunks_of(open_plain()))
        trial = recipe if size_bytes is None else _sized(recipe, size_bytes)
        counted = _Counted(chunks_of(open_plain()))
        if _agree(trial.make(counted), open_blob()):
            return _sized(trial, counted.size_bytes)
    return None


def own_recipes() -> tuple[Recipe, ...]:
    """How Onggi itself writes layers; to try when the blob is not there to be compared with."""
    return tuple(Recipe(program, 0) for program in _OWN)


def chunks_of(read: Read) -> Iterator[bytes]:
    """What `read(size)` gives, to its end."""
    return iter(lambda: read(CHUNK_BYTES), b"")


class _Counted:
    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self.size_bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self.size_bytes += len(chunk)
            yield chunk


def _sized(recipe: Recipe, size_bytes: int) -> Recipe:
    return Recipe(
        recipe.program,
        size_bytes,
        recipe.level,
        recipe.header,
        recipe.has_checksum,
        recipe.has_size,
    )


def _candidates(head: bytes) -> Iterator[Recipe]:
    if head.startswith(_GZIP):
        yield Recipe("gzip", 0)
        if (header := _gzip_header(head)) is not None:
            for level in _ZLIB_LEVELS:
                yield Recipe("zlib", 0, level, header)
    elif head.startswith(_ZSTD) and len(head) > len(_ZSTD):
        yield Recipe("zstd", 0)
        flags = head[len(_ZSTD)]
        has_size = bool(flags >> 5)  # a field of two bits, or implied by the single-segment flag
        for level in _ZSTD_LEVELS:
            yield Recipe("libzstd", 0, level, b"", bool(flags & 4), has_size)
    else:
        yield Recipe("plain", 0)


def _agree(made: Iterable[bytes], read: Read) -> bool:
    """Whether both streams are one; stops at the first byte that differs."""
    for piece in made:
        at = 0
        while at < len(piece):
            there = read(len(piece) - at)
            if not there or piece[at : at + len(there)] != there:
                return False
            at += len(there)
    return read(1) == b""


def _gzip_member(chunks: Iterable[bytes], level: int, header: bytes) -> Iterator[bytes]:
    """Source: RFC 1952 section 2.3."""
    engine = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    checksum = size = 0
    yield header
    for chunk in chunks:
        checksum = zlib.crc32(chunk, checksum)
        size += len(chunk)
        yield engine.compress(chunk)
    yield engine.flush()
    yield struct.pack("<II", checksum, size & 0xFFFFFFFF)


def _gzip_header(head: bytes) -> bytes | None:
    """The header of a member, None if it is longer than what is there."""
    if len(head) < _GZIP_FIXED_BYTES:
        return None
    flags, end = head[3], _GZIP_FIXED_BYTES
    if flags & _FEXTRA:
        end += 2 + int.from_bytes(head[end : end + 2], "little")
    for flag in (_FNAME, _FCOMMENT):
        if flags & flag:
            zero = head.find(b"\0", end)
            if zero < 0:
                return None
            end = zero + 1
    end += 2 if flags & _FHCRC else 0
    return head[:end] if end <= len(head) else None
