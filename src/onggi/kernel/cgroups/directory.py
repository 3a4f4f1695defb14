"""One cgroup's directory in one hierarchy: read and write its files, make it, remove it.

The only room that touches the cgroup file system. It does not know what any file means.
"""

from __future__ import annotations

import errno
import os

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Directory:
    """A cgroup's files. Opened at first use and held: names are then resolved below it.

    Owns its descriptor; use it as a context manager.
    """

    __slots__ = ("_fd", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1

    def __enter__(self) -> Directory:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def fileno(self) -> int:
        """The directory's descriptor, borrowed.

        Raises:
            FileNotFoundError: the cgroup does not exist.
        """
        if self._fd < 0:
            self._fd = os.open(self.path, _DIRECTORY)
        return self._fd

    @property
    def exists(self) -> bool:
        """Whether the cgroup is there (and, if it was opened before, still is)."""
        try:
            return os.stat(self.fileno()).st_nlink > 0
        except FileNotFoundError:
            return False

    def read(self, name: str) -> str | None:
        """The file's content; None when there is no such file or cgroup, or nothing to tell.

        Raises:
            OSError: any other failure.
        """
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.fileno())
        except FileNotFoundError:
            return None
        try:
            content = b""
            while chunk := os.read(fd, 65536):
                content += chunk
        except OSError as error:
            # ENODEV: the cgroup was removed under the open file. EOPNOTSUPP: nothing to tell.
            if error.errno in (errno.ENODEV, errno.EOPNOTSUPP):
                return None
            raise
        finally:
            os.close(fd)
        return content.decode("ascii", "replace")

    def write(self, name: str, value: str) -> None:
        """Write the value with one write(2); the file is never created.

        Raises:
            OSError: what the kernel answers.
        """
        fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=self.fileno())
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)

    def names(self) -> list[str]:
        """The names of all files; empty when the cgroup does not exist."""
        try:
            return os.listdir(self.fileno())
        except FileNotFoundError:
            return []


class Directories:
    """Cgroup directories by path, each opened at most once, and owned: a context manager."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: dict[str, Directory] = {}

    def __enter__(self) -> Directories:
        return self

    def __exit__(self, *error: object) -> None:
        for directory in self._held.values():
            directory.close()

    def get(self, path: str) -> Directory:
        return self._held.setdefault(path, Directory(path))


def tree(path: str) -> list[str]:
    """The cgroup and all below it, parents first; empty when it does not exist."""
    found = [path] if os.path.isdir(path) else []
    for directory in found:  # grows while it is walked
        try:
            with os.scandir(directory) as entries:
                found += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            continue
    return found


def remove_tree(path: str) -> bool:
    """Remove the cgroup and all below it; False while one of them has a process.

    What could be removed is removed. A cgroup that does not exist counts as removed.

    Raises:
        OSError: any other failure.
    """
    if _remove(path):
        return True
    return all(_remove(directory) for directory in reversed(tree(path)))


def _remove(path: str) -> bool:
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.ENOTEMPTY):
            return False
        raise
    return True
