"""Snapshots for overlayfs: unpacked layers under their chain ids, and writable uppers over them.

Nothing is mounted here: whoever starts a container gives the paths of a `Rootfs` to the kernel. A
layer appears by one rename, complete and synced; what a crash leaves is swept at the next opening.

Layout: `layers/<chain hex>/{fs,parent}`, `active/<key>/{fs,work}`, `staging/`, `trash/`.
Source: image-spec config.md#layer-chainid.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from msgspec import Struct

from onggi.errors import (
    AlreadyExists,
    DataLoss,
    EngineError,
    InvalidArgument,
    NotFound,
    from_os_error,
)
from onggi.image.apply import ParentAttributes, apply_layer
from onggi.image.compression import DEFAULT_LIMITS, Limits, Read, plain_chunks
from onggi.image.durable import (
    delete_tree,
    locked,
    staged_directory,
    sweep_staging,
    sync_directory,
    unique_name,
)
from onggi.image.merged import MergedView
from onggi.image.tar_reader import shown
from onggi.image.trees import walk
from onggi.kernel.syscalls import syncfs
from onggi.specs.image import check_digest, digest_of

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,200}")


class Rootfs(Struct, frozen=True):
    """What an overlay is made of: layer paths, topmost first; `upper` holds `fs` and `work`."""

    lowers: tuple[str, ...]
    upper: str


class Usage(Struct, frozen=True):
    """What an upper takes on disk; a hard-linked inode counts once."""

    size_bytes: int
    inodes: int


class Snapshotter(Protocol):
    """The contract; `tests/contract/test_snapshotter.py` says it in code."""

    def apply(self, parent: str | None, read: Read, diff_id: str) -> str: ...
    def exists(self, chain_id: str) -> bool: ...
    def layers(self) -> list[str]: ...
    def lowers(self, chain_ids: Sequence[str]) -> tuple[str, ...]: ...
    def remove_layer(self, chain_id: str) -> None: ...
    def prepare(self, key: str, chain_ids: Sequence[str]) -> Rootfs: ...
    def rootfs(self, key: str, chain_ids: Sequence[str]) -> Rootfs: ...
    def remove(self, key: str) -> Callable[[], None]: ...
    def usage(self, key: str) -> Usage: ...
    def list(self) -> list[str]: ...
    def sweep(self) -> None: ...


def chain_ids(diff_ids: Sequence[str]) -> tuple[str, ...]:
    """The chain id of each layer, lowest first. Source: image-spec config.md#layer-chainid."""
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(next_chain_id(chain[-1] if chain else None, diff_id))
    return tuple(chain)


def next_chain_id(parent: str | None, diff_id: str) -> str:
    """The chain id of a layer on top of another. Raises: SpecError for what is no digest."""
    check_digest(diff_id)
    if parent is None:
        return diff_id
    return digest_of(f"{check_digest(parent)} {diff_id}".encode())


class OverlaySnapshotter:
    """Layers and uppers in `root` (made if missing).

    `root` is 0700: set-uid programs of images must not be reachable for the host's users.
    """

    def __init__(self, root: str, limits: Limits = DEFAULT_LIMITS) -> None:
        self.root = root
        self._limits = limits
        self._layers = os.path.join(root, "layers")
        self._active = os.path.join(root, "active")
        self._staging = os.path.join(root, "staging")
        self._trash = os.path.join(root, "trash")
        os.makedirs(root, mode=0o700, exist_ok=True)
        for path in (self._layers, self._active, self._staging, self._trash):
            os.makedirs(path, mode=0o700, exist_ok=True)
        sweep_staging(self._staging)

    # Layers.

    def exists(self, chain_id: str) -> bool:
        """Whether a layer is unpacked."""
        return os.path.isdir(self._layer(chain_id))

    def layers(self) -> list[str]:
        """The chain ids of all layers, sorted."""
        return sorted(f"sha256:{name}" for name in os.listdir(self._layers))

    def layer_path(self, chain_id: str) -> str:
        """The directory of a layer's files. Raises: NotFound."""
        path = os.path.join(self._layer(chain_id), "fs")
        if not os.path.isdir(path):
            raise NotFound(f"layer {chain_id} is not unpacked", hint="unpack its image first")
        return path

    def lowers(self, chain_ids: Sequence[str]) -> tuple[str, ...]:
        """The paths of an image's layers, topmost first. Raises: NotFound."""
        return tuple(self.layer_path(chain_id) for chain_id in reversed(chain_ids))

    def ancestry(self, chain_id: str) -> tuple[str, ...]:
        """The chain ids from the lowest layer up to this one. Raises: NotFound."""
        chain = []
        current: str | None = chain_id
        while current is not None:
            self.layer_path(current)
            chain.append(current)
            current = self._parent(current)
        return tuple(reversed(chain))

    def apply(self, parent: str | None, read: Read, diff_id: str) -> str:
        """Unpack a layer on top of `parent` (a chain id); answers its chain id.

        `read(size)` gives the layer as stored, compressed or not. One that is there already is not
        read. After an error or a crash nothing is visible.

        Raises:
            DataLoss: the uncompressed stream is not `diff_id`.
            NotFound: no such parent.
            InvalidArgument, ResourceExhausted: as `apply_layer`.
        """
        chain_id = next_chain_id(parent, diff_id)
        if self.exists(chain_id):
            return chain_id
        below = self.lowers(self.ancestry(parent)) if parent else ()
        try:
            fd, path = staged_directory(self._staging)
        except OSError as error:
            raise from_os_error(error, "unpacking a layer") from error
        try:
            self._unpack(path, read, diff_id, below)
            self._write_parent(path, parent)
            syncfs(fd)
            self._commit(path, chain_id)
        except OSError as error:
            raise from_os_error(error, "unpacking a layer") from error
        finally:
            self._discard(path)
            os.close(fd)
        return chain_id

    def _unpack(self, path: str, read: Read, diff_id: str, below: Sequence[str]) -> None:
        digest = hashlib.sha256()

        def hashed() -> Iterator[bytes]:
            for chunk in plain_chunks(read, self._limits):
                digest.update(chunk)
                yield chunk

        target = os.path.join(path, "fs")
        os.mkdir(target)
        with contextlib.ExitStack() as stack:
            fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            view = stack.enter_context(MergedView(below)) if below else None
            _dress_root(fd, below[0] if below else None)
            find = None if view is None else _finder(view)
            apply_layer(hashed(), fd, below=find, limits=self._limits)
        found = "sha256:" + digest.hexdigest()
        if found != diff_id:
            raise DataLoss(
                f"layer {diff_id} has the content of {found}",
                hint="pull or load the image again",
            )

    def _write_parent(self, path: str, parent: str | None) -> None:
        with open(os.path.join(path, "parent"), "w", encoding="ascii") as file:
            file.write(parent or "")

    def _parent(self, chain_id: str) -> str | None:
        with open(os.path.join(self._layer(chain_id), "parent"), encoding="ascii") as file:
            return file.read() or None

    def _commit(self, path: str, chain_id: str) -> None:
        try:
            os.rename(path, self._layer(chain_id))
        except OSError:
            if not self.exists(chain_id):
                raise
            return  # somebody else unpacked the same layer meanwhile
        sync_directory(self._layers)

    def _discard(self, path: str) -> None:
        if os.path.lexists(path):
            self._to_trash(path)()

    def remove_layer(self, chain_id: str) -> None:
        """Delete a layer; nothing if there is none. Nobody may use it. Raises: EngineError."""
        if self.exists(chain_id):
            self._to_trash(self._layer(chain_id))()

    # Uppers.

    def prepare(self, key: str, chain_ids: Sequence[str]) -> Rootfs:
        """A new empty upper over an image's layers (chain ids, lowest first).

        Its root directory has the mode and owner of the topmost layer's.

        Raises:
            AlreadyExists: the key is in use. NotFound: a layer is not unpacked.
            ResourceExhausted: the disk is full; nothing stays.
        """
        lowers = self.lowers(chain_ids)
        if not lowers:
            raise InvalidArgument(f"snapshot {key}: an image without layers")
        upper = self._upper(key)
        status = os.stat(lowers[0])
        try:
            os.mkdir(upper, 0o755)
        except FileExistsError:
            raise AlreadyExists(f"snapshot {key} exists") from None
        except OSError as error:
            raise from_os_error(error, f"preparing snapshot {key}") from error
        try:
            fs = os.path.join(upper, "fs")
            os.mkdir(fs, 0o755)
            os.chown(fs, status.st_uid, status.st_gid)
            os.chmod(fs, stat.S_IMODE(status.st_mode))
            os.mkdir(os.path.join(upper, "work"), 0o755)
        except OSError as error:
            self._discard(upper)
            raise from_os_error(error, f"preparing snapshot {key}") from error
        return Rootfs(lowers, upper)

    def rootfs(self, key: str, chain_ids: Sequence[str]) -> Rootfs:
        """What `prepare` made, or would make, for a key. Raises: NotFound: a layer is missing."""
        return Rootfs(self.lowers(chain_ids), self._upper(key))

    def remove(self, key: str) -> Callable[[], None]:
        """Take an upper away at once; the answer, called, deletes it off the user's path.

        If it is never called, `sweep` deletes. Removing what is not there does nothing.
        """
        try:
            return self._to_trash(self._upper(key))
        except FileNotFoundError:
            return lambda: None
        except OSError as error:
            raise from_os_error(error, f"removing snapshot {key}") from error

    def usage(self, key: str) -> Usage:
        """What an upper takes, as far as paths reach; it may be in use. Raises: NotFound."""
        path = os.path.join(self._upper(key), "fs")
        try:
            fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound(f"no snapshot {key}") from None
        try:
            blocks: dict[tuple[int, int], int] = {}
            for node in walk(fd, live=True):
                blocks[node.status.st_dev, node.status.st_ino] = node.status.st_blocks
        finally:
            os.close(fd)
        return Usage(sum(blocks.values()) * 512, len(blocks))

    def list(self) -> list[str]:
        """The keys of all uppers, sorted."""
        return sorted(os.listdir(self._active))

    def sweep(self) -> None:
        """Delete what was removed, and what crashes left. Raises: EngineError after trying all."""
        failed: list[EngineError] = []
        with locked(os.path.join(self.root, "sweep.lock")):
            for name in os.listdir(self._trash):
                try:
                    self._delete(name)
                except EngineError as error:
                    failed.append(error)
            sweep_staging(self._staging)
        if failed:
            raise failed[0]

    def _to_trash(self, path: str) -> Callable[[], None]:
        name = unique_name(os.path.basename(path)[:64] + ".")
        os.rename(path, os.path.join(self._trash, name))

        def delete() -> None:
            with locked(os.path.join(self.root, "sweep.lock")):
                self._delete(name)

        return delete

    def _delete(self, name: str) -> None:
        fd = os.open(self._trash, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            delete_tree(fd, name)
        finally:
            os.close(fd)

    def _layer(self, chain_id: str) -> str:
        return os.path.join(self._layers, check_digest(chain_id).removeprefix("sha256:"))

    def _upper(self, key: str) -> str:
        if _KEY.fullmatch(key) is None:
            raise InvalidArgument(f"{key[:100]!r} is not a snapshot key")
        return os.path.join(self._active, key)


def _dress_root(fd: int, like: str | None) -> None:
    """A layer that leaves its root directory out has that of the layers below."""
    status = os.stat(like) if like else None
    os.fchown(fd, status.st_uid if status else 0, status.st_gid if status else 0)
    os.fchmod(fd, stat.S_IMODE(status.st_mode) if status else 0o755)


def _finder(view: MergedView) -> Callable[[bytes], ParentAttributes | None]:
    def find(path: bytes) -> ParentAttributes | None:
        try:
            status = view.stat(os.fsdecode(path), follow_symlinks=False)
        except NotFound:
            return None
        if stat.S_ISLNK(status.st_mode):
            raise InvalidArgument(
                f"the layer has files in {shown(path)}, which is a symlink in a layer below"
            )
        if not stat.S_ISDIR(status.st_mode):
            return None
        return ParentAttributes(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)

    return find
