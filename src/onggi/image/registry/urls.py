"""Where a registry may send us: one rule for redirects, uploads, pages and token realms. Pure.

The rule: https and http only, no user in it, never from https to http, and plain HTTP only to
hosts that may speak it (loopback, or listed by the administrator). Credentials go to the same
origin only, which is the caller's affair (`same_origin`); a token realm is the one exception.
"""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

from onggi.errors import InvalidArgument, PermissionDenied, Unavailable
from onggi.image.registry.hosts import Trust, split_authority
from onggi.runtime.printable import printable

MAX_URL_CHARS = 8192
_PORTS = {"https": 443, "http": 80}


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port. Raises: InvalidArgument: no URL of a host."""
    parts = urlsplit(url)
    host, port = split_authority(parts.netloc)
    return parts.scheme, host.lower(), port or _PORTS.get(parts.scheme, 0)


def same_origin(one: str, other: str) -> bool:
    """Whether two URLs are the same host's, port and scheme included."""
    return origin(one) == origin(other)


def moved(base: str, location: str, trust: Trust, what: str = "redirect") -> str:
    """The absolute URL that an answer from `base` names, without its fragment.

    Raises:
        PermissionDenied: the rule forbids it.
        Unavailable: it is no URL.
    """
    where = f"{shown(base)}: {what} to {printable(location, 100)!r}"
    plain_text = location.isascii() and location.isprintable()
    if not 0 < len(location) <= MAX_URL_CHARS or not plain_text:
        raise Unavailable(f"{where}: not a URL")
    try:
        target = urljoin(base, location.replace(" ", "%20")).partition("#")[0]
        scheme, _host, _port = origin(target)
    except (ValueError, InvalidArgument):
        raise Unavailable(f"{where}: not a URL of a host") from None
    if scheme not in _PORTS:
        raise PermissionDenied(f"{where}: neither https nor http")
    if scheme == "http":
        if not base.startswith("http://"):
            raise PermissionDenied(f"{where}: would go from https down to plain http")
        if not trust.allows_plain(urlsplit(target).netloc):
            raise PermissionDenied(
                f"{where}: plain http is not allowed for this host",
                hint="list it in insecure_registries if it must be",
            )
    return target


def shown(url: str) -> str:
    """A URL for messages: without its query, which may hold a signature, and without a user."""
    parts = urlsplit(url)
    return printable(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}", 200)
