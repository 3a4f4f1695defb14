"""Snapshots: layers under their chain ids, and writable uppers over them.

A layer is unpacked in any order and in any thread, without its parents; then it is committed on top
of one. It appears by one rename, complete and synced; what a crash leaves is swept at the next
opening. How a layer is kept is a matter of its form (`layer_forms`); a chain may mix them. No mount
of this room is in the host's mount table: whoever starts a container gives the paths of a `Rootfs`
to the kernel.

Layout: `layers/<chain hex>/{layer.json, fs/ | layer.tar, layer.erofs}`, `active/<key>/{fs,work}`,
`staging/`, `trash/`. Source: image-spec config.md#layer-chainid.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import BinaryIO, Literal

from msgspec import Struct

from onggi.errors import (
    AlreadyExists,
    EngineError,
    InvalidArgument,
    NotFound,
    SpecError,
    Unsupported,
    from_os_error,
)
from onggi.image.compression import DEFAULT_LIMITS, Limits, Read
from onggi.image.durable import (
    delete_tree,
    locked,
    staged_directory,
    sweep_staging,
    sync_directory,
    unique_name,
)
from onggi.image.erofs.mount import probe
from onggi.image.layer_check import check_directory, check_files
from onggi.image.layer_mounts import LayerMounts
from onggi.image.layer_record import (
    DIRECTORY,
    RECORD,
    TAR,
    Form,
    LayerRecord,
    chain_ids,
    has_files,
    next_chain_id,
    read_record,
)
from onggi.image.layer_stage import StagedLayer
from onggi.image.merged import MergedView
from onggi.image.trees import walk
from onggi.specs.image import check_digest

__all__ = ["Rootfs", "Snapshotter", "StagedLayer", "Usage", "chain_ids", "next_chain_id"]

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,200}")


class Rootfs(Struct, frozen=True):
    """What an overlay is made of: layer paths, topmost first; `upper` holds `fs` and `work`."""

    lowers: tuple[str, ...]
    upper: str


class Usage(Struct, frozen=True):
    """What an upper or a layer takes on disk; a hard-linked inode counts once."""

    size_bytes: int
    inodes: int


class Snapshotter:
    """Layers and uppers in `root` (made if missing); `tests/contract/test_snapshotter.py`.

    `root` is 0700: set-uid programs of images must not be reachable for the host's users.
    `form`: of new layers; `auto` is `erofs` where the host can mount it.
    """

    def __init__(
        self,
        root: str,
        form: Literal["auto", "overlay", "erofs"] = "auto",
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.root = root
        self._wanted = form
        self._limits = limits
        self._reason: str | None = None
        self._layers = os.path.join(root, "layers")
        self._active = os.path.join(root, "active")
        self._staging = os.path.join(root, "staging")
        self._trash = os.path.join(root, "trash")
        self._known: dict[str, tuple[tuple[int, int, int], LayerRecord]] = {}
        self._mounts = LayerMounts()
        os.makedirs(root, mode=0o700, exist_ok=True)
        for path in (self._layers, self._active, self._staging, self._trash):
            os.makedirs(path, mode=0o700, exist_ok=True)
        sweep_staging(self._staging)

    def close(self) -> None:
        """Let go of the layers' mounts; the paths of `lowers` end with it."""
        self._mounts.close()

    @property
    def form(self) -> Form:
        """The form that new layers get."""
        if self._wanted == "auto":
            return "overlay" if self.form_reason else "erofs"
        return self._wanted

    @property
    def form_reason(self) -> str:
        """Why this host cannot have layers as `erofs`; empty: it can. Probed once."""
        if self._reason is None:
            fd, place = staged_directory(self._staging)
            try:
                self._reason = probe(place)
                os.rmdir(place)
            finally:
                os.close(fd)
        return self._reason

    # Layers, as they are.

    def exists(self, chain_id: str) -> bool:
        """Whether a layer is here, as far as its record and its files' names tell. Cheap."""
        return self._find(chain_id) is not None

    def layers(self) -> list[str]:
        """The chain ids of all layers, sorted."""
        names = (f"sha256:{name}" for name in os.listdir(self._layers))
        return sorted(chain_id for chain_id in names if self._is_layer(chain_id))

    def record(self, chain_id: str) -> LayerRecord:
        """What is known of a layer. Raises: NotFound."""
        found = self._find(chain_id)
        if found is None:
            raise NotFound(f"layer {chain_id} is not unpacked", hint="unpack its image first")
        return found

    def layer_path(self, chain_id: str) -> str:
        """The directory of a layer's files, maybe through /proc. Raises: as `lowers`."""
        if self.record(chain_id).form == "erofs":
            return self._mounts.path(self._layer(chain_id))
        return os.path.join(self._layer(chain_id), DIRECTORY)

    def lowers(self, chain_ids: Sequence[str]) -> tuple[str, ...]:
        """The paths of an image's layers, topmost first; they hold as long as this object.

        Raises:
            NotFound: a layer is not unpacked.
            Unsupported, SyscallError: this host cannot mount one. DataLoss: one is damaged.
        """
        return tuple(self.layer_path(chain_id) for chain_id in reversed(chain_ids))

    def ancestry(self, chain_id: str) -> tuple[str, ...]:
        """The chain ids from the lowest layer up to this one. Raises: NotFound."""
        chain = []
        current: str | None = chain_id
        while current is not None:
            chain.append(current)
            current = self.record(current).parent
        return tuple(reversed(chain))

    def layer_usage(self, chain_id: str) -> Usage:
        """What a layer takes on disk, its record and directory with it. Raises: NotFound."""
        self.record(chain_id)
        return _usage(self._layer(chain_id), f"layer {chain_id} is not unpacked")

    def open_tar(self, chain_id: str) -> BinaryIO | None:
        """The plain tar that a layer was made of, if it is kept. Raises: NotFound."""
        if self.record(chain_id).form != "erofs":
            return None
        try:
            return open(os.path.join(self._layer(chain_id), TAR), "rb")
        except OSError as error:
            raise from_os_error(error, "reading a layer") from error

    def verify(self, chain_id: str, read_blob: Read | None = None) -> None:
        """Read all of a layer, and say whether it is still what its archive made of it.

        `read_blob(size)` gives the layer as stored; a directory cannot be judged without.

        Raises:
            NotFound: no such layer. DataLoss: it is damaged; names the first damage found.
            EngineError: as `unpack`, when the blob is damaged.
        """
        record = self.record(chain_id)
        place = self._layer(chain_id)
        if record.form == "erofs":
            check_files(place, record)
        elif read_blob is not None:
            self._check_directory(record, read_blob)

    # Layers, as they come and go.

    def unpack(self, read: Read, diff_id: str) -> StagedLayer:
        """Take in a layer, in any order and in any thread; for `commit`, or to be closed.

        `read(size)` gives the layer as stored, compressed or not.

        Raises:
            DataLoss: the uncompressed stream is not `diff_id`.
            Unsupported: the form that was asked for is not to be had on this host.
            InvalidArgument, ResourceExhausted: the archive is hostile; the disk is full.
        """
        form = self.form
        if form == "erofs" and self.form_reason:
            raise Unsupported(
                f"layers as erofs: {self.form_reason}", hint="set the snapshotter to auto"
            )
        return StagedLayer(self._staging, read, diff_id, form, self._limits)

    def commit(self, staged: StagedLayer, parent: str | None) -> str:
        """Make an unpacked layer appear on top of `parent` (a chain id); answers its chain id.

        Durable on return. One that is there already stays, and `staged` is only closed.

        Raises:
            NotFound: no such parent.
            InvalidArgument: the layer has files where a layer below has a symlink.
            ResourceExhausted: the disk is full; nothing is visible.
        """
        with staged:
            chain_id = next_chain_id(parent, staged.diff_id)
            if self.exists(chain_id):
                return chain_id
            try:
                with self._below(parent) as below:
                    staged.seal(parent, below)
                self._appear(staged, chain_id)
            except OSError as error:
                raise from_os_error(error, "committing a layer") from error
        return chain_id

    def apply(self, parent: str | None, read: Read, diff_id: str) -> str:
        """Unpack a layer on top of `parent` and commit it; one that is there is not read.

        Raises: as `unpack` and `commit`.
        """
        chain_id = next_chain_id(parent, diff_id)
        if self.exists(chain_id):
            return chain_id
        if parent is not None:
            self.record(parent)
        return self.commit(self.unpack(read, diff_id), parent)

    def remove_layer(self, chain_id: str) -> None:
        """Delete a layer; nothing if there is none. Nobody may use it. Raises: EngineError."""
        place = self._layer(chain_id)
        try:
            delete = self._to_trash(place)
        except FileNotFoundError:
            return
        except OSError as error:
            raise from_os_error(error, f"removing layer {chain_id}") from error
        self._known.pop(chain_id, None)
        self._mounts.forget(place)
        delete()

    @contextlib.contextmanager
    def _below(self, parent: str | None) -> Iterator[MergedView | None]:
        """The files that a layer on top of `parent` would have below it."""
        if parent is None:
            yield None
            return
        with MergedView(self.lowers(self.ancestry(parent))) as view:
            yield view

    def _check_directory(self, record: LayerRecord, read: Read) -> None:
        fresh = StagedLayer(self._staging, read, record.diff_id, "overlay", self._limits)
        with contextlib.ExitStack() as stack:
            stack.enter_context(fresh)
            fresh.dress(stack.enter_context(self._below(record.parent)))
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            fds = []
            for path in (fresh.path, self._layer(record.chain_id)):
                fds.append(os.open(os.path.join(path, DIRECTORY), flags))
                stack.callback(os.close, fds[-1])
            check_directory(record.chain_id, fds[0], fds[1])

    def _appear(self, staged: StagedLayer, chain_id: str) -> None:
        place = self._layer(chain_id)
        try:
            staged.move_to(place)
        except OSError:
            if self.exists(chain_id):
                return  # somebody else unpacked the same layer meanwhile
            if not os.path.lexists(place):
                raise
            # What is there is damaged, so it is no layer.
            self.remove_layer(chain_id)
            staged.move_to(place)
        sync_directory(self._layers)

    def _find(self, chain_id: str) -> LayerRecord | None:
        place = self._layer(chain_id)
        try:
            status = os.stat(f"{place}/{RECORD}")
        except OSError:
            return None
        stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
        known = self._known.get(chain_id)
        if known is None or known[0] != stamp:
            record = read_record(place, chain_id)
            if record is None:
                return None
            known = self._known[chain_id] = (stamp, record)
        return known[1] if has_files(place, known[1]) else None

    def _is_layer(self, chain_id: str) -> bool:
        try:
            return self.exists(chain_id)
        except SpecError:
            return False

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
        upper = self.upper_path(key)
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
            self._to_trash(upper)()
            raise from_os_error(error, f"preparing snapshot {key}") from error
        return Rootfs(lowers, upper)

    def rootfs(self, key: str, chain_ids: Sequence[str]) -> Rootfs:
        """What `prepare` made, or would make, for a key. Raises: NotFound: a layer is missing."""
        return Rootfs(self.lowers(chain_ids), self.upper_path(key))

    def upper_path(self, key: str) -> str:
        """Where a key's upper is, or would be. Raises: InvalidArgument."""
        if _KEY.fullmatch(key) is None:
            raise InvalidArgument(f"{key[:100]!r} is not a snapshot key")
        return os.path.join(self._active, key)

    def remove(self, key: str) -> Callable[[], None]:
        """Take an upper away at once; the answer, called, deletes it off the user's path.

        If it is never called, `sweep` deletes. Removing what is not there does nothing.
        """
        try:
            return self._to_trash(self.upper_path(key))
        except FileNotFoundError:
            return lambda: None
        except OSError as error:
            raise from_os_error(error, f"removing snapshot {key}") from error

    def usage(self, key: str) -> Usage:
        """What an upper takes, as far as paths reach; it may be in use. Raises: NotFound."""
        return _usage(os.path.join(self.upper_path(key), "fs"), f"no snapshot {key}")

    def list(self) -> list[str]:
        """The keys of all uppers, sorted."""
        return sorted(os.listdir(self._active))

    def sweep(self, in_use: Collection[str] = ()) -> None:
        """Delete what was removed, what crashes left, and what is damaged so that it is no layer.

        `in_use`: chain ids of containers' layers; those are not touched, damaged or not.

        Raises: EngineError after trying all.
        """
        failed: list[EngineError] = []
        with locked(os.path.join(self.root, "sweep.lock")):
            self._set_aside(in_use)
            for name in os.listdir(self._trash):
                try:
                    self._delete(name)
                except EngineError as error:
                    failed.append(error)
            sweep_staging(self._staging)
        if failed:
            raise failed[0]

    def _set_aside(self, in_use: Collection[str]) -> None:
        for name in os.listdir(self._layers):
            chain_id = f"sha256:{name}"
            if not self._is_layer(chain_id) and chain_id not in in_use:
                with contextlib.suppress(FileNotFoundError):
                    self._to_trash(os.path.join(self._layers, name))

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


def _usage(path: str, missing: str) -> Usage:
    try:
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound(missing) from None
    try:
        blocks: dict[tuple[int, int], int] = {}
        for node in walk(fd, live=True):
            blocks[node.status.st_dev, node.status.st_ino] = node.status.st_blocks
    finally:
        os.close(fd)
    return Usage(sum(blocks.values()) * 512, len(blocks))
