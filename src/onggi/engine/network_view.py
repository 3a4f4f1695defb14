"""A container's networks and ports as docker shows them: pure, from records.

Source: Docker Engine API v1.51 NetworkSettings, PortMap, EndpointSettings.
"""

from __future__ import annotations

from typing import Any

from onggi.engine.api.spec import ContainerSpec
from onggi.engine.publishing import port_rows
from onggi.engine.records import LIVING, ContainerRecord, EndpointRecord, NetworkRecord


def network_settings(record: ContainerRecord, networks: dict[str, NetworkRecord]) -> dict[str, Any]:
    """`NetworkSettings` of inspect. Addresses are those of the present run."""
    lives = record.state in LIVING
    places = [p for p in record.endpoints if p.network_id in networks]
    found = {networks[p.network_id].name: _endpoint(record, p, networks, lives) for p in places}
    first = next(iter(found.values()), {})
    keys = ("IPAddress", "IPPrefixLen", "Gateway", "GlobalIPv6Address", "GlobalIPv6PrefixLen",
            "IPv6Gateway", "MacAddress")  # fmt: skip
    return {
        "SandboxKey": f"/proc/{record.pid}/ns/net" if record.pid else "",
        "Ports": _port_map(record) if lives else {},
        **{key: first.get(key, 0 if key.endswith("Len") else "") for key in keys},
        "Networks": found or {record.spec.network: {}},
    }


def network_names(record: ContainerRecord, networks: dict[str, NetworkRecord]) -> tuple[str, ...]:
    """Names of the networks that a container is in, or its mode."""
    names = tuple(networks[p.network_id].name for p in record.endpoints if p.network_id in networks)
    return names or (record.spec.network,)


def port_texts(record: ContainerRecord) -> tuple[str, ...]:
    """The PORTS column: `0.0.0.0:8080->80/tcp`, and `80/tcp` for one that is only exposed."""
    if record.state not in LIVING:
        return ()
    rows = port_rows(record)
    published = tuple(
        f"{_bracketed(row.host_address)}:{row.host_port}->{row.container_port}/{row.protocol}"
        for row in rows
    )
    named = {f"{row.container_port}/{row.protocol}" for row in rows}
    return published + tuple(text for text in exposed_texts(record.spec) if text not in named)


def exposed_texts(spec: ContainerSpec) -> tuple[str, ...]:
    """The exposed ports as docker writes them: `80/tcp`."""
    return tuple(text if "/" in text else f"{text}/tcp" for text in spec.expose)


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _port_map(record: ContainerRecord) -> dict[str, list[dict[str, str]] | None]:
    """Where each port is published; an exposed one that is not has nothing."""
    found: dict[str, list[dict[str, str]] | None] = dict.fromkeys(exposed_texts(record.spec))
    for row in port_rows(record):
        key = f"{row.container_port}/{row.protocol}"
        place = {"HostIp": row.host_address, "HostPort": str(row.host_port)}
        found[key] = [*(found.get(key) or ()), place]
    return found


def _endpoint(
    record: ContainerRecord,
    place: EndpointRecord,
    networks: dict[str, NetworkRecord],
    lives: bool,
) -> dict[str, Any]:
    network = networks[place.network_id]
    four = next((s for s in network.subnets if ":" not in s.subnet), None)
    six = next((s for s in network.subnets if ":" in s.subnet), None)
    return {
        "NetworkID": place.network_id,
        "EndpointID": record.id[:32] + place.network_id[:32],
        "MacAddress": place.mac,
        "IPAddress": place.ipv4 if lives else "",
        "IPPrefixLen": int(four.subnet.rpartition("/")[2]) if four and lives else 0,
        "Gateway": four.gateway if four and lives else "",
        "GlobalIPv6Address": place.ipv6 if lives else "",
        "GlobalIPv6PrefixLen": int(six.subnet.rpartition("/")[2]) if six and lives else 0,
        "IPv6Gateway": six.gateway if six and lives else "",
        "Aliases": list(place.spec.aliases),
        "DNSNames": [record.name, record.id[:12], *place.spec.aliases],
        "IPAMConfig": {"IPv4Address": place.spec.ipv4, "IPv6Address": place.spec.ipv6},
    }
