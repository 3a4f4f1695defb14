"""Compiled programs, kept: in this process, and if a directory is given, across processes.

What is kept on disk is trusted only if its directory and file are ours alone to write, its digest
and its key are right, and the kernel would take the program; otherwise it is compiled anew.
"""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import msgspec

from onggi import __version__
from onggi.errors import FailedPrecondition, InvalidArgument, from_os_error
from onggi.kernel.seccomp.assembler import check_program
from onggi.kernel.seccomp.compiler import REVISION, SeccompProgram, compile_profile
from onggi.specs.runtime import Seccomp

_MAX_FILE_BYTES = 1024 * 1024
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_DIGEST_BYTES = 32


class _Entry(msgspec.Struct, frozen=True, array_like=True):
    key: str
    program: SeccompProgram


_DECODER = msgspec.msgpack.Decoder(_Entry)


@lru_cache(maxsize=64)
def cached_program(
    profile: Seccomp, machine: str = "x86_64", directory: Path | None = None
) -> SeccompProgram:
    """The profile's program: from memory, else from `directory`, else compiled and kept in both.

    The directory is made (0700) if it is missing; a file is there whole or not at all. That a
    program could not be kept is a warning of the program, not an error.

    Raises:
        SpecError, Unsupported, InvalidArgument: as `compile_profile`.
        FailedPrecondition: somebody else could write to the directory.
        EngineError: the leaf for a directory that cannot be opened.
    """
    if directory is None:
        return compile_profile(profile, machine)
    key = profile_key(profile, machine)
    dirfd = _open_directory(directory)
    try:
        program = _read_program(dirfd, key)
        if program is not None:
            return program
        program = compile_profile(profile, machine)
        try:
            _write_program(dirfd, key, program)
        except OSError as error:
            unkept = f"seccomp: the filter could not be kept in {directory}: {error.strerror}"
            return msgspec.structs.replace(program, warnings=(*program.warnings, unkept))
        return program
    finally:
        os.close(dirfd)


def profile_key(profile: Seccomp, machine: str) -> str:
    """The name under which this version of Onggi keeps the profile's program."""
    identity = msgspec.msgpack.encode((__version__, REVISION, machine, profile))
    return hashlib.sha256(identity).hexdigest()


def _open_directory(directory: Path) -> int:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        dirfd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise from_os_error(error, "opening the cache of seccomp filters") from None
    status = os.fstat(dirfd)
    if status.st_uid != os.geteuid() or status.st_mode & _OTHERS_WRITE:
        os.close(dirfd)
        raise FailedPrecondition(
            f"the cache of seccomp filters in {directory} could be written by others",
            hint=f"make it yours alone: chmod 0700 {directory}",
        )
    return dirfd


def _read_program(dirfd: int, key: str) -> SeccompProgram | None:
    """The kept program, or None for every reason not to trust it."""
    try:
        fd = os.open(key, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dirfd)
    except OSError:
        return None
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_FILE_BYTES:
            return None
        if status.st_uid != os.geteuid() or status.st_mode & _OTHERS_WRITE:
            return None
        data = file.read(_MAX_FILE_BYTES)
    digest, encoded = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    if hashlib.sha256(encoded).digest() != digest:
        return None
    try:
        entry = _DECODER.decode(encoded)
        check_program(entry.program.program)
    except (msgspec.DecodeError, InvalidArgument):
        return None
    return entry.program if entry.key == key else None


def _write_program(dirfd: int, key: str, program: SeccompProgram) -> None:
    encoded = msgspec.msgpack.encode(_Entry(key, program))
    # A file without a name until it is complete: a crash leaves nothing behind. Not synced: after a
    # power loss a torn file fails its digest and is made again.
    fd = os.open(".", os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600, dir_fd=dirfd)
    with open(fd, "wb", buffering=0) as file:
        file.write(hashlib.sha256(encoded).digest() + encoded)
        with suppress(FileNotFoundError):
            os.unlink(key, dir_fd=dirfd)
        # Somebody else may have made the same program in the meantime.
        with suppress(FileExistsError):
            os.link(f"/proc/self/fd/{fd}", key, dst_dir_fd=dirfd, follow_symlinks=True)
