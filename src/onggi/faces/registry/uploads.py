"""Uploads of blobs: sessions that survive broken connections and the server's own death.

A session is a file in `serve/uploads/` of the store: what has arrived is what it holds, so there is
nothing else to keep or to lose. Its name is random, and bound to the repository. One request at a
time writes to it (flock). At the end its content is verified, and the file becomes the blob.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from typing import Protocol

from onggi.errors import from_os_error
from onggi.faces.registry.answers import ApiError, Body
from onggi.image.durable import sync_directory, try_lock, write_all
from onggi.image.served import UNFINISHED_S, now_s, sweep_uploads
from onggi.image.store import ContentStore

MAX_SESSIONS = 1000
_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_SWEEP_EVERY_S = 600
_BUSY_S = 2.0
_KEPT_HASHES = 256
#: What stays free on the disk: other programs, and removals of images, need some.
_RESERVE_BYTES = 16 * 1024 * 1024


class _Hash(Protocol):
    def update(self, data: memoryview | bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


class Session:
    """An upload that this request alone may write to. Valid inside `Uploads.session`."""

    def __init__(self, uploads: Uploads, upload_id: str, path: str, fd: int) -> None:
        self._uploads = uploads
        self.id = upload_id
        self._path = path
        self._fd = fd
        self.size_bytes = os.fstat(fd).st_size
        self._hash: _Hash | None = None

    def append(self, body: Body) -> None:
        """Take all of the body; what came before a broken connection stays, to be resumed.

        Raises:
            ResourceExhausted: the disk is full; the upload is given up, so that it is not for long.
            ConnectionError, TimeoutError: the client went away.
        """
        digest = self._hash_so_far()
        try:
            self._check_space(body.length_bytes)
            while data := body.read():
                write_all(self._fd, data)
                digest.update(data)
                self.size_bytes += len(data)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                self._truncate()
                raise
            self.cancel()
            raise from_os_error(error, "storing an upload") from error
        finally:
            self._uploads.keep_hash(self.id, self.size_bytes, digest)

    def _truncate(self) -> None:
        """Forget what a failed write may have left beyond what was hashed."""
        os.ftruncate(self._fd, self.size_bytes)

    def _check_space(self, length_bytes: int | None) -> None:
        if length_bytes is None:
            return
        space = os.fstatvfs(self._fd)
        if length_bytes + _RESERVE_BYTES > space.f_bavail * space.f_frsize:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _hash_so_far(self) -> _Hash:
        if self._hash is None:
            self._hash = self._uploads.take_hash(self.id, self.size_bytes) or self._hash_file()
        return self._hash

    def _hash_file(self) -> _Hash:
        digest = hashlib.sha256()
        offset = 0
        while data := os.pread(self._fd, 1 << 20, offset):
            digest.update(data)
            offset += len(data)
        return digest

    def finish(self, digest: str) -> None:
        """Make it the blob `digest`, durably; the session ends. Hold a lease.

        Raises:
            ApiError: it is not that; the session ends as well.
        """
        found = "sha256:" + self._hash_so_far().hexdigest()
        if found != digest:
            self.cancel()
            raise ApiError(
                400, "DIGEST_INVALID", f"the content of {found} came, {digest} was announced"
            )
        target = self._uploads.content.path(digest)
        try:
            os.fchmod(self._fd, 0o644)
            os.fsync(self._fd)
            os.rename(self._path, target)
            sync_directory(os.path.dirname(target))
        except OSError as error:
            raise from_os_error(error, "storing an upload") from error

    def cancel(self) -> None:
        """End the session and delete what has come."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)


class Uploads:
    """Every session below one directory."""

    def __init__(self, directory: str, images_root: str, content: ContentStore) -> None:
        self.content = content
        self._directory = directory
        self._images_root = images_root
        self._lock = threading.Lock()
        self._hashes: OrderedDict[str, tuple[int, _Hash]] = OrderedDict()
        self._swept_s = float("-inf")

    def begin(self, repository: str) -> str:
        """A new session's id.

        Raises:
            ApiError: there are too many. ResourceExhausted: the disk is full.
        """
        self._sweep()
        if len(os.listdir(self._directory)) >= MAX_SESSIONS:
            raise ApiError(
                429, "TOOMANYREQUESTS", f"{MAX_SESSIONS} uploads are open; finish or cancel some"
            )
        upload_id = secrets.token_hex(16)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            os.close(os.open(self._path(repository, upload_id), flags, 0o600))
        except OSError as error:
            raise from_os_error(error, "starting an upload") from error
        return upload_id

    @contextlib.contextmanager
    def session(self, repository: str, upload_id: str) -> Iterator[Session]:
        """An open session, for one request at a time.

        Raises:
            ApiError: there is none of that id in this repository, or another request has it.
        """
        unknown = ApiError(404, "BLOB_UPLOAD_UNKNOWN", "no such upload; start a new one")
        if _ID.fullmatch(upload_id) is None:
            raise unknown
        path = self._path(repository, upload_id)
        try:
            fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            raise unknown from None
        try:
            self._lock_session(fd)
            status = os.fstat(fd)
            if status.st_nlink == 0 or status.st_mtime + UNFINISHED_S < now_s():
                raise unknown
            if not os.path.exists(path):
                raise unknown  # another request has finished it: the inode is a blob now
            yield Session(self, upload_id, path, fd)
        finally:
            os.close(fd)

    def _lock_session(self, fd: int) -> None:
        # A client whose connection broke is back before the old request has noticed.
        deadline = time.monotonic() + _BUSY_S
        while not try_lock(fd):
            if time.monotonic() > deadline:
                raise ApiError(
                    409, "BLOB_UPLOAD_INVALID", "another request is writing to this upload"
                )
            time.sleep(0.02)

    def _path(self, repository: str, upload_id: str) -> str:
        bound = hashlib.sha256(repository.encode()).hexdigest()[:16]
        return os.path.join(self._directory, f"{upload_id}-{bound}")

    def _sweep(self) -> None:
        with self._lock:
            due = time.monotonic() - self._swept_s > _SWEEP_EVERY_S
            if due:
                self._swept_s = time.monotonic()
        if due:
            sweep_uploads(self._images_root)

    def keep_hash(self, upload_id: str, size_bytes: int, digest: _Hash) -> None:
        """Remember the hash of a session's first `size_bytes`; only speed depends on it."""
        with self._lock:
            self._hashes[upload_id] = (size_bytes, digest)
            while len(self._hashes) > _KEPT_HASHES:
                self._hashes.popitem(last=False)

    def take_hash(self, upload_id: str, size_bytes: int) -> _Hash | None:
        """The hash of exactly `size_bytes`, for the one that goes on with it."""
        with self._lock:
            known = self._hashes.pop(upload_id, None)
        return known[1] if known is not None and known[0] == size_bytes else None
