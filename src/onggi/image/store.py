"""The content store: an OCI image layout on disk, whose every read is verified.

Knows blobs by digest and the bytes of `index.json`; knows nothing of what they mean. Safe for
several threads and processes at once: a blob appears by one rename, under the name of its content.

`index.json` has no digest to be verified by, so `index.backup` holds it once more behind a
checksum, together with the digest of the index before it. The backup is written first: after a
crash between the two, `index.json` is the index before, and holds. One that is neither of the two
is damaged, and the backup holds. `reserve` is space kept for writing a smaller index when the disk
is full.

Source: image-spec image-layout.md.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

import msgspec
from msgspec import Struct

from onggi.errors import (
    DataLoss,
    FailedPrecondition,
    NotFound,
    ResourceExhausted,
    from_os_error,
)
from onggi.image.durable import (
    drop_reserve,
    keep_reserve,
    replace_file,
    sealed,
    staged_file,
    sweep_staging,
    sync_directory,
    unsealed,
    write_all,
)
from onggi.specs.image import Layout, check_digest

LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
EMPTY_INDEX = (
    b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}'
)
RESERVE_BYTES = 64 << 10

_INDEX = "index.json"
_BACKUP = "index.backup"
_RESERVE = "reserve"


class Blob(Struct, frozen=True):
    """Verified content: its digest and its size."""

    digest: str
    size_bytes: int


class ContentStore:
    """Blobs under their digests, in `root` (made if missing; mode 0700).

    Opening it deletes what crashed ingests left behind; running ones, of any process, are kept.
    `staging`: where files are written before they are renamed to their place in it.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self._blobs = os.path.join(root, "blobs", "sha256")
        self.staging = os.path.join(root, "ingest")
        os.makedirs(root, mode=0o700, exist_ok=True)
        os.makedirs(self._blobs, mode=0o755, exist_ok=True)
        os.makedirs(self.staging, mode=0o700, exist_ok=True)
        sweep_staging(self.staging)
        self._check_layout()

    def _check_layout(self) -> None:
        path = os.path.join(self.root, "oci-layout")
        data = self.layout()
        if data is None:
            self.restore_layout()
            return
        version = _layout_version(data)
        if version is not None and version.startswith("1."):
            return
        # Where the backup of an index lies, this is a store of ours, damaged: fsck mends it.
        if self._read_backup() is None:
            raise FailedPrecondition(f"{path}: not an OCI image layout of version 1")

    def layout(self) -> bytes | None:
        """The bytes of `oci-layout`, None if it is missing."""
        return self._read_file("oci-layout")

    def restore_layout(self) -> None:
        """Write `oci-layout` anew. Raises: ResourceExhausted."""
        replace_file(os.path.join(self.root, "oci-layout"), LAYOUT, self.staging)

    def path(self, digest: str) -> str:
        """Where the blob is or would be. Raises: SpecError for what is no digest."""
        return os.path.join(self._blobs, check_digest(digest).removeprefix("sha256:"))

    def size_bytes(self, digest: str) -> int | None:
        """The size of a blob on disk, None if it is not there."""
        try:
            return os.stat(self.path(digest)).st_size
        except FileNotFoundError:
            return None

    def digests(self) -> Iterator[str]:
        """Every blob, in no order."""
        for name in os.listdir(self._blobs):
            if len(name) == 64:
                yield f"sha256:{name}"

    def open(self, digest: str, size_bytes: int | None = None) -> BlobReader:
        """A verifying reader of a blob; `size_bytes`: what a descriptor says.

        Raises:
            NotFound: no such blob.
            DataLoss: of another size.
        """
        path = self.path(digest)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise NotFound(f"blob {digest} is not in the content store") from None
        return BlobReader(fd, digest, size_bytes)

    def read(self, digest: str, maximum_bytes: int, size_bytes: int | None = None) -> bytes:
        """A whole blob, verified.

        Raises:
            NotFound, DataLoss: as `open` and `BlobReader.read`.
            ResourceExhausted: larger than `maximum_bytes`.
        """
        with self.open(digest, size_bytes) as reader:
            if reader.size_bytes > maximum_bytes:
                raise ResourceExhausted(
                    f"blob {digest} is {reader.size_bytes} bytes, more than {maximum_bytes}"
                )
            return b"".join(iter(lambda: reader.read(1 << 20), b""))

    def ingest(self, digest: str | None = None, size_bytes: int | None = None) -> Ingest:
        """Start to write a blob; what is known of it beforehand is enforced. A context manager."""
        if digest is not None:
            check_digest(digest)
        return Ingest(self.staging, self._blobs, digest, size_bytes)

    def put(self, data: bytes, digest: str | None = None) -> Blob:
        """Store `data` durably. Raises: as `Ingest.commit`."""
        return self.put_stream((data,), digest, len(data))

    def put_stream(
        self, chunks: Iterable[bytes], digest: str | None = None, size_bytes: int | None = None
    ) -> Blob:
        """Store a stream durably. Raises: as `Ingest.write` and `Ingest.commit`."""
        with self.ingest(digest, size_bytes) as ingest:
            for chunk in chunks:
                ingest.write(chunk)
            return ingest.commit()

    def sync_names(self) -> None:
        """Make the names of all blobs durable, for who has renamed several. Raises: EngineError."""
        try:
            sync_directory(self._blobs)
        except OSError as error:
            raise from_os_error(error, "committing blobs") from error

    def delete(self, digest: str) -> int:
        """Delete a blob; the bytes freed, 0 if there was none."""
        size = self.size_bytes(digest) or 0
        try:
            os.unlink(self.path(digest))
        except FileNotFoundError:
            return 0
        return size

    def read_index(self) -> bytes:
        """The bytes of `index.json`, or of its backup when it is damaged; at first an empty index.

        An index that neither proves is given as it is.
        """
        found, backup = self._read_file(_INDEX), self._read_backup()
        if backup is None:
            return EMPTY_INDEX if found is None else found
        return found if found is not None and backup.holds(found) else backup.data

    def index_damage(self) -> str:
        """Why `index.json` or its backup is not what was written last; "" if both are.

        Nobody may write it meanwhile.
        """
        found, backup = self._read_file(_INDEX), self._read_backup()
        if backup is None:
            if os.path.lexists(os.path.join(self.root, _BACKUP)):
                return f"{_BACKUP} is damaged"
            # The first index of all is written before there is a backup.
            return "" if found in (None, EMPTY_INDEX) else f"{_BACKUP} is missing"
        if found is None:
            return f"{_INDEX} is missing"
        return "" if backup.holds(found) else f"{_INDEX} is not what was written last"

    def index_stamp(self) -> tuple[int, int, int]:
        """A value that changes with `index.json`."""
        try:
            status = os.stat(os.path.join(self.root, _INDEX))
        except FileNotFoundError:
            return (0, 0, 0)
        return (status.st_ino, status.st_mtime_ns, status.st_size)

    def write_index(self, data: bytes) -> None:
        """Replace `index.json` atomically and durably. One writer at a time.

        An index that is no larger than the one before is written on a full disk too.

        Raises:
            ResourceExhausted: the disk is full; the index is as before.
        """
        before = self.read_index()
        try:
            self._write_index(data, before)
        except ResourceExhausted:
            if len(data) > len(before) or not drop_reserve(os.path.join(self.root, _RESERVE)):
                raise
            self._write_index(data, before)
        self.keep_reserve(len(data))  # the files that were replaced have left space for it

    def _write_index(self, data: bytes, before: bytes) -> None:
        index = os.path.join(self.root, _INDEX)
        if not os.path.lexists(index):
            replace_file(index, before, self.staging)
        backup = sealed(hashlib.sha256(before).hexdigest().encode() + b"\n" + data)
        replace_file(os.path.join(self.root, _BACKUP), backup, self.staging)
        replace_file(index, data, self.staging)

    def keep_reserve(self, index_bytes: int = 0) -> None:
        """Set space for an index aside, if it is not yet and the disk has some."""
        keep_reserve(os.path.join(self.root, _RESERVE), max(RESERVE_BYTES, 4 * index_bytes))

    def _read_file(self, name: str) -> bytes | None:
        try:
            with open(os.path.join(self.root, name), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def _read_backup(self) -> _Backup | None:
        data = unsealed(self._read_file(_BACKUP) or b"")
        if data is None:
            return None
        previous, _, index = data.partition(b"\n")
        return _Backup(index, previous.decode("ascii"))


class _Backup(Struct, frozen=True):
    """An index, and the digest (hex) of the one that it replaces."""

    data: bytes
    previous: str

    def holds(self, found: bytes) -> bool:
        """Whether this is what was written last, or before a crash between the two files."""
        return found == self.data or hashlib.sha256(found).hexdigest() == self.previous


class BlobReader:
    """A blob being read. The last `read` verifies: believe nothing before it has returned b''."""

    def __init__(self, fd: int, digest: str, expected_bytes: int | None) -> None:
        self._fd = fd
        self.digest = digest
        self.size_bytes = os.fstat(fd).st_size
        self._hash = hashlib.sha256()
        self._read_bytes = 0
        if expected_bytes is not None and expected_bytes != self.size_bytes:
            self.close()
            raise DataLoss(
                f"blob {digest} is {self.size_bytes} bytes, its descriptor says {expected_bytes}",
                hint="pull or load the image again",
            )

    def read(self, size: int) -> bytes:
        """At most `size` bytes; b'' at the end, when the whole was the blob.

        Raises:
            DataLoss: the content is not what its digest says.
        """
        data = os.read(self._fd, size)
        if data:
            self._hash.update(data)
            self._read_bytes += len(data)
        elif size > 0:
            self._verify()
        return data

    def verify(self) -> None:
        """Read what is left and verify the whole. Raises: DataLoss."""
        while self.read(1 << 20):
            pass

    def _verify(self) -> None:
        found = "sha256:" + self._hash.hexdigest()
        if found != self.digest:
            raise DataLoss(
                f"blob {self.digest} on disk has the content of {found}",
                hint="remove the image and pull or load it again",
            )

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()


class Ingest:
    """A blob being written, in a staging file until `commit`; left without it, nothing stays."""

    def __init__(
        self, staging: str, blobs: str, digest: str | None, size_bytes: int | None
    ) -> None:
        self._blobs = blobs
        self._digest = digest
        self._expected_bytes = size_bytes
        self._hash = hashlib.sha256()
        self.written_bytes = 0
        try:
            self._fd, self._path = staged_file(staging, 0o644)
        except OSError as error:
            raise from_os_error(error, "writing a blob") from error

    def write(self, data: bytes) -> None:
        """Append `data`.

        Raises:
            DataLoss: the blob grows beyond its expected size.
            ResourceExhausted: the disk is full.
        """
        self.written_bytes += len(data)
        if self._expected_bytes is not None and self.written_bytes > self._expected_bytes:
            raise DataLoss(
                f"blob {self._digest or ''} is longer than the {self._expected_bytes} bytes"
                " that its descriptor says"
            )
        self._hash.update(data)
        try:
            write_all(self._fd, data)
        except OSError as error:
            raise from_os_error(error, "writing a blob") from error

    def commit(self) -> Blob:
        """Verify, make durable and publish; the same blob again replaces, and so repairs, the old.

        Raises:
            DataLoss: too short, or not what its digest says.
            ResourceExhausted: the disk is full.
        """
        digest = "sha256:" + self._hash.hexdigest()
        if self._expected_bytes is not None and self.written_bytes != self._expected_bytes:
            raise DataLoss(
                f"blob {self._digest or digest} ended after {self.written_bytes} of"
                f" {self._expected_bytes} bytes"
            )
        if self._digest is not None and digest != self._digest:
            raise DataLoss(f"content of {digest} arrived where {self._digest} was due")
        target = os.path.join(self._blobs, digest.removeprefix("sha256:"))
        try:
            os.fsync(self._fd)
            os.rename(self._path, target)
            sync_directory(self._blobs)
        except OSError as error:
            raise from_os_error(error, "committing a blob") from error
        return Blob(digest, self.written_bytes)

    def close(self) -> None:
        """Give up what was not committed."""
        if self._fd < 0:
            return
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass  # committed
        finally:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()


def _layout_version(data: bytes) -> str | None:
    try:
        return msgspec.json.decode(data, type=Layout).image_layout_version
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
