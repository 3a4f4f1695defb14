"""Layers of the form `erofs` as this process holds them: mounted, but attached nowhere.

A layer is mounted when it is first asked for, and held by a descriptor: the host's mount table
never grows, nothing stays behind a crash, and all containers of an image share one superblock and
its page cache. Others are named a path through /proc, which open_tree(2) clones from Linux 6.15 on.

Safe in threads, and in a child that was forked: there are no locks, and its copies are its own.
"""

from __future__ import annotations

import os
import weakref

from onggi.errors import NotFound, from_os_error
from onggi.image.erofs.mount import mount_layer
from onggi.image.layer_record import METADATA, TAR


class LayerMounts:
    """Mounts by layer directory, until they are forgotten, or this object is closed or gone."""

    def __init__(self) -> None:
        #: By directory and inode: what was made anew in the same place is another mount.
        self._held: dict[tuple[str, int, int], int] = {}
        self.close = weakref.finalize(self, _close_all, self._held)

    def path(self, place: str) -> str:
        """The root of the layer in the directory `place`, for any process that may look into ours.

        It holds until `forget`, and as long as this process lives.

        Raises:
            NotFound: no such layer. Unsupported, SyscallError: this host cannot mount it.
            DataLoss: its metadata is damaged.
        """
        metadata = f"{place}/{METADATA}"
        try:
            status = os.stat(metadata)
        except FileNotFoundError:
            raise NotFound(f"layer {os.path.basename(place)} is not unpacked") from None
        except OSError as error:
            raise from_os_error(error, "mounting a layer") from error
        key = (place, status.st_ino, status.st_mtime_ns)
        fd = self._held.get(key)
        if fd is None:
            made = mount_layer(metadata, f"{place}/{TAR}").detach()
            fd = self._held.setdefault(key, made)
            if fd != made:  # another thread was faster
                os.close(made)
        return f"/proc/{os.getpid()}/fd/{fd}"

    def forget(self, place: str) -> None:
        """Let go of a layer's mounts; containers that run on it keep theirs."""
        for key in [key for key in tuple(self._held) if key[0] == place]:
            fd = self._held.pop(key, None)
            if fd is not None:
                os.close(fd)

    def __len__(self) -> int:
        return len(self._held)


def _close_all(held: dict[tuple[str, int, int], int]) -> None:
    while held:
        os.close(held.popitem()[1])
