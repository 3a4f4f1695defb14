"""The plain command line's part in a warm process: it starts one, so that the next need not wait.

Only for the superuser, only where the front says (front/README.md), and only if none is there.
Whatever goes wrong here makes the next command slower and nothing else.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_STREAM, socket

VARIABLE = "ONGGI_RUNTIME_WARM"
SOCKET_NAME = "warm.sock"
#: What a warm process begins with: its listening socket, and its directory, locked.
LISTENER_FD, DIRECTORY_FD = 3, 4
_BACKLOG = 128


def begin() -> None:
    """Start a warm process if the front has said where, and there is none."""
    directory = os.environ.pop(VARIABLE, "")
    if not directory or os.geteuid() != 0:
        return
    try:
        _begin(directory)
    except OSError:
        return


def _begin(directory: str) -> None:
    os.makedirs(os.path.dirname(directory), 0o700, exist_ok=True)
    os.makedirs(directory, 0o700, exist_ok=True)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for found in (os.stat(os.path.dirname(directory)), os.fstat(fd)):
            if found.st_uid != 0 or stat.S_IMODE(found.st_mode) & 0o077:
                return
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        path = f"{directory}/{SOCKET_NAME}"
        if os.path.lexists(path):
            os.unlink(path)
        listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
        try:
            listener.bind(path)
            listener.listen(_BACKLOG)
            _spawn(listener.fileno(), fd)
        finally:
            listener.close()
    finally:
        os.close(fd)


def _spawn(listener: int, directory: int) -> None:
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (listener, directory)]
    kept = {name: os.environ[name] for name in ("PYTHONPATH", "ONGGI_KEEL") if name in os.environ}
    try:
        os.posix_spawn(
            sys.executable,
            # nothing is imported from the working directory (-P)
            [sys.executable, "-P", "-X", "utf8", "-m", "onggi.faces.oci.warm_process"],
            kept,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0),
                (os.POSIX_SPAWN_DUP2, 0, 1),
                (os.POSIX_SPAWN_DUP2, 0, 2),
                (os.POSIX_SPAWN_DUP2, high[0], LISTENER_FD),
                (os.POSIX_SPAWN_DUP2, high[1], DIRECTORY_FD),
            ],
            setsid=True,
            setsigdef=range(1, 32),
            setsigmask=(),
        )
    finally:
        for fd in high:
            os.close(fd)
