"""Mounting a layer's EROFS image over its tar, and asking the host whether that works.

A mount is detached: it is in nobody's mount table and lives as long as its descriptor or a clone.
Set-uid programs and devices in it are as they are: whoever shows it to a container decides.

Source: Linux Documentation/filesystems/erofs.rst (`device=`; files without a loop device from
Linux 6.12); fsopen(2); open_tree(2).
"""

from __future__ import annotations

import errno
import os

from onggi.errors import DataLoss, EngineError, SyscallError, from_os_error
from onggi.image.durable import unique_name, write_all
from onggi.image.erofs.tree import index_layer
from onggi.image.tar_reader import REGULAR, Entry
from onggi.image.tar_writer import encode_header
from onggi.kernel import constants as c
from onggi.kernel.descriptors import Descriptor
from onggi.kernel.syscalls import (
    fsconfig_create,
    fsconfig_flag,
    fsconfig_string,
    fsmount,
    fsopen,
    open_tree,
)

#: EUCLEAN is how file systems say that what is on disk cannot be (EFSCORRUPTED).
_DAMAGE = frozenset((errno.EUCLEAN, errno.EBADMSG))
#: The kernel takes the file for the name of a block device.
_NO_FILES = "erofs from files needs Linux 6.12, and a file system on a disk to keep them"
_MAX_OPTION_BYTES = 255
_CONTENT = b"probe\n"


def mount_layer(metadata: str | int, tar: str | int) -> Descriptor:
    """A detached, read-only mount of the image `metadata` over `tar` (paths, or descriptors).

    Each call makes a superblock, with a page cache of its own; clones of the mount share it.

    Raises:
        DataLoss: the image is no EROFS, or a damaged one.
        NotFound, EngineError: a file cannot be opened.
        SyscallError: this host cannot mount it.
    """
    with _opened(metadata) as metadata_fd, _opened(tar) as tar_fd, fsopen("erofs") as context:
        fsconfig_string(context, "source", _option(metadata, metadata_fd))
        fsconfig_string(context, "device", _option(tar, tar_fd))
        fsconfig_flag(context, "ro")
        try:
            fsconfig_create(context)
        except SyscallError as error:
            if error.errno in _DAMAGE or not _has_magic(metadata_fd):
                raise DataLoss(
                    f"the image of a layer is damaged: {_option(metadata, metadata_fd)}"
                ) from error
            if error.errno == errno.ENOTBLK:
                raise SyscallError(
                    error.call, error.arguments, error.errno, hint=_NO_FILES
                ) from None
            raise
        return fsmount(context)


def probe(directory: str) -> str:
    """Why layers in a directory cannot be EROFS images on this host; empty: they can.

    Mounts a small image of files in `directory`, which it deletes, reads it, and clones the mount.
    Whether the clone can be idmapped needs no question: a kernel that mounts files as EROFS can.

    Raises: ResourceExhausted: the disk is full, so that nothing is known.
    """
    try:
        with _scratch(directory) as tar, _scratch(directory) as metadata:
            _write_probe(tar, metadata)
            with (
                mount_layer(metadata, tar) as mounted,
                open_tree(c.AT_FDCWD, f"/proc/self/fd/{mounted}") as clone,
            ):
                return _read_probe(clone)
    except EngineError as error:
        return _answer(error)
    except OSError as error:
        return _answer(from_os_error(error, "writing a small image to mount"))


def _answer(error: EngineError) -> str:
    if error.kind == "ResourceExhausted":
        raise error  # which says nothing about the host
    return f"{error.message} ({error.hint})" if error.hint else error.message


def _write_probe(tar: int, metadata: int) -> None:
    header = encode_header(Entry(b"probe", REGULAR, 0o644, 0, 0, len(_CONTENT), 0, b""))
    data = header + _CONTENT.ljust(512, b"\0") + bytes(1024)
    tree = index_layer(iter((data,)), lambda chunk: write_all(tar, chunk))
    tree.write(metadata, len(data))


def _read_probe(clone: int) -> str:
    fd = os.open("probe", os.O_RDONLY | os.O_CLOEXEC, dir_fd=clone)
    try:
        content = os.read(fd, 100)
    finally:
        os.close(fd)
    return "" if content == _CONTENT else "erofs: a file read back with another content"


def _scratch(directory: str) -> Descriptor:
    """A file that nobody else finds, and that is gone when it is closed."""
    path = os.path.join(directory, unique_name("probe."))
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    os.unlink(path)
    return Descriptor(fd)


def _opened(file: str | int) -> Descriptor:
    try:
        number = (
            os.dup(file) if isinstance(file, int) else os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        )
    except OSError as error:
        raise from_os_error(error, "mounting a layer") from error
    return Descriptor(number)


def _option(file: str | int, fd: int) -> str:
    """A path for the kernel, which takes 255 bytes; a real one reads better in mountinfo."""
    if isinstance(file, str) and len(os.fsencode(file)) <= _MAX_OPTION_BYTES:
        return file
    return f"/proc/self/fd/{fd}"


def _has_magic(fd: int) -> bool:
    return os.pread(fd, 4, 1024) == b"\xe2\xe1\xf5\xe0"
