"""Mark and sweep: what images, pushes and containers need stays, the rest of the store goes.

Marking reads every document that a name leads to, so a damaged one stops it: what it needs is not
known. Sweeping happens only while nobody brings content in (the lease) and no name changes. It may
be killed at any moment: each deletion is whole, and the next sweep goes on.
"""

from __future__ import annotations

from collections.abc import Collection

from msgspec import Struct

from onggi.errors import NotFound
from onggi.image.discard import discarded_digests, forget_discarded, layers_of_discarded
from onggi.image.documents import reachable
from onggi.image.origins import Origins
from onggi.image.partial import KEPT_S, sweep_partials
from onggi.image.served import served_digests, sweep_uploads
from onggi.image.snapshots import Snapshotter
from onggi.image.store import ContentStore
from onggi.specs.image import Descriptor, check_digest


class Garbage(Struct, frozen=True):
    """Blobs, dropped ones (`discard`) too, and layers (chain ids) that nothing needs, sorted."""

    blobs: tuple[str, ...]
    layers: tuple[str, ...]


def mark(
    root: str,
    content: ContentStore,
    snapshots: Snapshotter,
    entries: Collection[Descriptor],
    in_use: Collection[str],
) -> Garbage:
    """What nothing needs. `entries`: of `index.json`; `in_use`: chain ids of containers' layers.

    Raises:
        DataLoss: a manifest or a record is damaged, so what it needs is not known.
    """
    digests, chains = reachable(content, tuple(entries))
    digests |= served_digests(root, content)
    chains |= _with_parents(snapshots, {*in_use, *layers_of_discarded(content, digests)})
    stored = {*content.digests(), *discarded_digests(content)}
    return Garbage(
        blobs=tuple(sorted(stored - digests)),
        layers=tuple(sorted(set(snapshots.layers()) - chains)),
    )


def sweep(root: str, content: ContentStore, snapshots: Snapshotter, garbage: Garbage) -> None:
    """Delete garbage, and what broken downloads and uploads left longer than a day ago.

    Layers go first: a layer without its blobs is complete, and a blob can be needed to mend one.
    """
    origins = Origins(content.root)
    for chain_id in _topmost_first(snapshots, garbage.layers):
        snapshots.remove_layer(chain_id)
    for digest in garbage.blobs:
        content.delete(digest)
        forget_discarded(content, digest)
        origins.forget(digest)
    sweep_partials(content, KEPT_S)
    sweep_uploads(root)
    content.keep_reserve()


def _with_parents(snapshots: Snapshotter, chains: Collection[str]) -> set[str]:
    kept: set[str] = set()
    for chain_id in chains:
        below: str | None = check_digest(chain_id)
        while below is not None and below not in kept:
            kept.add(below)
            below = _parent(snapshots, below)
    return kept


def _topmost_first(snapshots: Snapshotter, layers: Collection[str]) -> list[str]:
    """So that who is killed between two deletions leaves no layer without those below it."""
    parents = {chain_id: _parent(snapshots, chain_id) for chain_id in layers}
    order: list[str] = []
    while parents:
        tops = sorted(set(parents).difference(parents.values()))
        order += tops
        for chain_id in tops:
            del parents[chain_id]
    return order


def _parent(snapshots: Snapshotter, chain_id: str) -> str | None:
    try:
        return snapshots.record(chain_id).parent
    except NotFound:
        return None  # damaged, or removed meanwhile
