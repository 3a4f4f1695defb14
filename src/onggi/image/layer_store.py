"""Layers under their chain ids, each in its form; a chain may mix forms.

A layer is unpacked in any order and in any thread, without its parents; then it is committed on top
of one. It appears by one rename, complete, and is synced a moment later; what a crash leaves is
swept at the next opening. How a layer is kept is a matter of its form (`layer_forms`). No mount of
this room is in the host's mount table.

Layout: `layers/<chain hex>/{layer.json, fs/ | layer.tar, layer.erofs}`, `staging/`, `trash/`.
Source: image-spec config.md#layer-chainid.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import BinaryIO, Literal

from onggi.errors import NotFound, SpecError, SyscallError, Unsupported, from_os_error
from onggi.image.compression import DEFAULT_LIMITS, Limits, Read
from onggi.image.directory_check import is_as_archived
from onggi.image.durable import (
    locked,
    spread_directories,
    staged_directory,
    sweep_staging,
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
    has_files,
    next_chain_id,
    read_record,
)
from onggi.image.layer_stage import StagedLayer, dress
from onggi.image.layer_sync import LayerSync
from onggi.image.merged import MergedView
from onggi.image.trash import Trash
from onggi.image.trees import Usage, measure
from onggi.specs.image import check_digest


class LayerStore:
    """Layers in `root` (made if missing).

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
        self._staging = os.path.join(root, "staging")
        self._known: dict[str, tuple[tuple[int, int, int], LayerRecord]] = {}
        self._mounts = LayerMounts()
        self._sync = LayerSync()
        for path in (root, self._layers, self._staging):
            os.makedirs(path, mode=0o700, exist_ok=True)
        spread_directories(self._staging)
        self._trash = Trash(os.path.join(root, "trash"))
        sweep_staging(self._staging)

    def close(self) -> None:
        """Sync what is not, and let go of the mounts; the paths of `lowers` end with it."""
        self.settle()
        self._mounts.close()

    def settle(self) -> None:
        """Wait until every layer that can be durable is."""
        self._sync.wait()

    @property
    def form(self) -> Form:
        """The form that new layers get."""
        if self._wanted == "auto":
            return "overlay" if self.form_reason else "erofs"
        return self._wanted

    @property
    def form_reason(self) -> str:
        """Why this host cannot have layers as `erofs`; empty: it can. Probed once.

        Raises: ResourceExhausted: it cannot be tried, since the disk is full.
        """
        if self._reason is None:
            try:
                fd, place = staged_directory(self._staging)
            except OSError as error:
                raise from_os_error(error, "trying a layer as erofs") from error
            try:
                self._reason = probe(place)
            finally:
                os.rmdir(place)
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
            return self._mounted(chain_id)
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
        return measure(self._layer(chain_id))

    def open_tar(self, chain_id: str) -> BinaryIO | None:
        """The plain tar that a layer was made of, if it is kept. Raises: NotFound."""
        if self.record(chain_id).form != "erofs":
            return None
        try:
            return open(os.path.join(self._layer(chain_id), TAR), "rb")
        except OSError as error:
            raise from_os_error(error, "reading a layer") from error

    def verify(self, chain_id: str, open_blob: Callable[[], Read] | None = None) -> None:
        """Read all of a layer, and say whether it is still what its archive made of it.

        Each `open_blob()(size)` gives the layer as stored, from its beginning; a directory cannot
        be judged without.

        Raises:
            NotFound: no such layer. DataLoss: it is damaged; names the first damage found.
            EngineError: as `unpack`, when the blob is damaged.
        """
        record = self.record(chain_id)
        place = self._layer(chain_id)
        if record.form == "erofs":
            check_files(place, record)
        elif open_blob is not None:
            self._check_directory(record, open_blob)

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

        It survives any process, and the machine's crash a moment later (`LayerSync`). One that is
        there already stays, and `staged` is only closed.

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
                self._sync.add(self._layer(chain_id), chain_id)
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
            with self._sync.confirming:
                delete = self._trash.take(place)
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

    def _check_directory(self, record: LayerRecord, open_blob: Callable[[], Read]) -> None:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        with contextlib.ExitStack() as stack:

            def opened(place: str) -> int:
                fd = os.open(os.path.join(place, DIRECTORY), flags)
                stack.callback(os.close, fd)
                return fd

            found = opened(self._layer(record.chain_id))
            below = stack.enter_context(self._below(record.parent))
            if is_as_archived(
                open_blob(),
                record.diff_id,
                found,
                staging=self._staging,
                limits=self._limits,
                dress=lambda tree: dress(tree, below),
            ):
                return
            # The slow way says what differs, and whether anything does.
            fresh = StagedLayer(self._staging, open_blob(), record.diff_id, "overlay", self._limits)
            stack.enter_context(fresh).dress(below)
            check_directory(record.chain_id, opened(fresh.path), found)

    def _mounted(self, chain_id: str) -> str:
        try:
            return self._mounts.path(self._layer(chain_id))
        except SyscallError as error:
            if not self.form_reason:
                raise
            raise Unsupported(
                f"layer {chain_id} is kept as erofs, which this host cannot have: {error}",
                hint="remove the image and bring it again",
            ) from error

    def _appear(self, staged: StagedLayer, chain_id: str) -> None:
        place = self._layer(chain_id)
        try:
            staged.move_to(place)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            with locked(os.path.join(self.root, "replace.lock")):
                if self.exists(chain_id):
                    return  # somebody else unpacked the same layer meanwhile
                # What is there is damaged, so it is no layer.
                self.remove_layer(chain_id)
                staged.move_to(place)

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

    def sweep(self, in_use: Collection[str] = ()) -> None:
        """Delete what was removed, what crashes left, and what is damaged so that it is no layer.

        `in_use`: chain ids of containers' layers; those are not touched, damaged or not.

        Raises: EngineError after trying all.
        """
        for name in os.listdir(self._layers):
            chain_id = f"sha256:{name}"
            place = os.path.join(self._layers, name)
            with contextlib.suppress(FileNotFoundError):
                if not self._is_layer(chain_id):
                    if chain_id not in in_use:
                        self._trash.take(place)
                elif self.record(chain_id).boot:
                    self._sync.add(place, chain_id)  # a crash came before it was synced
        sweep_staging(self._staging)
        self._trash.sweep()

    def _layer(self, chain_id: str) -> str:
        return os.path.join(self._layers, check_digest(chain_id).removeprefix("sha256:"))

    def _is_layer(self, chain_id: str) -> bool:
        try:
            return self.exists(chain_id)
        except SpecError:
            return False
