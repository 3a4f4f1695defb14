"""Which images share which layers, and what an image costs alone and together with others.

Source: image-spec config.md#layer-chainid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from msgspec import Struct

from onggi.errors import NotFound
from onggi.image.images import Image, ImageStore


class LayerNode(Struct, frozen=True):
    """A layer of the tree, `depth` layers above the ground, and the images that end with it.

    `parent`: the chain id of the layer below. `size_bytes`: compressed, as stored; `disk_bytes`:
    unpacked, 0 where it is not. `created_by`: what an image's history says of it.
    """

    chain_id: str
    parent: str | None
    depth: int
    diff_id: str
    size_bytes: int
    disk_bytes: int
    created_by: str
    images: tuple[str, ...]


class Sizes(Struct, frozen=True):
    """What an image takes: alone, and in common with others of the same store.

    The first two count blobs (layers as stored, the configuration), the others unpacked layers.
    """

    unique_bytes: int
    shared_bytes: int
    unique_disk_bytes: int
    shared_disk_bytes: int


class _Growing(Struct):
    parent: str | None
    diff_id: str
    size_bytes: int
    created_by: str
    images: list[str]
    children: list[str]


def image_tree(images: ImageStore) -> tuple[LayerNode, ...]:
    """All layers of all images, each before what stands on it: what is below several is shared."""
    grown: dict[str, _Growing] = {}
    ground: list[str] = []
    for image in images.list():
        parent: str | None = None
        for chain_id, diff_id, layer, step in zip(
            image.chain_ids, image.config.diff_ids, image.layers, _steps(image), strict=True
        ):
            if chain_id not in grown:
                grown[chain_id] = _Growing(parent, diff_id, layer.size, step, [], [])
                (grown[parent].children if parent else ground).append(chain_id)
            parent = chain_id
        if parent is not None:
            grown[parent].images += image.names or (image.short_name,)
    return tuple(_nodes(images, grown, ground))


def _nodes(
    images: ImageStore, grown: dict[str, _Growing], ground: list[str]
) -> Iterator[LayerNode]:
    """Depth first, without recursion: an image may have hundreds of layers."""
    pending = [(chain_id, 0) for chain_id in reversed(ground)]
    while pending:
        chain_id, depth = pending.pop()
        layer = grown[chain_id]
        yield LayerNode(
            chain_id,
            layer.parent,
            depth,
            layer.diff_id,
            layer.size_bytes,
            layer_disk_bytes(images, chain_id),
            layer.created_by,
            tuple(sorted(layer.images)),
        )
        pending += [(child, depth + 1) for child in reversed(layer.children)]


def _steps(image: Image) -> list[str]:
    """What made each layer, as far as the history tells."""
    history = [step for step in image.config.history or () if not step.empty_layer]
    if len(history) != len(image.layers):
        return [""] * len(image.layers)
    return [step.created_by or step.comment or "" for step in history]


def layer_disk_bytes(images: ImageStore, chain_id: str) -> int:
    """What an unpacked layer takes on disk, its record included; 0: it is not unpacked."""
    try:
        return images.snapshots.layer_usage(chain_id).size_bytes
    except NotFound:
        return 0


def sizes(images: ImageStore, image: Image) -> Sizes:
    """What would go with the image, and what would stay for others. Each blob counts once."""
    others = [other for other in images.list() if other.manifest_digest != image.manifest_digest]
    blobs = {blob for other in others for blob in _blobs(other)}
    chains = {chain_id for other in others for chain_id in other.chain_ids}
    own = _blobs(image)
    unique, shared = _split(own, blobs.__contains__, own.__getitem__)
    unique_disk, shared_disk = _split(
        image.chain_ids,
        chains.__contains__,
        lambda chain_id: layer_disk_bytes(images, chain_id),
    )
    return Sizes(unique, shared, unique_disk, shared_disk)


def _blobs(image: Image) -> dict[str, int]:
    found = {layer.digest: layer.size for layer in image.layers}
    found[image.id] = image.size_bytes - sum(layer.size for layer in image.layers)
    return found


def _split(
    keys: Iterable[str], is_shared: Callable[[str], bool], size: Callable[[str], int]
) -> tuple[int, int]:
    unique = shared = 0
    for key in keys:
        if is_shared(key):
            shared += size(key)
        else:
            unique += size(key)
    return unique, shared
