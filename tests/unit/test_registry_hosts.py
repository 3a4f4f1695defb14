"""Where a registry is, who may speak plain HTTP, which proxy, and where a registry may send us."""

from __future__ import annotations

import pytest

from onggi.errors import EngineError, InvalidArgument, PermissionDenied, Unavailable
from onggi.image.registry.hosts import Endpoint, Trust, endpoints, is_loopback, split_authority
from onggi.image.registry.proxies import proxies_of
from onggi.image.registry.urls import moved, same_origin, shown
from onggi.image.settings import ImageSettings, RegistrySettings


def test_docker_hub_is_served_by_another_host_and_keeps_its_name() -> None:
    assert endpoints("docker.io", ImageSettings()) == (
        Endpoint("docker.io", "registry-1.docker.io"),
    )


def test_mirrors_come_first_under_their_own_names() -> None:
    settings = ImageSettings(
        registries={"quay.io": RegistrySettings(mirrors=("near:5000/quay", "far.example"))},
        insecure_registries=("near:5000",),
    )
    assert endpoints("quay.io", settings) == (
        Endpoint("near:5000", "near:5000", "quay/", plain=True),
        Endpoint("far.example", "far.example"),
        Endpoint("quay.io", "quay.io"),
    )


def test_a_location_and_its_insecurity_go_together() -> None:
    settings = ImageSettings(
        registries={"r": RegistrySettings(location="10.1.2.3:80", insecure=True)}
    )
    assert endpoints("r", settings) == (Endpoint("r", "10.1.2.3:80", "", True),)
    assert Trust(settings).is_insecure("10.1.2.3:80")


@pytest.mark.parametrize(
    "name", ["", "a b", "..", "../x", "a/../b", "host:0", "host:65536", "u@h", "h\n", "a..b", "-h"]
)
def test_what_is_no_host_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument):
        endpoints(name, ImageSettings())


def test_authorities_are_split() -> None:
    assert split_authority("host") == ("host", None)
    assert split_authority("[::1]:5000") == ("::1", 5000)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("a.localhost", True),
        ("127.0.0.1", True),
        ("127.255.0.9", True),
        ("::1", True),
        ("127.0.0.1.example.org", False),
        ("localhost.example.org", False),
        ("128.0.0.1", False),
        ("::2", False),
    ],
)
def test_loopback_is_told_by_name(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_plain_http_is_for_loopback_and_listed_hosts_only() -> None:
    trust = Trust(ImageSettings(insecure_registries=("old:5000", "any", "10.0.0.0/8")))
    assert [trust.allows_plain(a) for a in ("127.0.0.1:5", "localhost", "[::1]:1")] == [True] * 3
    assert [trust.allows_plain(a) for a in ("old:5000", "OLD:5000", "any", "any:1")] == [True] * 4
    assert trust.allows_plain("10.200.0.1:5000")
    assert [trust.allows_plain(a) for a in ("old", "old:5001", "11.0.0.1", "x")] == [False] * 4


def test_loopback_certificates_are_checked_all_the_same() -> None:
    (endpoint,) = endpoints("127.0.0.1:5000", ImageSettings())
    assert endpoint.plain
    assert not Trust(ImageSettings()).is_insecure("127.0.0.1:5000")


def test_a_range_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="insecure_registries"):
        Trust(ImageSettings(insecure_registries=("10.0.0.0/99",)))


TRUST = Trust(ImageSettings(insecure_registries=("old",)))


@pytest.mark.parametrize(
    ("base", "location", "expected"),
    [
        ("https://a/v2/x", "/v2/y?z=1#f", "https://a/v2/y?z=1"),
        ("https://a/v2/x", "https://b:8/c", "https://b:8/c"),
        ("https://a/v2/x", "//b/c", "https://b/c"),
        ("https://a/v2/x", "y", "https://a/v2/y"),
        ("http://127.0.0.1/v2/", "http://127.0.0.2:9/c", "http://127.0.0.2:9/c"),
        ("http://127.0.0.1/v2/", "http://old/c", "http://old/c"),
        ("http://127.0.0.1/v2/", "https://b/c", "https://b/c"),
    ],
)
def test_where_a_registry_may_send_us(base: str, location: str, expected: str) -> None:
    assert moved(base, location, TRUST) == expected


@pytest.mark.parametrize(
    ("base", "location", "error"),
    [
        ("https://a/", "http://a/", PermissionDenied),
        ("https://a/", "http://127.0.0.1/", PermissionDenied),
        ("https://a/", "http://old/", PermissionDenied),
        ("http://old/", "http://other/", PermissionDenied),
        ("https://a/", "ftp://a/", PermissionDenied),
        ("https://a/", "file:///etc/passwd", EngineError),
        ("https://a/", "https://user:word@a/", Unavailable),
        ("https://a/", "https://a:99999/", Unavailable),
        ("https://a/", "https://[::1/", Unavailable),
        ("https://a/", "/" + "x" * 9000, Unavailable),
        ("https://a/", "/x\r\nHost: b", Unavailable),
        ("https://a/", "/\x1b[2J", Unavailable),
    ],
)
def test_where_it_may_not(base: str, location: str, error: type[EngineError]) -> None:
    with pytest.raises(error) as caught:
        moved(base, location, TRUST)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 400


def test_origins() -> None:
    assert same_origin("https://A/x", "https://a:443/y")
    assert not same_origin("https://a/", "https://a:444/")
    assert not same_origin("https://a/", "http://a:443/")


def test_shown_urls_have_no_secrets() -> None:
    assert shown("https://u:word@a/b?X-Amz-Signature=s") == "https://a/b"


PROXIES = proxies_of(
    {
        "HTTP_PROXY": "http://p:1",
        "https_proxy": "q:2",
        "HTTPS_PROXY": "http://loses:3",
        "NO_PROXY": "no.example, .sub.example,10.0.0.0/8,  192.168.1.1,port.example:5000,*.star",
    }
)


@pytest.mark.parametrize(
    ("scheme", "host", "port", "expected"),
    [
        ("http", "a", 80, "http://p:1"),
        ("https", "a", 443, "http://q:2"),
        ("https", "no.example", 443, ""),
        ("https", "x.no.example", 443, ""),
        ("https", "xno.example", 443, "http://q:2"),
        ("https", "x.sub.example", 443, ""),
        ("https", "sub.example", 443, "http://q:2"),
        ("https", "10.9.8.7", 443, ""),
        ("https", "11.9.8.7", 443, "http://q:2"),
        ("https", "192.168.1.1", 1, ""),
        ("https", "port.example", 5000, ""),
        ("https", "port.example", 443, "http://q:2"),
        ("https", "x.star", 443, ""),
        ("http", "127.0.0.1", 5000, ""),
        ("https", "localhost", 5000, ""),
    ],
)
def test_proxies(scheme: str, host: str, port: int, expected: str) -> None:
    assert PROXIES.choose(scheme, host, port) == expected


def test_no_proxy_for_all() -> None:
    assert proxies_of({"HTTPS_PROXY": "p", "no_proxy": "*"}).choose("https", "a", 1) == ""
    assert proxies_of({}).choose("https", "a", 1) == ""


def test_a_proxys_password_is_not_shown() -> None:
    assert "word" not in repr(proxies_of({"HTTP_PROXY": "http://u:word@p"}))
