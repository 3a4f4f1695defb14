"""What `cp` means: which side is whose, and what the copy is called where it goes.

Pure but for the two ways to look at a path, which are given. Source: docker-cp(1), DESCRIPTION.
"""

from __future__ import annotations

import posixpath

from onggi.errors import FailedPrecondition, InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    #: path → (kind, where a link leads), or None when nothing is there. Follows no final link.
    Look = Callable[[str], tuple[str, str] | None]

_MOST_LINKS = 40


class End:
    """One end of a copy: a path, and whose. `container` is empty for this side."""

    __slots__ = ("container", "path")

    def __init__(self, container: str, path: str) -> None:
        self.container = container
        self.path = path

    @property
    def stream(self) -> bool:
        """Whether it is a tar on stdin or stdout."""
        return not self.container and self.path == "-"


def end(text: str) -> End:
    """`CONTAINER:PATH`, or a path of this side: absolute, beginning with a dot, without a colon.

    Raises:
        InvalidArgument: no path behind the colon, or nothing at all.
    """
    container, colon, path = text.partition(":")
    if not text:
        raise InvalidArgument("an empty path", hint="onggi cp web:/etc/hosts .")
    if text.startswith(("/", ".")) or not colon or "/" in container:
        return End("", text)
    if not container or not path:
        raise InvalidArgument(f"{text!r} is not CONTAINER:PATH", hint=f"onggi cp {text}/etc .")
    return End(container, path if path.startswith("/") else f"/{path}")


def ends(source: str, target: str) -> tuple[End, End]:
    """Both ends of a copy, of which one is in a container.

    Raises:
        InvalidArgument: both are, or neither is.
    """
    first, second = end(source), end(target)
    if first.container and second.container:
        raise InvalidArgument(
            "cp does not copy between two containers",
            hint=f"onggi cp {source} - | onggi cp - {second.container}:DIRECTORY",
        )
    if not first.container and not second.container:
        raise InvalidArgument(
            "neither end is in a container",
            hint="one of them is CONTAINER:PATH; a local name with a colon starts with ./",
        )
    return first, second


def contents_only(path: str) -> bool:
    """Whether a source is what is in a directory, not the directory itself."""
    return path == "." or path.endswith("/.") or not path.strip("/")


def placed(path: str, base: str, look: Look, *, directory: bool) -> tuple[str, str]:
    """Where a copy goes: (directory to unpack in, name it gets there; empty for contents alone).

    `base`: the source's own name, empty for contents alone; `directory`: whether it is one. `look`
    sees the target's side.

    Raises:
        FailedPrecondition: a directory onto a file, or a file to a directory that is missing.
    """
    wanted, path = path, resolved(path, look)
    found = look(path)
    slash = wanted.endswith(("/", "/."))
    if found is not None and found[0] == "directory":
        return path, base
    if found is not None and (directory or slash):
        raise FailedPrecondition(
            f"{wanted} is a file, not a directory", hint="name a directory, or remove the file"
        )
    if found is None and slash and not directory:
        raise FailedPrecondition(
            f"there is no directory {wanted}", hint="make it first, or leave the slash out"
        )
    bare = path.removesuffix("/.").rstrip("/")
    return posixpath.dirname(bare) or ".", posixpath.basename(bare)


def resolved(path: str, look: Look) -> str:
    """Follow the links that the path itself is, wherever they lead."""
    for _ in range(_MOST_LINKS):
        bare = path.rstrip("/") or "/"
        found = look(bare)
        if found is None or found[0] != "symlink":
            return path
        path = posixpath.join(posixpath.dirname(bare), found[1])
    raise FailedPrecondition(f"{path}: too many links lead to each other")
