"""A container's changes become an image: its upper directory as a layer more.

Owners on disk are unshifted, so nothing is translated. What a container deletes meanwhile is
left out.

Source: docker-commit(1).
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from msgspec import structs

from onggi.image.changes import apply_changes
from onggi.image.compression import Compression
from onggi.image.edit import add_layer, store_edited
from onggi.image.images import Image, ImageStore
from onggi.image.layers import store_directory
from onggi.image.trees import kept_xattrs
from onggi.specs.image import ContainerConfig, History


def commit_container(
    images: ImageStore,
    image: Image,
    upper_fs_path: str,
    name: str | None = None,
    *,
    config: ContainerConfig | None = None,
    author: str = "",
    message: str = "",
    changes: Sequence[str] = (),
    created: str | None = None,
    compression: Compression = "gzip",
) -> Image:
    """The image that a container was made from, with its changes as the topmost layer.

    `config`: how the container is run, if other than its image says; `changes` alter that. A
    container that changed nothing adds no layer. The image must be unpacked.

    Raises:
        InvalidArgument: a change is malformed; a file's name means a whiteout.
        Conflict: a file changed meanwhile. ResourceExhausted: the disk is full.
    """
    wanted = config or image.config.config or ContainerConfig()
    wanted = apply_changes(wanted, changes)
    command = " ".join((*(wanted.entrypoint or ()), *(wanted.cmd or ())))
    at = created or image.config.created
    step = History(at, command or None, author or None, message or None)
    with images.lease():
        edited = structs.replace(
            image,
            config=structs.replace(
                image.config, config=wanted, author=author or image.config.author, created=at
            ),
        )
        if is_unchanged(upper_fs_path, images.snapshots.lowers(image.chain_ids)[0]):
            step = structs.replace(step, empty_layer=True)
            history = (*(image.config.history or ()), step)
            same = structs.replace(edited.config, history=history)
            return store_edited(images, image, same, image.layers, name, {})
        layer = store_directory(images.content, upper_fs_path, compression)
        return add_layer(images, edited, name, layer, step, created=created)


def is_unchanged(upper_fs_path: str, below: str) -> bool:
    """Whether an upper has nothing, and its root the attributes of the topmost layer's."""
    with os.scandir(upper_fs_path) as entries:
        if next(entries, None) is not None:
            return False
    return _attributes(upper_fs_path) == _attributes(below)


def _attributes(path: str) -> object:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        return status.st_mode, status.st_uid, status.st_gid, kept_xattrs(fd)
    finally:
        os.close(fd)
