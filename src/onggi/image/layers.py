"""Layers on their way into the content store: hashed plain, compressed, ingested in one pass.

Knows nothing of images.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable

from msgspec import Struct

from onggi.image.compare import write_layer
from onggi.image.compression import Compression, Compressor
from onggi.image.store import ContentStore
from onggi.specs.image import OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, Descriptor

MEDIA_TYPES: dict[Compression, str] = {
    "gzip": OCI_LAYER_GZIP,
    "zstd": OCI_LAYER_ZSTD,
    "none": OCI_LAYER,
}


class StoredLayer(Struct, frozen=True):
    """A layer's blob, the digest of its plain tar, and that tar's size."""

    descriptor: Descriptor
    diff_id: str
    size_bytes: int


class LayerWriter:
    """Takes a plain tar piece by piece; `commit` stores it. A context manager."""

    def __init__(self, store: ContentStore, compression: Compression = "gzip") -> None:
        self._ingest = store.ingest()
        self._compressor = Compressor(compression)
        self._media_type = MEDIA_TYPES[compression]
        self._hash = hashlib.sha256()
        self._size_bytes = 0

    def write(self, data: bytes) -> None:
        """Append to the tar. Raises: ResourceExhausted when the disk is full."""
        self._hash.update(data)
        self._size_bytes += len(data)
        if out := self._compressor.compress(data):
            self._ingest.write(out)

    def commit(self) -> StoredLayer:
        """Store the layer durably. Raises: ResourceExhausted."""
        self._ingest.write(self._compressor.finish())
        blob = self._ingest.commit()
        descriptor = Descriptor(self._media_type, blob.digest, blob.size_bytes)
        return StoredLayer(descriptor, "sha256:" + self._hash.hexdigest(), self._size_bytes)

    def __enter__(self) -> LayerWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._ingest.close()


def store_tar(
    store: ContentStore, chunks: Iterable[bytes], compression: Compression = "gzip"
) -> StoredLayer:
    """Store a plain tar as a layer. Raises: ResourceExhausted, and what `chunks` raises."""
    with LayerWriter(store, compression) as layer:
        for chunk in chunks:
            layer.write(chunk)
        return layer.commit()


def store_directory(
    store: ContentStore, path: str, compression: Compression = "gzip"
) -> StoredLayer:
    """Store an upper's `fs` as a layer (commit). Raises: as `write_layer`; ResourceExhausted."""
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with LayerWriter(store, compression) as layer:
            write_layer(fd, layer.write)
            return layer.commit()
    finally:
        os.close(fd)
