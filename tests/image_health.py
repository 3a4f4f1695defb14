"""Small image stores to damage: images of several layers, made and compressed in several ways."""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from image_tars import END, member
from onggi.image.compression import compressed
from onggi.image.images import Image, ImageStore
from onggi.image.snapshots import Snapshotter
from onggi.specs.image import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    ContainerConfig,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    Platform,
    RootFs,
    encode_document,
)

HOST = Platform("amd64", "linux")
FORMS = ("overlay", "erofs")
TYPES = {"none": OCI_LAYER, "gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}


def noise(seed: str, size: int) -> bytes:
    """Bytes that do not compress."""
    return hashlib.shake_128(seed.encode()).digest(size)


def layer_tar(name: str, size: int = 3000) -> bytes:
    """A directory with a file, a symlink and a hard link."""
    directory = name.encode()
    return (
        member(b"./", b"5", mode=0o755)
        + member(directory + b"/", b"5", mode=0o755)
        + member(directory + b"/file", data=noise(name, size))
        + member(directory + b"/link", b"2", link=b"file")
        + member(directory + b"/hard", b"1", link=directory + b"/file")
        + END
    )


def open_store(path: Path, form: str = "overlay") -> ImageStore:
    """A store whose new layers have this form. Skips where the host cannot have it."""
    images = ImageStore(str(path), platform=HOST)
    images.snapshots.close()
    images.snapshots = Snapshotter(os.path.join(images.root, "snapshots"), form)  # type: ignore[arg-type]
    if form == "erofs" and images.snapshots.form_reason:
        pytest.skip(f"no erofs layers on this host: {images.snapshots.form_reason}")
    return images


def put(images: ImageStore, document: object, media_type: str) -> Descriptor:
    blob = images.content.put(encode_document(document))  # type: ignore[arg-type]
    return Descriptor(media_type, blob.digest, blob.size_bytes)


def put_layer(images: ImageStore, tar: bytes, how: str) -> Descriptor:
    """`how`: none, gzip or zstd as we write them; `python` as Python's gzip does."""
    if how == "python":
        data, how = gzip.compress(tar, mtime=7), "gzip"
    else:
        data = b"".join(compressed((tar,), how))  # type: ignore[arg-type]
    blob = images.content.put(data)
    return Descriptor(TYPES[how], blob.digest, blob.size_bytes)


def make(
    images: ImageStore,
    *names: str,
    layers: Sequence[tuple[bytes, str]],
    platform: Platform = HOST,
    indexed: bool = False,
    unpack: bool = True,
    created: str | None = None,
    labels: dict[str, str] | None = None,
) -> Image:
    """An image of (tar, compression) layers, maybe behind an index."""
    with images.lease():
        config = ImageConfig(
            platform.architecture,
            platform.os,
            RootFs(
                diff_ids=tuple("sha256:" + hashlib.sha256(tar).hexdigest() for tar, _ in layers)
            ),
            config=ContainerConfig(labels=labels),
            created=created,
        )
        blobs = tuple(put_layer(images, tar, how) for tar, how in layers)
        root = put(
            images, Manifest(2, put(images, config, OCI_CONFIG), blobs, OCI_MANIFEST), OCI_MANIFEST
        )
        if indexed:
            other = Descriptor(
                OCI_MANIFEST, "sha256:" + "0" * 64, 5, platform=Platform("s390x", "linux")
            )
            ours = Descriptor(root.media_type, root.digest, root.size, platform=platform)
            root = put(images, Index(2, (other, ours), OCI_INDEX), OCI_INDEX)
        image = images.add(root, names)
    if unpack:
        images.unpack(image)
    return image


BASE = (layer_tar("base"), "gzip")
MADE = (
    (("app:1",), (BASE, (layer_tar("app"), "zstd"), (layer_tar("top"), "none")), False),
    (("other:1", "other:2"), (BASE, (layer_tar("other"), "python")), True),
)


def fill(images: ImageStore) -> list[Image]:
    """Two images that share a layer; all compressions; one is behind an index."""
    made = [make(images, *names, layers=layers, indexed=index) for names, layers, index in MADE]
    images.snapshots.settle()
    return made


def blocks_below(path: str) -> int:
    """What `du -s --block-size=1` says."""
    seen = set()
    total = 0
    for directory, _, files in os.walk(path):
        for name in (".", *files):
            status = os.lstat(os.path.join(directory, name))
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                total += status.st_blocks * 512
        for name in os.listdir(directory):
            full = os.path.join(directory, name)
            if os.path.islink(full) and os.path.isdir(full):
                total += os.lstat(full).st_blocks * 512
    return total
