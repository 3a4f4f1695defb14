"""The JSON bodies and names of the distribution specification as frozen types, and their parsers.

Source: distribution-spec v1.1 spec.md#api, #error-codes; docker's token authentication. Unknown
fields are ignored. Nothing here knows how a body came.
"""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec
from msgspec import Struct

from onggi.errors import InvalidArgument, SpecError
from onggi.specs.runtime import located

MAX_BODY_BYTES = 4 * 1024 * 1024

_REPOSITORY = re.compile(
    r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*", re.ASCII
)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)


class ErrorItem(Struct, frozen=True):
    """One refusal; `code` is one of the specification's words, `message` is for people."""

    code: str = ""
    message: str | None = None
    detail: msgspec.Raw = msgspec.Raw(b"null")


class Errors(Struct, frozen=True):
    """The body of a refusal (spec.md#error-codes)."""

    errors: tuple[ErrorItem, ...] = ()


class TagList(Struct, frozen=True):
    """One page of tags (spec.md#listing-tags)."""

    name: str = ""
    tags: tuple[str, ...] | None = ()


class Catalog(Struct, frozen=True):
    """One page of repositories (docker's `/v2/_catalog`)."""

    repositories: tuple[str, ...] | None = ()


class Token(Struct, frozen=True):
    """A token server's answer; `access_token` is OAuth 2's name for `token`. In seconds."""

    token: str = ""
    access_token: str = ""
    expires_in: int | None = None

    def __repr__(self) -> str:
        return "Token(…)"


_T = TypeVar("_T")
_ERRORS = msgspec.json.Decoder(Errors)
_TAGS = msgspec.json.Decoder(TagList)
_CATALOG = msgspec.json.Decoder(Catalog)
_TOKEN = msgspec.json.Decoder(Token)


def check_repository(name: str) -> str:
    """`name` itself, when it is a repository's (spec.md#pull). Raises: InvalidArgument."""
    if len(name) > 255 or _REPOSITORY.fullmatch(name) is None:
        raise InvalidArgument(f"{name[:100]!r} is not the name of a repository")
    return name


def check_tag(tag: str) -> str:
    """`tag` itself, when it is one (spec.md#pull). Raises: InvalidArgument."""
    if _TAG.fullmatch(tag) is None:
        raise InvalidArgument(f"{tag[:100]!r} is not a tag")
    return tag


def parse_errors(data: bytes) -> tuple[ErrorItem, ...]:
    """The refusals in a body. Raises: SpecError: not such a body."""
    return _decode(_ERRORS, data).errors


def parse_tags(data: bytes) -> tuple[str, ...]:
    """The tags of a page. Raises: SpecError, also for a tag that is none."""
    tags = _decode(_TAGS, data).tags or ()
    for tag in tags:
        if _TAG.fullmatch(tag) is None:
            raise SpecError("$.tags", f"{tag[:100]!r} is not a tag", section="spec.md")
    return tags


def parse_catalog(data: bytes) -> tuple[str, ...]:
    """The repositories of a page. Raises: SpecError, also for a name that is none."""
    names = _decode(_CATALOG, data).repositories or ()
    for name in names:
        if _REPOSITORY.fullmatch(name) is None:
            raise SpecError("$.repositories", f"{name[:100]!r} is not a name", section="spec.md")
    return names


def parse_token(data: bytes) -> Token:
    """A token server's answer. Raises: SpecError; its message never shows the body."""
    return _decode(_TOKEN, data)


def _decode(decoder: msgspec.json.Decoder[_T], data: bytes) -> _T:
    if len(data) > MAX_BODY_BYTES:
        raise SpecError("$", f"document is {len(data)} bytes, more than {MAX_BODY_BYTES}")
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise located(error, "spec.md") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SpecError("$", f"not valid JSON: {str(error).rstrip('.')}") from None
    except RecursionError:
        raise SpecError("$", "nested deeper than any document is") from None
