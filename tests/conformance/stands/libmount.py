"""What crun's tests ask of libmount's Python module, which Debian does not carry."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Mount(NamedTuple):
    """A line of mountinfo: the options of the mount and those of its file system."""

    target: str
    vfs_options: str
    fs_options: str


class Table:
    """A mountinfo file."""

    def __init__(self, path: str) -> None:
        self._mounts: list[Mount] = []
        for line in Path(path).read_text().splitlines():
            front, _, rear = line.partition(" - ")
            if rear:
                words = front.split()
                self._mounts.append(Mount(words[4], words[5], rear.split()[-1]))

    def find_target(self, target: str) -> Mount:
        """The mount that is on top at this place."""
        return next(mount for mount in reversed(self._mounts) if mount.target == target)
