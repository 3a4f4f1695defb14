"""What the store's images need, told as far as damaged documents let it be told.

The collector's mark (`documents.reachable`) stops at damage, since it deletes; this one goes on,
and remembers for whom each thing is needed. Changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct, field

from onggi.errors import DataLoss, EngineError, NotFound
from onggi.image.documents import entry_name, index_entries, read_config, read_document
from onggi.image.layer_record import chain_ids
from onggi.image.platforms import runs_on
from onggi.image.progress import short_digest
from onggi.image.reference import Reference
from onggi.image.served import recent_blobs, served_roots
from onggi.specs.image import CONFIG_TYPES, Descriptor, Index, Manifest

if TYPE_CHECKING:
    from onggi.image.images import ImageStore

_PUSHED = "what was pushed"


class WantedLayer(Struct, frozen=True):
    """How a layer is made: the chain id below it, its diff id, and its blob."""

    parent: str | None
    diff_id: str
    blob: Descriptor


class Wanted(Struct):
    """`blobs` must be there; `sizes`, where a descriptor says one; `layers` by chain id.

    `unparsable`: documents that are whole but cannot be understood, and why. `unreadable`: record
    files (paths below the store's root) and why.
    """

    blobs: set[str] = field(default_factory=set)
    sizes: dict[str, int] = field(default_factory=dict)
    documents: set[str] = field(default_factory=set)
    layers: dict[str, WantedLayer] = field(default_factory=dict)
    unparsable: list[tuple[str, str]] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    blob_names: dict[str, set[str]] = field(default_factory=dict)
    layer_names: dict[str, set[str]] = field(default_factory=dict)

    def users(self, digest: str) -> tuple[str, ...]:
        """Names of the images that need a blob."""
        return tuple(sorted(self.blob_names.get(digest, ())))

    def layer_users(self, chain_id: str) -> tuple[str, ...]:
        """Names of the images that need a layer."""
        return tuple(sorted(self.layer_names.get(chain_id, ())))

    def below(self, chain_id: str) -> tuple[str, ...]:
        """A layer and those below it, the lowest first, as far as images tell."""
        chain = [chain_id]
        while (layer := self.layers.get(chain[-1])) is not None and layer.parent:
            chain.append(layer.parent)
        return tuple(reversed(chain))


def find_wanted(images: ImageStore) -> Wanted:
    """Walk from every name and every push to all that it leads to; reads documents only."""
    wanted = Wanted()
    search = _Search(images, wanted)
    try:
        entries: Sequence[Descriptor] = index_entries(images.content)
    except EngineError as error:
        wanted.unreadable.append(("content/index.json", error.message))
        entries = ()
    for entry in entries:
        wanted.blobs.add(entry.digest)
        search.follow(entry, _shown(entry))
    try:
        for root in served_roots(images.root):
            search.follow(root, _PUSHED)
        for digest in recent_blobs(images.root):
            wanted.blob_names.setdefault(digest, set()).add(_PUSHED)
    except DataLoss as error:
        wanted.unreadable.append(("serve/manifests.json", error.message))
    return wanted


def _shown(entry: Descriptor) -> str:
    name = entry_name(entry)
    if name is None:
        return short_digest(entry.digest)
    try:
        return Reference.parse(name).familiar()
    except EngineError:
        return name


class _Search:
    def __init__(self, images: ImageStore, wanted: Wanted) -> None:
        self._images = images
        self._content = images.content
        self._wanted = wanted

    def follow(self, root: Descriptor, name: str) -> None:
        """Note all that a manifest or an index leads to."""
        pending = [root]
        seen: set[str] = set()
        while pending:
            descriptor = pending.pop()
            if descriptor.digest in seen:
                continue
            seen.add(descriptor.digest)
            self._note(descriptor, name, is_document=True)
            document = self._read(descriptor)
            if isinstance(document, Manifest):
                self._manifest(descriptor, document, name)
            elif document is not None:
                pending += self._members(document, required=root is descriptor)

    def _members(self, index: Index, *, required: bool) -> list[Descriptor]:
        """Those that were brought in. An image without any misses the one for this machine."""
        size = self._content.size_bytes
        here = [member for member in index.manifests if size(member.digest) is not None]
        if required and not here and index.manifests:
            fitting = [
                member
                for member in index.manifests
                if member.platform and runs_on(member.platform, self._images.platform)
            ]
            self._wanted.blobs.add((fitting or index.manifests)[0].digest)
        return here

    def _manifest(self, descriptor: Descriptor, manifest: Manifest, name: str) -> None:
        self._note(manifest.config, name, is_document=True)
        for layer in manifest.layers:
            self._note(layer, name)
        self._wanted.blobs.update(d.digest for d in (manifest.config, *manifest.layers))
        if manifest.config.media_type in CONFIG_TYPES:
            self._chain(descriptor, manifest, name)

    def _chain(self, descriptor: Descriptor, manifest: Manifest, name: str) -> None:
        try:
            diff_ids = read_config(self._content, manifest).diff_ids
        except (NotFound, DataLoss):
            return  # the blobs' own check says so
        except EngineError as error:
            self._wanted.unparsable.append((manifest.config.digest, error.message))
            return
        if len(diff_ids) != len(manifest.layers):
            why = f"{len(manifest.layers)} layers, but {len(diff_ids)} diff ids"
            self._wanted.unparsable.append((descriptor.digest, why))
            return
        parent: str | None = None
        for chain_id, diff_id, blob in zip(
            chain_ids(diff_ids), diff_ids, manifest.layers, strict=True
        ):
            self._wanted.layers[chain_id] = WantedLayer(parent, diff_id, blob)
            self._wanted.layer_names.setdefault(chain_id, set()).add(name)
            parent = chain_id

    def _read(self, descriptor: Descriptor) -> Manifest | Index | None:
        try:
            return read_document(self._content, descriptor)
        except (NotFound, DataLoss):
            return None  # the blobs' own check says so
        except EngineError as error:
            self._wanted.unparsable.append((descriptor.digest, error.message))
            return None

    def _note(self, descriptor: Descriptor, name: str, *, is_document: bool = False) -> None:
        self._wanted.blob_names.setdefault(descriptor.digest, set()).add(name)
        self._wanted.sizes.setdefault(descriptor.digest, descriptor.size)
        if is_document:
            self._wanted.documents.add(descriptor.digest)
