"""The servers that are asked in turn: which ones the host has, and which of them answer.

Source: resolv.conf(5); systemd-resolved.service(8) on its stub and its two resolv.conf.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence

MOST = 3
_LOOK_S = 1.0
_LIMIT_BYTES = 65536
_PENALTY_S = 10.0
_MOST_REMEMBERED = 1024
#: systemd-resolved listens here, and answers from the host's /etc/hosts too, which is no business
#: of a container: its own servers are asked in its place.
_STUBS = frozenset(("127.0.0.53", "127.0.0.54"))

_Stamp = tuple[int, int, int] | None


class Upstreams:
    """The resolvers of the host, in its order. Read again when a file has changed, looked at once a
    second at most."""

    def __init__(
        self,
        path: str = "/etc/resolv.conf",
        behind_stub: str = "/run/systemd/resolve/resolv.conf",
    ) -> None:
        self._paths = path, behind_stub
        self._looked_s = float("-inf")
        self._stamps: tuple[_Stamp, ...] | None = None
        self._servers: tuple[str, ...] = ()

    def __call__(self) -> tuple[str, ...]:
        """At most three addresses; none when the host has no resolver."""
        now_s = time.monotonic()
        if now_s - self._looked_s >= _LOOK_S:
            self._looked_s = now_s
            self._look()
        return self._servers

    def _look(self) -> None:
        stamps = tuple(map(_stamp, self._paths))
        if stamps == self._stamps:
            return
        self._stamps = stamps
        servers = _read(self._paths[0])
        if _STUBS.intersection(servers):
            servers = _read(self._paths[1]) or servers
        self._servers = servers


def _stamp(path: str) -> _Stamp:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _read(path: str) -> tuple[str, ...]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return parse(file.read(_LIMIT_BYTES))
    except OSError:
        return ()  # a host without the file has no resolver


def parse(text: str) -> tuple[str, ...]:
    """The name servers that a resolv.conf names, each once, three at most."""
    words = (line.split() for line in text.splitlines())
    servers = (w[1] for w in words if len(w) > 1 and w[0] == "nameserver" and _is_address(w[1]))
    return tuple(dict.fromkeys(servers))[:MOST]


def _is_address(text: str) -> bool:
    address, _, scope = text.partition("%")
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    except OSError:
        return False
    return not scope or ":" in address


class Standing:
    """How servers did lately: one that fails is asked last for a while."""

    def __init__(self) -> None:
        self._answered_s: dict[str, float] = {}
        self._failed_s: dict[str, float] = {}

    def ordered(self, servers: Sequence[str], now_s: float) -> tuple[str, ...]:
        """The servers, those that failed last."""
        if not self._failed_s:
            return tuple(servers)
        late = now_s - _PENALTY_S
        return tuple(sorted(servers, key=lambda server: self._failed_s.get(server, late) > late))

    def answered(self, server: str, now_s: float) -> None:
        self._failed_s.pop(server, None)
        _remember(self._answered_s, server, now_s)

    def silent(self, server: str, asked_s: float, now_s: float) -> None:
        """No answer came to what was asked then. Answers to others that came since tell that the
        server is well, and the name that was asked for is slow: whoever owns a name must not be
        able to send everybody's questions elsewhere."""
        if self._answered_s.get(server, float("-inf")) < asked_s:
            self.failed(server, now_s)

    def failed(self, server: str, now_s: float) -> None:
        _remember(self._failed_s, server, now_s)


def _remember(times: dict[str, float], server: str, now_s: float) -> None:
    times[server] = now_s
    if len(times) > _MOST_REMEMBERED:
        times.clear()
