"""`oci-archive:PATH[:TAG]` and `docker-archive:PATH[:REF]`: images in one tar file.

A source knows where each member lies and reads only what is asked for; a compressed archive, or
one from a pipe, is spooled first. A sink writes the same bytes for the same content. Members are
never unpacked by name.

Source: containers-transports(5) oci-archive, docker-archive; docker-save(1).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from typing import BinaryIO, Literal

from msgspec import Struct, structs

from onggi.errors import Conflict, InvalidArgument, NotFound, from_os_error
from onggi.image.archive_form import (
    DOCUMENTS,
    MAX_MEMBERS,
    ArchiveWriter,
    DockerImage,
    Member,
    blob_name,
    docker_element,
    docker_image,
    docker_list,
    expected_digest,
    follow_links,
    link_target,
    member_name,
)
from onggi.image.compression import plain_chunks
from onggi.image.durable import write_all
from onggi.image.reference import Reference
from onggi.image.tar_reader import BLOCK, DIRECTORY, HARD_LINK, REGULAR, SYMLINK, TarReader
from onggi.image.transports.base import BlobStream
from onggi.image.transports.layout import select_entry
from onggi.image.transports.streams import (
    CHUNK_BYTES,
    FileStream,
    StagedFile,
    check_content,
    copy_verified,
    open_directory,
    read_bounded,
    read_verified,
)
from onggi.specs.image import (
    CONTAINERD_NAME,
    INDEX_TYPES,
    MAX_MANIFEST_BYTES,
    REF_NAME,
    Descriptor,
    Index,
    Manifest,
    check_digest,
    parse_index,
    parse_manifest,
)

Form = Literal["oci", "docker"]

_ZEROS = bytes(CHUNK_BYTES)
_MAX_HEADER_BYTES = 256 << 20
_COMPRESSED = (b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd")


class _Place(Struct, frozen=True):
    """Where a member's content lies in the archive."""

    start: int
    size_bytes: int


class ArchiveSource:
    """One image of an archive file. `reference`: a tag, or a name as `docker save` writes it.

    Raises on opening: NotFound; InvalidArgument: not a tar, or damaged.
    """

    def __init__(self, path: str, reference: str = "", form: Form = "oci") -> None:
        self.name = f"{form}-archive:{path}" + (f":{reference}" if reference else "")
        self._reference = reference
        self._form = form
        self._file = _open_plain(path)
        try:
            self._members = TarMembers(self._file.fileno(), self.name)
        except BaseException:
            self._file.close()
            raise
        self._made: dict[str, bytes] = {}
        #: Digests of members that are not named by their digest.
        self._names: dict[str, str] = {}

    def root(self) -> tuple[Descriptor, bytes]:
        if self._form == "docker":
            return self._docker_root()
        data = self._members.documents.get("index.json")
        if data is None:
            raise InvalidArgument(
                f"{self.name} has no index.json",
                hint="it may be a Docker archive: name it docker-archive:PATH",
            )
        descriptor = select_entry(parse_index(data).manifests, self._reference, self.name)
        return descriptor, self.document(descriptor)

    def _docker_root(self) -> tuple[Descriptor, bytes]:
        listed = self._select(docker_list(self._members))
        config = self._members.member(listed.config)
        self._names[config.digest] = listed.config
        if (own := self._own_manifest(config.digest)) is not None:
            return own
        found = docker_image(self._members, listed)
        assert found.made is not None
        self._made[found.target.digest] = found.made
        for name in listed.layers:
            self._names[self._members.member(name).digest] = name
        return found.target, found.made

    def _select(self, listed: tuple[DockerImage, ...]) -> DockerImage:
        wanted = Reference.parse(self._reference).canonical if self._reference else ""
        found = [image for image in listed if not wanted or wanted in _canonical(image)]
        if not found:
            what = f"image {self._reference!r}" if wanted else "image"
            raise NotFound(f"{self.name} has no {what}")
        if len({image.config for image in found}) > 1:
            offered = ", ".join(tag for image in found for tag in image.repo_tags or ())
            raise Conflict(
                f"{self.name} has several images: {offered[:300] or 'without names'}",
                hint="say which behind a colon",
            )
        return found[0]

    def _own_manifest(self, config_digest: str) -> tuple[Descriptor, bytes] | None:
        """The manifest that Docker 25 and later put beside `manifest.json`, as it was made."""
        data = self._members.documents.get("index.json")
        for entry in parse_index(data).manifests if data else ():
            if entry.media_type in INDEX_TYPES or not self._members.has(blob_name(entry.digest)):
                continue
            document = self.document(entry)
            manifest = parse_manifest(document, entry.media_type)
            if isinstance(manifest, Manifest) and manifest.config.digest == config_digest:
                return structs.replace(entry, annotations=None), document
        return None

    def document(self, descriptor: Descriptor) -> bytes:
        made = self._made.get(descriptor.digest)
        if made is not None:
            return made
        with self.open(descriptor) as stream:
            return read_verified(stream, descriptor, self.name)

    def open(self, descriptor: Descriptor, offset: int = 0) -> FileStream:
        digest = check_digest(descriptor.digest)
        name = self._names.get(digest, blob_name(digest))
        if not self._members.has(name):
            raise NotFound(f"{self.name} has no blob {digest}")
        return self._members.open(name, offset)

    def close(self) -> None:
        self._file.close()


def _canonical(image: DockerImage) -> list[str]:
    return [Reference.parse(tag).canonical for tag in image.repo_tags or ()]


class TarMembers:
    """The members of an uncompressed tar by name, read once without what lies between headers.

    `fd` is borrowed. Raises: InvalidArgument: not a tar, damaged, or not an image archive.
    """

    def __init__(self, fd: int, where: str) -> None:
        self._fd = fd
        self._where = where
        self.documents: dict[str, bytes] = {}
        self._places: dict[str, _Place] = {}
        self._links: dict[str, str] = {}
        self._known: dict[str, Member] = {}
        headers = _Headers(fd)
        for count, entry in enumerate(TarReader(headers)):
            if count > MAX_MEMBERS:
                raise InvalidArgument(f"{where} has more than {MAX_MEMBERS} members")
            place = _Place(headers.at, entry.size_bytes)
            headers.skip(entry.size_bytes)
            name = member_name(entry)
            if name is None:
                continue
            if name in self._places:
                raise InvalidArgument(f"archive member {entry.shown} is there twice")
            if entry.type in (SYMLINK, HARD_LINK):
                self._links[name] = link_target(name, entry)
            elif entry.type == REGULAR and entry.sparse is None:
                self._places[name] = place
            elif entry.type != DIRECTORY:
                raise InvalidArgument(
                    f"archive member {entry.shown} has no place in an image archive"
                )
        for name in DOCUMENTS:
            if name in self._places:
                with self.open(name) as stream:
                    self.documents[name] = read_bounded(stream, MAX_MANIFEST_BYTES, name)

    def has(self, name: str) -> bool:
        return name in self._places or name in self._links

    def open(self, name: str, offset: int = 0) -> FileStream:
        """A member's content. Raises: InvalidArgument: there is none."""
        place = self._places[self._real(name)]
        return FileStream(os.dup(self._fd), place.start, place.size_bytes, offset)

    def member(self, name: str) -> Member:
        """A member's digest, from its name where that tells: readers verify. Else it is read."""
        name = self._real(name)
        if name not in self._known:
            with self.open(name) as stream:
                head = stream.read(4)
                digest = expected_digest(name)
                if digest is None:
                    digest = _rest_digest(head, stream)
            self._known[name] = Member(digest, self._places[name].size_bytes, head)
        return self._known[name]

    def read(self, name: str, maximum_bytes: int) -> bytes:
        with self.open(name) as stream:
            data = read_bounded(stream, maximum_bytes, name)
        member = self.member(name)
        check_content(Descriptor("", member.digest, member.size_bytes), data, self._where)
        return data

    def _real(self, name: str) -> str:
        return follow_links(name, self._links, self._places.__contains__)


def _rest_digest(head: bytes, stream: BlobStream) -> str:
    digest = hashlib.sha256(head)
    while data := stream.read(CHUNK_BYTES):
        digest.update(data)
    return f"sha256:{digest.hexdigest()}"


class _Headers:
    """The blocks of a tar for a reader that looks at headers only: data is said to be zeros."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._size = os.fstat(fd).st_size
        self.at = 0
        self._skipped = 0
        self._read_bytes = 0

    def skip(self, size_bytes: int) -> None:
        """The data of the member whose header was just read. Raises: InvalidArgument."""
        self._skipped = -(-size_bytes // BLOCK) * BLOCK
        self.at += self._skipped
        if self.at > self._size:
            raise InvalidArgument("the archive is cut short")

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._skipped:
            step = min(self._skipped, CHUNK_BYTES)
            self._skipped -= step
            return _ZEROS if step == CHUNK_BYTES else _ZEROS[:step]
        self._read_bytes += BLOCK
        if self._read_bytes > _MAX_HEADER_BYTES:
            raise InvalidArgument("the archive has more headers than content")
        # One block at a time: so what was read is what the reader has seen.
        data = os.pread(self._fd, BLOCK, self.at)
        if not data:
            raise StopIteration
        self.at += len(data)
        return data


def _open_plain(path: str) -> BinaryIO:
    """An archive as an uncompressed seekable file. Raises: NotFound, InvalidArgument, …"""
    try:
        file = open(path, "rb", buffering=0)  # noqa: SIM115 - handed over
    except OSError as error:
        raise from_os_error(error, "opening") from error
    try:
        if _is_plain(file.fileno()):
            return file
        spooled = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - handed over
        try:
            for chunk in plain_chunks(file.read):
                write_all(spooled.fileno(), chunk)
        except BaseException:
            spooled.close()
            raise
    except OSError as error:
        file.close()
        raise from_os_error(error, f"reading {path}") from error
    except BaseException:
        file.close()
        raise
    file.close()
    return spooled


def _is_plain(fd: int) -> bool:
    regular = stat.S_ISREG(os.fstat(fd).st_mode)
    return regular and not os.pread(fd, 4, 0).startswith(_COMPRESSED)


class ArchiveSink:
    """An archive file for one image; a file of that name is replaced when the image is whole.

    Blobs wait in unnamed files beside it, so that they stand in order of their digests.
    """

    def __init__(self, path: str, reference: str = "", form: Form = "oci") -> None:
        self.name = f"{form}-archive:{path}" + (f":{reference}" if reference else "")
        self._form = form
        self._reference = reference
        if form == "docker" and reference:
            self._reference = Reference.parse(reference).canonical
        self._path = path
        self._directory = open_directory(os.path.dirname(path) or ".")
        self._blobs: dict[str, BinaryIO] = {}
        self._lock = threading.Lock()

    def has(self, descriptor: Descriptor) -> bool:
        with self._lock:
            return descriptor.digest in self._blobs

    def put(self, descriptor: Descriptor, stream: BlobStream) -> None:
        file = self._unnamed()
        try:
            copy_verified(stream, descriptor, file.fileno())
        except BaseException:
            file.close()
            raise
        self._keep(descriptor, file)

    def put_document(self, descriptor: Descriptor, data: bytes) -> None:
        check_content(descriptor, data, self.name)
        file = self._unnamed()
        write_all(file.fileno(), data)
        self._keep(descriptor, file)

    def _unnamed(self) -> BinaryIO:
        where = os.path.dirname(self._path) or "."
        try:
            return tempfile.TemporaryFile(buffering=0, dir=where)
        except OSError as error:
            raise from_os_error(error, "writing a blob") from error

    def _keep(self, descriptor: Descriptor, file: BinaryIO) -> None:
        with self._lock:
            old = self._blobs.pop(descriptor.digest, None)
            self._blobs[descriptor.digest] = file
        if old is not None:
            old.close()

    def finish(self, root: Descriptor, data: bytes) -> None:
        self.put_document(root, data)
        entry = structs.replace(root, annotations=self._annotations())
        listed = [self._element(root, data)] if self._form == "docker" else []
        try:
            if os.path.exists(self._path) and not os.path.isfile(self._path):
                with open(self._path, "wb", buffering=0) as file:
                    self._write(file.fileno(), entry, listed)
                return
            with StagedFile(self._directory.fileno()) as staged:
                self._write(staged.fd, entry, listed)
                staged.publish(os.path.basename(self._path))
        except OSError as error:
            raise from_os_error(error, f"writing {self._path}") from error

    def _annotations(self) -> dict[str, str] | None:
        if not self._reference:
            return None
        if self._form == "oci":
            return {REF_NAME: self._reference}
        tag = self._reference.rpartition(":")[2]
        return {CONTAINERD_NAME: self._reference, REF_NAME: tag}

    def _element(self, root: Descriptor, data: bytes) -> DockerImage:
        document = parse_manifest(data, root.media_type)
        if isinstance(document, Index):
            raise InvalidArgument(
                f"{self.name} has room for one platform, and this is an index of several",
                hint="choose one platform, or write an oci-archive",
            )
        names = (self._reference,) if self._reference else ()
        return docker_element(document.config.digest, document.layers, names)

    def _write(self, fd: int, entry: Descriptor, listed: list[DockerImage]) -> None:
        writer = ArchiveWriter(lambda data: write_all(fd, data))
        with open(os.dup(fd), "wb", buffering=0) as target:
            for digest in sorted(self._blobs):
                source = self._blobs[digest]
                size = os.fstat(source.fileno()).st_size
                source.seek(0)
                header = writer.begin_blob(digest, size)
                shutil.copyfileobj(source, target, CHUNK_BYTES)
                writer.end_blob(header)
        writer.finish([entry], listed)

    def close(self) -> None:
        for file in self._blobs.values():
            file.close()
        self._blobs.clear()
        self._directory.close()
