"""Content as files: pieces of files as blob streams, and files that appear by one rename.

Directories and archives are hostile: a name is resolved below its directory's descriptor, and only
regular files are ever opened. Knows nothing of images.

Source: openat2(2), rename(2).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from typing import Self

from onggi.errors import (
    DataLoss,
    FailedPrecondition,
    NotFound,
    ResourceExhausted,
    SyscallError,
    from_os_error,
)
from onggi.image.durable import try_lock, unique_name, write_all
from onggi.image.transports.base import BlobStream
from onggi.kernel.descriptors import Descriptor as OpenFile
from onggi.kernel.paths import open_regular
from onggi.specs.image import MAX_CONFIG_BYTES, Descriptor, digest_of

CHUNK_BYTES = 1 << 20
_STAGED = ".onggi-"
_ABSENT = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV))


class FileStream:
    """`size_bytes` of an open file from `start` on, of which `offset` are skipped; owns `fd`."""

    def __init__(self, fd: int, start: int, size_bytes: int, offset: int = 0) -> None:
        self._fd = fd
        self.size_bytes = size_bytes
        self.offset = min(offset, size_bytes)
        self._at = start + self.offset
        self._end = start + size_bytes

    def read(self, size: int) -> bytes:
        """At most `size` bytes; b'' at the end. Raises: EngineError."""
        try:
            data = os.pread(self._fd, min(size, self._end - self._at), self._at)
        except OSError as error:
            raise from_os_error(error, "reading a blob") from error
        self._at += len(data)
        return data

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_blob(directory_fd: int, path: str, offset: int = 0, *, what: str) -> FileStream:
    """A file below a directory (borrowed) as a stream; links lead nowhere else.

    Raises:
        NotFound: `what` is not there. FailedPrecondition: not a regular file.
    """
    try:
        file = open_regular(directory_fd, path)
    except SyscallError as error:
        if error.errno in _ABSENT:
            raise NotFound(f"{what} is not there") from None
        raise
    size = os.fstat(file.fileno()).st_size
    return FileStream(file.detach(), 0, size, offset)


def read_bounded(stream: BlobStream, maximum_bytes: int, what: str) -> bytes:
    """All of a stream. Raises: ResourceExhausted: more than `maximum_bytes`."""
    parts: list[bytes] = []
    total = 0
    while data := stream.read(CHUNK_BYTES):
        total += len(data)
        if total > maximum_bytes:
            raise ResourceExhausted(f"{what} is larger than {maximum_bytes} bytes")
        parts.append(data)
    return b"".join(parts)


def read_verified(stream: BlobStream, descriptor: Descriptor, where: str) -> bytes:
    """A document from its beginning, 16 MiB at most.

    Raises: ResourceExhausted; DataLoss: not what the descriptor says.
    """
    data = read_bounded(stream, MAX_CONFIG_BYTES, f"{descriptor.digest} in {where}")
    check_content(descriptor, data, where)
    return data


def holds(directory_fd: int, path: str, descriptor: Descriptor) -> bool:
    """Whether a file below a directory is this content; a damaged one is not."""
    try:
        with open_blob(directory_fd, path, what=path) as stream:
            return stream.size_bytes == descriptor.size and _digest(stream) == descriptor.digest
    except (NotFound, FailedPrecondition, SyscallError):
        return False


def _digest(stream: BlobStream) -> str:
    digest = hashlib.sha256()
    while data := stream.read(CHUNK_BYTES):
        digest.update(data)
    return f"sha256:{digest.hexdigest()}"


def check_content(descriptor: Descriptor, data: bytes, where: str) -> None:
    """Compare a document with its descriptor. Raises: DataLoss."""
    found = digest_of(data)
    if len(data) != descriptor.size or found != descriptor.digest:
        raise DataLoss(
            f"{where}: {len(data)} bytes with digest {found} where"
            f" {descriptor.size} bytes with digest {descriptor.digest} are due"
        )


def copy_verified(stream: BlobStream, descriptor: Descriptor, fd: int) -> None:
    """Write a blob to an empty file.

    Raises: DataLoss: not what the descriptor says. ResourceExhausted: the disk is full.
    """
    if stream.offset:
        raise DataLoss(f"blob {descriptor.digest} does not come from its beginning")
    digest = hashlib.sha256()
    total = 0
    while data := stream.read(CHUNK_BYTES):
        total += len(data)
        if total > descriptor.size:
            raise DataLoss(f"blob {descriptor.digest} is longer than {descriptor.size} bytes")
        digest.update(data)
        try:
            write_all(fd, data)
        except OSError as error:
            raise from_os_error(error, "writing a blob") from error
    if total != descriptor.size or f"sha256:{digest.hexdigest()}" != descriptor.digest:
        raise DataLoss(
            f"blob {descriptor.digest} of {descriptor.size} bytes: {total} bytes with digest"
            f" sha256:{digest.hexdigest()} arrived"
        )


def open_directory(path: str, *, make: bool = False) -> OpenFile:
    """A directory that a person named. Raises: NotFound, EngineError."""
    try:
        if make:
            os.makedirs(path, exist_ok=True)
        return OpenFile(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as error:
        raise from_os_error(error, "opening") from error


class StagedFile:
    """A new file in a directory (borrowed) that is unseen until `publish`. A context manager."""

    def __init__(self, directory_fd: int) -> None:
        self._directory = directory_fd
        while True:
            self._name = unique_name(_STAGED)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                self.fd = os.open(self._name, flags, 0o644, dir_fd=directory_fd)
            except OSError as error:
                raise from_os_error(error, "writing") from error
            fcntl.flock(self.fd, fcntl.LOCK_EX)
            if os.fstat(self.fd).st_nlink:
                return
            os.close(self.fd)  # swept between open and lock

    def publish(self, name: str, directory_fd: int | None = None) -> None:
        """Make it durable, under its name (in another directory if given). Raises: EngineError."""
        target = self._directory if directory_fd is None else directory_fd
        try:
            os.fsync(self.fd)
            os.rename(self._name, name, src_dir_fd=self._directory, dst_dir_fd=target)
            os.fsync(target)
        except OSError as error:
            raise from_os_error(error, f"writing {name}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._name, dir_fd=self._directory)
        os.close(self.fd)


def publish_bytes(directory_fd: int, name: str, data: bytes) -> None:
    """Put `data` at `name`: the old content or the new, never a part. Raises: EngineError."""
    with StagedFile(directory_fd) as staged:
        try:
            write_all(staged.fd, data)
        except OSError as error:
            raise from_os_error(error, f"writing {name}") from error
        staged.publish(name)


def sweep_staged(directory_fd: int) -> None:
    """Delete what crashes left of `StagedFile`; what somebody works on stays."""
    for name in os.listdir(directory_fd):
        if not name.startswith(_STAGED):
            continue
        with contextlib.suppress(OSError), _opened(directory_fd, name) as fd:
            if try_lock(fd):
                os.unlink(name, dir_fd=directory_fd)


@contextlib.contextmanager
def _opened(directory_fd: int, name: str) -> Iterator[int]:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(name, flags, dir_fd=directory_fd)
    try:
        yield fd
    finally:
        os.close(fd)
