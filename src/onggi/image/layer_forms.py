"""The two forms in which a layer is kept: an unpacked directory, or its tar and an EROFS index.

Each class takes a plain tar stream into a staging directory, is told what the directories that the
archive left out look like, and then writes the rest. Making it durable is `LayerSync`'s. Knows
nothing of chain ids, other layers or where layers go.

Source: kernel Documentation/filesystems/{overlayfs,erofs}.rst.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from typing import Protocol

from onggi.errors import SyscallError
from onggi.image.apply import apply_layer
from onggi.image.compression import Limits
from onggi.image.durable import write_all
from onggi.image.erofs.tree import index_layer
from onggi.image.layer_record import DIRECTORY, METADATA, TAR, Form
from onggi.image.layer_rules import PLAIN_MODE, ParentAttributes
from onggi.image.trees import open_beneath

#: Written pages go to the disk in pieces of this size while the stream still arrives.
WRITE_BACK_BYTES = 8 << 20

_REPLACED = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP))
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class Unpacked(Protocol):
    """A layer in a staging directory. `missing`: directories left out, b"" is the root."""

    form: Form
    entries: int

    @property
    def missing(self) -> Sequence[bytes]: ...
    def dress(self, path: bytes, like: ParentAttributes) -> None:
        """Give a missing directory its attributes; nothing if something else is there by now."""

    def seal(self) -> str:
        """Finish it; the metadata image's digest or ""."""

    def close(self) -> None: ...


class UnpackedDirectory:
    """The form `overlay`. Raises what `apply_layer` does, and OSError."""

    form: Form = "overlay"

    def __init__(self, place: int, chunks: Iterator[bytes], limits: Limits) -> None:
        os.mkdir(DIRECTORY, dir_fd=place)
        self._fd = os.open(DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=place)
        try:
            os.fchmod(self._fd, PLAIN_MODE)
            applied = apply_layer(chunks, self._fd, limits=limits)
        except BaseException:
            self.close()
            raise
        self.entries = applied.entries
        self.missing = applied.missing

    def dress(self, path: bytes, like: ParentAttributes) -> None:
        try:
            opened = open_beneath(self._fd, path, os.O_RDONLY | os.O_DIRECTORY)
        except SyscallError as error:
            if error.errno in _REPLACED:
                return
            raise
        with opened as fd:
            os.fchown(fd, like.uid, like.gid)
            os.fchmod(fd, like.mode)
            os.utime(fd, ns=(like.mtime_ns, like.mtime_ns))

    def seal(self) -> str:
        return ""

    def close(self) -> None:
        os.close(self._fd)


class UnpackedTar:
    """The form `erofs`. Raises what `index_layer` does, and OSError."""

    form: Form = "erofs"

    def __init__(self, place: int, chunks: Iterator[bytes], limits: Limits) -> None:
        self._place = os.dup(place)
        try:
            with TarFile(place) as tar:
                self._tree = index_layer(chunks, tar.write, limits)
            self._size_bytes = tar.written
        except BaseException:
            self.close()
            raise
        self.entries = self._tree.entries

    @property
    def missing(self) -> Sequence[bytes]:
        return self._tree.missing

    def dress(self, path: bytes, like: ParentAttributes) -> None:
        self._tree.dress(path, like)

    def seal(self) -> str:
        """Raises: NotExpressible, and then nothing of the metadata image is there."""
        fd = os.open(METADATA, _NEW, 0o600, dir_fd=self._place)
        try:
            self._tree.write(fd, self._size_bytes)
            with open(fd, "rb", closefd=False) as file:
                file.seek(0)
                return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
        except BaseException:
            os.unlink(METADATA, dir_fd=self._place)
            raise
        finally:
            os.close(fd)

    def as_directory(self, limits: Limits) -> UnpackedDirectory:
        """The same layer in the other form, in the place of this one, which is to be closed."""
        fd = os.open(TAR, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._place)
        with open(fd, "rb", buffering=0) as tar:
            chunks = iter(lambda: tar.read(1 << 20), b"")
            unpacked = UnpackedDirectory(self._place, chunks, limits)
        os.unlink(TAR, dir_fd=self._place)
        return unpacked

    def close(self) -> None:
        os.close(self._place)


class TarFile:
    """A layer's tar, written from front to back. A context manager."""

    def __init__(self, place: int) -> None:
        self._fd = os.open(TAR, _NEW, 0o600, dir_fd=place)
        self.written = 0
        self._started = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append. Raises: OSError."""
        write_all(self._fd, data)
        self.written += len(data)
        ready = self.written - self._started
        if ready >= WRITE_BACK_BYTES:
            # Not to drop the pages, which stay while they are dirty: the call starts their way to
            # the disk, so that little is left for a sync that others may wait on.
            os.posix_fadvise(self._fd, self._started, ready, os.POSIX_FADV_DONTNEED)
            self._started = self.written

    def __enter__(self) -> TarFile:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
