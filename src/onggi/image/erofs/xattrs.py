"""Extended attributes inside an EROFS inode, checked as the kernel checks those that are set.

A directory form goes through setxattr(2), which refuses some attributes and changes others; what
would be changed is not expressible here.

Source: Linux fs/erofs/erofs_fs.h, fs/xattr.c, fs/posix_acl.c; xattr(7), acl(5).
"""

from __future__ import annotations

import errno
import os
import stat
import struct

from onggi.errors import InvalidArgument
from onggi.image.erofs.format import MAX_XATTR_BYTES, NotExpressible
from onggi.image.layer_rules import ACCESS_ACL, DEFAULT_ACL, kept_xattrs, refused
from onggi.image.tar_reader import Entry

_PREFIXES = {"user.": 1, "trusted.": 4, "security.": 6}
_ACL_INDEXES = {ACCESS_ACL: 2, DEFAULT_ACL: 3}
_NAMES = {index: name for name, index in (_PREFIXES | _ACL_INDEXES).items()}
_ENTRY = struct.Struct("<BBH")
_CAPABILITY_SIZES = {0x02: 20, 0x03: 24}
_MAX_NAME_BYTES = 255
_MAX_VALUE_BYTES = 1 << 16
_ACL_ENTRY = struct.Struct("<HHI")
_ACL_VERSION = b"\2\0\0\0"
_NO_ID = 0xFFFFFFFF
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 1, 2, 4, 8, 16, 32


def checked_xattrs(entry: Entry, mode: int) -> dict[str, bytes]:
    """The attributes that an inode of this (full) mode gets from a member.

    Raises:
        InvalidArgument: what the kernel would refuse to set.
        NotExpressible: what the kernel would change.
    """
    kept = {}
    for name, value in kept_xattrs(entry):
        number = _refusal(name, value, mode)
        if number:
            raise _attribute_refused(entry, name, number)
        if name in _ACL_INDEXES:
            _check_acl(name, value, mode)
        kept[name] = value
    return kept


def pack_xattrs(xattrs: dict[str, bytes]) -> bytes:
    """The inline body of these attributes; b'' of none. Raises: NotExpressible: no room."""
    if not xattrs:
        return b""
    parts = [bytes(12)]
    for name, value in xattrs.items():
        index, suffix = _split(name)
        if len(value) > 0xFFFF:
            raise NotExpressible(f"an attribute of {len(value)} bytes")
        data = _ENTRY.pack(len(suffix), index, len(value)) + suffix + value
        parts.append(data + bytes(-len(data) % 4))
    body = b"".join(parts)
    if len(body) > MAX_XATTR_BYTES:
        raise NotExpressible(f"attributes of {len(body)} bytes on one file")
    return body


def unpack_xattrs(body: bytes) -> dict[str, bytes]:
    """What `pack_xattrs` was given."""
    found = {}
    at = 12
    while at < len(body):
        name_bytes, index, value_bytes = _ENTRY.unpack_from(body, at)
        at += _ENTRY.size
        value_at = at + name_bytes
        suffix = body[at:value_at].decode("utf-8", "surrogateescape")
        found[_NAMES[index] + suffix] = body[value_at : value_at + value_bytes]
        at = -(-(value_at + value_bytes) // 4) * 4
    return found


def _split(name: str) -> tuple[int, bytes]:
    if name in _ACL_INDEXES:
        return _ACL_INDEXES[name], b""
    for prefix, index in _PREFIXES.items():
        if name.startswith(prefix):
            return index, name[len(prefix) :].encode("utf-8", "surrogateescape")
    raise NotExpressible(f"the attribute {name[:80]!r}")


def _attribute_refused(entry: Entry, name: str, number: int) -> InvalidArgument:
    return refused(entry, f"attribute {name[:80]!r}: {os.strerror(number)}")


def _refusal(name: str, value: bytes, mode: int) -> int:
    """The errno of setxattr(2) for root, or 0."""
    if len(name.encode("utf-8", "surrogateescape")) > _MAX_NAME_BYTES:
        return errno.ERANGE
    if len(value) > _MAX_VALUE_BYTES:
        return errno.E2BIG
    if name.startswith("user."):
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            return errno.EPERM
        if name == "user.":
            return errno.EINVAL
    if name == "security.capability" and (
        len(value) < 4 or _CAPABILITY_SIZES.get(value[3]) != len(value)
    ):
        return errno.EINVAL
    return 0


def _check_acl(name: str, value: bytes, mode: int) -> None:
    """An ACL is kept only if the kernel would store exactly it, and leave the mode as it is."""
    reason = f"the attribute {name!r} is not one that the kernel keeps as it is"
    directory = stat.S_ISDIR(mode)
    if not directory and (name == DEFAULT_ACL or not stat.S_ISREG(mode)):
        raise NotExpressible(reason)
    permissions = _acl_permissions(value)
    if permissions is None or (name == ACCESS_ACL and permissions != mode & 0o777):
        raise NotExpressible(reason)


def _acl_permissions(value: bytes) -> int | None:
    """The permission bits that a valid ACL with more than these bits stands for; or None."""
    if value[:4] != _ACL_VERSION or len(value) % 8 != 4:
        return None
    entries = list(_ACL_ENTRY.iter_unpack(value[4:]))
    if any(permission & ~7 for _, permission, _ in entries):
        return None
    tags = [tag for tag, _, _ in entries]
    single = [tag for tag in tags if tag not in (_USER, _GROUP)]
    if tags != sorted(tags) or single != [_USER_OBJ, _GROUP_OBJ, _MASK, _OTHER]:
        return None  # without a mask it says no more than the mode, and the kernel drops it
    for tag, _, identity in entries:
        if (tag in (_USER, _GROUP)) == (identity == _NO_ID):
            return None
    bits: dict[int, int] = {tag: permission for tag, permission, _ in entries}
    return bits[_USER_OBJ] << 6 | bits[_MASK] << 3 | bits[_OTHER]
