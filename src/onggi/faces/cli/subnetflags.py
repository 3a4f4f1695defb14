"""The options of `network create`: ranges, gateways, reserved addresses, the bridge's options.

Pure: gives NetworkCreateRequest's fields. Whether a range is free is the engine's business.
Source: docker-network-create(1).
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from onggi.errors import InvalidArgument
from onggi.faces.cli.options import BadValueError, invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, TypeVar

    from onggi.faces.cli.options import Parsed

    Network = IPv4Network | IPv6Network
    _T = TypeVar("_T")

_RANGE_EXAMPLE = "10.7.0.0/24"
_LEAST_MTU, _MOST_MTU = 68, 65535
_DRIVERS = {
    "host": "--network host needs no network made",
    "none": "--network none needs no network made",
    "null": "--network none needs no network made",
    "overlay": "networks are of one host; publish ports between hosts",
    "macvlan": "containers are not put on the host's own network; publish ports",
    "ipvlan": "containers are not put on the host's own network; publish ports",
}


def driver(text: str, only: str = "bridge") -> str:
    """`bridge`, the one driver there is."""
    if text != only:
        raise BadValueError(_DRIVERS.get(text, f"{only} is the only one"), only)
    return text


def reserved(text: str) -> str:
    """`NAME=ADDRESS` or an address: one that no container is given."""
    name, equals, address = text.partition("=")
    return str(_address(address if equals else name, "router=10.7.0.5"))


def _address(text: str, example: str) -> Any:
    try:
        if "%" in text:
            raise ValueError
        return ip_address(text)
    except ValueError:
        raise BadValueError(f"{text!r} is not an IP address", example) from None


def _network(text: str) -> Network:
    try:
        if "/" not in text or "%" in text:
            raise ValueError
        return ip_network(text, strict=True)
    except ValueError as error:
        if "host bits" in str(error):
            meant = ip_network(text, strict=False)
            raise BadValueError("an address, not the range it is of", str(meant)) from None
        raise BadValueError("not a range ADDRESS/LENGTH", _RANGE_EXAMPLE) from None


def _read(flag: str, texts: Sequence[str], read: Callable[[str], _T]) -> list[_T]:
    found = []
    for text in texts:
        try:
            found.append(read(text))
        except BadValueError as error:
            raise invalid(flag, text, error) from None
    return found


def subnets(parsed: Parsed) -> list[dict[str, Any]]:
    """SubnetSpec's fields for each `--subnet`, with the gateway, range and addresses within it.

    Raises: InvalidArgument: a value is wrong, in no subnet, or said twice for one.
    """
    whole = _read("--subnet", parsed.many("subnet"), _network)
    for version in (4, 6):
        if sum(one.version == version for one in whole) > 1:
            raise InvalidArgument(f"two --subnet of IPv{version}; a network has one of each family")
    found: list[dict[str, Any]] = [{"subnet": str(one)} for one in whole]
    gateways = _read("--gateway", parsed.many("gateway"), lambda t: _address(t, "10.7.0.1"))
    for gateway in gateways:
        _once(found[_of("--gateway", gateway, whole)], "gateway", str(gateway), "--gateway")
    for part in _read("--ip-range", parsed.many("ip-range"), _network):
        at = _of("--ip-range", part.network_address, whole)
        if part.prefixlen < whole[at].prefixlen:
            raise InvalidArgument(f"--ip-range {part} is larger than --subnet {whole[at]}")
        _once(found[at], "range", str(part), "--ip-range")
    for text in parsed.many("aux-address"):
        at = _of("--aux-address", ip_address(text), whole)
        found[at].setdefault("reserved", []).append(text)
    return found


def _of(flag: str, address: Any, whole: Sequence[Network]) -> int:
    for at, network in enumerate(whole):
        if address in network:
            return at
    if not whole:
        raise InvalidArgument(f"{flag} {address} needs the --subnet that it is of")
    told = ", ".join(str(network) for network in whole)
    raise InvalidArgument(f"{flag} {address} is not of --subnet {told}")


def _once(subnet: dict[str, Any], field: str, value: str, flag: str) -> None:
    if field in subnet:
        raise InvalidArgument(f"two {flag} for {subnet['subnet']}: {subnet[field]} and {value}")
    subnet[field] = value


_BRIDGE = "com.docker.network.bridge."
#: Options of docker's bridges → the value that is the case here anyway, and why it is no other.
_GIVEN = {
    f"{_BRIDGE}enable_icc": ("true", "make a network for each that must not be reached"),
    f"{_BRIDGE}enable_ip_masquerade": ("true", "--internal leaves no way out"),
    "isolate": ("true", "containers of other networks are always kept out"),
    "com.docker.network.enable_ipv4": ("true", "a network always has IPv4"),
}


def bridge_options(texts: Sequence[str]) -> dict[str, Any]:
    """`mtu` and `bridge` of NetworkCreateRequest from every `-o`.

    Raises: InvalidArgument: an option, or a value, that bridges here have not.
    """
    found: dict[str, Any] = {}
    for one in _read("--opt", texts, _bridge_option):
        found |= one
    return found


def _bridge_option(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if key in ("mtu", "com.docker.network.driver.mtu", "com.docker.network.mtu"):
        number = int(value) if value.isascii() and value.isdigit() and len(value) < 6 else 0
        if not _LEAST_MTU <= number <= _MOST_MTU:
            raise BadValueError(f"not between {_LEAST_MTU} and {_MOST_MTU} bytes", "mtu=1400")
        return {"mtu": number}
    if key == f"{_BRIDGE}name":
        if not 0 < len(value.encode()) <= 15 or "/" in value or value.split() != [value]:
            raise BadValueError("not an interface's name of 1 to 15 characters", f"{key}=br7")
        return {"bridge": value}
    if key in _GIVEN:
        given, why = _GIVEN[key]
        if value.lower() in (given, "1"):
            return {}
        raise BadValueError(f"only {given}: {why}", f"{key}={given}")
    if key == f"{_BRIDGE}host_binding_ipv4":
        raise BadValueError("the address is said with each port", "-p 127.0.0.1:8080:80")
    what = "no option of a bridge" if equals else "not KEY=VALUE"
    raise BadValueError(f"{what}: there are mtu and {_BRIDGE}name", "mtu=1400")
