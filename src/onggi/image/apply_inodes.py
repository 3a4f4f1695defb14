"""One inode of an unpacked layer: its data with holes, its kind, its attributes.

Where it goes, and what may stand there already, is `apply`'s.
"""

from __future__ import annotations

import errno
import os
import stat

from onggi.errors import Unsupported
from onggi.image.durable import write_all
from onggi.image.layer_rules import kept_xattrs, refused
from onggi.image.tar_reader import BLOCK_DEVICE, CHARACTER, FIFO, SYMLINK, Entry, TarReader


def write_sparse(fd: int, entry: Entry, reader: TarReader) -> None:
    """Put the pieces of the present member of `reader` where they belong. Raises: OSError."""
    os.ftruncate(fd, entry.real_size_bytes)
    pieces = [(offset, length) for offset, length in entry.sparse or () if length]
    pieces.reverse()
    left = 0

    def write(view: memoryview) -> None:
        nonlocal left
        while view:
            if not left:
                offset, left = pieces.pop()
                os.lseek(fd, offset, os.SEEK_SET)
            step = min(left, len(view))
            write_all(fd, view[:step])
            view = view[step:]
            left -= step

    reader.copy_data(write)


def make_special(parent: int, base: bytes, entry: Entry) -> None:
    """Make what is no regular file, directory or hard link. Raises: OSError, InvalidArgument."""
    if entry.type == SYMLINK:
        if not entry.link:
            raise refused(entry, "a symlink to nothing")
        os.symlink(entry.link, base, dir_fd=parent)
    elif entry.type == FIFO:
        os.mkfifo(base, 0o600, dir_fd=parent)
    else:
        kind = {CHARACTER: stat.S_IFCHR, BLOCK_DEVICE: stat.S_IFBLK}[entry.type]
        os.mknod(base, kind | 0o600, os.makedev(entry.major, entry.minor), dir_fd=parent)


def set_xattrs(where: int | bytes, entry: Entry) -> None:
    """Set what belongs to an image. Raises: InvalidArgument, Unsupported."""
    for name, value in kept_xattrs(entry):
        try:
            if isinstance(where, int):
                os.setxattr(where, name, value)
            else:
                os.setxattr(where, name, value, follow_symlinks=False)
        except OSError as error:
            if error.errno != errno.ENOTSUP:
                raise refused(entry, f"attribute {name[:80]!r}: {error.strerror}") from None
            raise Unsupported(
                f"archive member {entry.shown}: the filesystem keeps no attribute {name[:80]!r}",
                hint="keep images on ext4, xfs, btrfs or a recent tmpfs",
            ) from None
