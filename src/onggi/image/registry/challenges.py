"""What a 401 asks for: the header WWW-Authenticate, read strictly and bounded. Pure.

Source: RFC 9110 section 11.6.1, RFC 6750 section 3.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from msgspec import Struct

MAX_HEADER_CHARS = 8192
MAX_SCOPES = 32

_WORD = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_SCHEME = re.compile(rf"\s*({_WORD})(?:\s+|\Z|(?=,))")
_PARAMETER = re.compile(rf'\s*({_WORD})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]+))\s*')


class Challenge(Struct, frozen=True):
    """One way to authenticate. `scheme` in lower case; parameters' names too."""

    scheme: str
    parameters: dict[str, str] = {}

    @property
    def scopes(self) -> tuple[str, ...]:
        """The scopes asked for, at most MAX_SCOPES."""
        return tuple(self.parameters.get("scope", "").split())[:MAX_SCOPES]

    @property
    def wants_more(self) -> bool:
        """Whether a token was good, but not good for this."""
        return self.parameters.get("error", "") == "insufficient_scope"


def parse_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """Every challenge in the headers, as far as they can be read."""
    return tuple(challenge for header in headers for challenge in _parse(header))


def preferred(challenges: Iterable[Challenge]) -> Challenge | None:
    """The one to answer: a token rather than a password; None: nothing that we can."""
    by_scheme = {challenge.scheme: challenge for challenge in challenges}
    return by_scheme.get("bearer") or by_scheme.get("basic")


def _parse(header: str) -> list[Challenge]:
    found: list[Challenge] = []
    position = 0
    header = header[:MAX_HEADER_CHARS]
    while match := _SCHEME.match(header, position):
        parameters: dict[str, str] = {}
        position = match.end()
        while parameter := _PARAMETER.match(header, position):
            name, quoted, plain = parameter.groups()
            value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            parameters.setdefault(name.lower(), value)
            position = parameter.end()
            if header[position : position + 1] != ",":
                break
            position += 1
        found.append(Challenge(match[1].lower(), parameters))
        position += len(header[position:]) - len(header[position:].lstrip(" ,"))
    return found
