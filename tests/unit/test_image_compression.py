"""Compressed layers: told apart by magic, joined, bounded."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import sys

import pytest

from onggi.errors import InvalidArgument, ResourceExhausted
from onggi.image.compression import CHUNK_BYTES, Compression, Limits, compressed, plain_chunks

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

DATA = os.urandom(70_000) + b"onggi" * 400_000


def plain(data: bytes, limits: Limits | None = None, at_once: int = 1 << 20) -> bytes:
    source = io.BytesIO(data)
    return b"".join(plain_chunks(lambda size: source.read(min(size, at_once)), limits or Limits()))


@pytest.mark.parametrize(
    "pack", [gzip.compress, zstd.compress, bytes], ids=["gzip", "zstd", "none"]
)
@pytest.mark.parametrize("at_once", [1 << 20, 7919, 1])
def test_reads_each_form_in_any_pieces(pack: object, at_once: int) -> None:
    assert callable(pack)
    data = DATA[: 3000 if at_once == 1 else None]
    assert plain(pack(data), at_once=at_once) == data


@pytest.mark.parametrize("pack", [gzip.compress, zstd.compress], ids=["gzip", "zstd"])
def test_members_are_joined_and_padding_is_ignored(pack: object) -> None:
    assert callable(pack)
    two = pack(b"one") + pack(b"") + pack(b"two")
    assert plain(two) == plain(two + bytes(1000)) == plain(two, at_once=1) == b"onetwo"


def zstd_with_checksum(data: bytes) -> bytes:
    return zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1})


@pytest.mark.parametrize("pack", [gzip.compress, zstd_with_checksum], ids=["gzip", "zstd"])
def test_damage_is_refused(pack: object) -> None:
    assert callable(pack)
    whole = pack(DATA[:100_000])
    broken = whole[:5000] + bytes([whole[5000] ^ 0xFF]) + whole[5001:]
    for data in (whole[:-1], whole[: len(whole) // 2], whole[:10], broken, whole + b"junk"):
        with pytest.raises(InvalidArgument):
            plain(data)
    with pytest.raises(InvalidArgument, match="junk"):
        plain(whole + bytes(20) + whole)


@pytest.mark.parametrize("pack", [bz2.compress, lzma.compress])
def test_other_compressions_are_named(pack: object) -> None:
    assert callable(pack)
    with pytest.raises(InvalidArgument, match=r"bzip2|xz"):
        plain(pack(b"x" * 1000))


@pytest.mark.parametrize("pack", [gzip.compress, zstd.compress], ids=["gzip", "zstd"])
def test_a_bomb_is_stopped_early(pack: object) -> None:
    assert callable(pack)
    bomb = pack(bytes(64 << 20))
    produced = 0
    source = io.BytesIO(bomb)
    limits = Limits(ratio=100, free_bytes=1 << 20)
    with pytest.raises(ResourceExhausted, match="expands"):
        for chunk in plain_chunks(source.read, limits):
            produced += len(chunk)
    assert produced < 32 << 20
    with pytest.raises(ResourceExhausted, match="larger"):
        plain(bomb, Limits(size_bytes=1 << 20))


@pytest.mark.parametrize("kind", ["gzip", "zstd", "none"])
def test_what_is_compressed_comes_back_and_cuts_do_not_matter(kind: Compression) -> None:
    whole = b"".join(compressed([DATA], kind))
    step = 10_007
    cut = (DATA[at : at + step] for at in range(0, len(DATA), step))
    assert b"".join(compressed(cut, kind)) == whole
    assert plain(whole) == DATA
    assert plain(b"".join(compressed([], kind))) == b""
    assert len(DATA) > CHUNK_BYTES
