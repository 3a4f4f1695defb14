"""Make one cgroup in one hierarchy, with its parents, ready for a process to join.

On v1 a new cpuset is filled from its parent; on v2 the controllers are enabled in the parents.
"""

from __future__ import annotations

import itertools
import os
import re

from onggi.errors import AlreadyExists, Conflict, FailedPrecondition, InvalidArgument
from onggi.kernel.cgroups import cpuset
from onggi.kernel.cgroups.directory import Directory, remove_tree
from onggi.kernel.cgroups.layout import Hierarchy
from onggi.kernel.cgroups.tasks import processes
from onggi.kernel.cgroups.writing import carry_out, refusal

# A parent may be removed by another engine between our making it and using it.
_ROUNDS = 16
_OWN_PARENT = re.compile(r"onggi(-[A-Za-z0-9_.-]+)?")


def checked_path(path: str) -> str:
    """The relative path as given, if every component is a plain name.

    Raises:
        InvalidArgument: absolute, empty, or leading elsewhere.
    """
    parts = path.split("/")
    if any(part in ("", ".", "..") or len(part.encode()) > 255 for part in parts) or (
        set(path) & {"\0", "\n"}
    ):
        raise InvalidArgument(
            f"cgroup path {path!r} does not stay below its hierarchy's root",
            hint="write it as onggi/NAME: relative, without . and ..",
        )
    return path


def make(
    hierarchy: Hierarchy, path: str, wanted: tuple[str, ...], required: frozenset[str]
) -> None:
    """Make the cgroup; a leftover of that name without processes is replaced.

    `wanted` v2 controllers are enabled for it; one of `required` that cannot be is an error.

    Raises:
        AlreadyExists: processes live in a cgroup of that name.
        FailedPrecondition: a required controller cannot be enabled.
        EngineError: the host refuses.
    """
    where = f"{hierarchy.mount_point}/{path}"
    for _ in range(_ROUNDS):
        try:
            enable(hierarchy, path, wanted, required)
            os.mkdir(where, 0o755)
            break
        except FileNotFoundError:
            _make_parents(hierarchy, path)
        except FileExistsError:
            _clear(where)
        except OSError as error:
            raise refusal(error, f"making cgroup {where}") from error
    else:
        raise Conflict(f"cgroup {where} is made and removed by others at the same time")
    if hierarchy.version == 1 and "cpuset" in hierarchy.controllers:
        try:
            _fill_cpusets(hierarchy, path)
        except BaseException:
            remove_tree(where)
            raise


def enable(
    hierarchy: Hierarchy, path: str, wanted: tuple[str, ...], required: frozenset[str]
) -> None:
    """Have these v2 controllers enabled for `path` by its parents, root first.

    Raises:
        FailedPrecondition: one of `required` cannot be.
        FileNotFoundError: a parent does not exist.
    """
    if not wanted:
        return
    parents = _ancestors(hierarchy, path)
    if not _not_enabled(parents[-1], wanted):
        return
    for parent in parents:
        for name in _not_enabled(parent, wanted):
            try:
                with Directory(parent) as directory:
                    directory.write("cgroup.subtree_control", f"+{name}")
            except FileNotFoundError:
                if not os.path.isdir(parent):
                    raise
                _refuse_if_required(name, parent, "the parent does not have it", required)
            except OSError as error:
                _refuse_if_required(name, parent, str(error.strerror), required)


def remove_own_parents(hierarchy: Hierarchy, path: str) -> bool:
    """Remove the parents of `path` that are Onggi's and empty; True when none is left."""
    parents = path.split("/")[:-1]
    if not parents or not _OWN_PARENT.fullmatch(parents[0]):
        return False
    while parents:
        try:
            os.rmdir("/".join((hierarchy.mount_point, *parents)))
        except FileNotFoundError:
            pass
        except OSError:
            # Another container lives there: EBUSY, or ENOTEMPTY.
            return False
        parents.pop()
    return True


def _refuse_if_required(name: str, parent: str, why: str, required: frozenset[str]) -> None:
    if name in required:
        raise FailedPrecondition(
            f"cannot enable the {name} controller in {parent}/cgroup.subtree_control: {why}",
            hint="only a cgroup without processes of its own that is ours to manage can share out",
        )


def _not_enabled(parent: str, wanted: tuple[str, ...]) -> list[str]:
    with Directory(parent) as directory:
        enabled = (directory.read("cgroup.subtree_control") or "").split()
    return [name for name in wanted if name not in enabled]


def _ancestors(hierarchy: Hierarchy, path: str) -> list[str]:
    """The root and every parent on the way to `path`, absolute."""
    parts = path.split("/")
    return ["/".join((hierarchy.mount_point, *parts[:n])) for n in range(len(parts))]


def _make_parents(hierarchy: Hierarchy, path: str) -> None:
    for parent in _ancestors(hierarchy, path)[1:]:
        try:
            os.mkdir(parent, 0o755)
        except FileExistsError:
            continue
        except OSError as error:
            raise refusal(error, f"making cgroup {parent}") from error


def _clear(where: str) -> None:
    try:
        cleared = not processes(where) and remove_tree(where)
    except OSError as error:
        raise refusal(error, f"removing the old cgroup {where}") from error
    if not cleared:
        raise AlreadyExists(
            f"cgroup {where} exists and has processes",
            hint="a container of that name is running; stop it first",
        )


def _fill_cpusets(hierarchy: Hierarchy, path: str) -> None:
    levels = [*_ancestors(hierarchy, path), f"{hierarchy.mount_point}/{path}"]
    for above, below in itertools.pairwise(levels):
        with Directory(above) as parent, Directory(below) as child:
            carry_out(child, cpuset.inherit(parent, child))
