"""Give a cgroup on v2 to a user, who may then share it out, and change none of its limits.

Source: cgroups(7) "Cgroups delegation"; runtime-spec config-linux.md#cgroup-ownership.
"""

from __future__ import annotations

import os

from onggi.kernel.cgroups.directory import Directory
from onggi.kernel.cgroups.writing import refusal

_LIST = "/sys/kernel/cgroup/delegate"
#: For kernels that do not say (before Linux 4.15).
_ALWAYS = ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads")


def give(path: str, uid: int) -> None:
    """Make `uid` the owner of the cgroup's directory, and of the files that a delegate may write.

    Raises:
        EngineError: the host refuses.
    """
    with Directory(path) as directory:
        try:
            os.fchown(directory.fileno(), uid, -1)
            for name in _delegated():
                _give_file(directory, name, uid)
        except OSError as error:
            raise refusal(error, f"giving cgroup {path} to user {uid}") from error


def _give_file(directory: Directory, name: str, uid: int) -> None:
    """A file that this cgroup does not have is given to nobody."""
    try:
        os.chown(name, uid, -1, dir_fd=directory.fileno(), follow_symlinks=False)
    except FileNotFoundError:
        return


def _delegated() -> tuple[str, ...]:
    try:
        with open(_LIST, encoding="ascii", errors="replace") as file:
            return tuple(name for name in file.read().split() if "/" not in name)
    except FileNotFoundError:
        return _ALWAYS
