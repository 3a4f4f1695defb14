"""Mending what `fsck` finds, from what is left in the store itself.

Index and layout come back from their copies; layers are unpacked again from their blobs; blobs are
made again from the tars of their layers where a recipe is known or ours fits. What cannot be mended
here is deleted, so that a pull brings it: damaged content is worse than missing content. Nothing
that a container uses is touched.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from msgspec import Struct

from onggi.errors import DataLoss, EngineError, NotFound, SpecError
from onggi.image.discard import (
    ensure_blob,
    forget_discarded,
    is_discarded,
    make_blob,
    read_discarded,
)
from onggi.image.durable import delete_tree, sweep_staging
from onggi.image.fsck import Damage, Examination, Kind, check
from onggi.image.partial import try_partial
from onggi.image.progress import Report, silent
from onggi.image.recipes import own_recipes
from onggi.image.store import ContentStore
from onggi.specs.image import (
    MAX_MANIFEST_BYTES,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Index,
    encode_document,
    parse_index,
    parse_manifest,
)

if TYPE_CHECKING:
    from onggi.image.images import ImageStore

_MADE_AGAIN = "made again from the layer's tar"
_NAMES: frozenset[Kind] = frozenset({"layout", "index"})


class Repair(Struct, frozen=True):
    """What was done about a damage; not `repaired`: the hint says what is left to do."""

    damage: Damage
    done: str
    repaired: bool = True
    hint: str = ""

    def __str__(self) -> str:
        text = f"{self.damage}: {self.done}"
        return f"{text} — {self.hint}" if self.hint else text


def repair(
    images: ImageStore, *, in_use: Collection[str], deep: bool = True, report: Report = silent
) -> tuple[Repair, ...]:
    """Mend what `check` finds. `in_use`: chain ids of containers' layers; these stay as they are.

    Waits until nobody brings content in; whoever wants to waits then. Do not hold a lease. Killed
    at any moment it leaves a store that the next repair mends.

    Raises: as `check`.
    """
    done: list[Repair] = []
    found = check(images, deep=deep, in_use=in_use, report=report)
    if any(damage.kind in _NAMES for damage in found):
        done += _mend(images, [d for d in found if d.kind in _NAMES], in_use, deep, report)
        found = check(images, deep=deep, in_use=in_use, report=report)
        found = tuple(damage for damage in found if damage.kind not in _NAMES)
    unneeded = [damage for damage in found if damage.kind == "unneeded"]
    done += _mend(images, [d for d in found if d.kind != "unneeded"], in_use, deep, report)
    if unneeded:
        done += _collect(images, unneeded, in_use)
    return tuple(done)


def _mend(
    images: ImageStore,
    found: Collection[Damage],
    in_use: Collection[str],
    deep: bool,
    report: Report,
) -> list[Repair]:
    if not found:
        return []
    with images.alone(wait=True):
        mending = _Mending(images, in_use, deep)
        done = []
        for number, damage in enumerate(mending.ordered(found)):
            report("repairing", number, len(found))
            done.append(mending.mend(damage))
    return done


def _collect(
    images: ImageStore, unneeded: Collection[Damage], in_use: Collection[str]
) -> list[Repair]:
    removed = images.collect(in_use=in_use)
    gone = {*removed.deleted, *removed.layers}
    return [
        Repair(damage, "deleted")
        if damage.what in gone
        else Repair(damage, "left", repaired=False, hint="the next collection deletes it")
        for damage in unneeded
    ]


class _Mending:
    """Every damage is looked at again first: since it was found, a pull may have mended it."""

    def __init__(self, images: ImageStore, in_use: Collection[str], deep: bool) -> None:
        self._images = images
        self._content = images.content
        self._examination = Examination(images, deep=deep, in_use=in_use)
        self._wanted = self._examination.find_wanted()
        self._in_use = {below for chain in in_use for below in self._wanted.below(chain)}
        self._actions: dict[Kind, Callable[[Damage], Repair]] = {
            "layout": self._layout,
            "index": self._index,
            "blob": self._blob,
            "missing": self._missing,
            "document": self._document,
            "layer": self._layer,
            "record": self._record,
            "stray": self._stray,
            "leftover": self._leftover,
            "unchecked": self._unchecked,
        }

    def ordered(self, found: Collection[Damage]) -> list[Damage]:
        """Whole layers give blobs and records back, and lower layers come before those on top."""
        order: tuple[Kind, ...] = ("layout", "index", "blob", "missing", "document", "layer")
        ranks = {kind: rank for rank, kind in enumerate(order)}
        return sorted(
            found,
            key=lambda d: (
                ranks.get(d.kind, len(order)),
                len(self._wanted.below(d.what)) if d.kind == "layer" else 0,
            ),
        )

    def mend(self, damage: Damage) -> Repair:
        try:
            return self._actions[damage.kind](damage)
        except EngineError as error:
            return Repair(damage, error.message, repaired=False, hint=error.hint or "")

    # Names.

    def _layout(self, damage: Damage) -> Repair:
        self._content.restore_layout()
        return Repair(damage, "written anew")

    def _index(self, damage: Damage) -> Repair:
        with self._images.names_held():
            data = self._content.read_index()
            try:
                parse_index(data)
            except SpecError:
                self._content.write_index(_index_of(self._content))
                return Repair(
                    damage,
                    "made anew from the manifests in the store; names are lost",
                    hint="give the images their names again with `onggi tag`",
                )
            self._content.write_index(data)
        return Repair(damage, "restored")

    # Blobs.

    def _blob(self, damage: Damage) -> Repair:
        digest = damage.what
        if not self._examination.blob_damage(digest):
            return Repair(damage, "it is whole by now")
        path = self._content.path(digest)
        if os.path.isdir(path) and not os.path.islink(path):
            _delete_path(path)  # nothing can be renamed over it
        if damage.images and self._made_by_us(digest):
            return Repair(damage, _MADE_AGAIN)
        _delete_path(path)
        if not damage.images:
            return Repair(damage, "deleted; no image needs it")
        return self._missing(damage, "deleted; ")

    def _missing(self, damage: Damage, before: str = "") -> Repair:
        if self._content.size_bytes(damage.what) is not None or self._made_again(damage.what):
            return Repair(damage, _MADE_AGAIN)
        return self._incomplete(damage, f"{before}the image is incomplete")

    def _made_again(self, digest: str) -> bool:
        if read_discarded(self._content, digest) is not None:
            with contextlib.suppress(DataLoss, NotFound):
                ensure_blob(self._images, digest)
                return True
            forget_discarded(self._content, digest)
        return self._made_by_us(digest)

    def _made_by_us(self, digest: str) -> bool:
        """Whether a blob is one that we had compressed; it then replaces what is there."""
        size_bytes = self._wanted.sizes.get(digest, -1)
        for chain_id, layer in self._wanted.layers.items():
            if layer.blob.digest != digest:
                continue
            for recipe in own_recipes():
                if (recipe.program == "plain") != (digest == layer.diff_id):
                    continue
                with contextlib.suppress(DataLoss, NotFound):
                    make_blob(self._images, recipe, chain_id, digest, size_bytes)
                    return True
        return False

    def _document(self, damage: Damage) -> Repair:
        hint = "the image was made so: remove it, or have it made anew"
        return Repair(damage, "left as it is", repaired=False, hint=hint)

    # Layers.

    def _layer(self, damage: Damage) -> Repair:
        chain_id = damage.what
        if chain_id in self._in_use:
            return Repair(
                damage,
                "left, since a container uses it",
                repaired=False,
                hint="remove the containers of its images, then repair again",
            )
        layer = self._wanted.layers.get(chain_id)
        if layer is None:
            self._images.snapshots.remove_layer(chain_id)
            return Repair(damage, "deleted; no image needs it")
        if is_discarded(self._content, layer.blob.digest) and not self._made_again(
            layer.blob.digest
        ):
            self._images.snapshots.remove_layer(chain_id)
            return self._incomplete(damage, "deleted; its blob was dropped, and is lost with it")
        for below in self._wanted.below(chain_id)[:-1]:
            self._unpack(below)
        if not self._examination.layer_damage(chain_id):
            return Repair(damage, "it is whole by now")
        self._images.snapshots.remove_layer(chain_id)
        try:
            self._unpack(chain_id)
        except NotFound:
            return self._incomplete(damage, "deleted; its blob is missing")
        return Repair(damage, "unpacked again from its blob")

    def _unpack(self, chain_id: str) -> None:
        if self._images.snapshots.exists(chain_id):
            return
        layer = self._wanted.layers[chain_id]
        with self._content.open(layer.blob.digest, layer.blob.size) as blob:
            self._images.snapshots.apply(layer.parent, blob.read, layer.diff_id)

    def _incomplete(self, damage: Damage, done: str) -> Repair:
        names = " and ".join(damage.images)
        return Repair(damage, done, repaired=False, hint=f"pull or load {names} again")

    # Small files.

    def _record(self, damage: Damage) -> Repair:
        directory, _, name = damage.what.rpartition("/")
        _delete_path(os.path.join(self._images.root, damage.what))
        digest = f"sha256:{name}"
        lost = directory == "content/discarded" and digest in self._wanted.blobs
        if lost and self._content.size_bytes(digest) is None and not self._made_again(digest):
            return self._incomplete(damage, "deleted; the blob cannot be made again without it")
        return Repair(damage, "deleted")

    def _stray(self, damage: Damage) -> Repair:
        _delete_path(os.path.join(self._images.root, damage.what))
        return Repair(damage, "deleted")

    def _leftover(self, damage: Damage) -> Repair:
        directory, _, name = damage.what.rpartition("/")
        if directory == "content/partial":
            partial = try_partial(self._content, f"sha256:{name}")
            if partial is None:
                return Repair(damage, "left, since somebody works on it")
            with partial:
                partial.delete()
        elif directory.startswith("snapshots/"):
            self._images.snapshots.sweep(self._in_use)
        else:
            sweep_staging(os.path.join(self._images.root, directory))
        return Repair(damage, "deleted")

    def _unchecked(self, damage: Damage) -> Repair:
        hint = "free some space on that filesystem, then check again"
        return Repair(damage, "not compared", repaired=False, hint=hint)


def _index_of(content: ContentStore) -> bytes:
    """An index of all manifests in the store that no other one has."""
    roots: dict[str, Descriptor] = {}
    members: set[str] = set()
    for digest in sorted(content.digests()):
        size_bytes = content.size_bytes(digest)
        if size_bytes is None or size_bytes > MAX_MANIFEST_BYTES:
            continue
        try:
            document = parse_manifest(content.read(digest, MAX_MANIFEST_BYTES))
        except EngineError:
            continue  # another kind of blob, or a damaged one
        default = OCI_INDEX if isinstance(document, Index) else OCI_MANIFEST
        roots[digest] = Descriptor(document.media_type or default, digest, size_bytes)
        if isinstance(document, Index):
            members.update(member.digest for member in document.manifests)
    kept = tuple(root for digest, root in roots.items() if digest not in members)
    return encode_document(Index(2, kept, OCI_INDEX))


def _delete_path(path: str) -> None:
    """Delete a file or a directory; nothing if it is gone. Raises: EngineError."""
    fd = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        delete_tree(fd, os.path.basename(path))
    finally:
        os.close(fd)
