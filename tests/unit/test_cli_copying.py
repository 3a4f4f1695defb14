"""Which end of a copy is whose, and what a copy is called where it goes."""

from __future__ import annotations

import pytest

from onggi.errors import FailedPrecondition, InvalidArgument
from onggi.faces.cli.copying import contents_only, end, ends, placed

THERE = {
    "/": ("directory", ""),
    "/d": ("directory", ""),
    "/f": ("file", ""),
    "/to-d": ("symlink", "d"),
    "/to-f": ("symlink", "/f"),
    "/to-new": ("symlink", "d/new"),
    "/loop": ("symlink", "/loop"),
}


def look(path: str) -> tuple[str, str] | None:
    return THERE.get(path.removesuffix("/.").rstrip("/") or "/")


@pytest.mark.parametrize(
    ("text", "container", "path"),
    [
        ("web:/etc", "web", "/etc"),
        ("web:etc/x", "web", "/etc/x"),
        ("web:/a:b", "web", "/a:b"),
        ("./web:/etc", "", "./web:/etc"),
        ("/a:b", "", "/a:b"),
        ("here", "", "here"),
        ("a/b:c", "", "a/b:c"),
        ("-", "", "-"),
    ],
)
def test_ends(text: str, container: str, path: str) -> None:
    found = end(text)
    assert (found.container, found.path) == (container, path)


@pytest.mark.parametrize(
    ("source", "target", "named"),
    [
        ("a:/x", "b:/y", "onggi cp a:/x - | onggi cp - b:DIRECTORY"),
        ("x", "y", "neither end"),
        (":/x", "y", "CONTAINER:PATH"),
        ("web:", "y", "CONTAINER:PATH"),
        ("", "web:/", "empty"),
    ],
)
def test_ends_that_are_none(source: str, target: str, named: str) -> None:
    with pytest.raises(InvalidArgument, match=r".") as refused:
        ends(source, target)
    assert named in str(refused.value)


@pytest.mark.parametrize("path", [".", "/", "//", "/x/.", "./."])
def test_contents_only(path: str) -> None:
    assert contents_only(path)
    assert not contents_only("/x/")


@pytest.mark.parametrize(
    ("path", "base", "directory", "expected"),
    [
        ("/d", "x", False, ("/d", "x")),
        ("/d/", "x", True, ("/d/", "x")),
        ("/d", "", True, ("/d", "")),
        ("/f", "x", False, ("/", "f")),
        ("/d/new", "x", False, ("/d", "new")),
        ("/d/new/", "x", True, ("/d", "new")),
        ("/d/new/.", "", True, ("/d", "new")),
        ("new", "x", False, (".", "new")),
        ("/to-d", "x", False, ("/d", "x")),
        ("/to-f", "x", False, ("/", "f")),
        ("/to-new", "x", False, ("/d", "new")),
    ],
)
def test_placed(path: str, base: str, directory: bool, expected: tuple[str, str]) -> None:
    assert placed(path, base, look, directory=directory) == expected


@pytest.mark.parametrize(
    ("path", "directory", "named"),
    [
        ("/f", True, "is a file"),
        ("/f/", False, "is a file"),
        ("/new/", False, "no directory"),
        ("/loop", False, "too many links"),
    ],
)
def test_no_place(path: str, directory: bool, named: str) -> None:
    with pytest.raises(FailedPrecondition, match=named):
        placed(path, "x", look, directory=directory)
