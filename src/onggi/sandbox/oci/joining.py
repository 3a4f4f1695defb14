"""Which cgroups an `exec` joins: the container's own, or ones below it, a controller at a time."""

from __future__ import annotations

import os

from onggi.errors import InvalidArgument, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from onggi.kernel.cgroups.driver import Cgroup
    from onggi.kernel.cgroups.layout import Hierarchy


class Places:
    """`tasks`: v1 files that the process writes itself into. `v2`: the directory that it is born
    in; empty: none."""

    __slots__ = ("tasks", "v2")

    def __init__(self, tasks: tuple[str, ...], v2: str) -> None:
        self.tasks = tasks
        self.v2 = v2


def places(cgroup: Cgroup, words: Sequence[str]) -> Places:
    """Where `--cgroup` words lead: `PATH` for every controller, or `NAME,NAME:PATH`.

    Raises:
        InvalidArgument: a path that leads out, or no such controller. NotFound: no such cgroup.
    """
    below = _below(cgroup, words)
    tasks, v2 = [], ""
    for hierarchy in cgroup.layout.every:
        own = f"{hierarchy.mount_point}/{cgroup.path}"
        directory = os.path.normpath(f"{own}/{below.get(hierarchy.mount_point, '')}")
        if not os.path.isdir(own):
            continue
        if not os.path.isdir(directory):
            raise NotFound(
                f"cannot join: adding pid to {directory}/cgroup.procs: no such file or directory",
                hint="exec joins a cgroup that the container has made",
            )
        if hierarchy.version == 2:
            v2 = directory
        else:
            tasks.append(f"{directory}/tasks")
    return Places(tuple(tasks), v2)


def _below(cgroup: Cgroup, words: Sequence[str]) -> dict[str, str]:
    """Mount point of a hierarchy → the path asked for below the container's cgroup."""
    hierarchies = cgroup.layout.every
    below: dict[str, str] = {}
    for word in words:
        names, colon, path = word.rpartition(":")
        if ".." in path.split("/"):
            raise InvalidArgument(
                f"cgroup {path} is not a sub cgroup path", hint="name one below the container's"
            )
        chosen = _of_controllers(names.split(","), hierarchies) if colon else hierarchies
        below |= {hierarchy.mount_point: path for hierarchy in chosen}
    return below


def _of_controllers(names: list[str], hierarchies: tuple[Hierarchy, ...]) -> list[Hierarchy]:
    chosen = []
    for name in names:
        found = [h for h in hierarchies if h.version == 1 and name in h.controllers]
        if not found:
            raise InvalidArgument(
                f"unknown controller {name}", hint="names are for cgroup v1; on v2 write the path"
            )
        chosen += found
    return chosen
