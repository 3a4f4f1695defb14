"""Removing images that nobody uses: on request, with filters, or to keep the store below a size.

Which images go is decided here; what goes with them is the collector's. When a container used an
image last is the mtime of its manifest's blob, which `touch` sets. Nothing here needs free space:
a smaller index is written on a full disk too.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from onggi.errors import EngineError
from onggi.image.documents import index_entries
from onggi.image.usage import (
    Target,
    garbage_beside,
    last_used_s,
    take_inventory,
    targets,
)

if TYPE_CHECKING:
    from onggi.image.images import Image, ImageStore


class Filters(Struct, frozen=True):
    """Which images a prune is about; all that is given must hold.

    `until_ns`: made before (Unix time). `labels` and `without`: `key` or `key=value` that the
    image's configuration has, or has not. `dangling`: nameless ones only (True), or every one.
    """

    until_ns: int | None = None
    labels: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    dangling: bool | None = None

    @property
    def look_inside(self) -> bool:
        """Whether an image's configuration must be known."""
        return self.until_ns is not None or bool(self.labels or self.without)

    def accept(self, made_ns: int, labels: dict[str, str]) -> bool:
        """Whether something of this age with these labels is meant."""
        return (
            (self.until_ns is None or made_ns < self.until_ns)
            and all(_has_label(labels, wanted) for wanted in self.labels)
            and not any(_has_label(labels, unwanted) for unwanted in self.without)
        )


ALL = Filters()


class Pruned(Struct, frozen=True):
    """What went: names, digests of images and blobs, layers (chain ids), and bytes on disk.

    `deferred`: somebody was bringing content in, so the next collection deletes.
    """

    untagged: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    blobs: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    freed_bytes: int = 0
    deferred: bool = False


def touch(images: ImageStore, image: Image) -> None:
    """Note that an image is used now. An image that is just being removed is no error."""
    for digest in {image.target.digest, image.manifest_digest}:
        with contextlib.suppress(FileNotFoundError):
            os.utime(images.content.path(digest))


def prune(
    images: ImageStore,
    *,
    in_use: Collection[str],
    users: Collection[str],
    every: bool = False,
    filters: Filters = ALL,
) -> Pruned:
    """Remove images that no container uses: nameless ones, or `every` one.

    `in_use`: chain ids of containers' layers; `users`: the ids of their images. Images for other
    machines go too, and damaged ones.

    Raises:
        DataLoss: an image that stays is damaged, so what it needs is not known; nothing went.
    """
    if filters.dangling is not None:
        every = not filters.dangling
    gone = [
        target
        for target in targets(images)
        if (every or not target.names)
        and not target.is_used(users)
        and _matches(images, target, filters)
    ]
    return _remove(images, gone, in_use)


def enforce_limit(
    images: ImageStore, limit_bytes: int, *, in_use: Collection[str], users: Collection[str]
) -> Pruned:
    """Remove images that no container uses, the longest unused first, until the rest takes no more.

    Containers' own files do not count. 0: no limit.

    Raises: as `prune`.
    """
    inventory = take_inventory(images.root, uppers=False)
    over_bytes = sum(inventory.totals.values()) - limit_bytes
    if limit_bytes == 0 or over_bytes <= 0:
        return Pruned()
    everything = targets(images)
    ours = garbage_beside(images, (), in_use)  # all that nobody but images needs
    kept = [target for target in everything if target.is_used(users)]
    unused = [target for target in everything if not target.is_used(users)]
    unused.sort(key=lambda target: last_used_s(images, target.descriptor), reverse=True)
    gone: list[Target] = []
    while True:
        staying = (*kept, *unused)
        blobs = set(ours.blobs).difference(*(target.blobs for target in staying))
        layers = set(ours.layers).difference(*(target.layers for target in staying))
        if inventory.of(blobs, layers) >= over_bytes or not unused:
            return _remove(images, gone, in_use)
        gone.append(unused.pop())


def _remove(images: ImageStore, gone: Sequence[Target], in_use: Collection[str]) -> Pruned:
    inventory = take_inventory(images.root, uppers=False)
    digests = {target.descriptor.digest for target in gone}
    rest = [entry for entry in index_entries(images.content) if entry.digest not in digests]
    garbage_beside(images, rest, in_use)  # a damaged manifest is found before any name goes
    untagged = images.forget(digests)
    removed = images.collect(in_use=in_use)
    return Pruned(
        untagged=untagged,
        images=tuple(target.descriptor.digest for target in gone),
        blobs=removed.deleted,
        layers=removed.layers,
        freed_bytes=inventory.of(removed.deleted, removed.layers),
        deferred=removed.deferred,
    )


def _matches(images: ImageStore, target: Target, filters: Filters) -> bool:
    if not filters.look_inside:
        return True
    try:
        image = images.resolve(target.descriptor.digest)
    except EngineError:
        return False  # damaged, or for other machines: what it says of itself is not known
    labels = (image.config.config.labels if image.config.config else None) or {}
    return filters.accept(created_ns(image.created), labels)


def created_ns(text: str | None) -> int:
    """RFC 3339 as Unix time; what says nothing sensible is as old as can be (0)."""
    try:
        moment = datetime.datetime.fromisoformat(text or "")
    except ValueError:
        return 0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return int(moment.timestamp() * 1e9)


def _has_label(labels: dict[str, str], wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)
