"""Lists that come in pages: followed by their Link headers, within bounds.

Source: distribution-spec spec.md#listing-tags, RFC 8288.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

from onggi.errors import Unavailable
from onggi.image.registry.http import Answer
from onggi.image.registry.peer import Peer
from onggi.image.registry.urls import moved, same_origin

MAX_PAGES = 10_000
MAX_LINK_CHARS = 16 * 1024

_LINK = re.compile(r'<([^<>]*)>((?:\s*;\s*[A-Za-z]+\s*=\s*(?:"[^"]*"|[^\s",;]+))*)')
_NEXT = re.compile(r';\s*rel\s*=\s*(?:"next"|next)(?:\s|;|\Z)', re.IGNORECASE)


def pages(peer: Peer, path: str, scopes: tuple[str, ...]) -> Iterator[Answer]:
    """One answer per page, of any status; the caller takes its body before it asks for the next.

    Raises: Unavailable: pages that repeat, lead to another host, or do not end.
    """
    target = path
    seen: set[bytes] = set()
    for _ in range(MAX_PAGES):
        answer = peer.send("GET", target, scopes)
        link = next_link(answer.headers("Link"))
        where, base = answer.where, answer.url
        yield answer
        if not link:
            return
        target = moved(base, link, peer.http.trust, "next page")
        if not same_origin(target, peer.base):
            raise Unavailable(f"{where}: its next page is on another host")
        digest = hashlib.sha256(target.encode()).digest()
        if digest in seen:
            raise Unavailable(f"{where}: its pages go round in a circle")
        seen.add(digest)
    raise Unavailable(f"{where}: more than {MAX_PAGES} pages")


def next_link(headers: list[str]) -> str:
    """The target of `rel="next"`; empty: none."""
    for header in headers:
        for target, parameters in _LINK.findall(header[:MAX_LINK_CHARS]):
            if _NEXT.search(parameters):
                return str(target)
    return ""
