"""An ordinary user's ids: the own ones, and those that root has granted in subuid(5) and subgid(5).

A user maps the own id. Granted ones are mapped by newuidmap(1) and newgidmap(1), which run as root:
they are looked for in the system's directories only, never in $PATH.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
from collections.abc import Callable

from msgspec import Struct

_PLACES = ("/usr/bin", "/bin", "/usr/sbin", "/sbin")


class IdPool(Struct, frozen=True):
    """The host's ids that containers may be given: `size` of them from `start` on."""

    start: int
    size: int


class OwnIds(Struct, frozen=True):
    """A user who is not root, under the name that grants are made to. `uid_helper`, `gid_helper`:
    absolute paths, empty where the host has none."""

    uid: int
    gid: int
    name: str
    uid_helper: str = ""
    gid_helper: str = ""
    uid_ranges: tuple[IdPool, ...] = ()
    gid_ranges: tuple[IdPool, ...] = ()


def own_ids(read: Callable[[str], str]) -> OwnIds | None:
    """This process's, as the kernel has them; None: it is root. `read`: a file's text."""
    uid = os.geteuid()
    if uid == 0:
        return None
    name = str(uid)
    with contextlib.suppress(KeyError):
        name = pwd.getpwuid(uid).pw_name
    owners = frozenset({name, str(uid)})
    return OwnIds(
        uid,
        os.getegid(),
        name,
        find_helper("newuidmap"),
        find_helper("newgidmap"),
        subid_ranges(read("/etc/subuid"), owners),
        subid_ranges(read("/etc/subgid"), owners),
    )


def find_helper(name: str, places: tuple[str, ...] = _PLACES) -> str:
    """A program that only root can have put there; empty: none."""
    for place in places:
        path = f"{place}/{name}"
        try:
            facts = os.stat(path)
        except OSError:
            continue
        of_root = facts.st_uid == 0 and not facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if stat.S_ISREG(facts.st_mode) and of_root and facts.st_mode & stat.S_IXOTH:
            return path
    return ""


def subid_ranges(content: str, owners: frozenset[str]) -> tuple[IdPool, ...]:
    """The ranges that /etc/subuid or /etc/subgid gives to one of `owners`.

    Source: subuid(5).
    """
    pools = []
    for line in content.splitlines():
        owner, _, numbers = line.partition(":")
        start, _, size = numbers.partition(":")
        if owner in owners and start.isdecimal() and size.isdecimal():
            pools.append(IdPool(int(start), int(size)))
    return tuple(pools)
