"""`-p`, `--expose`, and the ports that `update` and `port` name: docker's grammar.

Pure: gives PortSpec's fields. Whether a port of the host is free, and which one is chosen, is the
engine's business.
Source: docker-run(1) --publish.
"""

from __future__ import annotations

from onggi.errors import InvalidArgument
from onggi.faces.cli.addresses import ip_address
from onggi.faces.cli.options import BadValueError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    Range = tuple[int, int]

_EXAMPLE = "8080:80"
_RANGE_EXAMPLE = "8000-8002:80-82"
_LONG_EXAMPLE = "published=8080,target=80,protocol=tcp,host_ip=127.0.0.1"
_PROTOCOLS = ("tcp", "udp")
_MAX_PORT = 65535


def publish(text: str) -> list[dict[str, Any]]:
    """`[[ADDRESS:][HOST]:]CONTAINER[/PROTOCOL]`, ports or ranges, or the long `key=value` form.

    No HOST, or 0: any that is free. One PortSpec's fields for each port.
    """
    if "=" in text:
        return _long_form(text)
    ports, protocol = _with_protocol(text, _EXAMPLE)
    address, host, inside = _split(ports)
    return _specs(address, host, inside, protocol)


def _split(text: str) -> tuple[str, str, str]:
    """(address, host, container); brackets hold an IPv6 address."""
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]")
        if not bracket or not rest.startswith(":"):
            raise BadValueError("not [IPV6]:HOST:CONTAINER", "[::1]:8080:80")
        host, colon, inside = rest[1:].partition(":")
        if not colon or ":" in inside:
            raise BadValueError("not [IPV6]:HOST:CONTAINER", "[::1]:8080:80")
        return ip_address(address, "[::1]:8080:80"), host, inside
    parts = text.split(":")
    if len(parts) > 3:
        raise BadValueError("an IPv6 address stands in brackets", "[::1]:8080:80")
    if len(parts) < 3:
        return "", parts[0] if len(parts) == 2 else "", parts[-1]
    if not parts[0]:
        raise BadValueError("no address in front of the first colon", "127.0.0.1:8080:80")
    return ip_address(parts[0], "127.0.0.1:8080:80"), parts[1], parts[2]


def _with_protocol(text: str, example: str) -> tuple[str, str]:
    ports, slash, protocol = text.partition("/")
    return ports, _protocol(protocol, example) if slash else "tcp"


def _protocol(text: str, example: str) -> str:
    protocol = text.lower()
    if protocol == "sctp":
        raise BadValueError("sctp cannot be published, only tcp and udp", f"{example}/udp")
    if protocol not in _PROTOCOLS:
        raise BadValueError(f"{text!r} is neither tcp nor udp", f"{example}/udp")
    return protocol


def _specs(address: str, host: str, inside: str, protocol: str) -> list[dict[str, Any]]:
    if not inside:
        raise BadValueError("no port of the container", _EXAMPLE)
    first, last = _range(inside, _EXAMPLE)
    if first == 0:
        raise BadValueError("a container has no port 0", _EXAMPLE)
    host_first, host_last = _range(host, _EXAMPLE) if host else (0, 0)
    count, host_count = last - first + 1, host_last - host_first + 1
    if host_first and host_count != count:
        if count == 1:
            raise BadValueError(
                "several host ports for one port: name one of them, or none for any that is free",
                _EXAMPLE,
            )
        raise BadValueError(f"{host_count} host ports for {count} ports", _RANGE_EXAMPLE)
    if not host_first and host_last:
        raise BadValueError("a range cannot begin with port 0", _RANGE_EXAMPLE)
    return [
        _spec(address, host_first + n if host_first else 0, first + n, protocol)
        for n in range(count)
    ]


def _spec(address: str, host: int, inside: int, protocol: str) -> dict[str, Any]:
    """Only what was said: the rest is PortSpec's default."""
    spec: dict[str, Any] = {"container_port": inside}
    if protocol != "tcp":
        spec["protocol"] = protocol
    if address:
        spec["host_address"] = address
    if host:
        spec["host_port"] = host
    return spec


def _range(text: str, example: str) -> Range:
    low, dash, high = text.partition("-")
    first = _port(low, example)
    last = _port(high, example) if dash else first
    if last < first:
        raise BadValueError(f"the range {text} runs backwards", _RANGE_EXAMPLE)
    return first, last


def _port(text: str, example: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 5 or int(text) > _MAX_PORT:
        raise BadValueError(f"{text!r} is not a port (1 to {_MAX_PORT})", example)
    return int(text)


_KEYS = {"host-ip": "host_ip", "src": "published", "dst": "target"}


def _long_form(text: str) -> list[dict[str, Any]]:
    fields: dict[str, str] = {}
    for word in text.split(","):
        key, equals, value = word.partition("=")
        key = _KEYS.get(key.strip().lower(), key.strip().lower())
        if not equals or key not in ("mode", "target", "published", "protocol", "host_ip"):
            raise BadValueError(
                f"{word!r} is not mode, target, published, protocol or host_ip", _LONG_EXAMPLE
            )
        if key in fields:
            raise BadValueError(f"{key} is given twice", _LONG_EXAMPLE)
        fields[key] = value
    if fields.get("mode", "host") != "host":
        raise BadValueError("only mode=host: there is no swarm to route from", _LONG_EXAMPLE)
    if not fields.get("target"):
        raise BadValueError("no target, the container's port", _LONG_EXAMPLE)
    address = fields.get("host_ip", "").removeprefix("[").removesuffix("]")
    return _specs(
        ip_address(address, _LONG_EXAMPLE) if address else "",
        fields.get("published", ""),
        fields["target"],
        _protocol(fields.get("protocol", "tcp"), "80"),
    )


def all_published(groups: Iterable[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The ports of every `-p` of a command line.

    Raises: InvalidArgument: two of them want the same port of the host.
    """
    found: list[dict[str, Any]] = []
    taken: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for spec in (spec for group in groups for spec in group):
        key = (spec.get("protocol", "tcp"), spec.get("host_port", 0))
        for other in taken.setdefault(key, []):
            if _collide(spec, other):
                raise InvalidArgument(
                    f"--publish: {_told(other)} and {_told(spec)} cannot both be published",
                    hint="give each its own port of the host: -p 8080:80 -p 8081:80",
                )
        taken[key].append(spec)
        found.append(spec)
    return found


def _collide(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Of the same protocol and host port: whether both are the same, or their addresses meet."""
    if not one.get("host_port"):
        return one == other
    here, there = one.get("host_address", ""), other.get("host_address", "")
    if not here or not there or here == there:
        return True
    if (":" in here) != (":" in there):
        return False
    return {here, there} & {"0.0.0.0", "::"} != set()  # noqa: S104 - a value, not a listener


def _told(spec: dict[str, Any]) -> str:
    address = spec.get("host_address", "")
    host = spec.get("host_port") or ""
    lead = f"{bracketed(address)}:{host}:" if address else f"{host}:" if host else ""
    return f"{lead}{spec['container_port']}/{spec.get('protocol', 'tcp')}"


def bracketed(address: str) -> str:
    """An address as it stands in front of a port: IPv6 in brackets."""
    return f"[{address}]" if ":" in address else address


def expose(text: str) -> list[str]:
    """`80`, `53/udp`, `8000-8010`: every port as `PORT/PROTOCOL`."""
    ports, protocol = _with_protocol(text, "80")
    if ":" in ports:
        raise BadValueError("--expose names ports of the container only; -p publishes", "80/tcp")
    first, last = _range(ports, "80")
    if first == 0:
        raise BadValueError("a container has no port 0", "80")
    return [f"{port}/{protocol}" for port in range(first, last + 1)]


def port_and_protocol(text: str) -> tuple[int, str]:
    """`80` or `53/udp`, as `port CONTAINER PORT` takes it; tcp when nothing is said."""
    ports, protocol = _with_protocol(text, "80")
    return _port(ports, "80/tcp"), protocol


def unpublish(text: str) -> str:
    """`[ADDRESS:]PORT[/PROTOCOL]` of the host, in UpdateRequest's spelling: the address canonical.
    Without a protocol both are meant."""
    example = "127.0.0.1:8080/tcp"
    rest, slash, protocol = text.partition("/")
    tail = f"/{_protocol(protocol, '8080')}" if slash else ""
    lead, colon, port = rest.rpartition(":")
    number = _port(port, example)
    if number == 0:
        raise BadValueError("the host has no port 0", example)
    if not colon:
        return f"{number}{tail}"
    if ":" in lead and not (lead.startswith("[") and lead.endswith("]")):
        raise BadValueError("not [ADDRESS:]PORT of the host; IPv6 in brackets", example)
    address = ip_address(lead.removeprefix("[").removesuffix("]"), example)
    return f"{bracketed(address)}:{number}{tail}"
