"""What the registry server keeps beside the images: the record of what was pushed, and its files.

`index.json` has the tags of pushed images that can run here. Everything else that was pushed is in
one small record, `serve/manifests.json`: tags of artifacts and of images for other machines,
manifests pushed by digest, and blobs whose manifest has not come yet. The garbage collector asks
here what it must keep (`served_digests`), so nothing of this needs a server that runs.
Knows nothing of HTTP.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

import msgspec
from msgspec import Struct

from onggi.errors import DataLoss, FailedPrecondition, NotFound, SpecError
from onggi.image.durable import locked, replace_file, sealed, sweep_staging, try_lock, unsealed
from onggi.image.store import ContentStore
from onggi.specs.image import (
    MAX_MANIFEST_BYTES,
    Descriptor,
    Digest,
    Index,
    Size,
    digest_of,
    parse_manifest,
)

#: A push has a day to finish: so long blobs wait for their manifest, and broken uploads for more.
UNFINISHED_S = 24 * 3600


class ServedManifest(Struct, forbid_unknown_fields=True):
    """A pushed manifest. `expires_s` (Unix time): when it goes if no tag holds it; 0: never."""

    media_type: str
    size_bytes: Size
    expires_s: int = 0


class ServedRepository(Struct, forbid_unknown_fields=True):
    """One repository. `tags`: tag → digest of one of `manifests`; `blobs`: digest → Unix time
    until which it waits for a manifest; `touched_s`: Unix time of the last change.
    """

    tags: dict[str, Digest] = {}
    manifests: dict[Digest, ServedManifest] = {}
    blobs: dict[Digest, int] = {}
    touched_s: int = 0

    def living(self, now_s: int) -> dict[str, ServedManifest]:
        """The manifests that are still there."""
        tagged = set(self.tags.values())
        return {
            digest: manifest
            for digest, manifest in self.manifests.items()
            if digest in tagged or manifest.expires_s == 0 or manifest.expires_s > now_s
        }

    def waiting(self, now_s: int) -> set[str]:
        """The blobs that still wait for a manifest."""
        return {digest for digest, until_s in self.blobs.items() if until_s > now_s}


class Served(Struct, forbid_unknown_fields=True):
    """The whole record, by repository as the server's clients call it.

    `checksum`: in the file, a digest of all the rest.
    """

    repositories: dict[str, ServedRepository] = {}
    checksum: str = ""


_DECODER = msgspec.json.Decoder(Served)


def now_s() -> int:
    """Unix time; the record outlives reboots, so no other clock would do."""
    return int(time.time())


class ServedRecord:
    """The record below an image store's root. Threads and processes may share it."""

    def __init__(self, images_root: str) -> None:
        self._directory = os.path.join(images_root, "serve")
        self._path = os.path.join(self._directory, "manifests.json")
        self._staging = os.path.join(self._directory, "staging")
        self._lock = os.path.join(self._directory, "manifests.lock")
        self.uploads = os.path.join(self._directory, "uploads")

    def prepare(self) -> None:
        """Make the directories (mode 0700), and delete what a crash left. Raises: OSError."""
        for path in (self._directory, self._staging, self.uploads):
            os.makedirs(path, mode=0o700, exist_ok=True)
        sweep_staging(self._staging)

    def stamp(self) -> tuple[int, int, int]:
        """A value that changes with the record."""
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            return (0, 0, 0)
        return (status.st_ino, status.st_mtime_ns, status.st_size)

    def read(self) -> Served:
        """The record as it is now; empty if nothing was ever pushed.

        Raises:
            DataLoss: it is damaged.
        """
        try:
            with open(self._path, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return Served({})
        try:
            return _DECODER.decode(unsealed(data) or b"")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise DataLoss(
                f"{self._path} is damaged",
                hint="onggi image fsck --repair; what was pushed by digest only is then forgotten",
            ) from None

    @contextlib.contextmanager
    def change(self, repository: str) -> Iterator[ServedRepository]:
        """Change one repository's record, alone; durable on leaving, unchanged after an exception.

        Raises:
            DataLoss: as `read`. ResourceExhausted: the disk is full.
        """
        with locked(self._lock):
            served = self.read()
            changed = served.repositories.setdefault(repository, ServedRepository({}, {}, {}))
            yield changed
            changed.touched_s = now_s()
            _forget_expired(served, changed.touched_s)
            replace_file(self._path, sealed(msgspec.json.encode(served)), self._staging)


def _checksum(served: Served) -> str:
    return digest_of(msgspec.json.encode(served))


def _forget_expired(served: Served, at_s: int) -> None:
    for name, repository in list(served.repositories.items()):
        repository.manifests = repository.living(at_s)
        repository.blobs = {d: until for d, until in repository.blobs.items() if until > at_s}
        empty = not (repository.tags or repository.manifests or repository.blobs)
        if empty and repository.touched_s + UNFINISHED_S < at_s:
            del served.repositories[name]


def served_roots(images_root: str) -> list[Descriptor]:
    """The manifests that pushes have brought and `index.json` does not name.

    Raises:
        DataLoss: the record is damaged, so what it needs is not known.
    """
    found: dict[str, Descriptor] = {}
    at_s = now_s()
    for repository in ServedRecord(images_root).read().repositories.values():
        for digest, manifest in repository.living(at_s).items():
            found[digest] = Descriptor(manifest.media_type, digest, manifest.size_bytes)
    return list(found.values())


def recent_blobs(images_root: str) -> set[str]:
    """Blobs that were pushed and wait for their manifest. Raises: DataLoss."""
    at_s = now_s()
    found: set[str] = set()
    for repository in ServedRecord(images_root).read().repositories.values():
        found |= repository.waiting(at_s)
    return found


def served_digests(images_root: str, content: ContentStore) -> set[str]:
    """Every blob that the garbage collector must keep for the registry server.

    Ask while nobody holds a lease: a push takes one until its content is in the record. Artifacts
    are no images, so no configuration is read here and no unpacked layer is needed.

    Raises:
        DataLoss: the record or a manifest is damaged, so what it needs is not known.
    """
    digests = recent_blobs(images_root)
    pending = served_roots(images_root)
    seen: set[str] = set()
    while pending:
        descriptor = pending.pop()
        if descriptor.digest in seen:
            continue
        seen.add(descriptor.digest)
        try:
            data = content.read(descriptor.digest, MAX_MANIFEST_BYTES, descriptor.size)
            document = parse_manifest(data, descriptor.media_type)
        except NotFound:
            continue
        except SpecError as error:
            raise DataLoss(f"manifest {descriptor.digest}: {error.message}") from None
        if isinstance(document, Index):
            pending += document.manifests
        else:
            digests.update(d.digest for d in (document.config, *document.layers))
    return digests | seen


def sweep_uploads(images_root: str) -> int:
    """Delete uploads that nobody has continued for a day; the number deleted. Safe at any time."""
    directory = ServedRecord(images_root).uploads
    swept = 0
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return 0
    for name in names:
        path = os.path.join(directory, name)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # finished meanwhile
        except OSError as error:
            raise FailedPrecondition(f"{path} is not an upload: {error.strerror}") from None
        try:
            if os.fstat(fd).st_mtime + UNFINISHED_S < now_s() and try_lock(fd):
                os.unlink(path)
                swept += 1
        except FileNotFoundError:
            pass
        finally:
            os.close(fd)
    return swept
