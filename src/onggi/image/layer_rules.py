"""What the names and attributes in a layer's tar mean, whatever form the layer takes on disk.

Pure: `apply` makes a directory by these rules, `erofs.tree` an image, and both refuse alike.

Source: image-spec layer.md.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from msgspec import Struct

from onggi.errors import InvalidArgument
from onggi.image.overlay import OVERLAY_XATTRS
from onggi.image.tar_reader import Entry

WHITEOUT_PREFIX = b".wh."
OPAQUE_NAME = b".wh..wh..opq"
#: No file system takes a longer component.
MAX_NAME_BYTES = 255
ODD_PARTS = frozenset((b"", b".", b".."))

#: Of a directory that an archive leaves out, and no layer below has; root owns it, mtime 0.
PLAIN_MODE = 0o755
#: All names of directories that an archive leaves out, together; each has its parents' in it again.
MAX_MISSING_BYTES = 64 << 20
#: What is made in a directory inherits this of it, but a member of an archive has its own.
DEFAULT_ACL = "system.posix_acl_default"
#: The access control list of the file itself.
ACCESS_ACL = "system.posix_acl_access"

_KEPT_XATTRS = ("user.", "security.capability", "system.posix_acl_")


class ParentAttributes(Struct, frozen=True):
    """What a directory has in the layers below."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int = 0


def refused(entry: Entry, why: str) -> InvalidArgument:
    """The error for a member that cannot be part of a layer."""
    return InvalidArgument(f"archive member {entry.shown}: {why}")


def parent_is_whiteout(entry: Entry) -> InvalidArgument:
    """The error for a member in a directory named like a whiteout."""
    return refused(entry, "a whiteout as a directory")


def parent_is_no_directory(entry: Entry) -> InvalidArgument:
    """The error for a member in what this layer has as something else."""
    return refused(entry, "its parent is a symlink or no directory")


def link_target_missing(entry: Entry) -> InvalidArgument:
    """The error for a hard link to what this layer does not have."""
    return refused(entry, "the target of the hard link is not in this layer")


def name_too_long(entry: Entry) -> InvalidArgument:
    """The error for a component that no file system takes."""
    return refused(entry, os.strerror(errno.ENAMETOOLONG))


def too_much_missing(entry: Entry) -> InvalidArgument:
    """The error for what would make more directories than MAX_MISSING_BYTES."""
    return refused(entry, "too many directories left out")


def split_name(entry: Entry, name: bytes) -> list[bytes]:
    """The components of a name in an archive; none for the root itself.

    Raises:
        InvalidArgument: absolute, or with `..`.
    """
    parts = name.split(b"/")
    if ODD_PARTS.isdisjoint(parts):
        return parts
    if name.startswith(b"/"):
        raise refused(entry, "an absolute name")
    if b".." in parts:
        raise refused(entry, "'..' in a name")
    return [part for part in parts if part not in ODD_PARTS]


def split_link(entry: Entry) -> list[bytes]:
    """The components of a hard link's target, at least one.

    Raises:
        InvalidArgument: as `split_name`, or a link to nothing.
    """
    parts = split_name(entry, entry.link)
    if not parts:
        raise refused(entry, "a hard link to nothing")
    return parts


def hidden_name(entry: Entry, base: bytes) -> bytes:
    """What a whiteout's `base` name hides; b'' for AUFS's own bookkeeping, which hides nothing.

    Not for OPAQUE_NAME. Raises: InvalidArgument: of what is no name.
    """
    if base.startswith(WHITEOUT_PREFIX * 2):
        return b""
    target = base[len(WHITEOUT_PREFIX) :]
    if target in ODD_PARTS:
        raise refused(entry, f"a whiteout of {target!r}")
    return target


def kept_xattrs(entry: Entry) -> Iterator[tuple[str, bytes]]:
    """The attributes that belong to an image; labels of another host's security modules do not.

    Raises:
        InvalidArgument: what overlayfs would believe about a layer, or no name at all.
    """
    for name, value in (entry.xattrs or {}).items():
        if name.startswith(OVERLAY_XATTRS):
            raise refused(entry, f"carries the attribute {name[:80]!r}")
        if "\0" in name:
            raise refused(entry, f"a NUL in the attribute {name[:80]!r}")
        if name.startswith(_KEPT_XATTRS):
            yield name, value
