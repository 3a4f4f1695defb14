"""Layers in both forms for tests: a tar mounted as EROFS, a tar unpacked, and what is in them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from image_tars import pieces
from onggi.image.apply import Applied, apply_layer
from onggi.image.compression import DEFAULT_LIMITS, Limits
from onggi.image.erofs.mount import mount_layer, probe
from onggi.image.erofs.tree import LayerTree, index_layer

Picture = dict[bytes, tuple[Any, ...]]


def why_not(directory: Path) -> str:
    """Why this host cannot mount layers; names the feature for a skip."""
    return probe(str(directory))


def indexed(data: bytes, place: Path, limits: Limits = DEFAULT_LIMITS) -> LayerTree:
    """Index a tar into `place`/tar, all that a layer needs but the image."""
    with open(place / "tar", "wb") as tar:
        return index_layer(pieces(data), tar.write, limits)


@contextmanager
def mounted(data: bytes, place: Path) -> Iterator[bytes]:
    """The path of a tar's detached mount."""
    tree = indexed(data, place)
    write(tree, place)
    with mount_layer(str(place / "image"), str(place / "tar")) as fd:
        yield f"/proc/self/fd/{fd}".encode()


def write(tree: LayerTree, place: Path) -> bytes:
    """The image of a tree, as it is in `place`/image."""
    with open(place / "image", "wb") as image:
        tree.write(image.fileno(), (place / "tar").stat().st_size)
    return (place / "image").read_bytes()


def unpacked(data: bytes, place: Path) -> Applied:
    """Unpack a tar into the new directory `place`."""
    place.mkdir()
    os.chmod(place, 0o755)
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return apply_layer(pieces(data), fd)
    finally:
        os.close(fd)


def picture(root: bytes, undated: Iterable[bytes] = ()) -> Picture:
    """Everything that a program could see below a directory, but times of what has none.

    `undated`: directories that the archive left out.
    """
    seen: Picture = {}
    inodes: dict[int, bytes] = {}
    missing = set(undated)
    pending = [b""]
    while pending:
        path = pending.pop()
        full = os.path.join(root, path)
        status = os.stat(full) if not path else os.lstat(full)
        mode = status.st_mode
        content: object = None
        first = path
        if stat.S_ISDIR(mode):
            names = sorted(os.listdir(full))
            content = names
            for name in names:
                # The kernel's search has to find what its listing shows.
                pending.append(os.path.join(path, name))
        else:
            first = inodes.setdefault(status.st_ino, path)
        if stat.S_ISREG(mode):
            content = (status.st_size, Path(os.fsdecode(full)).read_bytes())
        elif stat.S_ISLNK(mode):
            content = (status.st_size, os.readlink(full))
        whiteout = stat.S_ISCHR(mode) and status.st_rdev == 0
        keys = sorted(os.listxattr(full, follow_symlinks=not path))
        seen[path] = (
            mode,
            # Nobody sees a whiteout; one in a set-group-id directory takes its group.
            None if whiteout else (status.st_uid, status.st_gid),
            status.st_rdev,
            status.st_nlink,
            None if whiteout or path in missing else status.st_mtime_ns,
            first if status.st_nlink > 1 else b"",
            content,
            [(key, os.getxattr(full, key, follow_symlinks=not path)) for key in keys],
        )
    return seen
