"""Dropping compressed layers that can be made again, and making them again.

A layer of the form `erofs` keeps its plain tar; where a recipe makes the blob from it bit by bit,
the blob is a second copy. `discarded/<hex>` beside the blobs then holds the recipe. Such a blob
counts as present: whoever reads it asks `ensure_blob` first. What is made again is verified like
any blob.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, BinaryIO

import msgspec
from msgspec import Struct

from onggi.errors import DataLoss, NotFound
from onggi.image.durable import locked, replace_file, sealed, unsealed
from onggi.image.layer_record import TAR
from onggi.image.recipes import Recipe, chunks_of, find_recipe
from onggi.image.store import ContentStore
from onggi.specs.image import Descriptor, check_digest

if TYPE_CHECKING:
    from onggi.image.compression import Read
    from onggi.image.images import Image, ImageStore

_MAX_RECORD_BYTES = 1 << 20
_NOT_SYNCED = "its layer could not be written to the disk yet"
_NO_TAR = "its layer is not unpacked in the form that keeps the tar"
_NO_RECIPE = "compressed by a program whose output cannot be made again here"


class Discarded(Struct, frozen=True):
    """How a blob of `size_bytes` is made again, and the layer (chain id) that has its tar."""

    chain_id: str
    size_bytes: int
    recipe: Recipe


def discard(images: ImageStore, image: Image) -> tuple[tuple[str, str], ...]:
    """Drop the image's compressed layers; each digest with "", or with why it stays.

    Crash-safe: a blob goes when its recipe is durable, and was compared with it to the last byte.

    Raises:
        DataLoss: a blob or a tar is damaged; it stays.
        ResourceExhausted: the disk is full.
    """
    outcome = []
    with images.lease(), _alone(images.content):
        for layer, chain_id in zip(image.layers, image.chain_ids, strict=True):
            outcome.append((layer.digest, _discard(images, layer, chain_id)))
    return tuple(outcome)


def _discard(images: ImageStore, layer: Descriptor, chain_id: str) -> str:
    content = images.content
    if content.size_bytes(layer.digest) is None:
        return "" if is_discarded(content, layer.digest) else "it is not in the store"
    recipe = _find(images, layer, chain_id)
    if isinstance(recipe, str):
        return recipe
    # Until it is durable, the blob is what a crash of the machine would leave.
    images.snapshots.settle()
    if images.snapshots.exists(chain_id) and images.snapshots.record(chain_id).boot:
        return _NOT_SYNCED
    record = Discarded(chain_id, layer.size, recipe)
    directory = directory_of(content)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    path = os.path.join(directory, layer.digest.removeprefix("sha256:"))
    replace_file(path, sealed(msgspec.json.encode(record)), content.staging)
    content.delete(layer.digest)
    return ""


def _open_tar(images: ImageStore, chain_id: str) -> BinaryIO:
    """The tar that a layer keeps, whatever its record says: what is made of it is verified.

    Raises: NotFound.
    """
    name = check_digest(chain_id).removeprefix("sha256:")
    try:
        return open(os.path.join(images.snapshots.root, "layers", name, TAR), "rb")
    except FileNotFoundError:
        raise NotFound(f"layer {chain_id} is not here with its tar") from None


def _find(images: ImageStore, layer: Descriptor, chain_id: str) -> Recipe | str:
    with ExitStack() as stack:

        def open_plain() -> Read:
            return stack.enter_context(_open_tar(images, chain_id)).read

        def open_blob() -> Read:
            return stack.enter_context(images.content.open(layer.digest, layer.size)).read

        try:
            open_plain()
        except NotFound:
            return _NO_TAR
        return find_recipe(open_plain, open_blob) or _NO_RECIPE


def is_discarded(content: ContentStore, digest: str) -> bool:
    """Whether a blob was dropped and can be made again."""
    return content.size_bytes(digest) is None and read_discarded(content, digest) is not None


def is_present(content: ContentStore, descriptor: Descriptor) -> bool:
    """Whether a blob of the descriptor's size is there, or can be made again."""
    size_bytes = content.size_bytes(descriptor.digest)
    if size_bytes is None:
        record = read_discarded(content, descriptor.digest)
        size_bytes = None if record is None else record.size_bytes
    return size_bytes == descriptor.size


def ensure_blob(images: ImageStore, digest: str) -> None:
    """Make a blob again if it was dropped; do nothing if it is there. Hold a lease.

    Raises: NotFound: it is neither. DataLoss, ResourceExhausted: as `rebuild`.
    """
    if images.content.size_bytes(digest) is None:
        rebuild(images, digest)


def rebuild(images: ImageStore, digest: str) -> None:
    """Make a dropped blob again, verified and durable. Hold a lease.

    Raises:
        NotFound: it was not dropped, or the layer that has its tar is gone.
        DataLoss: the tar is damaged, or this host's compressor writes another stream by now.
        ResourceExhausted: the disk is full.
    """
    content = images.content
    with _alone(content):
        if content.size_bytes(digest) is not None:
            return
        record = read_discarded(content, digest)
        if record is None:
            raise NotFound(f"blob {digest} is not in the content store")
        try:
            make_blob(images, record.recipe, record.chain_id, digest, record.size_bytes)
        except DataLoss as error:
            raise DataLoss(
                f"blob {digest} was dropped and cannot be made again: {error.message}",
                hint="pull or load the image again",
            ) from None
        forget_discarded(content, digest)


def make_blob(
    images: ImageStore, recipe: Recipe, chain_id: str, digest: str, size_bytes: int
) -> None:
    """Store what a recipe makes of a layer's tar, if it is the blob.

    Raises:
        NotFound: the layer is not here, or has no tar. DataLoss: something else came out.
        ResourceExhausted: the disk is full.
    """
    with _open_tar(images, chain_id) as tar:
        images.content.put_stream(recipe.make(chunks_of(tar.read)), digest, size_bytes)


def read_discarded(content: ContentStore, digest: str) -> Discarded | None:
    """The record of a dropped blob, None if there is none that can be believed."""
    path = os.path.join(directory_of(content), check_digest(digest).removeprefix("sha256:"))
    try:
        with open(path, "rb") as file:
            data = unsealed(file.read(_MAX_RECORD_BYTES))
    except OSError:
        return None
    return None if data is None else msgspec.json.decode(data, type=Discarded)


def forget_discarded(content: ContentStore, digest: str) -> None:
    """Delete the record of a blob that is back, or that nothing needs."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(directory_of(content), digest.removeprefix("sha256:")))


def discarded_digests(content: ContentStore) -> list[str]:
    """The blobs that have a record, sorted; it may be damaged."""
    try:
        names = os.listdir(directory_of(content))
    except FileNotFoundError:
        return []
    return sorted(f"sha256:{name}" for name in names if len(name) == 64)


def layers_of_discarded(content: ContentStore, digests: Collection[str]) -> set[str]:
    """The layers (chain ids) without which some of these blobs could not be made again."""
    found = set()
    for digest in set(discarded_digests(content)).intersection(digests):
        if content.size_bytes(digest) is None and (record := read_discarded(content, digest)):
            found.add(record.chain_id)
    return found


def directory_of(content: ContentStore) -> str:
    """Where the records are, or would be."""
    return os.path.join(content.root, "discarded")


@contextlib.contextmanager
def _alone(content: ContentStore) -> Iterator[None]:
    """One at a time: who makes a blob again must not meet who drops it."""
    with locked(os.path.join(content.root, "discard.lock")):
        yield
