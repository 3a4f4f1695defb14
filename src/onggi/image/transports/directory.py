"""`dir:PATH`: one image as plain files: `manifest.json`, `version`, blobs by their hex digests.

As skopeo writes it: members of an index are `<hex>.manifest.json`. Names in a directory are only
made from digests; links lead nowhere outside.

Source: containers-transports(5) dir; containers/image directory/directory_transport.go.
"""

from __future__ import annotations

import os
import re

from onggi.errors import FailedPrecondition
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
from onggi.specs.image import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    MAX_MANIFEST_BYTES,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Index,
    check_digest,
    digest_of,
    parse_manifest,
)

VERSION = b"Directory Transport Version: 1.1\n"
_ROOT = "manifest.json"
_OURS = re.compile(r"[0-9a-f]{64}(\.manifest\.json)?|manifest\.json|version|signature-[0-9]+")


class DirectorySource:
    """The image in a directory."""

    def __init__(self, path: str) -> None:
        self.name = f"dir:{path}"
        self._directory = open_directory(path)

    def root(self) -> tuple[Descriptor, bytes]:
        what = f"{_ROOT} of {self.name}"
        with open_blob(self._directory.fileno(), _ROOT, what=what) as stream:
            data = read_bounded(stream, MAX_MANIFEST_BYTES, what)
        document = parse_manifest(data)
        kind = OCI_INDEX if isinstance(document, Index) else OCI_MANIFEST
        return Descriptor(document.media_type or kind, digest_of(data), len(data)), data

    def document(self, descriptor: Descriptor) -> bytes:
        with self.open(descriptor) as stream:
            return read_verified(stream, descriptor, self.name)

    def open(self, descriptor: Descriptor, offset: int = 0) -> FileStream:
        what = f"blob {descriptor.digest} of {self.name}"
        path = _file_name(descriptor)
        return open_blob(self._directory.fileno(), path, offset, what=what)

    def close(self) -> None:
        self._directory.close()


class DirectorySink:
    """A directory for one image, made if missing; an image that is in it is replaced.

    Raises on opening: FailedPrecondition: a directory with other things in it.
    """

    def __init__(self, path: str) -> None:
        self.name = f"dir:{path}"
        self._directory = open_directory(path, make=True)
        self._kept = {_ROOT, "version"}
        try:
            sweep_staged(self._directory.fileno())
            _check_contents(self._directory.fileno(), path)
        except BaseException:
            self._directory.close()
            raise

    def has(self, descriptor: Descriptor) -> bool:
        name = _file_name(descriptor)
        there = holds(self._directory.fileno(), name, descriptor)
        if there:
            self._kept.add(name)
        return there

    def put(self, descriptor: Descriptor, stream: BlobStream) -> None:
        name = _file_name(descriptor)
        with StagedFile(self._directory.fileno()) as staged:
            copy_verified(stream, descriptor, staged.fd)
            staged.publish(name)
        self._kept.add(name)

    def put_document(self, descriptor: Descriptor, data: bytes) -> None:
        check_content(descriptor, data, self.name)
        publish_bytes(self._directory.fileno(), _file_name(descriptor), data)
        self._kept.add(_file_name(descriptor))

    def finish(self, root: Descriptor, data: bytes) -> None:
        check_content(root, data, self.name)
        directory = self._directory.fileno()
        publish_bytes(directory, "version", VERSION)
        publish_bytes(directory, _ROOT, data)
        # What only the former image had.
        for name in set(os.listdir(directory)) - self._kept:
            if _OURS.fullmatch(name):
                os.unlink(name, dir_fd=directory)

    def close(self) -> None:
        self._directory.close()


def _file_name(descriptor: Descriptor) -> str:
    name = check_digest(descriptor.digest).removeprefix("sha256:")
    is_manifest = descriptor.media_type in MANIFEST_TYPES | INDEX_TYPES
    return f"{name}.manifest.json" if is_manifest else name


def _check_contents(directory_fd: int, path: str) -> None:
    """Refuse to mix an image's files with a person's own."""
    names = os.listdir(directory_fd)
    if all(_OURS.fullmatch(name) for name in names) and (not names or "version" in names):
        return
    if all(_OURS.fullmatch(name) and name != _ROOT for name in names):
        return  # a copy that was interrupted before its end
    raise FailedPrecondition(
        f"{path} has other files than an image's", hint="name a new or an empty directory"
    )
