"""Files out of a Debian package, without running anything and without writing any.

Source: deb(5).
"""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from typing import BinaryIO

from onggi.errors import InvalidArgument
from onggi.image.compression import plain_chunks
from onggi.image.tar_reader import REGULAR, TarReader

MAX_FILE_BYTES = 64 << 20
_MAGIC = b"!<arch>\n"
_XZ_CHUNK_BYTES = 1 << 18


def read_member(package: BinaryIO, path: str) -> tuple[bytes, int]:
    """The content and mtime (seconds) of one regular file in a package, `usr/bin/x` for instance.

    Raises:
        InvalidArgument: not a package, damaged, or it has no such file.
    """
    wanted = {path.encode(), b"./" + path.encode()}
    reader = TarReader(_data_chunks(package))
    content: bytes | None = None
    mtime_s = 0
    for entry in reader:
        if entry.name in wanted and entry.type == REGULAR:
            content, mtime_s = reader.read_data(MAX_FILE_BYTES), entry.mtime_ns // 1_000_000_000
    if content is None:
        raise InvalidArgument(f"the package has no file {path}")
    return content, mtime_s


def _data_chunks(package: BinaryIO) -> Iterator[bytes]:
    """The plain tar of the package's files."""
    if package.read(len(_MAGIC)) != _MAGIC:
        raise InvalidArgument("not a Debian package")
    while header := package.read(60):
        name, size = header[:16].strip(b" /"), header[48:58].strip()
        if len(header) != 60 or not header.endswith(b"`\n") or not size.isdigit():
            raise InvalidArgument("damaged Debian package")
        if name.startswith(b"data.tar"):
            section = _Section(package, int(size))
            return _unxz(section) if name.endswith(b".xz") else plain_chunks(section.read)
        package.seek(int(size) + int(size) % 2, 1)
    raise InvalidArgument("the Debian package holds no files")


class _Section:
    """One member of the outer archive."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = size

    def read(self, size: int) -> bytes:
        data = self._file.read(min(size, self._left))
        self._left -= len(data)
        return data


def _unxz(section: _Section) -> Iterator[bytes]:
    engine = lzma.LZMADecompressor(memlimit=256 << 20)
    try:
        while not engine.eof:
            data = section.read(_XZ_CHUNK_BYTES) if engine.needs_input else b""
            if not data and engine.needs_input:
                raise InvalidArgument("the Debian package is cut short")
            yield engine.decompress(data, 4 * _XZ_CHUNK_BYTES)
    except lzma.LZMAError as error:
        raise InvalidArgument(f"damaged Debian package: {error}") from None
