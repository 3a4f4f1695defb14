"""Which layers can be brought in and unpacked, told by their descriptors.

estargz and zstd:chunked are layers of the plain types with annotations, which nobody here needs.
Source: image-spec layer.md; moby image/spec (foreign layers).
"""

from __future__ import annotations

from onggi.errors import Unsupported
from onggi.specs.image import (
    DOCKER_LAYER_GZIP,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    Descriptor,
)

_DOCKER = "application/vnd.docker.image.rootfs.diff.tar"
LAYER_TYPES = frozenset(
    {OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, DOCKER_LAYER_GZIP, _DOCKER, _DOCKER + ".zstd"}
)
_FOREIGN = (
    "application/vnd.oci.image.layer.nondistributable.",
    "application/vnd.docker.image.rootfs.foreign.",
)


def is_foreign(layer: Descriptor) -> bool:
    """Whether a layer is meant to be fetched from somewhere else than the image."""
    return bool(layer.urls) or layer.media_type.startswith(_FOREIGN)


def refuse_foreign(name: str, layer: Descriptor) -> None:
    """No URL in a manifest is ever followed. Raises: Unsupported."""
    if is_foreign(layer):
        raise Unsupported(
            f"image {name}: layer {layer.digest} is a foreign one, to be fetched from another"
            " place than the image",
            hint="have the image made with its layers in the registry; for an index, choose a"
            " platform",
        )


def check_layer(name: str, layer: Descriptor) -> None:
    """Whether a layer is a tar that can be unpacked. Raises: Unsupported."""
    refuse_foreign(name, layer)
    if layer.media_type not in LAYER_TYPES:
        raise Unsupported(
            f"image {name}: layer {layer.digest} has the unknown media type"
            f" {layer.media_type[:120]!r}",
            hint="layers are tars: plain, gzip or zstd",
        )
