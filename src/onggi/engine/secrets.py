"""Secrets of a container: files of the host, copied into memory for as long as it runs.

Source: podman-run(1) --secret; tmpfs(5).
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Sequence

from onggi.engine.api.spec import SecretSpec
from onggi.errors import FailedPrecondition, InvalidArgument, NotFound, from_os_error
from onggi.image.durable import write_all
from onggi.kernel.mounts import read_mountinfo

_MOST_BYTES = 512 * 1024
_IN_MEMORY = frozenset(("tmpfs", "ramfs"))


def write_secrets(secrets: Sequence[SecretSpec], directory: str) -> None:
    """Write the secrets in `directory`, made anew, as files called by their number.

    Raises:
        FailedPrecondition: the directory is on a disk. NotFound: a source is missing.
        InvalidArgument: it is no regular file, or beyond 512 KiB.
    """
    if not secrets:
        return
    parent = os.path.dirname(directory)
    device = os.stat(parent).st_dev
    found = {m.fstype for m in read_mountinfo() if os.makedev(m.major, m.minor) == device}
    if not found & _IN_MEMORY:
        raise FailedPrecondition(
            f"a secret is kept in memory only, and {parent} is on a disk",
            hint="leave --root out, or mount a tmpfs at the root's run directory",
        )
    shutil.rmtree(directory, ignore_errors=True)
    os.mkdir(directory, 0o700)
    for number, secret in enumerate(secrets):
        _write(f"{directory}/{number}", secret, _read(secret.source))


def _read(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound(f"--secret: no such file on the host: {path}") from None
    except OSError as error:
        raise from_os_error(error, "reading a secret") from None
    with open(fd, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InvalidArgument(f"--secret: {path} is not a regular file")
        data = file.read(_MOST_BYTES + 1) or b""
    if len(data) > _MOST_BYTES:
        raise InvalidArgument(f"--secret: {path} has more than {_MOST_BYTES} bytes")
    return data


def _write(path: str, secret: SecretSpec, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o600)
        try:
            write_all(fd, data)
            os.fchown(fd, secret.uid, secret.gid)
            os.fchmod(fd, secret.mode)
        finally:
            os.close(fd)
    except OSError as error:
        raise from_os_error(error, "writing a secret") from None
