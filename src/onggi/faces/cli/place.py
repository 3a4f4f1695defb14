"""Where the engine's socket is, for a client that must not pay for the engine's types.

Says the same as `onggi.engine.layout` (a test holds them together).
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

#: The kernel's limit of sun_path without its final zero. Source: unix(7).
SUN_PATH_BYTES = 107


def run_directory(root: str | None, uid: int, environ: Mapping[str, str]) -> str:
    """`Layout.run` of this root."""
    if root:
        return f"{os.path.realpath(root)}/run"
    if uid == 0:
        return "/run/onggi"
    return f"{environ.get('XDG_RUNTIME_DIR') or f'/run/user/{uid}'}/onggi"


class SocketAddress:
    """An address for bind(2) or connect(2) of any length; valid inside `with` only.

    A path that does not fit is reached through a descriptor of its directory.
    Raises: OSError on entry when the directory of a long path cannot be opened.
    """

    __slots__ = ("_dirfd", "_path")

    def __init__(self, path: str) -> None:
        self._path = path
        self._dirfd = -1

    def __enter__(self) -> str:
        if len(os.fsencode(self._path)) <= SUN_PATH_BYTES:
            return self._path
        directory, name = os.path.split(self._path)
        self._dirfd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._dirfd}/{name}"

    def __exit__(self, *_: object) -> None:
        if self._dirfd >= 0:
            os.close(self._dirfd)
            self._dirfd = -1
