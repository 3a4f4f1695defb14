"""What the image store takes on disk: every file once, in blocks as the filesystem counts them.

The sum is what `du` says, directories with it. What would be freed is not guessed: the collector's
own mark is asked. Files that appear or go meanwhile are counted or not.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from msgspec import Struct, field

from onggi.errors import EngineError
from onggi.image.collect import Garbage, mark
from onggi.image.documents import entry_name, index_entries, reachable
from onggi.image.trees import Node, walk
from onggi.specs.image import Descriptor

if TYPE_CHECKING:
    from onggi.image.images import ImageStore

Category = Literal["blobs", "layers", "uppers", "partial", "other"]

_UNIT_BYTES = 512  # of st_blocks (stat(2)), whatever the filesystem's block size

_LOOK = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

#: Where images take space, apart from containers.
_OF_IMAGES = (b"content", b"serve", b"snapshots/layers", b"snapshots/staging", b"snapshots/trash")

#: What lies in a directory of the store, and the place of the object's name in its path.
_CATEGORIES: dict[bytes, Category] = {
    b"content/blobs": "blobs",
    b"content/ingest": "partial",
    b"content/partial": "partial",
    b"snapshots/layers": "layers",
    b"snapshots/active": "uppers",
    b"snapshots/staging": "partial",
    b"snapshots/trash": "partial",
    b"serve/staging": "partial",
    b"serve/uploads": "partial",
}


class Inventory(Struct):
    """Bytes on disk: by category, by blob (digest), layer (chain id) and upper (key).

    `notes`: small records about blobs, by digest; they are part of `other`, and go with the blob.
    """

    totals: dict[Category, int] = field(default_factory=dict)
    blobs: dict[str, int] = field(default_factory=dict)
    layers: dict[str, int] = field(default_factory=dict)
    uppers: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)

    def of(self, blobs: Iterable[str], layers: Iterable[str]) -> int:
        """What some blobs and layers take, with what is noted about them."""
        blobs = set(blobs)
        return (
            sum(self.blobs.get(digest, 0) + self.notes.get(digest, 0) for digest in blobs)
        ) + sum(self.layers.get(chain_id, 0) for chain_id in set(layers))


class ImageUsage(Struct, frozen=True):
    """One image, for all platforms that are here. `unique_bytes`: goes with it; `shared_bytes`:
    other images need it too. `last_used_s`: Unix time. `target`: the digest that names point to.
    """

    target: str
    names: tuple[str, ...]
    unique_bytes: int
    shared_bytes: int
    last_used_s: float
    in_use: bool

    @property
    def size_bytes(self) -> int:
        return self.unique_bytes + self.shared_bytes


class Usage(Struct, frozen=True):
    """The store on disk. `notes_bytes`: records about blobs, which are part of `other_bytes` and
    go with the blobs. `garbage_bytes`: what collecting would free; `reclaimable_bytes`: what
    pruning every image that no container uses would. `damage`: why these two are not known (0).
    """

    blobs_bytes: int
    layers_bytes: int
    uppers_bytes: int
    partial_bytes: int
    other_bytes: int
    notes_bytes: int
    garbage_bytes: int
    reclaimable_bytes: int
    images: tuple[ImageUsage, ...]
    uppers: dict[str, int]
    damage: str = ""

    @property
    def total_bytes(self) -> int:
        return (
            self.blobs_bytes
            + self.layers_bytes
            + self.uppers_bytes
            + self.partial_bytes
            + self.other_bytes
        )


class Target(Struct, frozen=True):
    """One image as `index.json` has it, and the digests and chain ids that it needs."""

    descriptor: Descriptor
    names: tuple[str, ...]
    blobs: frozenset[str]
    layers: frozenset[str]

    def is_used(self, users: Collection[str]) -> bool:
        """By a container: `users` are the ids of their images (or digests of manifests)."""
        return not self.blobs.isdisjoint(users)


def disk_usage(
    images: ImageStore, *, in_use: Collection[str] = (), users: Collection[str] = ()
) -> Usage:
    """What the store takes. `in_use`: chain ids of containers' layers; `users`: their images' ids.

    Raises: SpecError: `index.json` is damaged beyond its backup.
    """
    inventory = take_inventory(images.root)
    all_targets = targets(images)
    damage, garbage_bytes, reclaimable_bytes = "", 0, 0
    try:
        garbage = images.garbage(in_use)
        garbage_bytes = inventory.of(garbage.blobs, garbage.layers)
        kept = [t.descriptor for t in all_targets if t.is_used(users)]
        rest = garbage_beside(images, kept, in_use)
        reclaimable_bytes = inventory.of(rest.blobs, rest.layers)
    except EngineError as error:
        damage = error.message
    total = inventory.totals
    return Usage(
        blobs_bytes=total.get("blobs", 0),
        layers_bytes=total.get("layers", 0),
        uppers_bytes=total.get("uppers", 0),
        partial_bytes=total.get("partial", 0),
        other_bytes=total.get("other", 0),
        notes_bytes=sum(inventory.notes.values()),
        garbage_bytes=garbage_bytes,
        reclaimable_bytes=reclaimable_bytes,
        images=_image_usages(images, inventory, all_targets, users),
        uppers=inventory.uppers,
        damage=damage,
    )


def garbage_beside(
    images: ImageStore, kept: Collection[Descriptor], in_use: Collection[str]
) -> Garbage:
    """What nothing would need if only these entries were in `index.json`. Raises: DataLoss."""
    return mark(images.root, images.content, images.snapshots, kept, in_use)


def targets(images: ImageStore) -> tuple[Target, ...]:
    """Every image of `index.json`, damaged ones and other platforms' too; each once, in order."""
    found: dict[str, Target] = {}
    for entry in index_entries(images.content):
        name = entry_name(entry)
        names = () if name is None else (name,)
        known = found.get(entry.digest)
        if known is not None:
            found[entry.digest] = Target(
                known.descriptor, (*known.names, *names), known.blobs, known.layers
            )
            continue
        try:
            digests, chains = reachable(images.content, (entry,))
        except EngineError:
            digests, chains = {entry.digest}, set()
        found[entry.digest] = Target(entry, names, frozenset(digests), frozenset(chains))
    return tuple(found.values())


def last_used_s(images: ImageStore, descriptor: Descriptor) -> float:
    """When `touch` was called for an image, or when it came in (Unix time); 0: unknown."""
    try:
        return os.stat(images.content.path(descriptor.digest)).st_mtime
    except FileNotFoundError:
        return 0.0


def take_inventory(root: str, *, uppers: bool = True) -> Inventory:
    """Look at every file below an image store's root; without `uppers`, at what images take only.

    Paths longer than PATH_MAX, which a container can make in its upper, are left out.
    """
    inventory = Inventory()
    seen: set[tuple[int, int]] = set()
    for part in (b"",) if uppers else _OF_IMAGES:
        for node in _nodes(root, part):
            status = node.status
            if status.st_nlink > 1 and not node.is_directory:
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
            parts = [part, node.path] if part and node.path else [part or node.path]
            _count(inventory, b"/".join(parts), status.st_blocks * _UNIT_BYTES)
    return inventory


def _nodes(root: str, part: bytes) -> Iterator[Node]:
    try:
        fd = os.open(os.path.join(os.fsencode(root), part), _LOOK)
    except FileNotFoundError:
        return
    try:
        yield from walk(fd, live=True)
    finally:
        os.close(fd)


def _count(inventory: Inventory, path: bytes, size_bytes: int) -> None:
    parts = path.split(b"/", 4)
    category = _CATEGORIES.get(b"/".join(parts[:2]), "other")
    inventory.totals[category] = inventory.totals.get(category, 0) + size_bytes
    if category == "blobs" and len(parts) == 4:
        _add(inventory.blobs, f"sha256:{os.fsdecode(parts[3])}", size_bytes)
    elif category == "layers" and len(parts) > 2:
        _add(inventory.layers, f"sha256:{os.fsdecode(parts[2])}", size_bytes)
    elif category == "uppers" and len(parts) > 2:
        _add(inventory.uppers, os.fsdecode(parts[2]), size_bytes)
    elif len(parts) == 3 and parts[1] in {b"origins", b"discarded"}:
        _add(inventory.notes, f"sha256:{os.fsdecode(parts[2])}", size_bytes)


def _add(sizes: dict[str, int], key: str, size_bytes: int) -> None:
    sizes[key] = sizes.get(key, 0) + size_bytes


def _image_usages(
    images: ImageStore,
    inventory: Inventory,
    all_targets: Sequence[Target],
    users: Collection[str],
) -> tuple[ImageUsage, ...]:
    needed: dict[tuple[bool, str], int] = {}
    for target in all_targets:
        for key in _objects(target):
            needed[key] = needed.get(key, 0) + 1
    found = []
    for target in all_targets:
        alone = {key for key in _objects(target) if needed[key] == 1}
        unique = inventory.of(
            (key for is_layer, key in alone if not is_layer),
            (key for is_layer, key in alone if is_layer),
        )
        found.append(
            ImageUsage(
                target=target.descriptor.digest,
                names=target.names,
                unique_bytes=unique,
                shared_bytes=inventory.of(target.blobs, target.layers) - unique,
                last_used_s=last_used_s(images, target.descriptor),
                in_use=target.is_used(users),
            )
        )
    return tuple(found)


def _objects(target: Target) -> set[tuple[bool, str]]:
    """An uncompressed lowest layer's digest is its chain id too: so each says which it is."""
    return {(False, digest) for digest in target.blobs} | {(True, c) for c in target.layers}
