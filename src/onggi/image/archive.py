"""Images to and from one tar: Docker's archives, OCI layouts, and plain root filesystems.

What is loaded is hostile: members are only ever read as blobs or bounded documents, never unpacked
by name. `save` writes one archive that is both, as Docker 25 and later do.

Source: image-spec image-layout.md; moby image/spec/v1.2 "Combined Image JSON + Filesystem
Changeset Format".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import msgspec
from msgspec import Struct, structs

from onggi.errors import InvalidArgument, from_os_error
from onggi.image.compare import write_tree
from onggi.image.compression import Compression, Read, plain_chunks
from onggi.image.durable import write_all
from onggi.image.images import Image, ImageStore
from onggi.image.layers import MEDIA_TYPES, StoredLayer, store_tar
from onggi.image.merged import MergedView
from onggi.image.reference import Reference
from onggi.image.store import LAYOUT, Blob, ContentStore
from onggi.image.tar_reader import DIRECTORY, HARD_LINK, REGULAR, SYMLINK, Entry, TarReader
from onggi.image.tar_writer import TarWriter
from onggi.specs.image import (
    CONTAINERD_NAME,
    MAX_CONFIG_BYTES,
    MAX_MANIFEST_BYTES,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    REF_NAME,
    ContainerConfig,
    Descriptor,
    History,
    ImageConfig,
    Index,
    Manifest,
    RootFs,
    encode_document,
    parse_image_config,
    parse_index,
)

MAX_MEMBERS = 100_000
#: Members for Docker 1.9 and older, which say nothing that manifest.json does not.
_LEGACY = ("/VERSION", "/json", "repositories")


class _DockerImage(Struct, rename="pascal", frozen=True):
    """One element of a Docker archive's `manifest.json`."""

    config: str
    layers: tuple[str, ...]
    repo_tags: tuple[str, ...] | None = None


class _Contents(Struct):
    """An archive after one pass: small documents, and where each member's content went."""

    documents: dict[str, bytes] = {}
    blobs: dict[str, Blob] = {}
    links: dict[str, str] = {}

    def blob(self, name: str) -> Blob:
        """The content of a member, through the links that old archives share layers with."""
        for _ in range(8):
            if name in self.blobs:
                return self.blobs[name]
            if name not in self.links:
                break
            name = self.links[name]
        raise InvalidArgument(f"archive names {name[:200]!r}, which it does not hold")


def load(images: ImageStore, fd: int) -> tuple[Image, ...]:
    """Bring in every image of the archive open at `fd` (borrowed; a pipe will do).

    Plain, gzip or zstd. Nothing is registered unless the whole archive is good.

    Raises:
        InvalidArgument: not an image archive, damaged, or it names what it does not hold.
        DataLoss: content is not what its digest says. ResourceExhausted: too large, disk full.
    """
    with images.lease():
        contents = _read_members(images.content, plain_chunks(_reader(fd)))
        if "index.json" in contents.documents and "oci-layout" in contents.documents:
            found = _oci_images(contents)
        elif "manifest.json" in contents.documents:
            found = _docker_images(images.content, contents)
        else:
            raise InvalidArgument(
                "the archive holds no image: neither index.json nor manifest.json",
                hint="bring a plain root filesystem in with `onggi import`",
            )
        for target, names in found:
            images.examine(target, names)
        return tuple(images.add(target, names) for target, names in found)


def _reader(fd: int) -> Read:
    def read(size: int) -> bytes:
        try:
            return os.read(fd, size)
        except OSError as error:
            raise from_os_error(error, "reading the archive") from error

    return read


def _read_members(store: ContentStore, chunks: Iterator[bytes]) -> _Contents:
    contents = _Contents({}, {}, {})
    reader = TarReader(chunks)
    for count, entry in enumerate(reader):
        if count > MAX_MEMBERS:
            raise InvalidArgument(f"archive has more than {MAX_MEMBERS} members")
        name = entry.name.decode("utf-8", "replace").removeprefix("./")
        if name.endswith(_LEGACY):
            continue
        if name in contents.documents or name in contents.blobs:
            raise InvalidArgument(f"archive member {entry.shown} is there twice")
        if entry.type in (SYMLINK, HARD_LINK):
            contents.links[name] = _link_target(name, entry)
        elif entry.type == REGULAR and name in ("index.json", "oci-layout", "manifest.json"):
            contents.documents[name] = reader.read_data(MAX_MANIFEST_BYTES)
        elif entry.type == REGULAR:
            contents.blobs[name] = _ingest(store, reader, name)
        elif entry.type != DIRECTORY:
            raise InvalidArgument(f"archive member {entry.shown} has no place in an image archive")
    return contents


def _link_target(name: str, entry: Entry) -> str:
    target = entry.link.decode("utf-8", "replace")
    if entry.type == HARD_LINK:
        return target.removeprefix("./")
    return os.path.normpath(os.path.join(os.path.dirname(name), target))


def _ingest(store: ContentStore, reader: TarReader, name: str) -> Blob:
    """Store a member's content; under blobs/sha256 it must be what its name says."""
    expected = None
    if name.startswith("blobs/sha256/"):
        expected = "sha256:" + name.removeprefix("blobs/sha256/")
    with store.ingest(expected) as ingest:
        reader.copy_data(lambda view: ingest.write(bytes(view)))
        return ingest.commit()


def _oci_images(contents: _Contents) -> list[tuple[Descriptor, tuple[str, ...]]]:
    index = parse_index(contents.documents["index.json"])
    found: dict[str, tuple[Descriptor, list[str]]] = {}
    for entry in index.manifests:
        names = found.setdefault(entry.digest, (entry, []))[1]
        annotations = entry.annotations or {}
        # A bare tag, as the specification has it, is no name by itself.
        name = annotations.get(CONTAINERD_NAME) or annotations.get(REF_NAME, "")
        if ":" in name or "/" in name:
            names.append(name)
    if not found:
        raise InvalidArgument("the archive's index.json names no image")
    return [(target, tuple(names)) for target, names in found.values()]


def _docker_images(
    store: ContentStore, contents: _Contents
) -> list[tuple[Descriptor, tuple[str, ...]]]:
    try:
        listed = msgspec.json.decode(
            contents.documents["manifest.json"], type=tuple[_DockerImage, ...]
        )
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"the archive's manifest.json is damaged: {error}") from None
    found = []
    for image in listed:
        blob = contents.blob(image.config)
        config = Descriptor(OCI_CONFIG, blob.digest, blob.size_bytes)
        parse_image_config(store.read(blob.digest, MAX_CONFIG_BYTES))
        layers = tuple(_docker_layer(store, contents.blob(name)) for name in image.layers)
        manifest = Manifest(2, config, layers, OCI_MANIFEST)
        found.append((put_document(store, manifest, OCI_MANIFEST), image.repo_tags or ()))
    return found


def _docker_layer(store: ContentStore, blob: Blob) -> Descriptor:
    with store.open(blob.digest) as reader:
        head = reader.read(4)
    kind: Compression = "none"
    if head.startswith(b"\x1f\x8b"):
        kind = "gzip"
    elif head == b"\x28\xb5\x2f\xfd":
        kind = "zstd"
    return Descriptor(MEDIA_TYPES[kind], blob.digest, blob.size_bytes)


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
        writer = TarWriter(lambda data: write_all(fd, data))
        for name in ("blobs/", "blobs/sha256/"):
            writer.add(Entry(name.encode(), DIRECTORY, 0o755, 0, 0, 0, 0, b""))
        for digest in _needed(images.content, selected):
            _add_blob(writer, images.content, digest)
        _add_document(writer, "index.json", encode_document(_index(selected)))
        if format == "docker":
            listed = [_docker_image(image) for image in selected]
            _add_document(writer, "manifest.json", msgspec.json.encode(listed))
        _add_document(writer, "oci-layout", LAYOUT)
        writer.finish()


def _needed(store: ContentStore, selected: Sequence[Image]) -> list[str]:
    digests: set[str] = set()
    for image in selected:
        digests.update((image.manifest_digest, image.id, *(layer.digest for layer in image.layers)))
    return sorted(digests)


def _index(selected: Sequence[Image]) -> Index:
    entries = []
    for image in selected:
        target = structs.replace(image.manifest, platform=image.platform)
        for name in image.names or ("",):
            tag = name.rpartition(":")[2]
            annotations = {CONTAINERD_NAME: name, REF_NAME: tag} if name else None
            entries.append(structs.replace(target, annotations=annotations))
    return Index(2, tuple(entries), OCI_INDEX)


def _docker_image(image: Image) -> _DockerImage:
    tags = tuple(Reference.parse(name).familiar() for name in image.names)
    return _DockerImage(
        config=_blob_name(image.id),
        layers=tuple(_blob_name(layer.digest) for layer in image.layers),
        repo_tags=tags or None,
    )


def _blob_name(digest: str) -> str:
    return "blobs/sha256/" + digest.removeprefix("sha256:")


def _add_blob(writer: TarWriter, store: ContentStore, digest: str) -> None:
    with store.open(digest) as blob:
        entry = Entry(_blob_name(digest).encode(), REGULAR, 0o644, 0, 0, blob.size_bytes, 0, b"")
        writer.add_stream(entry, blob.read)
        blob.verify()


def _add_document(writer: TarWriter, name: str, data: bytes) -> None:
    writer.add(Entry(name.encode(), REGULAR, 0o644, 0, 0, len(data), 0, b""), data)
