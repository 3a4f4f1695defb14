"""A layer on its way in: unpacked in a staging place, until it is committed or given up.

Knows nothing of where layers go, nor of the chain that it will be part of until `seal`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from typing import Protocol, Self

from onggi.errors import DataLoss, EngineError, InvalidArgument, from_os_error
from onggi.image.compression import Limits, Read, plain_chunks
from onggi.image.durable import delete_tree, staged_directory
from onggi.image.erofs.writer import NotExpressible
from onggi.image.layer_forms import Unpacked, UnpackedDirectory, UnpackedTar
from onggi.image.layer_record import Form, LayerRecord, this_boot, write_record
from onggi.image.layer_rules import ParentAttributes
from onggi.image.merged import Found, MergedView
from onggi.image.tar_reader import shown


class StagedLayer:
    """One unpacked layer whose plain stream was `diff_id`. A context manager: the end of the block
    deletes it, unless it was moved away.

    Raises: as `Snapshotter.unpack`; nothing stays then.
    """

    def __init__(self, staging: str, read: Read, diff_id: str, form: Form, limits: Limits) -> None:
        self.diff_id = diff_id
        self.size_bytes = 0
        self._limits = limits
        self._content: Unpacked | None = None
        try:
            self._fd, self.path = staged_directory(staging)
        except OSError as error:
            raise from_os_error(error, "unpacking a layer") from error
        try:
            self._unpack(read, form)
        except OSError as error:
            self.close()
            raise from_os_error(error, "unpacking a layer") from error
        except BaseException:
            self.close()
            raise

    def _unpack(self, read: Read, form: Form) -> None:
        digest = hashlib.sha256()

        def hashed() -> Iterator[bytes]:
            for chunk in plain_chunks(read, self._limits):
                digest.update(chunk)
                self.size_bytes += len(chunk)
                yield chunk

        make = UnpackedTar if form == "erofs" else UnpackedDirectory
        self._content = make(self._fd, hashed(), self._limits)
        found = "sha256:" + digest.hexdigest()
        if found != self.diff_id:
            raise DataLoss(
                f"layer {self.diff_id} has the content of {found}",
                hint="pull or load the image again",
            )

    @property
    def _unpacked(self) -> Unpacked:
        assert self._content is not None, "the layer is closed"
        return self._content

    def seal(self, parent: str | None, below: MergedView | None) -> None:
        """Make it a layer on top of `parent`, whose files are `below`; good for this boot.

        Raises:
            InvalidArgument: the layer has files where a layer below has a symlink. OSError.
        """
        self.dress(below)
        try:
            metadata_digest = self._unpacked.seal()
        except NotExpressible:
            self._fall_back()
            self.dress(below)
            metadata_digest = self._unpacked.seal()
        record = LayerRecord(
            form=self._unpacked.form,
            diff_id=self.diff_id,
            parent=parent,
            size_bytes=self.size_bytes,
            entries=self._unpacked.entries,
            metadata_digest=metadata_digest,
            boot=this_boot(),
        )
        write_record(self._fd, record)

    def _fall_back(self) -> None:
        tar, self._content = self._content, None
        assert isinstance(tar, UnpackedTar)
        try:
            self._content = tar.as_directory(self._limits)
        finally:
            tar.close()

    def dress(self, below: MergedView | None) -> None:
        """Give the directories that the archive left out what those `below` have.

        Raises: as `seal`.
        """
        dress(self._unpacked, below)

    def move_to(self, place: str) -> None:
        """Give it its place by one rename; it is not ours any more. Raises: OSError."""
        os.rename(self.path, place)
        self.path = ""

    def close(self) -> None:
        """Delete what was not moved away."""
        if self._fd < 0:
            return
        if self._content is not None:
            self._content.close()
            self._content = None
        # What cannot be deleted is swept at the next opening, as after a crash.
        with contextlib.suppress(OSError, EngineError):
            if self.path:
                # Below its own directory, which nobody sweeps as long as it is locked.
                for name in os.listdir(self._fd):
                    delete_tree(self._fd, name)
                os.rmdir(self.path)
        os.close(self._fd)
        self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Bare(Protocol):
    """What has directories that its archive left out."""

    @property
    def missing(self) -> Sequence[bytes]: ...
    def dress(self, path: bytes, attributes: ParentAttributes, /) -> None: ...


def dress(layer: Bare, below: MergedView | None) -> None:
    """Give the directories that an archive left out what those `below` have, if anything is.

    Raises:
        InvalidArgument: the layer has files where a layer below has a symlink. OSError.
    """
    if below is None:
        return
    look = _Below(below)
    for path in layer.missing:
        if (found := look.attributes(path)) is not None:
            layer.dress(path, found)


class _Below:
    """What the layers below have at a path, asked without following any symlink.

    Each directory is looked up once, from the one above it: a layer may leave out thousands.
    """

    def __init__(self, view: MergedView) -> None:
        self._view = view
        self._known: dict[bytes, Found | None] = {b"": view.root()}

    def attributes(self, path: bytes) -> ParentAttributes | None:
        """Those of a directory there; None: there is none.

        Raises:
            InvalidArgument: a symlink is there.
        """
        found = self._find(path)
        if found is None or not stat.S_ISDIR(found.status.st_mode):
            if found is not None and stat.S_ISLNK(found.status.st_mode):
                raise InvalidArgument(
                    f"the layer has files in {shown(path)}, which is a symlink in a layer below"
                )
            return None
        status = found.status
        return ParentAttributes(
            stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns
        )

    def _find(self, path: bytes) -> Found | None:
        unknown = []
        while path not in self._known:
            unknown.append(path)
            path = path.rpartition(b"/")[0]
        found = self._known[path]
        for path in reversed(unknown):
            # Behind a symlink lies another place: this layer has put a directory over the symlink.
            if found is not None and not stat.S_ISDIR(found.status.st_mode):
                found = None
            if found is not None:
                found = self._view.look_up(found, path.rpartition(b"/")[2])
            self._known[path] = found
        return found
