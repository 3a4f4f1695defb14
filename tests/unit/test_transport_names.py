"""Names of transports, as typed."""

from __future__ import annotations

import pytest

from onggi.errors import InvalidArgument, Unsupported
from onggi.image.transports.names import (
    ArchiveName,
    DirectoryName,
    LayoutName,
    RegistryName,
    StoreName,
    TransportName,
    parse_transport,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("docker://debian", RegistryName("debian")),
        ("docker://host:5000/a/b:tag", RegistryName("host:5000/a/b:tag")),
        ("docker://a@sha256:" + "0" * 64, RegistryName("a@sha256:" + "0" * 64)),
        ("store:debian:12", StoreName("debian:12")),
        ("debian", StoreName("debian")),
        ("debian:12", StoreName("debian:12")),
        ("localhost:5000/a", StoreName("localhost:5000/a")),
        ("0123456789ab", StoreName("0123456789ab")),
        ("sha256:" + "a" * 64, StoreName("sha256:" + "a" * 64)),
        ("oci:dir", LayoutName("dir")),
        ("oci:/a/dir:v1", LayoutName("/a/dir", "v1")),
        ("oci-archive:x.tar", ArchiveName("x.tar", "oci")),
        ("oci-archive:x.tar:v1", ArchiveName("x.tar", "oci", "v1")),
        ("docker-archive:x.tar", ArchiveName("x.tar", "docker")),
        ("docker-archive:x.tar:a/b:v1", ArchiveName("x.tar", "docker", "a/b:v1")),
        ("dir:/a:b", DirectoryName("/a:b")),
    ],
)
def test_names(text: str, expected: TransportName) -> None:
    assert parse_transport(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("docker:debian", "two slashes"),
        ("docker://", "nothing behind"),
        ("docker://UPPER", "not a repository name"),
        ("store:", "nothing behind"),
        ("oci:", "nothing behind"),
        ("oci::v1", "path is empty"),
        ("docker-archive::x", "path is empty"),
        ("dir:", "nothing behind"),
        ("http://host/x", "no transport 'http'"),
        ("ftp:/x", "no transport 'ftp'"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        parse_transport(text)


def test_an_unknown_transport_is_told_the_known_ones() -> None:
    with pytest.raises(InvalidArgument) as raised:
        parse_transport("ftp://x")
    assert "docker://REFERENCE, store:NAME, oci:PATH[:TAG]" in (raised.value.hint or "")


@pytest.mark.parametrize("name", ["containers-storage:debian", "docker-daemon:debian:12"])
def test_transports_of_others(name: str) -> None:
    with pytest.raises(Unsupported) as raised:
        parse_transport(name)
    assert "oci-archive:PATH" in (raised.value.hint or "")
