"""Which member of an index fits, and what `--platform` says."""

from __future__ import annotations

import pytest

from onggi.errors import InvalidArgument
from onggi.image.platforms import (
    choose,
    host_platform,
    parse_platform,
    ranked,
    runs_on,
    with_cpu_level,
)
from onggi.specs.image import OCI_MANIFEST, Descriptor, Platform


def members(*texts: str) -> list[Descriptor]:
    """Without the normalization of `parse_platform`: registries write what they like."""
    return [
        Descriptor(OCI_MANIFEST, text, 1, platform=Platform(*swap(text)) if text else None)
        for text in texts
    ]


def swap(text: str) -> tuple[str, ...]:
    system, architecture, *variant = text.split("/")
    return (architecture, system, *variant)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("linux/amd64", Platform("amd64", "linux")),
        ("amd64", Platform("amd64", "linux")),
        ("x86_64", Platform("amd64", "linux")),
        ("Linux/AArch64", Platform("arm64", "linux")),
        ("linux/arm64/v8", Platform("arm64", "linux")),
        ("linux/arm64/8", Platform("arm64", "linux")),
        ("linux/arm", Platform("arm", "linux")),
        ("linux/arm/v7", Platform("arm", "linux")),
        ("linux/arm/v6", Platform("arm", "linux", "v6")),
        ("armel", Platform("arm", "linux", "v6")),
        ("armhf", Platform("arm", "linux")),
        ("linux/amd64/v3", Platform("amd64", "linux", "v3")),
        ("windows/amd64", Platform("amd64", "windows")),
        ("unknown/unknown", Platform("unknown", "unknown")),
    ],
)
def test_platforms_as_typed(text: str, expected: Platform) -> None:
    assert parse_platform(text) == expected


def test_a_system_alone_means_this_architecture() -> None:
    assert parse_platform("linux").architecture == host_platform().architecture


@pytest.mark.parametrize(
    "text", ["", "/", "linux/", "a/b/c/d", "beos9", "linux/am d64", "linux/é/.."]
)
def test_what_is_no_platform(text: str) -> None:
    with pytest.raises(InvalidArgument, match="not a platform"):
        parse_platform(text)


@pytest.mark.parametrize(
    ("wanted", "offered", "expected"),
    [
        ("linux/amd64", "linux/arm64 linux/amd64 linux/386", "linux/amd64"),
        ("linux/amd64", "linux/arm64 linux/386", "linux/386"),
        ("linux/amd64", "windows/amd64 linux/arm64", None),
        ("linux/amd64", "linux/amd64/v2 linux/amd64/v3", None),
        ("linux/amd64", "linux/amd64/v2 linux/amd64/v1", "linux/amd64/v1"),
        ("linux/amd64/v3", "linux/amd64 linux/amd64/v2 linux/amd64/v4", "linux/amd64/v2"),
        ("linux/amd64/v3", "linux/amd64/v2 linux/amd64/v3", "linux/amd64/v3"),
        ("linux/arm64", "linux/arm/v7 linux/arm64/v8", "linux/arm64/v8"),
        ("linux/arm64", "linux/arm64/v9 linux/arm/v6 linux/arm/v7", "linux/arm/v7"),
        ("linux/arm64/v9", "linux/arm64 linux/arm64/v9", "linux/arm64/v9"),
        ("linux/arm", "linux/arm/v5 linux/arm/v6 linux/arm/v7", "linux/arm/v7"),
        ("linux/arm/v6", "linux/arm/v7 linux/arm/v5 linux/arm/v6", "linux/arm/v6"),
        ("linux/arm/v6", "linux/arm/v7 linux/arm/v5", "linux/arm/v5"),
        ("linux/arm/v6", "linux/arm/v7 linux/arm", None),
        ("linux/riscv64", "linux/riscv64 linux/riscv64/rva22", "linux/riscv64"),
        ("linux/amd64", "", None),
    ],
)
def test_the_best_member(wanted: str, offered: str, expected: str | None) -> None:
    found = choose(members(*offered.split()), Platform(*swap(wanted)))
    assert (found and found.digest) == expected


def test_strict_takes_no_other_architecture() -> None:
    offered = members("linux/386", "")
    assert choose(offered, parse_platform("amd64"), strict=True) is None
    assert [m.digest for m in ranked(offered, parse_platform("amd64"))] == ["linux/386", ""]


def test_the_first_of_equals() -> None:
    first, second = members("linux/amd64", "linux/amd64")
    assert choose((first, second), parse_platform("amd64")) is first


def test_this_cpu_runs_what_its_level_says() -> None:
    level = with_cpu_level(host_platform())
    assert runs_on(level, host_platform())
    assert with_cpu_level(Platform("s390x", "linux")) == Platform("s390x", "linux")
    if level.architecture == "amd64":
        assert level.variant in (None, "v2", "v3", "v4")
        assert choose(members("linux/amd64", "linux/amd64/v9"), level) is not None
