"""Images to and from one stream: image archives, and plain root filesystems.

What is loaded is hostile: members are only ever read as blobs or bounded documents, never unpacked
by name. `save` writes one archive that is both, as Docker 25 and later do.

Source: docker-load(1), docker-save(1), docker-import(1), docker-export(1).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from msgspec import Struct, structs

from onggi.errors import InvalidArgument, from_os_error
from onggi.image.archive_form import (
    DOCUMENTS,
    MAX_MEMBERS,
    ArchiveWriter,
    Member,
    docker_element,
    expected_digest,
    follow_links,
    images_of,
    link_target,
    member_name,
)
from onggi.image.compare import write_tree
from onggi.image.compression import Compression, Read, plain_chunks
from onggi.image.discard import ensure_blob
from onggi.image.durable import write_all
from onggi.image.images import Image, ImageStore
from onggi.image.layers import StoredLayer, store_tar
from onggi.image.merged import MergedView
from onggi.image.store import Blob, ContentStore
from onggi.image.tar_reader import DIRECTORY, HARD_LINK, REGULAR, SYMLINK, TarReader
from onggi.specs.image import (
    CONTAINERD_NAME,
    MAX_MANIFEST_BYTES,
    OCI_CONFIG,
    OCI_MANIFEST,
    REF_NAME,
    ContainerConfig,
    Descriptor,
    History,
    ImageConfig,
    Manifest,
    RootFs,
    encode_document,
)


def load(images: ImageStore, fd: int) -> tuple[Image, ...]:
    """Bring in every image of the archive open at `fd` (borrowed; a pipe will do).

    Plain, gzip or zstd. Nothing is registered unless the whole archive is good. The images that are
    answered have the names that the archive gives them, though they may have others here.

    Raises:
        InvalidArgument: not an image archive, damaged, or it names what it does not hold.
        DataLoss: content is not what its digest says. ResourceExhausted: too large, disk full.
    """
    with images.lease():
        archive = _StreamedArchive(images.content, plain_chunks(_reader(fd)))
        found = images_of(archive)
        for image in found:
            if image.made is not None:
                images.content.put(image.made, image.target.digest)
        named = [images.examine(image.target, image.names).names for image in found]
        added = [images.add(image.target, image.names) for image in found]
        return tuple(
            structs.replace(image, names=names) for image, names in zip(added, named, strict=True)
        )


def _reader(fd: int) -> Read:
    def read(size: int) -> bytes:
        try:
            return os.read(fd, size)
        except OSError as error:
            raise from_os_error(error, "reading the archive") from error

    return read


class _StreamedArchive:
    """An archive after one pass: small documents, and where each member's content went."""

    def __init__(self, store: ContentStore, chunks: Iterator[bytes]) -> None:
        self._store = store
        self.documents: dict[str, bytes] = {}
        self._blobs: dict[str, Blob] = {}
        self._links: dict[str, str] = {}
        reader = TarReader(chunks)
        for count, entry in enumerate(reader):
            if count > MAX_MEMBERS:
                raise InvalidArgument(f"archive has more than {MAX_MEMBERS} members")
            name = member_name(entry)
            if name is None:
                continue
            if name in self.documents or name in self._blobs:
                raise InvalidArgument(f"archive member {entry.shown} is there twice")
            if entry.type in (SYMLINK, HARD_LINK):
                self._links[name] = link_target(name, entry)
            elif entry.type == REGULAR and name in DOCUMENTS:
                self.documents[name] = reader.read_data(MAX_MANIFEST_BYTES)
            elif entry.type == REGULAR:
                self._blobs[name] = self._ingest(reader, name)
            elif entry.type != DIRECTORY:
                raise InvalidArgument(
                    f"archive member {entry.shown} has no place in an image archive"
                )

    def _ingest(self, reader: TarReader, name: str) -> Blob:
        """Store a member's content; under blobs/sha256 it must be what its name says."""
        with self._store.ingest(expected_digest(name)) as ingest:
            reader.copy_data(lambda view: ingest.write(bytes(view)))
            return ingest.commit()

    def _blob(self, name: str) -> Blob:
        return self._blobs[follow_links(name, self._links, self._blobs.__contains__)]

    def member(self, name: str) -> Member:
        blob = self._blob(name)
        with self._store.open(blob.digest) as reader:
            return Member(blob.digest, blob.size_bytes, reader.read(4))

    def read(self, name: str, maximum_bytes: int) -> bytes:
        return self._store.read(self._blob(name).digest, maximum_bytes)


def put_document(store: ContentStore, document: Struct, media_type: str) -> Descriptor:
    """Store a document; answers its descriptor. Raises: ResourceExhausted."""
    blob = store.put(encode_document(document))
    return Descriptor(media_type, blob.digest, blob.size_bytes)


def import_rootfs(
    images: ImageStore,
    read: Read,
    name: str | None = None,
    *,
    config: ContainerConfig | None = None,
    created: str | None = None,
    comment: str = "imported",
    compression: Compression = "gzip",
) -> Image:
    """Make an image of one layer from a root filesystem's tar, which `read(size)` gives.

    The same tar and arguments give the same image. The tar is read as a layer when the image is
    unpacked; here only its compression is.

    Raises:
        InvalidArgument, ResourceExhausted: the stream is damaged or too large; nothing stays.
    """
    with images.lease():
        layer = store_tar(images.content, plain_chunks(read), compression)
        return add_single_layer(
            images, layer, name, config=config, created=created, comment=comment
        )


def add_single_layer(
    images: ImageStore,
    layer: StoredLayer,
    name: str | None,
    *,
    config: ContainerConfig | None = None,
    created: str | None = None,
    comment: str = "",
) -> Image:
    """Register an image of this one layer for this host's platform. Hold a lease."""
    document = ImageConfig(
        architecture=images.platform.architecture,
        os=images.platform.os,
        rootfs=RootFs(diff_ids=(layer.diff_id,)),
        config=config or ContainerConfig(),
        created=created,
        variant=images.platform.variant,
        history=(History(created=created, comment=comment),),
    )
    described = put_document(images.content, document, OCI_CONFIG)
    manifest = Manifest(2, described, (layer.descriptor,), OCI_MANIFEST)
    target = put_document(images.content, manifest, OCI_MANIFEST)
    return images.add(target, (name,) if name else ())


def export(layers: Sequence[str], write: Callable[[bytes], object]) -> None:
    """Write the merged view of layers (topmost first; an upper's `fs` may lead) as a plain tar.

    Raises: as `write_layer`.
    """
    with MergedView(layers) as view:
        write_tree(view.walk(), write, whiteouts=False)


def save(
    images: ImageStore,
    selected: Sequence[Image],
    fd: int,
    format: Literal["docker", "oci"] = "docker",
) -> None:
    """Write images as one archive to `fd` (borrowed); shared layers once, always the same bytes.

    `docker` adds the `manifest.json` that every Docker reads; without it, it is an OCI layout.

    Raises:
        DataLoss, NotFound: content is damaged or missing; the archive is a part.
    """
    with images.lease():
        writer = ArchiveWriter(lambda data: write_all(fd, data))
        for digest in _needed(selected):
            ensure_blob(images, digest)
            with images.content.open(digest) as blob:
                writer.add_blob(digest, blob.size_bytes, blob.read)
                blob.verify()
        listed = [docker_element(image.id, image.layers, image.names) for image in selected]
        writer.finish(_entries(selected), listed if format == "docker" else ())


def _needed(selected: Sequence[Image]) -> list[str]:
    digests: set[str] = set()
    for image in selected:
        digests.update((image.manifest_digest, image.id, *(layer.digest for layer in image.layers)))
    return sorted(digests)


def _entries(selected: Sequence[Image]) -> list[Descriptor]:
    entries = []
    for image in selected:
        target = structs.replace(image.manifest, platform=image.platform)
        for name in image.names or ("",):
            tag = name.rpartition(":")[2]
            annotations = {CONTAINERD_NAME: name, REF_NAME: tag} if name else None
            entries.append(structs.replace(target, annotations=annotations))
    return entries
