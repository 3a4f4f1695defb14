"""What short names mean under each policy."""

from __future__ import annotations

import pytest

from onggi.errors import InvalidArgument
from onggi.image.settings import ImageSettings
from onggi.image.short_names import full_reference

HEX = "a" * 64


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("debian", "docker.io/library/debian:latest"),
        ("debian:12", "docker.io/library/debian:12"),
        ("a/b", "docker.io/a/b:latest"),
        ("host:5000/a/b:t", "host:5000/a/b:t"),
        (f"host:5000/a@sha256:{HEX}", f"host:5000/a@sha256:{HEX}"),
    ],
)
def test_default_policy(text: str, expected: str) -> None:
    assert full_reference(text, ImageSettings()).canonical == expected


def test_another_default_registry_has_no_namespace() -> None:
    settings = ImageSettings(default_registry="host:5000")
    assert full_reference("debian", settings).canonical == "host:5000/debian:latest"


def test_an_alias_keeps_tag_and_digest() -> None:
    settings = ImageSettings(aliases={"py": "host:5000/base/python"}, short_names="refuse")
    assert full_reference("py", settings).canonical == "host:5000/base/python:latest"
    assert full_reference("py:3", settings).canonical == "host:5000/base/python:3"
    found = full_reference(f"py:3@sha256:{HEX}", settings)
    assert found.canonical == f"host:5000/base/python:3@sha256:{HEX}"


def test_refused() -> None:
    settings = ImageSettings(short_names="refuse")
    assert full_reference("docker.io/library/debian", settings).tag == "latest"
    with pytest.raises(InvalidArgument, match="does not name its registry"):
        full_reference("debian", settings)
    with pytest.raises(InvalidArgument, match="does not name its registry"):
        full_reference("a/b", settings)
