"""Reads from the merged view of layers without mounting it.

Resolves a path as overlayfs and a process inside would: component by component over the layers,
with whiteouts, opaque directories and symlinks, all ending at the root. Layers are hostile: only
regular files are ever opened, sizes and links are bounded, a FIFO never blocks.

Source: kernel Documentation/filesystems/overlayfs.rst; CVE-2024-9676.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from msgspec import Struct

from onggi.errors import FailedPrecondition, InvalidArgument, NotFound, SyscallError, from_os_error
from onggi.image.overlay import is_opaque, is_whiteout
from onggi.image.trees import GONE, Node, open_beneath
from onggi.kernel.paths import read_file_bounded

MAX_SYMLINKS = 40
MAX_PATH_BYTES = 4096

_ABSENT = GONE | {errno.EXDEV}


class Found(Struct, frozen=True):
    """A resolved path: where it is, in which layers (a directory may be in several), its lstat."""

    path: bytes
    layers: tuple[int, ...]
    status: os.stat_result


class MergedView:
    """Layers, topmost first (an upper's `fs` may be the first), as one tree. A context manager.

    Paths are absolute or relative to the root; there is no difference.
    """

    def __init__(self, layers: Sequence[str]) -> None:
        self._roots: list[int] = []
        try:
            for layer in layers:
                self._roots.append(os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError as error:
            self.close()
            raise from_os_error(error, "opening a layer") from error
        if not self._roots:
            raise InvalidArgument("a merged view needs at least one layer")

    def close(self) -> None:
        while self._roots:
            os.close(self._roots.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    def stat(self, path: str, *, follow_symlinks: bool = True) -> os.stat_result:
        """What is at `path`. Raises: NotFound, InvalidArgument (too many symlinks)."""
        return self._resolve(path, follow_symlinks).status

    def exists(self, path: str) -> bool:
        """Whether anything is at `path`."""
        try:
            self._resolve(path, follow=True)
        except NotFound:
            return False
        return True

    def read_file(self, path: str, maximum_bytes: int) -> bytes:
        """The content of a regular file.

        Raises:
            NotFound: nothing there. FailedPrecondition: not a regular file.
            ResourceExhausted: larger than `maximum_bytes`.
        """
        found = self._resolve(path, follow=True)
        root = self._roots[found.layers[0]]
        if stat.S_ISDIR(found.status.st_mode):
            raise FailedPrecondition(f"{path!r} in the image is a directory, not a regular file")
        return read_file_bounded(
            root, os.fsdecode(found.path), maximum_bytes, follow_symlinks=False
        )

    def list_directory(self, path: str) -> list[str]:
        """The names in a directory, sorted. Raises: NotFound, FailedPrecondition."""
        found = self._resolve(path, follow=True)
        if not stat.S_ISDIR(found.status.st_mode):
            raise FailedPrecondition(f"{path!r} in the image is not a directory")
        return [os.fsdecode(child.path.rpartition(b"/")[2]) for child in self._children(found)]

    def walk(self, top: str = "/") -> Iterator[tuple[Node, int]]:
        """Every inode of the merged tree from `top` on, parents first, and the root of the layer it
        is in. Raises: NotFound."""
        return self._walk(self._resolve(top, follow=True))

    def _walk(self, top: Found) -> Iterator[tuple[Node, int]]:
        yield Node(top.path, top.status), self._roots[top.layers[0]]
        pending = [top] if stat.S_ISDIR(top.status.st_mode) else []
        while pending:
            below = []
            for child in self._children(pending.pop()):
                yield Node(child.path, child.status), self._roots[child.layers[0]]
                if stat.S_ISDIR(child.status.st_mode):
                    below.append(child)
            pending += reversed(below)

    def root(self) -> Found:
        """The root of the tree."""
        return Found(b"", tuple(range(len(self._roots))), os.fstat(self._roots[0]))

    def _children(self, directory: Found) -> list[Found]:
        names: set[bytes] = set()
        for index in directory.layers:
            flags = os.O_RDONLY | os.O_DIRECTORY
            try:
                opened = open_beneath(self._roots[index], directory.path, flags)
            except SyscallError as error:
                if error.errno in GONE:
                    continue  # a container is at work in its upper
                raise
            with opened as fd:
                names.update(os.fsencode(name) for name in os.listdir(fd))
        found = (self.look_up(directory, name) for name in sorted(names))
        return [child for child in found if child is not None]

    def look_up(self, directory: Found, name: bytes) -> Found | None:
        """What has `name` in a directory of the tree, symlinks not followed; None: nothing."""
        path = directory.path + b"/" + name if directory.path else name
        layers: list[int] = []
        first: os.stat_result | None = None
        for index in directory.layers:
            try:
                opened = open_beneath(self._roots[index], path, os.O_PATH)
            except SyscallError as error:
                if error.errno in _ABSENT:
                    continue
                raise
            with opened as fd:
                status = os.fstat(fd)
                if is_whiteout(status):
                    break
                if not stat.S_ISDIR(status.st_mode):
                    if first is None:
                        return Found(path, (index,), status)
                    break
                first = first or status
                layers.append(index)
                if is_opaque(fd):
                    break
        return Found(path, tuple(layers), first) if first is not None else None

    def _resolve(self, path: str, follow: bool) -> Found:
        trail = [self.root()]
        names = _components(os.fsencode(path), path)
        links = 0
        while names:
            name = names.pop()
            is_directory = stat.S_ISDIR(trail[-1].status.st_mode)
            if name == b".." and is_directory:
                if len(trail) > 1:
                    trail.pop()
                continue
            found = self.look_up(trail[-1], name) if is_directory else None
            if found is None:
                raise NotFound(f"{path!r} is not in the image")
            if not stat.S_ISLNK(found.status.st_mode) or not (names or follow):
                trail.append(found)
                continue
            links += 1
            if links > MAX_SYMLINKS:
                raise InvalidArgument(f"{path!r} in the image: more than {MAX_SYMLINKS} symlinks")
            target = self._read_link(found)
            names += _components(target, path)
            if target.startswith(b"/"):
                del trail[1:]
        return trail[-1]

    def _read_link(self, found: Found) -> bytes:
        with open_beneath(self._roots[found.layers[0]], found.path, os.O_PATH) as fd:
            return os.readlink(b"", dir_fd=fd)


def read_file(layers: Sequence[str], path: str, maximum_bytes: int) -> bytes:
    """One file of the merged view of `layers`, topmost first. Raises: as `MergedView`."""
    with MergedView(layers) as view:
        return view.read_file(path, maximum_bytes)


def _components(path: bytes, shown: str) -> list[bytes]:
    """The last component first."""
    if len(path) > MAX_PATH_BYTES or b"\0" in path:
        raise InvalidArgument(f"{shown[:100]!r}: not a path")
    return [name for name in reversed(path.split(b"/")) if name not in (b"", b".")]
