"""`--filter` of prune commands, as docker's users write them.

Source: docker-image-prune(1), docker-system-prune(1): until, label, label!, dangling.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from onggi.errors import InvalidArgument
from onggi.image.prune import Filters, created_ns

_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[hms])+")
_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0}
#: Of images; containers, networks and volumes are never dangling by themselves.
KEYS = ("until", "label", "label!", "dangling")


def parse_prune_filters(texts: Sequence[str], known: Sequence[str] = KEYS) -> Filters:
    """Read `key=value` texts. `known`: the keys that there are.

    Raises:
        InvalidArgument: unknown or malformed.
    """
    limit_ns: int | None = None
    dangling: bool | None = None
    labels: list[str] = []
    without: list[str] = []
    for text in texts:
        key, equals, value = text.partition("=")
        if key not in known or not equals:
            raise InvalidArgument(
                f"unknown filter {text[:100]!r}", hint=f"known are {', '.join(known)}"
            )
        if key == "label":
            labels.append(value)
        elif key == "label!":
            without.append(value)
        elif key == "until":
            limit_ns = until_ns(value)
        elif key == "dangling" and value in ("true", "false", "1", "0"):
            dangling = value in ("true", "1")
        else:
            raise InvalidArgument(f"dangling={value[:60]!r} is neither true nor false")
    return Filters(limit_ns, tuple(labels), tuple(without), dangling)


def until_ns(text: str) -> int:
    """A duration before now (240h, 1h30m), seconds since 1970, or RFC 3339."""
    if _DURATION.fullmatch(text):
        pieces = re.findall(r"([\d.]+)([hms])", text)
        past_s = sum(float(number) * _UNITS_S[unit] for number, unit in pieces)
        return time.time_ns() - int(past_s * 1e9)
    if text.isdecimal() and len(text) < 12:
        return int(text) * 10**9
    at_ns = created_ns(text)
    if not at_ns:
        raise InvalidArgument(
            f"until={text[:60]!r} is no time", hint="use 240h, 2026-01-31T12:00:00Z or seconds"
        )
    return at_ns
