"""What a controller's room gives: changes to make, as values; and the kernel's number formats.

A *rule* turns OCI resources into changes for one controller on one version. It sees a cgroup's
files only through `Files`, so that a dictionary, a directory in a test and the kernel serve alike.
Nothing here writes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from onggi.specs.runtime import Resources

# PAGE_COUNTER_MAX: v1 shows "no limit" as LONG_MAX rounded down to a page. Pages are 4 to 64 KiB.
_UNLIMITED_BYTES = (1 << 63) - (1 << 16)


class Files(Protocol):
    """The interface files of one cgroup in one hierarchy."""

    def read(self, name: str) -> str | None:
        """The content; None when the kernel has no such file."""
        ...

    def names(self) -> list[str]:
        """The names of all files."""
        ...


class Write(Struct, frozen=True):
    """Write `value` to the interface file `file`, in one write(2)."""

    file: str
    value: str


class Lacking(Struct, frozen=True):
    """Something was asked for that this cgroup version cannot do; `text` is the warning's line."""

    text: str


class AttachProgram(Struct, frozen=True):
    """Let this BPF_PROG_TYPE_CGROUP_DEVICE program decide, in place of an earlier one."""

    program: bytes


Change = Write | Lacking | AttachProgram
Rule = Callable[[Resources, Files], tuple[Change, ...]]


class NoFiles:
    """The cgroup that does not exist yet: no file can be read."""

    def read(self, name: str) -> str | None:
        return None

    def names(self) -> list[str]:
        return []


NO_FILES = NoFiles()


def nothing(resources: Resources, files: Files) -> tuple[Change, ...]:
    """The rule of a controller to which OCI resources say nothing."""
    return ()


def maximum(value: int) -> str:
    """A limit as v2 and pids write it: negative is no limit."""
    return "max" if value < 0 else str(value)


def limit(text: str | None) -> int | None:
    """A limit file's number; None when there is no limit or no file."""
    if text is None:
        return None
    word = text.strip()
    if word in ("max", "-1", ""):
        return None
    value = int(word)
    return None if value >= _UNLIMITED_BYTES else value


def number(text: str | None) -> int | None:
    """A single number; None when there is no file."""
    return None if text is None else int(text)


def flat_keyed(text: str | None) -> dict[str, int]:
    """`KEY VALUE` lines as a mapping; lines whose value is no number are left out.

    Source: cgroup-v2.rst "Flat keyed".
    """
    pairs: dict[str, int] = {}
    for line in (text or "").splitlines():
        key, _, value = line.partition(" ")
        if value.isdigit():
            pairs[key] = int(value)
    return pairs
