"""From a descriptor to what it leads to: documents of the content store, verified and parsed."""

from __future__ import annotations

from collections.abc import Sequence

from onggi.image.snapshots import chain_ids
from onggi.image.store import ContentStore
from onggi.specs.image import (
    CONFIG_TYPES,
    CONTAINERD_NAME,
    MAX_CONFIG_BYTES,
    MAX_MANIFEST_BYTES,
    REF_NAME,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    parse_image_config,
    parse_index,
    parse_manifest,
)


def index_entries(store: ContentStore) -> tuple[Descriptor, ...]:
    """The entries of `index.json`, as they are now. Raises: SpecError."""
    return parse_index(store.read_index()).manifests


def entry_name(entry: Descriptor) -> str | None:
    """The full name of an entry of `index.json`, None for a nameless one."""
    annotations = entry.annotations or {}
    return annotations.get(CONTAINERD_NAME) or annotations.get(REF_NAME)


def read_document(store: ContentStore, descriptor: Descriptor) -> Manifest | Index:
    """A manifest or index. Raises: NotFound, DataLoss, SpecError."""
    data = store.read(descriptor.digest, MAX_MANIFEST_BYTES, descriptor.size)
    return parse_manifest(data, descriptor.media_type)


def read_config(store: ContentStore, manifest: Manifest) -> ImageConfig:
    """A manifest's image configuration. Raises: NotFound, DataLoss, SpecError."""
    config = manifest.config
    return parse_image_config(store.read(config.digest, MAX_CONFIG_BYTES, config.size))


def reachable(store: ContentStore, entries: Sequence[Descriptor]) -> tuple[set[str], set[str]]:
    """What the entries of an index need: digests of blobs, and chain ids of layers.

    Members of an index that were never brought in need nothing. An artifact has no layers to run.

    Raises:
        DataLoss, SpecError: a document is damaged, so what it needs is not known.
    """
    digests: set[str] = set()
    chains: set[str] = set()
    pending = [*entries]
    while pending:
        descriptor = pending.pop()
        if descriptor.digest in digests:
            continue
        digests.add(descriptor.digest)
        if store.size_bytes(descriptor.digest) is None:
            continue
        document = read_document(store, descriptor)
        if isinstance(document, Index):
            pending += document.manifests
            continue
        digests.add(document.config.digest)
        digests.update(layer.digest for layer in document.layers)
        is_image = document.config.media_type in CONFIG_TYPES
        if is_image and store.size_bytes(document.config.digest) is not None:
            chains.update(chain_ids(read_config(store, document).diff_ids))
    return digests, chains
