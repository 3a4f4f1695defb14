"""`oci:PATH[:TAG]`: an OCI image layout directory, with several images under tags.

A layout that others wrote is hostile: links lead nowhere outside it, only regular files are read.
Sinks of several processes may write to one layout at once.

Source: image-spec image-layout.md, annotations.md; containers-transports(5) oci.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence

import msgspec
from msgspec import structs

from onggi.errors import Conflict, FailedPrecondition, InvalidArgument, NotFound
from onggi.image.reference import Reference
from onggi.image.store import EMPTY_INDEX, LAYOUT
from onggi.image.transports.base import BlobStream
from onggi.image.transports.streams import (
    FileStream,
    StagedFile,
    check_content,
    copy_verified,
    holds,
    open_blob,
    open_directory,
    publish_bytes,
    read_bounded,
    read_verified,
    sweep_staged,
)
from onggi.kernel.descriptors import Descriptor as OpenFile
from onggi.kernel.paths import make_directories
from onggi.specs.image import (
    CONTAINERD_NAME,
    MAX_MANIFEST_BYTES,
    OCI_INDEX,
    REF_NAME,
    Descriptor,
    Index,
    Layout,
    check_digest,
    encode_document,
    parse_index,
)

_BLOBS = "blobs/sha256"


def blob_path(digest: str) -> str:
    """Where a layout has a blob. Raises: SpecError for what is no digest."""
    return f"{_BLOBS}/{check_digest(digest).removeprefix('sha256:')}"


def select_entry(entries: Sequence[Descriptor], tag: str, where: str) -> Descriptor:
    """The entry of an index that a tag means; without one, the only image there is.

    Raises: NotFound; Conflict: several.
    """
    found = [entry for entry in entries if not tag or tag in _tags(entry)]
    found = [entry for entry in found if _tags(entry)[:1] == (tag,)] or found
    if not found and tag:
        found = [entry for entry in entries if _is_named(entry, tag)]
    if not found:
        raise NotFound(f"{where} has no image {tag!r}" if tag else f"{where} has no image")
    if len({entry.digest for entry in found}) > 1:
        offered = sorted({name for entry in found for name in _tags(entry)[:1]}) or ["without tags"]
        raise Conflict(
            f"{where} has several images: {', '.join(offered)[:300]}",
            hint="say which behind a colon",
        )
    return structs.replace(found[0], annotations=None)


def _tags(entry: Descriptor) -> tuple[str, ...]:
    """What an entry is called, the whole name first."""
    annotations = entry.annotations or {}
    return tuple(tag for key in (CONTAINERD_NAME, REF_NAME) if (tag := annotations.get(key)))


def _is_named(entry: Descriptor, text: str) -> bool:
    try:
        wanted = Reference.parse(text).canonical
        return any(Reference.parse(tag).canonical == wanted for tag in _tags(entry))
    except InvalidArgument:
        return False


class LayoutSource:
    """One image of a layout directory. Raises on opening: NotFound, FailedPrecondition."""

    def __init__(self, path: str, tag: str = "") -> None:
        self.name = f"oci:{path}" + (f":{tag}" if tag else "")
        self._tag = tag
        self._directory = open_directory(path)
        try:
            _check_layout(self._directory.fileno(), path)
        except BaseException:
            self._directory.close()
            raise

    def root(self) -> tuple[Descriptor, bytes]:
        index = parse_index(_read_index(self._directory.fileno(), self.name))
        descriptor = select_entry(index.manifests, self._tag, self.name)
        return descriptor, self.document(descriptor)

    def document(self, descriptor: Descriptor) -> bytes:
        with self.open(descriptor) as stream:
            return read_verified(stream, descriptor, self.name)

    def open(self, descriptor: Descriptor, offset: int = 0) -> FileStream:
        what = f"blob {descriptor.digest} of {self.name}"
        path = blob_path(descriptor.digest)
        return open_blob(self._directory.fileno(), path, offset, what=what)

    def close(self) -> None:
        self._directory.close()


class LayoutSink:
    """A place in a layout directory, made if missing; the image that had the tag loses it.

    Without a tag the image is added beside those that are there.

    Raises on opening: FailedPrecondition: a directory with other things in it.
    """

    def __init__(self, path: str, tag: str = "") -> None:
        self.name = f"oci:{path}" + (f":{tag}" if tag else "")
        self._tag = tag
        self._directory = open_directory(path, make=True)
        try:
            self._blobs = _prepare(self._directory.fileno(), path)
        except BaseException:
            self._directory.close()
            raise

    def has(self, descriptor: Descriptor) -> bool:
        return holds(self._directory.fileno(), blob_path(descriptor.digest), descriptor)

    def put(self, descriptor: Descriptor, stream: BlobStream) -> None:
        with StagedFile(self._directory.fileno()) as staged:
            copy_verified(stream, descriptor, staged.fd)
            staged.publish(_hex(descriptor), self._blobs.fileno())

    def put_document(self, descriptor: Descriptor, data: bytes) -> None:
        check_content(descriptor, data, self.name)
        publish_bytes(self._blobs.fileno(), _hex(descriptor), data)

    def finish(self, root: Descriptor, data: bytes) -> None:
        self.put_document(root, data)
        annotations = {REF_NAME: self._tag} if self._tag else None
        entry = structs.replace(root, annotations=annotations)
        directory = self._directory.fileno()
        with _locked(directory):
            index = parse_index(_read_index(directory, self.name))
            kept = [old for old in index.manifests if not self._replaces(old, entry)]
            document = Index(2, (*kept, entry), OCI_INDEX, index.annotations)
            publish_bytes(directory, "index.json", encode_document(document))

    def _replaces(self, old: Descriptor, entry: Descriptor) -> bool:
        if self._tag:
            return self._tag in _tags(old)
        return old.digest == entry.digest and not _tags(old)

    def close(self) -> None:
        self._blobs.close()
        self._directory.close()


def _hex(descriptor: Descriptor) -> str:
    return check_digest(descriptor.digest).removeprefix("sha256:")


def _check_layout(directory_fd: int, path: str) -> None:
    try:
        with open_blob(directory_fd, "oci-layout", what="oci-layout") as stream:
            data = read_bounded(stream, 4096, "oci-layout")
        version = msgspec.json.decode(data, type=Layout).image_layout_version
    except (NotFound, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        version = ""
    if not version.startswith("1."):
        raise FailedPrecondition(f"{path} is not an OCI image layout of version 1")


def _read_index(directory_fd: int, where: str) -> bytes:
    try:
        with open_blob(directory_fd, "index.json", what="index.json") as stream:
            return read_bounded(stream, MAX_MANIFEST_BYTES, f"index.json of {where}")
    except NotFound:
        return EMPTY_INDEX


def _prepare(directory_fd: int, path: str) -> OpenFile:
    """Make what a layout lacks; answers the directory of its blobs."""
    with _locked(directory_fd):
        sweep_staged(directory_fd)
        if not os.listdir(directory_fd):
            publish_bytes(directory_fd, "oci-layout", LAYOUT)
    _check_layout(directory_fd, path)
    with make_directories(directory_fd, _BLOBS) as blobs:
        # Not an O_PATH descriptor: it is synced.
        return OpenFile(os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=blobs))


@contextlib.contextmanager
def _locked(directory_fd: int) -> Iterator[None]:
    """Keep other sinks away from `index.json`. Their own open file, so that threads wait too."""
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory_fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
