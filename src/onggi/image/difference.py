"""What tells two images apart, and what a container changed: in files and in configuration.

Two trees are walked side by side in one order, so that memory holds a directory of each, never a
tree. Files that are one inode in both (a shared layer) are not read.

Source: docker-diff(1); kernel Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import stat
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from onggi.errors import NotFound
from onggi.image.images import Image, ImageStore
from onggi.image.merged import MergedView
from onggi.image.overlay import is_opaque, is_whiteout
from onggi.image.trees import Node, kept_xattrs, open_beneath, walk
from onggi.kernel.paths import open_regular
from onggi.specs.image import ImageConfig

MAX_FILES = 100_000
_CHUNK_BYTES = 1 << 20
_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


class Aspect(Struct, frozen=True):
    """One thing that differs: `type`, `mode`, `owner`, `size`, `content`, `target`, `device`,
    `mtime`, or `xattr NAME`. Content is a digest, the rest as people write it; "" is nothing."""

    name: str
    before: str
    after: str


class FileChange(Struct, frozen=True):
    """A path from the root (`/etc/passwd`) and what happened to it."""

    path: str
    kind: Literal["added", "removed", "changed"]
    aspects: tuple[Aspect, ...] = ()


class FieldChange(Struct, frozen=True):
    """A field of the configuration (`config.Env.PATH`) as JSON; None: not there."""

    field: str
    before: str | None
    after: str | None


class Difference(Struct, frozen=True):
    """How an image differs from another. `more`: there are files beyond those listed.

    Layers are diff ids, lowest first: those at the bottom of both, and those of one only.
    """

    files: tuple[FileChange, ...]
    more: bool
    fields: tuple[FieldChange, ...]
    shared_layers: tuple[str, ...]
    layers_before: tuple[str, ...]
    layers_after: tuple[str, ...]


def compare_images(
    images: ImageStore, before: Image, after: Image, *, maximum_files: int = MAX_FILES
) -> Difference:
    """Compare two images, which are unpacked for it. Raises: as `ImageStore.unpack`."""
    with images.lease():
        lowers = [images.snapshots.lowers(images.unpack(image)) for image in (before, after)]
        with MergedView(lowers[0]) as old, MergedView(lowers[1]) as new:
            found = list(itertools.islice(file_changes(old, new), maximum_files + 1))
    one, two = before.config.diff_ids, after.config.diff_ids
    pairs = zip(one, two, strict=False)
    shared = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))
    return Difference(
        tuple(found[:maximum_files]),
        len(found) > maximum_files,
        field_changes(before.config, after.config),
        one[:shared],
        one[shared:],
        two[shared:],
    )


# Files.


def file_changes(
    before: MergedView, after: MergedView, *, times: bool = False
) -> Iterator[FileChange]:
    """What differs between two trees, in the order of a walk; `times`: modification times too.

    Raises: SyscallError, FailedPrecondition: somebody changes the trees meanwhile.
    """
    old, new = before.walk(), after.walk()
    one, two = next(old, None), next(new, None)
    while one is not None or two is not None:
        if two is None or (one is not None and _order(one[0]) < _order(two[0])):
            assert one is not None
            yield FileChange(_shown(one[0].path), "removed")
            one = next(old, None)
        elif one is None or _order(two[0]) < _order(one[0]):
            yield FileChange(_shown(two[0].path), "added")
            two = next(new, None)
        else:
            if aspects := tuple(_aspects(one, two, times)):
                yield FileChange(_shown(two[0].path), "changed", aspects)
            one, two = next(old, None), next(new, None)


def _order(node: Node) -> tuple[list[bytes], bytes]:
    """Where a walk has a node: all of a directory, then what is below its subdirectories."""
    parent, slash, name = node.path.rpartition(b"/")
    return (parent.split(b"/") if slash else [], name)


def _shown(path: bytes) -> str:
    return "/" + os.fsdecode(path)


def _aspects(one: tuple[Node, int], two: tuple[Node, int], times: bool) -> Iterator[Aspect]:
    a, b = one[0].status, two[0].status
    if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino):
        return
    kind = stat.S_IFMT(a.st_mode)
    yield from _differing("type", _type(a), _type(b))
    yield from _differing("mode", _mode(a), _mode(b))
    yield from _differing("owner", f"{a.st_uid}:{a.st_gid}", f"{b.st_uid}:{b.st_gid}")
    if times:
        yield from _differing("mtime", str(a.st_mtime_ns), str(b.st_mtime_ns))
    yield from _xattr_aspects(_xattrs(one), _xattrs(two))
    if kind != stat.S_IFMT(b.st_mode):
        return
    if kind == stat.S_IFREG:
        yield from _differing("size", str(a.st_size), str(b.st_size))
        yield from _differing("content", *_digests(one, two))
    elif kind == stat.S_IFLNK:
        yield from _differing("target", _target(one), _target(two))
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        yield from _differing("device", _device(a), _device(b))


def _differing(name: str, before: str, after: str) -> Iterator[Aspect]:
    if before != after:
        yield Aspect(name, before, after)


def _type(status: os.stat_result) -> str:
    return _TYPES.get(stat.S_IFMT(status.st_mode), "unknown")


def _mode(status: os.stat_result) -> str:
    return f"{stat.S_IMODE(status.st_mode):04o}"


def _device(status: os.stat_result) -> str:
    return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"


def _target(place: tuple[Node, int]) -> str:
    with open_beneath(place[1], place[0].path, os.O_PATH) as fd:
        return os.fsdecode(os.readlink(b"", dir_fd=fd))


def _xattrs(place: tuple[Node, int]) -> dict[str, bytes]:
    with open_beneath(place[1], place[0].path, os.O_PATH) as fd:
        return kept_xattrs(fd) or {}


def _xattr_aspects(before: dict[str, bytes], after: dict[str, bytes]) -> Iterator[Aspect]:
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key, b""), after.get(key, b"")
        yield from _differing(f"xattr {key}", old.hex(), new.hex())


def _digests(one: tuple[Node, int], two: tuple[Node, int]) -> tuple[str, str]:
    """Digests of two regular files."""
    old, new = (_digest(place) for place in (one, two))
    return old, new


def _digest(place: tuple[Node, int]) -> str:
    digest = hashlib.sha256()
    flags = os.O_RDONLY | os.O_NOFOLLOW
    with open_regular(place[1], os.fsdecode(place[0].path), flags) as fd:
        while data := os.read(fd, _CHUNK_BYTES):
            digest.update(data)
    return f"sha256:{digest.hexdigest()}"


# Configuration.


def field_changes(before: ImageConfig, after: ImageConfig) -> tuple[FieldChange, ...]:
    """Fields of two configurations that differ, sorted; history and layers left out."""
    old, new = _fields(before), _fields(after)
    return tuple(
        FieldChange(field, old.get(field), new.get(field))
        for field in sorted(old.keys() | new.keys())
        if old.get(field) != new.get(field)
    )


def _fields(config: ImageConfig) -> dict[str, str]:
    document: dict[str, Any] = msgspec.to_builtins(config)
    inner: dict[str, Any] = document.pop("config", None) or {}
    document = {key: document[key] for key in document if key not in ("rootfs", "history")}
    environment = inner.pop("Env", None) or ()
    for key, value in inner.items():
        if isinstance(value, dict) and key != "Healthcheck":
            document.update({f"config.{key}.{name}": value[name] for name in value})
        else:
            document[f"config.{key}"] = value
    for entry in environment:
        name, _, value = entry.partition("=")
        document[f"config.Env.{name}"] = value
    return {
        key: msgspec.json.encode(value, order="sorted").decode() for key, value in document.items()
    }


# Containers.


def container_changes(upper_fs_path: str, lowers: Sequence[str]) -> list[tuple[str, str]]:
    """What a container did to its image: (`A` added, `C` changed or `D` deleted, path), sorted.

    `lowers`: the image's layers, topmost first. Directories on the way to a change are changed
    ones, as overlayfs copies them up. The container may be running.

    Raises: SyscallError: something cannot be read.
    """
    fd = os.open(upper_fs_path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with MergedView(lowers) as image:
            changes = list(_Changes(fd, image).all())
    finally:
        os.close(fd)
    return sorted(changes, key=lambda change: change[1])


class _Changes:
    """Compares an upper's directory (borrowed) with the image below it."""

    def __init__(self, upper: int, image: MergedView) -> None:
        self._upper = upper
        self._image = image
        #: Directories of the upper where the image has none: all in them is new.
        self._new: set[bytes] = set()
        #: Directories of the upper, opaque or below such, which hide those of the image.
        self._hiding: set[bytes] = set()

    def all(self) -> Iterator[tuple[str, str]]:
        for node in walk(self._upper, live=True):
            if node.path:
                yield from self._of(node)

    def _of(self, node: Node) -> Iterator[tuple[str, str]]:
        parent = node.path.rpartition(b"/")[0]
        path = _shown(node.path)
        below = None if parent in self._new else self._below(path)
        if is_whiteout(node.status):
            if below is not None:
                yield "D", path
            return
        yield ("A" if below is None else "C"), path
        if not node.is_directory:
            return
        if below is None or not stat.S_ISDIR(below.st_mode):
            self._new.add(node.path)
            return
        with open_beneath(self._upper, node.path, os.O_RDONLY | os.O_DIRECTORY) as fd:
            if parent in self._hiding or is_opaque(fd):
                self._hiding.add(node.path)
                kept = set(os.listdir(fd))
                for name in self._image.list_directory(path):
                    if name not in kept:
                        yield "D", f"{path}/{name}"

    def _below(self, path: str) -> os.stat_result | None:
        try:
            return self._image.stat(path, follow_symlinks=False)
        except NotFound:
            return None
