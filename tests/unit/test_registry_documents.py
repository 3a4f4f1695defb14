"""What registries say in headers and JSON, as values."""

from __future__ import annotations

import time
from email.utils import formatdate

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onggi.errors import EngineError, InvalidArgument, SpecError
from onggi.image.registry.challenges import Challenge, parse_challenges, preferred
from onggi.image.registry.credentials import Credentials
from onggi.image.registry.hosts import Trust
from onggi.image.registry.http import Request, retry_after_s
from onggi.image.registry.pages import next_link
from onggi.image.registry.urls import moved
from onggi.image.settings import ImageSettings
from onggi.specs.distribution import (
    Token,
    check_repository,
    check_tag,
    parse_catalog,
    parse_errors,
    parse_tags,
    parse_token,
)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('Basic realm="x"', [Challenge("basic", {"realm": "x"})]),
        ("basic", [Challenge("basic")]),
        (
            'Bearer realm="https://t/?a=b",service="s,1",scope="repository:a:pull,push other"',
            [
                Challenge(
                    "bearer",
                    {
                        "realm": "https://t/?a=b",
                        "service": "s,1",
                        "scope": "repository:a:pull,push other",
                    },
                )
            ],
        ),
        ('BEARER Realm = "a\\"b"', [Challenge("bearer", {"realm": 'a"b'})]),
        (
            'Negotiate, Basic realm="x", Bearer realm=y',
            [
                Challenge("negotiate"),
                Challenge("basic", {"realm": "x"}),
                Challenge("bearer", {"realm": "y"}),
            ],
        ),
        ("", []),
        ('"', []),
        ('Bearer realm="never ends', [Challenge("bearer")]),
    ],
)
def test_challenges(header: str, expected: list[Challenge]) -> None:
    assert list(parse_challenges([header]))[: len(expected)] == expected


def test_a_token_is_preferred_to_a_password() -> None:
    chosen = preferred(parse_challenges(['Basic realm="x"', 'Bearer realm="y"']))
    assert chosen is not None and chosen.scheme == "bearer"
    assert preferred(parse_challenges(["Negotiate"])) is None


def test_endless_challenges_are_read_in_no_time() -> None:
    began = time.monotonic()
    for header in ("a," * 100_000, 'a="' + "\\" * 100_000, "a b=c " * 50_000, " " * 100_000):
        parse_challenges([header])
    assert time.monotonic() - began < 2
    assert len(Challenge("bearer", {"scope": "x " * 1000}).scopes) == 32


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('</v2/_catalog?last=a&n=1>; rel="next"', "/v2/_catalog?last=a&n=1"),
        ("<https://h/x>; title=y; rel=next", "https://h/x"),
        ('<a>; rel="prev", <b>; rel="next"', "b"),
        ('<a>; rel="nextish"', ""),
        ("<a>", ""),
        ("nonsense", ""),
    ],
)
def test_links(header: str, expected: str) -> None:
    assert next_link([header]) == expected


def test_retry_after() -> None:
    assert retry_after_s("7") == 7
    assert 50 < retry_after_s(formatdate(time.time() + 60, usegmt=True)) <= 60
    for text in ("", "-1", "soon", "1e9", "Mon, 99 Nov 2026 00:00:00 GMT", "٣"):
        assert retry_after_s(text) == 0


def test_parsers_read_what_is_right() -> None:
    assert parse_tags(b'{"name":"a","tags":["1","latest"]}') == ("1", "latest")
    assert parse_tags(b'{"name":"a","tags":null}') == ()
    assert parse_catalog(b'{"repositories":["a","b/c"]}') == ("a", "b/c")
    assert (
        parse_errors(b'{"errors":[{"code":"DENIED","message":"no","detail":{"a":1}}]}')[0].code
        == "DENIED"
    )
    assert parse_token(b'{"access_token":"t","expires_in":5}') == Token("", "t", 5)


@pytest.mark.parametrize(
    ("parse", "data"),
    [
        (parse_tags, b'{"tags":["../../x"]}'),
        (parse_tags, b'{"tags":["\\u001b[2J"]}'),
        (parse_tags, b'{"tags":[1]}'),
        (parse_tags, b"[" * 100_000),
        (parse_catalog, b'{"repositories":["a/../b"]}'),
        (parse_catalog, b'{"repositories":["A"]}'),
        (parse_errors, b"<html>"),
        (parse_token, b'{"token":5}'),
        (parse_token, b" " * (5 << 20)),
    ],
)
def test_parsers_refuse_what_is_not(parse: object, data: bytes) -> None:
    assert callable(parse)
    with pytest.raises(SpecError):
        parse(data)


def test_names() -> None:
    assert check_repository("a__b/c.d-e---f") == "a__b/c.d-e---f"
    assert check_tag("_1.2-x") == "_1.2-x"
    for name in ("", "A", "a//b", "/a", "a/", "..", "a b", "a\n", "a" * 256, "a?b", "a#b"):
        with pytest.raises(InvalidArgument):
            check_repository(name)
    for tag in ("", "-a", ".a", "a/b", "a" * 129, "a\n", "a?b"):
        with pytest.raises(InvalidArgument):
            check_tag(tag)


def test_nothing_that_holds_a_secret_shows_it() -> None:
    secrets = Credentials("me", "hush", "hush-token")
    request = Request("GET", "https://h/p?sig=hush", {"Authorization": "Basic hush"}, b"hush")
    for value in (secrets, [secrets], request, Token("hush", "hush")):
        assert "hush" not in repr(value)
        assert "hush" not in str(value)
    assert msgspec.to_builtins(secrets)["password"] == "hush"


@given(st.text(max_size=300))
def test_headers_of_any_text_are_read_without_harm(text: str) -> None:
    parse_challenges([text])
    next_link([text])
    assert retry_after_s(text) >= 0
    try:
        target = moved("https://a/v2/", text, Trust(ImageSettings()))
    except EngineError as error:
        assert error.message.isprintable()
    else:
        assert target.startswith("https://")
