"""The host's own resolvers: where questions go that are not about containers.

Read again when the file changes, looked at once a second at most. The stub of systemd-resolved is
as good as its upstreams, since the engine asks from the host's network namespace.
Source: resolv.conf(5).
"""

from __future__ import annotations

import os
import socket
import time

MOST = 3
_LOOK_S = 1.0
_LIMIT_BYTES = 65536


class Upstreams:
    """The resolvers in a resolv.conf, in its order."""

    def __init__(self, path: str = "/etc/resolv.conf") -> None:
        self._path = path
        self._looked_s = -_LOOK_S
        self._changed_ns = -1
        self._servers: tuple[str, ...] = ()

    def __call__(self) -> tuple[str, ...]:
        """At most three addresses; none when the host has no resolver."""
        now_s = time.monotonic()
        if now_s - self._looked_s >= _LOOK_S:
            self._looked_s = now_s
            self._look()
        return self._servers

    def _look(self) -> None:
        try:
            changed_ns = os.stat(self._path).st_mtime_ns
            if changed_ns == self._changed_ns:
                return
            with open(self._path, encoding="utf-8", errors="replace") as file:
                text = file.read(_LIMIT_BYTES)
        except OSError:
            self._servers, self._changed_ns = (), -1
            return
        self._servers, self._changed_ns = parse(text), changed_ns


def parse(text: str) -> tuple[str, ...]:
    """The name servers that a resolv.conf names."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver" and _is_address(words[1]):
            found.append(words[1])
    return tuple(found[:MOST])


def _is_address(text: str) -> bool:
    address, _, scope = text.partition("%")
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    except OSError:
        return False
    return not scope or ":" in address
