"""Whether a layer on disk is what its archive made of it. Changes nothing."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from itertools import zip_longest

from onggi.errors import DataLoss, SyscallError, from_os_error
from onggi.image.layer_record import METADATA, TAR, LayerRecord
from onggi.image.overlay import is_whiteout
from onggi.image.tar_reader import shown
from onggi.image.trees import Node, open_beneath, walk

_CHUNK_BYTES = 1 << 18
#: What a layer sets; a host's security module adds labels of its own.
_COMPARED_XATTRS = ("user.", "trusted.", "security.capability", "system.posix_acl_")


def check_files(place: str, record: LayerRecord) -> None:
    """Hash both files of a layer of the form `erofs`. Raises: DataLoss, EngineError."""
    for name, wanted in ((TAR, record.diff_id), (METADATA, record.metadata_digest)):
        try:
            with open(os.path.join(place, name), "rb") as file:
                found = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            if error.errno == errno.EIO:
                raise DataLoss(f"layer {record.chain_id}: {name} cannot be read") from None
            raise from_os_error(error, "checking a layer") from error
        if found != wanted:
            raise DataLoss(f"layer {record.chain_id}: {name} is damaged")


def check_directory(chain_id: str, wanted: int, found: int) -> None:
    """Compare the layer's directory `found` with `wanted`, unpacked anew; nobody writes to either.

    Raises:
        DataLoss: names the first difference.
    """
    ours, theirs = _Inodes(), _Inodes()
    pairs = zip_longest(walk(wanted), walk(found))
    try:
        for want, have in pairs:
            if want is None or have is None or want.path != have.path:
                raise _damaged(chain_id, min(n.path for n in (want, have) if n), "names differ")
            same = _facts(want, ours) == _facts(have, theirs)
            if not same or compared_xattrs(wanted, want.path) != compared_xattrs(found, have.path):
                raise _damaged(chain_id, have.path, "its attributes differ")
            if not _same_content(want, wanted, found):
                raise _damaged(chain_id, have.path, "its content differs")
    except SyscallError as error:
        if error.errno == errno.EIO:
            raise DataLoss(f"layer {chain_id} cannot be read: {error.message}") from None
        raise
    except OSError as error:
        if error.errno == errno.EIO:
            raise DataLoss(f"layer {chain_id} cannot be read") from None
        raise from_os_error(error, "checking a layer") from error


def _damaged(chain_id: str, path: bytes, what: str) -> DataLoss:
    return DataLoss(f"layer {chain_id} is damaged at {shown(path)}: {what}")


class _Inodes:
    """Inodes by their first path, so that hard links compare across directories."""

    def __init__(self) -> None:
        self._first: dict[int, bytes] = {}

    def first(self, node: Node) -> bytes:
        return self._first.setdefault(node.status.st_ino, node.path)


def _facts(node: Node, inodes: _Inodes) -> tuple[object, ...]:
    status = node.status
    owner = (status.st_mode, status.st_uid, status.st_gid)
    if is_whiteout(status):
        return (*owner, None)  # an archive says nothing more of one
    if node.is_directory:
        return (*owner, status.st_mtime_ns)
    size = 0 if stat.S_ISCHR(status.st_mode) else status.st_size
    return (*owner, status.st_mtime_ns, status.st_rdev, size, status.st_nlink, inodes.first(node))


def compared_xattrs(root: int, path: bytes) -> dict[str, bytes]:
    """What a layer sets, of a path below the directory `root`; b"" is the root. Raises: OSError."""
    where = f"/proc/self/fd/{root}".encode() + (b"/" + path if path else b"")
    return {
        name: os.getxattr(where, name, follow_symlinks=not path)
        for name in os.listxattr(where, follow_symlinks=not path)
        if name.startswith(_COMPARED_XATTRS)
    }


def _same_content(node: Node, wanted: int, found: int) -> bool:
    """For nodes whose facts are the same already."""
    kind = stat.S_IFMT(node.status.st_mode)
    if kind == stat.S_IFLNK:
        with (
            open_beneath(wanted, node.path, os.O_PATH) as ours,
            open_beneath(found, node.path, os.O_PATH) as theirs,
        ):
            return os.readlink(b"", dir_fd=ours) == os.readlink(b"", dir_fd=theirs)
    if kind != stat.S_IFREG:
        return True
    pairs = zip_longest(_pieces(wanted, node.path), _pieces(found, node.path))
    return all(ours == theirs for ours, theirs in pairs)


def _pieces(root: int, path: bytes) -> Iterator[bytes]:
    with open_beneath(root, path, os.O_RDONLY) as fd:
        while data := os.read(fd, _CHUNK_BYTES):
            yield data
