"""Snapshots: writable uppers over layers.

Nothing is mounted here but layers, and those out of sight: whoever starts a container gives the
paths of a `Rootfs` to the kernel.

Layout: `active/<key>/{fs,work}` beside what `layer_store` has.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Sequence
from typing import Literal

from msgspec import Struct

from onggi.errors import AlreadyExists, InvalidArgument, NotFound, from_os_error
from onggi.image.compression import DEFAULT_LIMITS, Limits
from onggi.image.layer_record import chain_ids, next_chain_id
from onggi.image.layer_stage import StagedLayer
from onggi.image.layer_store import LayerStore
from onggi.image.trees import Usage, measure

__all__ = ["Rootfs", "Snapshotter", "StagedLayer", "Usage", "chain_ids", "next_chain_id"]

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,200}")


class Rootfs(Struct, frozen=True):
    """What an overlay is made of: layer paths, topmost first; `upper` holds `fs` and `work`."""

    lowers: tuple[str, ...]
    upper: str


class Snapshotter(LayerStore):
    """Layers and uppers in `root`; the contract in code is `tests/contract/test_snapshotter.py`."""

    def __init__(
        self,
        root: str,
        form: Literal["auto", "overlay", "erofs"] = "auto",
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        super().__init__(root, form, limits)
        self._active = os.path.join(root, "active")
        os.makedirs(self._active, mode=0o700, exist_ok=True)

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
            self._trash.take(upper)()
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
            return self._trash.take(self.upper_path(key))
        except FileNotFoundError:
            return lambda: None
        except OSError as error:
            raise from_os_error(error, f"removing snapshot {key}") from error

    def empty_trash(self) -> None:
        """Delete what removals have left. Raises: EngineError after trying all."""
        self._trash.sweep()

    def usage(self, key: str) -> Usage:
        """What an upper takes, as far as paths reach; it may be in use. Raises: NotFound."""
        try:
            return measure(os.path.join(self.upper_path(key), "fs"))
        except NotFound:
            raise NotFound(f"no snapshot {key}") from None

    def list(self) -> list[str]:
        """The keys of all uppers, sorted."""
        return sorted(os.listdir(self._active))
