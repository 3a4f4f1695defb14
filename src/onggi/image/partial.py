"""Blobs that have not wholly arrived: one file each, kept over crashes, so that a download resumes.

Whoever writes to one holds an flock on it, and looks after locking whether the file still has its
name: the one before may have published or deleted it. So writers, of any process, and `sweep` never
meet. Knows nothing of where the bytes come from.

Layout: `partial/<hex>` (0600) beside the content store's `blobs`.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable
from typing import Self

from onggi.errors import from_os_error
from onggi.image.durable import try_lock, write_all
from onggi.image.store import ContentStore

KEPT_S = 24 * 3600.0
_CREATE = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class PartialBlob:
    """A partial file, locked; a context manager that lets go of it and keeps what is there."""

    def __init__(self, fd: int, path: str, target: str) -> None:
        self.fd = fd
        self._path = path
        self._target = target

    @property
    def size_bytes(self) -> int:
        return os.fstat(self.fd).st_size

    def append(self, data: bytes) -> None:
        """Write behind what is there (the file's position). Raises: ResourceExhausted."""
        try:
            write_all(self.fd, data)
        except OSError as error:
            raise from_os_error(error, "writing a blob") from error

    def truncate(self) -> None:
        """Start again from nothing."""
        os.ftruncate(self.fd, 0)
        os.lseek(self.fd, 0, os.SEEK_SET)

    def publish(self) -> None:
        """Make the content, which the caller has verified, the blob.

        Its bytes are durable on return; its name is after `ContentStore.sync_names`.

        Raises: ResourceExhausted: the disk is full.
        """
        try:
            os.fchmod(self.fd, 0o644)
            os.fsync(self.fd)
            os.rename(self._path, self._target)
        except OSError as error:
            raise from_os_error(error, "committing a blob") from error

    def delete(self) -> None:
        """Take the file away: its content is worth nothing."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def try_partial(content: ContentStore, digest: str) -> PartialBlob | None:
    """A blob's partial file, made if missing; None while somebody else writes to it.

    Raises: ResourceExhausted, PermissionDenied.
    """
    target = content.path(digest)
    directory = directory_of(content)
    path = os.path.join(directory, os.path.basename(target))
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        while True:
            fd = os.open(path, _CREATE, 0o600)
            if not try_lock(fd):
                os.close(fd)
                return None
            if _is_at(fd, path):
                return PartialBlob(fd, path, target)
            os.close(fd)  # published or deleted between the two calls
    except OSError as error:
        raise from_os_error(error, "writing a blob") from error


def wait_for_partial(
    content: ContentStore, digest: str, pause: Callable[[float], None]
) -> PartialBlob:
    """As `try_partial`, when everybody else is done with it; `pause(seconds)` is called meanwhile.

    What `pause` raises ends the waiting.
    """
    delay_s = 0.005
    while True:
        partial = try_partial(content, digest)
        if partial is not None:
            return partial
        pause(delay_s)
        delay_s = min(delay_s * 2, 0.1)


def sweep_partials(content: ContentStore, older_than_s: float = KEPT_S) -> int:
    """Delete partial files that nobody writes to and nobody has for so long; the bytes freed."""
    directory = directory_of(content)
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return 0
    return sum(_sweep(os.path.join(directory, name), older_than_s) for name in names)


def directory_of(content: ContentStore) -> str:
    """Where the partial files are, or would be."""
    return os.path.join(content.root, "partial")


def _sweep(path: str, older_than_s: float) -> int:
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        if not try_lock(fd) or not _is_at(fd, path):
            return 0
        status = os.fstat(fd)
        # The wall clock is the only one that file times and other boots share.
        if not stat.S_ISREG(status.st_mode) or time.time() - status.st_mtime < older_than_s:
            return 0
        os.unlink(path)
        return status.st_blocks * 512
    finally:
        os.close(fd)


def _is_at(fd: int, path: str) -> bool:
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(fd))
