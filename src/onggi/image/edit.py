"""New images from old ones: other configuration, a layer more, another base, one layer only.

Images are values: what is edited stays as it is, the result is another image. The same image and
arguments give the same result; times are taken over unless one is given. Results are OCI
documents, also those of Docker's. Fields that nobody here knows are kept.

Source: image-spec config.md, manifest.md, annotations.md; crane's mutate, append, rebase, flatten.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct, structs

from onggi.errors import FailedPrecondition, SpecError
from onggi.image.changes import apply_changes
from onggi.image.compare import write_tree
from onggi.image.compression import Compression, Read, plain_chunks
from onggi.image.documents import read_document
from onggi.image.images import Image, ImageStore
from onggi.image.layers import LayerWriter, StoredLayer
from onggi.image.merged import MergedView
from onggi.image.tar_reader import TarReader
from onggi.specs.image import (
    DOCKER_LAYER_GZIP,
    MAX_CONFIG_BYTES,
    MAX_MANIFEST_BYTES,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    ContainerConfig,
    Descriptor,
    History,
    ImageConfig,
    Manifest,
    Platform,
    RootFs,
)

BASE_DIGEST = "org.opencontainers.image.base.digest"
BASE_NAME = "org.opencontainers.image.base.name"
_OCI_TYPES = {
    DOCKER_LAYER_GZIP: OCI_LAYER_GZIP,
    "application/vnd.docker.image.rootfs.diff.tar": OCI_LAYER,
}


def mutate(
    images: ImageStore,
    image: Image,
    name: str | None = None,
    *,
    changes: Sequence[str] = (),
    annotations: Mapping[str, str | None] | None = None,
    platform: Platform | None = None,
    author: str | None = None,
    created: str | None = None,
) -> Image:
    """The image with `changes` (Dockerfile instructions), annotations (None: taken away), …

    Each change is an entry of the history without a layer.

    Raises:
        InvalidArgument: an instruction is malformed, `name` is no reference.
    """
    with images.lease():
        config = structs.replace(
            image.config,
            config=apply_changes(image.config.config or ContainerConfig(), changes),
            created=created or image.config.created,
            author=author or image.config.author,
            history=_longer(image.config, *_change_history(image, changes, created)),
        )
        if platform is not None:
            config = structs.replace(
                config,
                architecture=platform.architecture,
                os=platform.os,
                variant=platform.variant,
                os_version=platform.os_version,
            )
        return store_edited(images, image, config, image.layers, name, annotations or {})


def append_layer(
    images: ImageStore,
    image: Image,
    name: str | None,
    read: Read,
    *,
    comment: str = "",
    compression: Compression = "gzip",
    created: str | None = None,
) -> Image:
    """The image with one layer more, whose tar (compressed or not) `read(size)` gives.

    Raises:
        InvalidArgument, ResourceExhausted: not a tar, damaged or too large; nothing stays.
    """
    with images.lease():
        layer = _store_checked(images, read, compression)
        step = History(created or image.config.created, "append", comment=comment or None)
        return add_layer(images, image, name, layer, step, created=created)


def add_layer(
    images: ImageStore,
    image: Image,
    name: str | None,
    layer: StoredLayer,
    step: History,
    *,
    created: str | None = None,
) -> Image:
    """The image with a layer that is in the store already. Hold a lease."""
    config = structs.replace(
        image.config,
        rootfs=RootFs(diff_ids=(*image.config.diff_ids, layer.diff_id)),
        created=created or image.config.created,
        history=_longer(image.config, step),
    )
    return store_edited(images, image, config, (*image.layers, layer.descriptor), name, {})


def rebase(
    images: ImageStore,
    image: Image,
    name: str | None,
    old_base: Image,
    new_base: Image,
    *,
    created: str | None = None,
) -> Image:
    """The image with the layers of `old_base` replaced by those of `new_base`.

    The configuration stays the image's; what the layers say is not looked at.

    Raises:
        FailedPrecondition: the image is not made from `old_base`, or the new one is for another
            platform.
    """
    count = len(old_base.layers)
    if image.config.diff_ids[:count] != old_base.config.diff_ids:
        raise FailedPrecondition(
            f"image {image.short_name} does not start with the {count} layers of"
            f" {old_base.short_name}",
            hint="`onggi image tree` shows which images share layers",
        )
    if (new_base.platform.os, new_base.platform.architecture) != (
        image.platform.os,
        image.platform.architecture,
    ):
        raise FailedPrecondition(
            f"image {new_base.short_name} is for {new_base.platform}, {image.short_name} for"
            f" {image.platform}"
        )
    own = _history_above(image.config, count)
    history = (*_history_below(new_base.config), *own) if own is not None else None
    config = structs.replace(
        image.config,
        rootfs=RootFs(diff_ids=(*new_base.config.diff_ids, *image.config.diff_ids[count:])),
        created=created or image.config.created,
        history=history,
    )
    layers = (*new_base.layers, *image.layers[count:])
    annotations = {
        BASE_DIGEST: new_base.manifest_digest,
        BASE_NAME: new_base.names[0] if new_base.names else None,
    }
    with images.lease():
        return store_edited(images, image, config, layers, name, annotations)


def flatten(
    images: ImageStore,
    image: Image,
    name: str | None = None,
    *,
    compression: Compression = "gzip",
    created: str | None = None,
) -> Image:
    """The image with one layer that has what all its layers together show; unpacks the image.

    Raises: as `ImageStore.unpack`.
    """
    with images.lease():
        chain_ids = images.unpack(image)
        with (
            MergedView(images.snapshots.lowers(chain_ids)) as view,
            LayerWriter(images.content, compression) as writer,
        ):
            write_tree(view.walk(), writer.write, whiteouts=False)
            layer = writer.commit()
        comment = f"the {len(image.layers)} layers of {image.manifest_digest} as one"
        config = structs.replace(
            image.config,
            rootfs=RootFs(diff_ids=(layer.diff_id,)),
            created=created or image.config.created,
            history=(History(created or image.config.created, "flatten", comment=comment),),
        )
        return store_edited(images, image, config, (layer.descriptor,), name, {})


def store_edited(
    images: ImageStore,
    image: Image,
    config: ImageConfig,
    layers: Sequence[Descriptor],
    name: str | None,
    annotations: Mapping[str, str | None],
) -> Image:
    """Register `image` with another configuration and other layers, all in the store. Hold a lease.

    `annotations` change the manifest's. Raises: as `ImageStore.add`.
    """
    store = images.content
    raw_config = _as_object(store.read(image.id, MAX_CONFIG_BYTES))
    merged = _merged(raw_config, config)
    if config.config is not None:
        merged["config"] = _merged(raw_config.get("config") or {}, config.config)
    manifest = read_document(store, image.manifest)
    assert isinstance(manifest, Manifest)
    kept = {**(manifest.annotations or {}), **annotations}
    document = structs.replace(
        manifest,
        media_type=OCI_MANIFEST,
        config=_stored(images, merged, OCI_CONFIG),
        layers=tuple(_as_oci(layer) for layer in layers),
        annotations={key: value for key, value in kept.items() if value is not None} or None,
    )
    raw_manifest = _as_object(store.read(image.manifest_digest, MAX_MANIFEST_BYTES))
    target = _stored(images, _merged(raw_manifest, document), OCI_MANIFEST)
    return images.add(target, (name,) if name else ())


def _as_object(data: bytes) -> dict[str, Any]:
    """The whole of a document; its known fields were parsed before, the others may be damaged."""
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SpecError("$", f"not valid JSON: {str(error).rstrip('.')}") from None


def _merged(raw: dict[str, Any], document: Struct) -> dict[str, Any]:
    """A document's fields, and of `raw` those that its type does not know."""
    known = {field.encode_name for field in structs.fields(document)}
    rest = {key: value for key, value in raw.items() if key not in known}
    fields: dict[str, Any] = msgspec.to_builtins(document)
    return {**rest, **fields}


def _stored(images: ImageStore, document: dict[str, Any], media_type: str) -> Descriptor:
    blob = images.content.put(msgspec.json.encode(document, order="deterministic"))
    return Descriptor(media_type, blob.digest, blob.size_bytes)


def _as_oci(layer: Descriptor) -> Descriptor:
    return structs.replace(layer, media_type=_OCI_TYPES.get(layer.media_type, layer.media_type))


def _store_checked(images: ImageStore, read: Read, compression: Compression) -> StoredLayer:
    """Store a layer and read it as a tar on the way. Raises: InvalidArgument."""
    with LayerWriter(images.content, compression) as writer:

        def passed_on() -> Iterator[bytes]:
            for chunk in plain_chunks(read):
                writer.write(chunk)
                yield chunk

        for _ in TarReader(passed_on()):
            pass
        return writer.commit()


# History.


def _longer(config: ImageConfig, *steps: History) -> tuple[History, ...] | None:
    """The history with further steps; one that is not there, though there are layers, stays so."""
    if config.history is None and config.diff_ids:
        return None
    return (*(config.history or ()), *steps)


def _change_history(
    image: Image, changes: Sequence[str], created: str | None
) -> tuple[History, ...]:
    at = created or image.config.created
    return tuple(History(at, change.strip(), empty_layer=True) for change in changes)


def _history_above(config: ImageConfig, layers: int) -> tuple[History, ...] | None:
    """The steps behind those of the lowest layers; None where the history does not tell."""
    history = config.history
    if history is None:
        return None
    if sum(not step.empty_layer for step in history) != len(config.diff_ids):
        return None
    at = 0
    while layers:
        layers -= not history[at].empty_layer
        at += 1
    return history[at:]


def _history_below(config: ImageConfig) -> tuple[History, ...]:
    """A base's steps; where it does not tell, one for each layer."""
    history = config.history or ()
    if sum(not step.empty_layer for step in history) == len(config.diff_ids):
        return history
    return tuple(History(config.created, comment="base") for _ in config.diff_ids)
