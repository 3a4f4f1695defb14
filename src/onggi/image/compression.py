"""Layer compression: a plain stream out of gzip, zstd or nothing (told by magic), and back.

Bounds what a hostile stream may grow to. Knows nothing of tar.

Source: image-spec layer.md#distributable-format, RFC 1952, RFC 8878.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, cast

from isal import isal_zlib
from msgspec import Struct

from onggi.errors import InvalidArgument, ResourceExhausted

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Read = Callable[[int], bytes]
Compression = Literal["gzip", "zstd", "none"]

CHUNK_BYTES = 1 << 18
_GZIP_MAGIC = b"\x1f\x8b\x08"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = tuple(bytes([n]) + b"\x2a\x4d\x18" for n in range(0x50, 0x60))
_OTHERS = {b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x04\x22\x4d\x18": "lz4"}


class Limits(Struct, frozen=True):
    """What one layer may cost. Ratio counts only beyond `free_bytes` of output."""

    entries: int = 2_000_000
    size_bytes: int = 64 << 30
    ratio: int = 1100
    free_bytes: int = 1 << 30


DEFAULT_LIMITS = Limits()


def plain_chunks(read: Read, limits: Limits = DEFAULT_LIMITS) -> Iterator[bytes]:
    """The uncompressed stream behind `read(size)`, which answers b'' at its end.

    Several gzip members or zstd frames are one stream; zero bytes behind the last are padding.

    Raises:
        InvalidArgument: damaged, cut short, followed by junk, or compressed in another way.
        ResourceExhausted: larger than the limits allow.
    """
    counted = _Counted(read)
    head = counted.read_head(6)
    if head.startswith(_GZIP_MAGIC):
        chunks = _inflate(counted, "gzip", lambda: isal_zlib.decompressobj(31))
    elif head.startswith((_ZSTD_MAGIC, *_ZSTD_SKIPPABLE)):
        chunks = _inflate(counted, "zstd", zstd.ZstdDecompressor)
    else:
        for magic, name in _OTHERS.items():
            if head.startswith(magic):
                raise InvalidArgument(f"layer is compressed with {name}; use gzip, zstd or none")
        chunks = iter(lambda: counted.read(CHUNK_BYTES), b"")
    produced = 0
    for chunk in chunks:
        produced += len(chunk)
        if produced > limits.size_bytes:
            raise ResourceExhausted(f"layer is larger than {limits.size_bytes} bytes uncompressed")
        if produced > limits.free_bytes and produced > limits.ratio * counted.read_bytes:
            raise ResourceExhausted(
                f"layer expands more than {limits.ratio} times: {counted.read_bytes} bytes to"
                f" {produced}"
            )
        if chunk:
            yield chunk


_DAMAGE: tuple[type[Exception], ...] = (
    cast(type[Exception], isal_zlib.error),
    zstd.ZstdError,
    EOFError,
)


class Compressor:
    """A stream compressor with the same output for the same input, however it is cut in pieces."""

    def __init__(self, kind: Compression) -> None:
        self._engine: Any = None
        self._waiting = bytearray()
        if kind == "gzip":
            self._engine = isal_zlib.compressobj(2, isal_zlib.DEFLATED, 31)
        elif kind == "zstd":
            self._engine = zstd.ZstdCompressor(level=3)

    def compress(self, data: bytes) -> bytes:
        """What is ready by now, maybe nothing."""
        if self._engine is None:
            return data
        # The output depends on how the input was cut: so always cut alike.
        self._waiting += data
        if len(self._waiting) < CHUNK_BYTES:
            return b""
        whole = len(self._waiting) // CHUNK_BYTES * CHUNK_BYTES
        view = bytes(self._waiting[:whole])
        del self._waiting[:whole]
        pieces = range(0, whole, CHUNK_BYTES)
        return b"".join(self._engine.compress(view[at : at + CHUNK_BYTES]) for at in pieces)

    def finish(self) -> bytes:
        """The rest."""
        if self._engine is None:
            return b""
        return b"".join((self._engine.compress(bytes(self._waiting)), self._engine.flush()))


def compressed(chunks: Iterable[bytes], kind: Compression) -> Iterator[bytes]:
    """The stream, compressed."""
    engine = Compressor(kind)
    for chunk in chunks:
        if out := engine.compress(chunk):
            yield out
    if out := engine.finish():
        yield out


class _Counted:
    """A reader that counts, and can put back."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._back = b""
        self.read_bytes = 0

    def read_head(self, size: int) -> bytes:
        head = b""
        while len(head) < size and (data := self._read(CHUNK_BYTES)):
            head += data
            self.read_bytes += len(data)
        self._back = head
        return head

    def read(self, size: int) -> bytes:
        if self._back:
            data, self._back = self._back, b""
            return data
        data = self._read(size)
        self.read_bytes += len(data)
        return data

    def push_back(self, data: bytes) -> None:
        self._back = data + self._back


def _inflate(source: _Counted, kind: str, fresh: Callable[[], Any]) -> Iterator[bytes]:
    engine = fresh()
    while True:
        data = source.read(CHUNK_BYTES) if _hungry(engine) else _tail(engine)
        ended = _hungry(engine) and not data
        try:
            plain = engine.decompress(data, 4 * CHUNK_BYTES)
        except _DAMAGE as error:
            raise InvalidArgument(f"layer's {kind} stream is damaged: {error}") from None
        yield plain
        if engine.eof:
            source.push_back(engine.unused_data)
            if not _another_member(source, kind):
                return
            engine = fresh()
        elif ended and not plain:
            raise InvalidArgument(f"layer's {kind} stream is cut short")


def _another_member(source: _Counted, kind: str) -> bool:
    """False at the end of the stream, behind which only zero bytes may stand."""
    padded = False
    while data := source.read(CHUNK_BYTES):
        rest = data.lstrip(b"\0")
        if rest and padded | (len(rest) != len(data)):
            raise InvalidArgument(f"junk behind the end of the layer's {kind} stream")
        if rest:
            source.push_back(data)
            return True
        padded = True
    return False


def _hungry(engine: Any) -> bool:
    """zlib's interface hands unconsumed input back, zstd's keeps it."""
    needs_input = getattr(engine, "needs_input", None)
    return not engine.unconsumed_tail if needs_input is None else bool(needs_input)


def _tail(engine: Any) -> bytes:
    return getattr(engine, "unconsumed_tail", b"")
