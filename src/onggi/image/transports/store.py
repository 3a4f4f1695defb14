"""The local store as a source and as a sink.

Both hold a lease while they are open, so that no collection takes what they read or bring.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

from onggi.errors import Unsupported, from_os_error
from onggi.image.discard import ensure_blob, is_present
from onggi.image.reference import Reference
from onggi.image.transports.base import BlobStream
from onggi.image.transports.steady import CHUNK_BYTES
from onggi.image.transports.streams import FileStream
from onggi.specs.image import (
    CONFIG_TYPES,
    MAX_CONFIG_BYTES,
    MAX_MANIFEST_BYTES,
    Descriptor,
    Manifest,
    Platform,
    parse_manifest,
)

if TYPE_CHECKING:
    from onggi.image.images import ImageStore


class StoreSource:
    """What a name of the store points to. Raises on opening: as `ImageStore.resolve`."""

    def __init__(self, images: ImageStore, name: str) -> None:
        self.name = name
        self.platform: Platform = images.platform
        self._images = images
        self._held = ExitStack()
        self._held.enter_context(images.lease())
        try:
            self._root = images.resolve(name).target
        except BaseException:
            self._held.close()
            raise

    def root(self) -> tuple[Descriptor, bytes]:
        root = self._root
        data = self._images.content.read(root.digest, MAX_MANIFEST_BYTES, root.size)
        return root, data

    def document(self, descriptor: Descriptor) -> bytes:
        content = self._images.content
        return content.read(descriptor.digest, MAX_CONFIG_BYTES, descriptor.size)

    def open(self, descriptor: Descriptor, offset: int = 0) -> BlobStream:
        """One that was dropped (`discard`) is made again. Raises: NotFound, DataLoss."""
        ensure_blob(self._images, descriptor.digest)
        try:
            path = self._images.content.path(descriptor.digest)
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise from_os_error(error, "reading a blob") from error
        return FileStream(fd, 0, os.fstat(fd).st_size, offset)

    def close(self) -> None:
        self._held.close()


class StoreSink:
    """A place in the store under `name`; a name with a digest and no tag leaves it nameless.

    Raises on opening: InvalidArgument: no reference.
    """

    def __init__(self, images: ImageStore, name: str) -> None:
        self.name = name
        self._images = images
        reference = Reference.parse(name, images.defaults)
        self._names: tuple[str, ...] = (name,)
        if reference.digest is not None:
            bare = Reference(reference.registry, reference.repository, reference.tag)
            self._names = (bare.canonical,) if reference.tag else ()
        self._held = ExitStack()
        self._held.enter_context(images.lease())

    def has(self, descriptor: Descriptor) -> bool:
        return is_present(self._images.content, descriptor)

    def put(self, descriptor: Descriptor, stream: BlobStream) -> None:
        with self._images.content.ingest(descriptor.digest, descriptor.size) as ingest:
            while data := stream.read(CHUNK_BYTES):
                ingest.write(data)
            ingest.commit()

    def put_document(self, descriptor: Descriptor, data: bytes) -> None:
        self._images.content.put(data, descriptor.digest)

    def finish(self, root: Descriptor, data: bytes) -> None:
        """Raises: Unsupported: not an image; as `ImageStore.add`."""
        document = parse_manifest(data, root.media_type)
        if isinstance(document, Manifest) and document.config.media_type not in CONFIG_TYPES:
            kind = document.artifact_type or document.config.media_type
            raise Unsupported(
                f"{self.name}: an artifact ({kind[:120]}), and the store keeps images",
                hint="copy it to a registry, to oci: or to dir:",
            )
        self._images.content.put(data, root.digest)
        self._images.add(root, self._names)

    def close(self) -> None:
        self._held.close()
