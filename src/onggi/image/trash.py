"""A place that deleted things are moved to at once, and deleted from off a user's path.

What a crash leaves there is deleted by the next sweep. Knows nothing of what the things are.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from onggi.errors import EngineError
from onggi.image.durable import delete_tree, locked, unique_name


class Trash:
    """The directory `path` (made if missing), on the file system of what it takes."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = f"{path}.lock"
        os.makedirs(path, mode=0o700, exist_ok=True)

    def take(self, path: str) -> Callable[[], None]:
        """Take `path` away by one rename; the answer, called, deletes it. Raises: OSError."""
        name = unique_name(_prefix(path))
        os.rename(path, os.path.join(self._path, name))

        def delete() -> None:
            with locked(self._lock):
                self._delete(name)

        return delete

    def has(self, path: str) -> bool:
        """Whether something of this name was taken and is not yet deleted. Raises: OSError."""
        return any(name.startswith(_prefix(path)) for name in os.listdir(self._path))

    def sweep(self) -> None:
        """Delete all that is here. Raises: EngineError after trying all."""
        failed: list[EngineError] = []
        with locked(self._lock):
            for name in os.listdir(self._path):
                try:
                    self._delete(name)
                except EngineError as error:
                    failed.append(error)
        if failed:
            raise failed[0]

    def _delete(self, name: str) -> None:
        fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            delete_tree(fd, name)
        finally:
            os.close(fd)


def _prefix(path: str) -> str:
    return os.path.basename(path)[:64] + "."
