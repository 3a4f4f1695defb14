"""Which proxy a request goes through, by the environment's usual variables. Pure.

Source: curl(1) ENVIRONMENT and Go's httpproxy package, which docker and containerd follow.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from msgspec import Struct

from onggi.image.registry.hosts import is_loopback


class Proxies(Struct, frozen=True):
    """The proxies of an environment. `excluded`: the entries of NO_PROXY, lower case."""

    http: str = ""
    https: str = ""
    excluded: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Proxies(excluded={self.excluded!r}, …)"

    def choose(self, scheme: str, host: str, port: int) -> str:
        """The URL of the proxy for a host, empty: none. Loopback is never proxied."""
        proxy = self.https if scheme == "https" else self.http
        if not proxy or is_loopback(host) or self._is_excluded(host.lower(), port):
            return ""
        return proxy if "://" in proxy else f"http://{proxy}"

    def _is_excluded(self, host: str, port: int) -> bool:
        return any(_matches(entry, host, port) for entry in self.excluded)


def proxies_of(environment: Mapping[str, str]) -> Proxies:
    """What HTTP_PROXY, HTTPS_PROXY and NO_PROXY say; lower case wins, as with curl."""

    def value(name: str) -> str:
        return (environment.get(name.lower()) or environment.get(name) or "").strip()

    excluded = (entry.strip().lower() for entry in value("NO_PROXY").split(","))
    return Proxies(value("HTTP_PROXY"), value("HTTPS_PROXY"), tuple(e for e in excluded if e))


def _matches(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    if "/" in entry or _address(entry) is not None:
        return _in_range(entry, host)
    name, colon, entry_port = entry.rpartition(":")
    if colon and entry_port.isdigit():
        if int(entry_port) != port:
            return False
        entry = name.strip("[]")
    suffix = entry.removeprefix("*").removeprefix(".")
    return host.endswith("." + suffix) or (host == suffix and not entry.startswith("."))


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None


def _in_range(entry: str, host: str) -> bool:
    address = _address(host)
    try:
        return address is not None and address in ipaddress.ip_network(entry.strip("[]"), False)
    except ValueError:
        return False
