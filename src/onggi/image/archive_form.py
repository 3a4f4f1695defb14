"""What is inside an image archive, for whoever streams one and whoever reads it at random.

Two forms, which one archive may have at once: an OCI layout (`index.json`), and Docker's
`manifest.json`. Names of members are only ever compared, never used as paths. Knows nothing of
where an archive comes from or where its content goes.

Source: image-spec image-layout.md; moby image/spec/v1.2 "Combined Image JSON + Filesystem
Changeset Format".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
from msgspec import Struct

from onggi.errors import InvalidArgument
from onggi.image.compression import Compression
from onggi.image.layers import MEDIA_TYPES
from onggi.image.reference import Reference
from onggi.image.store import LAYOUT
from onggi.image.tar_reader import DIRECTORY, HARD_LINK, REGULAR, Entry
from onggi.image.tar_writer import TarWriter, Write
from onggi.specs.image import (
    CONTAINERD_NAME,
    MAX_CONFIG_BYTES,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    REF_NAME,
    Descriptor,
    Index,
    Manifest,
    digest_of,
    encode_document,
    parse_image_config,
    parse_index,
)

MAX_MEMBERS = 100_000
DOCUMENTS = ("index.json", "oci-layout", "manifest.json")
#: Members for Docker 1.9 and older, which say nothing that manifest.json does not.
_LEGACY = ("/VERSION", "/json", "repositories")


class DockerImage(Struct, rename="pascal", frozen=True):
    """One element of a Docker archive's `manifest.json`."""

    config: str
    layers: tuple[str, ...]
    repo_tags: tuple[str, ...] | None = None


class Member(Struct, frozen=True):
    """A member's content: its digest, its size, its first bytes."""

    digest: str
    size_bytes: int
    head: bytes


class Members(Protocol):
    """An archive whose members can be asked for. `documents`: those of `DOCUMENTS` it has."""

    documents: dict[str, bytes]

    def member(self, name: str) -> Member:
        """A regular member, through links. Raises: InvalidArgument: there is none."""

    def read(self, name: str, maximum_bytes: int) -> bytes:
        """A member's content. Raises: InvalidArgument, ResourceExhausted, DataLoss."""


class FoundImage(Struct, frozen=True):
    """An image of an archive. `made`: the manifest's bytes, where the archive itself has none.

    `names`: full names; `tags`: everything that the archive calls it.
    """

    target: Descriptor
    names: tuple[str, ...]
    tags: tuple[str, ...] = ()
    made: bytes | None = None


# Reading.


def member_name(entry: Entry) -> str | None:
    """A member's name for comparisons; None for those that nobody needs."""
    name = entry.name.decode("utf-8", "replace").removeprefix("./")
    return None if name.endswith(_LEGACY) else name


def link_target(name: str, entry: Entry) -> str:
    """The name of the member that a link means."""
    target = entry.link.decode("utf-8", "replace")
    if entry.type == HARD_LINK:
        return target.removeprefix("./")
    return os.path.normpath(os.path.join(os.path.dirname(name), target))


def follow_links(name: str, links: dict[str, str], there: Callable[[str], bool]) -> str:
    """The member behind the links that old archives share layers with. Raises: InvalidArgument."""
    for _ in range(8):
        if there(name):
            return name
        if name not in links:
            break
        name = links[name]
    raise InvalidArgument(f"archive names {name[:200]!r}, which it does not hold")


def expected_digest(name: str) -> str | None:
    """What a member below blobs/sha256 says its digest is, unchecked."""
    prefix = "blobs/sha256/"
    return "sha256:" + name.removeprefix(prefix) if name.startswith(prefix) else None


def images_of(archive: Members) -> list[FoundImage]:
    """Every image of an archive, by its index if it has one.

    Raises:
        InvalidArgument: none, or the archive names what it does not hold.
        SpecError, DataLoss: a document is malformed or damaged.
    """
    if "index.json" in archive.documents and "oci-layout" in archive.documents:
        return oci_images(parse_index(archive.documents["index.json"]))
    if "manifest.json" in archive.documents:
        return [docker_image(archive, listed) for listed in docker_list(archive)]
    raise InvalidArgument(
        "the archive holds no image: neither index.json nor manifest.json",
        hint="bring a plain root filesystem in with `onggi import`",
    )


def oci_images(index: Index) -> list[FoundImage]:
    """The images that a layout's index names. Raises: InvalidArgument: it names none."""
    found: dict[str, tuple[Descriptor, list[str], list[str]]] = {}
    for entry in index.manifests:
        _, names, tags = found.setdefault(entry.digest, (entry, [], []))
        annotations = entry.annotations or {}
        told = [annotations.get(CONTAINERD_NAME), annotations.get(REF_NAME)]
        tags += [tag for tag in told if tag]
        # A bare tag, as the specification has it, is no name by itself.
        name = next((name for name in told if name), "")
        if ":" in name or "/" in name:
            names.append(name)
    if not found:
        raise InvalidArgument("the archive's index.json names no image")
    return [FoundImage(target, tuple(names), tuple(tags)) for target, names, tags in found.values()]


def docker_list(archive: Members) -> tuple[DockerImage, ...]:
    """The elements of `manifest.json`. Raises: InvalidArgument: there is none, or damaged."""
    data = archive.documents.get("manifest.json")
    if data is None:
        raise InvalidArgument(
            "the archive has no manifest.json",
            hint="it may be an OCI layout: name it oci-archive:PATH",
        )
    try:
        return msgspec.json.decode(data, type=tuple[DockerImage, ...])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgument(f"the archive's manifest.json is damaged: {error}") from None


def docker_image(archive: Members, listed: DockerImage) -> FoundImage:
    """An element of `manifest.json`, with a manifest made for it. Raises: as `images_of`."""
    blob = archive.member(listed.config)
    parse_image_config(archive.read(listed.config, MAX_CONFIG_BYTES))
    config = Descriptor(OCI_CONFIG, blob.digest, blob.size_bytes)
    layers = tuple(_layer(archive.member(name)) for name in listed.layers)
    made = encode_document(Manifest(2, config, layers, OCI_MANIFEST))
    target = Descriptor(OCI_MANIFEST, digest_of(made), len(made))
    names = listed.repo_tags or ()
    return FoundImage(target, names, names, made)


def _layer(member: Member) -> Descriptor:
    kind: Compression = "none"
    if member.head.startswith(b"\x1f\x8b"):
        kind = "gzip"
    elif member.head.startswith(b"\x28\xb5\x2f\xfd"):
        kind = "zstd"
    return Descriptor(MEDIA_TYPES[kind], member.digest, member.size_bytes)


# Writing.


class ArchiveWriter:
    """Hands an archive to `write`: blobs first, in order of their digests, then `finish`.

    The same content gives the same bytes.
    """

    def __init__(self, write: Write) -> None:
        self._tar = TarWriter(write)
        for name in ("blobs/", "blobs/sha256/"):
            self._tar.add(Entry(name.encode(), DIRECTORY, 0o755, 0, 0, 0, 0, b""))

    def begin_blob(self, digest: str, size_bytes: int) -> Entry:
        """Write a blob's header; its data and `end_blob` must follow."""
        entry = Entry(blob_name(digest).encode(), REGULAR, 0o644, 0, 0, size_bytes, 0, b"")
        self._tar.begin(entry)
        return entry

    def end_blob(self, entry: Entry) -> None:
        self._tar.end(entry)

    def add_blob(self, digest: str, size_bytes: int, read: Callable[[int], bytes]) -> None:
        """Write a blob from `read(size)`. Raises: Conflict: it is too short."""
        entry = Entry(blob_name(digest).encode(), REGULAR, 0o644, 0, 0, size_bytes, 0, b"")
        self._tar.add_stream(entry, read)

    def finish(self, entries: Sequence[Descriptor], docker: Sequence[DockerImage] = ()) -> None:
        """Write the documents and the end mark; with `docker`, for every Docker to read."""
        self._document("index.json", encode_document(Index(2, tuple(entries), OCI_INDEX)))
        if docker:
            self._document("manifest.json", msgspec.json.encode(docker))
        self._document("oci-layout", LAYOUT)
        self._tar.finish()

    def _document(self, name: str, data: bytes) -> None:
        self._tar.add(Entry(name.encode(), REGULAR, 0o644, 0, 0, len(data), 0, b""), data)


def blob_name(digest: str) -> str:
    """The member's name of a blob."""
    return "blobs/sha256/" + digest.removeprefix("sha256:")


def docker_element(
    config_digest: str, layers: Sequence[Descriptor], names: Sequence[str]
) -> DockerImage:
    """An image in the form of `manifest.json`; `names`: references."""
    tags = tuple(Reference.parse(name).familiar() for name in names)
    return DockerImage(
        blob_name(config_digest), tuple(blob_name(layer.digest) for layer in layers), tags or None
    )
