"""References as docker's users type them."""

from __future__ import annotations

import pytest

from onggi.errors import InvalidArgument
from onggi.image.reference import Defaults, Reference

HEX = "a" * 64
DIGEST = f"sha256:{HEX}"


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("debian", "docker.io/library/debian:latest"),
        ("debian:12", "docker.io/library/debian:12"),
        ("user/app", "docker.io/user/app:latest"),
        ("docker.io/debian", "docker.io/library/debian:latest"),
        ("index.docker.io/debian:1", "docker.io/library/debian:1"),
        ("localhost/a", "localhost/a:latest"),
        ("host:5000/a/b:tag", "host:5000/a/b:tag"),
        ("host:5000/a", "host:5000/a:latest"),
        ("UPPER/a", "UPPER/a:latest"),
        ("[::1]:5000/a", "[::1]:5000/a:latest"),
        (f"a.b/c@{DIGEST}", f"a.b/c@{DIGEST}"),
        (f"host:5000/a/b:tag@{DIGEST}", f"host:5000/a/b:tag@{DIGEST}"),
        ("a__b/c.d-e", "docker.io/a__b/c.d-e:latest"),
    ],
)
def test_reads_what_people_type(text: str, canonical: str) -> None:
    assert Reference.parse(text).canonical == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "/",
        "a:",
        "a/",
        "/a",
        "a//b",
        "Debian",
        "a/B",
        "a:b:c",
        "a b",
        "a\n",
        "debian:12\n",
        "a:-x",
        "a:" + "t" * 129,
        "a@sha256:12",
        "a@" + DIGEST.upper(),
        "a@",
        HEX,
        "../a",
        "a/../b",
        "-a/b",
        ".hidden/a",
        "a_/b",
        "a___b",
        "host:port/a",
        "é/a",
        "x/" + "a" * 300,
    ],
)
def test_refuses_what_is_no_reference(text: str) -> None:
    with pytest.raises(InvalidArgument):
        Reference.parse(text)


def test_says_that_names_are_lower_case() -> None:
    with pytest.raises(InvalidArgument, match="lower case"):
        Reference.parse("Debian")


@pytest.mark.parametrize(
    ("text", "familiar"),
    [
        ("docker.io/library/debian:12", "debian:12"),
        ("docker.io/user/app", "user/app"),
        ("quay.io/a/b:1", "quay.io/a/b:1"),
        (f"docker.io/library/x@{DIGEST}", f"x@{DIGEST}"),
    ],
)
def test_familiar_form(text: str, familiar: str) -> None:
    assert Reference.parse(text).familiar() == familiar


def test_the_default_registry_is_data() -> None:
    here = Defaults(registry="reg.example", namespace="", tag="stable", aliases=())
    assert Reference.parse("a", here).name == "reg.example/a"
    assert Reference.parse("a", here).with_default_tag(here).tag == "stable"
    assert Reference.parse("reg.example/a", here).familiar(here) == "a"
