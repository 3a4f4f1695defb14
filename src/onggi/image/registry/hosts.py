"""Where a registry is: its hosts, mirrors and ports, and which of them may speak plain HTTP. Pure.

Source: containers-registries.conf(5) for mirrors; docker's daemon.json for insecure registries
(host, host:port, or a CIDR range). Knows nothing of connections.
"""

from __future__ import annotations

import ipaddress
import re

from msgspec import Struct

from onggi.errors import InvalidArgument
from onggi.image.settings import ImageSettings, RegistrySettings
from onggi.runtime.printable import printable

#: Registries whose name is not the host that serves them.
SERVED_BY = {"docker.io": "registry-1.docker.io"}

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9])?"
_AUTHORITY = re.compile(
    rf"(?P<host>{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{{1,5}}))?", re.ASCII
)
_PREFIX = re.compile(r"[a-z0-9]+(?:[._/-]+[a-z0-9]+)*", re.ASCII)


class Endpoint(Struct, frozen=True):
    """One host that serves a registry.

    `name`: under which credentials and certificates are looked up. `authority`: host[:port] that
    is connected. `prefix`: put before names of repositories, empty or with a slash at its end.
    `plain`: HTTP without TLS is allowed.
    """

    name: str
    authority: str
    prefix: str = ""
    plain: bool = False


def split_authority(text: str) -> tuple[str, int | None]:
    """Host (IPv6 without brackets) and port. Raises: InvalidArgument: it is neither."""
    match = _AUTHORITY.fullmatch(text)
    if match is None or int(match["port"] or 1) not in range(1, 65536):
        raise InvalidArgument(f"{printable(text, 100)!r} is not a host or host:port")
    return match["host"].strip("[]"), int(match["port"]) if match["port"] else None


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by its very name (127/8, ::1, localhost)."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost" or host.lower().endswith(".localhost")


class Trust:
    """Which hosts the administrator lets speak plain HTTP or go without a valid certificate."""

    def __init__(self, settings: ImageSettings) -> None:
        self._names = {name.lower() for name in settings.insecure_registries if "/" not in name}
        self._ranges = [_network(text) for text in settings.insecure_registries if "/" in text]
        for name, registry in settings.registries.items():
            if registry.insecure:
                self._names |= {name.lower(), _location(name, registry).partition("/")[0].lower()}

    def is_insecure(self, authority: str) -> bool:
        """Whether it is listed: plain HTTP is allowed and certificates are not checked."""
        host, _port = split_authority(authority)
        if authority.lower() in self._names or host.lower() in self._names:
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in self._ranges)

    def allows_plain(self, authority: str) -> bool:
        """Whether plain HTTP is allowed: loopback and listed hosts."""
        return is_loopback(split_authority(authority)[0]) or self.is_insecure(authority)


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise InvalidArgument(
            f"insecure_registries: {printable(text, 100)!r} is not a range of addresses"
        ) from None


def endpoints(registry: str, settings: ImageSettings) -> tuple[Endpoint, ...]:
    """Where to ask, in order: the mirrors (for reading only), and last the registry itself.

    Raises: InvalidArgument: a name that is not a host.
    """
    trust = Trust(settings)
    configured = settings.registries.get(registry, RegistrySettings())
    mirrors = [_endpoint(mirror, None, trust) for mirror in configured.mirrors]
    location = _location(registry, configured)
    return (*mirrors, _endpoint(location, registry, trust))


def _location(registry: str, configured: RegistrySettings) -> str:
    return configured.location or SERVED_BY.get(registry, registry)


def _endpoint(location: str, name: str | None, trust: Trust) -> Endpoint:
    authority, _slash, prefix = location.strip("/").partition("/")
    split_authority(authority)
    if prefix and _PREFIX.fullmatch(prefix) is None:
        raise InvalidArgument(
            f"{printable(location, 100)!r}: {printable(prefix, 100)!r} is no path"
        )
    return Endpoint(
        name=name or authority,
        authority=authority,
        prefix=prefix + "/" if prefix else "",
        plain=trust.allows_plain(authority),
    )
