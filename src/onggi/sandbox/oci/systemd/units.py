"""`linux.cgroupsPath` as systemd's callers write it: `SLICE:PREFIX:NAME` → a scope, and its cgroup.

Pure. What a configuration names becomes a unit's name and a path, so only plain names pass.
Source: systemd.unit(5) "Description", systemd.slice(5), systemd's cg_escape, runc docs/systemd.md.
"""

from __future__ import annotations

from onggi.errors import SpecError

_PATH = "$.linux.cgroupsPath"
_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:-_.\\")
_MAX_NAME_BYTES = 255
_PREFIX = "onggi"
#: A cgroup's name must not look like a file of one of these; systemd puts a `_` before it then.
_OF_FILES = frozenset("cgroup cpu cpuacct cpuset io blkio memory devices pids".split())


class Unit:
    """A scope. `user`: of the user's systemd, not the system's."""

    __slots__ = ("name", "slice", "user")

    def __init__(self, name: str, slice_: str, *, user: bool) -> None:
        self.name = name
        self.slice = slice_
        self.user = user

    @property
    def path(self) -> str:
        """Its cgroup, below that of its systemd; relative."""
        return "/".join(_in_cgroups(part) for part in (*slices_to(self.slice), self.name))

    def __str__(self) -> str:
        """As the record has it: what `named` reads."""
        return f"{'user' if self.user else 'system'}:{self.name}"


def named(text: str) -> Unit:
    """A unit of a record. Its slice is not on record: nobody asks for it again."""
    whose, _, name = text.partition(":")
    return Unit(name, "", user=whose == "user")


def unit_of(cgroups_path: str | None, container_id: str, *, user: bool) -> Unit:
    """The scope that a container is to be in.

    Without a path: `onggi-ID.scope` in `system.slice`, a user's in `user.slice`.

    Raises:
        SpecError: not of the form, or a name that is no plain unit name.
    """
    default = "user.slice" if user else "system.slice"
    if not cgroups_path:
        # "+" may be in an id and not in a unit's name; this is how systemd writes it
        parts = ["", _PREFIX, container_id.replace("+", "\\x2b")]
    else:
        parts = cgroups_path.split(":")
        if len(parts) != 3:
            raise SpecError(
                _PATH,
                f"expected cgroupsPath to be of format slice:prefix:name for systemd cgroups, "
                f"got {cgroups_path[:80]!r} instead",
            )
    slice_, prefix, name = parts
    if name.endswith(".slice"):
        raise SpecError(_PATH, f"{name[:80]!r} names a slice; a container is in a scope")
    unit = Unit(f"{prefix}-{name}.scope", slice_ or default, user=user)
    if not name or not _is_plain(unit.name):
        raise SpecError(_PATH, f"{unit.name[:80]!r} is no plain unit name")
    slices_to(unit.slice)
    return unit


def slices_to(slice_: str) -> tuple[str, ...]:
    """A slice with those that it is in, the outermost first: `a-b.slice` → `a.slice`, `a-b.slice`.

    Raises:
        SpecError: no slice's name.
    """
    stem = slice_.removesuffix(".slice")
    if slice_ == "-.slice":
        return ()
    words = stem.split("-")
    if stem == slice_ or not all(words) or not _is_plain(slice_):
        raise SpecError(_PATH, f"{slice_[:80]!r} is no slice's name")
    return tuple(f"{'-'.join(words[: n + 1])}.slice" for n in range(len(words)))


def _is_plain(name: str) -> bool:
    return len(name) <= _MAX_NAME_BYTES and _CHARACTERS.issuperset(name)


def _in_cgroups(name: str) -> str:
    looks_like_a_file = name.partition(".")[0] in _OF_FILES
    return f"_{name}" if name[0] in "_." or looks_like_a_file else name
