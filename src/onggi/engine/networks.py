"""Networks: made, listed, removed; containers connected and disconnected, running or not.

Source: docker-network(1). A network's record comes before its bridge, which the first container
makes; both go with `network rm`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from onggi.engine.api.changes import SweepAnswer, SweepRequest
from onggi.engine.api.networks import (
    ConnectRequest,
    DisconnectRequest,
    EndpointAnswer,
    NetworkCreateRequest,
    NetworkRemoveRequest,
    NetworkSummary,
    SubnetSpec,
)
from onggi.engine.api.requests import ListRequest, Nothing, Target
from onggi.engine.api.spec import ContainerSpec, EndpointSpec
from onggi.engine.core import Core
from onggi.engine.endpoints import DEFAULT_NETWORK
from onggi.engine.filters import Filters
from onggi.engine.joining import join, leave
from onggi.engine.names import check_name, new_id
from onggi.engine.prepare import host_resolver
from onggi.engine.prune_filters import parse_prune_filters
from onggi.engine.records import ContainerRecord, EndpointRecord, NetworkRecord
from onggi.engine.timestamps import rfc3339
from onggi.errors import AlreadyExists, Conflict, FailedPrecondition, InvalidArgument, NotFound

if TYPE_CHECKING:
    from onggi.network.addresses import Subnet

#: Networks that are no bridges: they have no containers of their own.
_BUILT_IN = ("host", "none")
_FILTERS = ("id", "name", "label", "driver", "type", "dangling", "scope")


class Networks:
    """Networks of one engine; each public coroutine is a call of `engine.api`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    # -- making and removing -----------------------------------------------------------------

    async def create(self, request: NetworkCreateRequest, _fds: list[int]) -> NetworkSummary:
        """Make a network.

        Raises:
            AlreadyExists: the name is taken. InvalidArgument, Conflict: a range is wrong, or used.
        """
        name = check_name(request.name, "network")
        if name in (*_BUILT_IN, "default", DEFAULT_NETWORK, "container"):
            raise InvalidArgument(f"the name {name!r} means something else for --network")
        holder = self._named(name)
        if holder is not None:
            raise AlreadyExists(
                f"network {name} exists already", hint=f"onggi network rm {name} removes it"
            )
        return self._summary(self._make(request))

    def default(self) -> NetworkRecord:
        """The network of containers that name none, made when it is first needed."""
        return self._named(DEFAULT_NETWORK) or self._make(
            NetworkCreateRequest(name=DEFAULT_NETWORK)
        )

    def places(self, spec: ContainerSpec, container_id: str) -> tuple[EndpointRecord, ...]:
        """The places that a new container asks for; the default network, if it names none.

        Raises: as `Endpoints.chosen`.
        """
        if spec.network != "bridge":
            return ()
        wanted = spec.endpoints or (EndpointSpec(network=DEFAULT_NETWORK),)
        if any(place.network == DEFAULT_NETWORK for place in wanted):
            self.default()
        return self._core.endpoints.chosen(wanted, container_id)

    def _named(self, name: str) -> NetworkRecord | None:
        networks = self._core.records.networks.values()
        return next((n for n in networks if n.name == name), None)

    def _make(self, request: NetworkCreateRequest) -> NetworkRecord:
        from onggi.network.routes import default_mtu  # noqa: PLC0415

        core = self._core
        network_id = new_id()
        record = NetworkRecord(
            id=network_id,
            name=request.name,
            created_ns=time.time_ns(),
            bridge=self._bridge_name(request, network_id),
            subnets=self._subnets(request),
            internal=request.internal,
            mtu=request.mtu or core.settings.network.mtu or default_mtu(core.fabric.netlink),
            labels=request.labels,
        )
        core.records.put_network(record)
        core.events.publish("network", "create", network_id, name=record.name, type="bridge")
        return record

    def _bridge_name(self, request: NetworkCreateRequest, network_id: str) -> str:
        name = request.bridge
        if not name:
            return self._core.fabric.bridge_name(network_id)
        if len(name.encode()) > 15 or "/" in name or name.split() != [name]:
            raise InvalidArgument(
                f"invalid name of a bridge {name!r}", hint="at most 15 characters, no spaces"
            )
        if any(n.bridge == name for n in self._core.records.networks.values()):
            raise Conflict(f"bridge {name} belongs to another network")
        return name

    def _subnets(self, request: NetworkCreateRequest) -> tuple[SubnetSpec, ...]:
        """Its ranges: those asked for, and a free one for each family without.

        Raises:
            InvalidArgument, Conflict: one asked for is wrong. ResourceExhausted: none is free.
        """
        from onggi.network import addresses, routes  # noqa: PLC0415

        core, settings = self._core, self._core.settings.network
        others = {
            network.name: [subnet.network for subnet in core.endpoints.ranges(network).values()]
            for network in core.records.networks.values()
        }
        found = {}
        for asked in request.subnets:
            subnet = addresses.complete_subnet(
                asked.subnet, asked.gateway, asked.range, asked.reserved, others
            )
            if subnet.version in found:
                raise InvalidArgument(f"two ranges of IPv{subnet.version} for one network")
            found[subnet.version] = _complete(asked, subnet)
        taken = {n for networks in others.values() for n in networks}
        taken |= routes.used_ranges(core.fabric.netlink) | routes.nameservers(host_resolver())
        if 4 not in found:
            free = addresses.choose_ipv4_subnet(taken, settings.pools)
            found[4] = _complete(None, addresses.complete_subnet(str(free)))
        six = settings.ipv6 and routes.has_ipv6() if request.ipv6 is None else request.ipv6
        if six and 6 not in found:
            instance = core.layout.instance
            free = addresses.choose_ipv6_subnet(instance, request.name, taken, settings.pools)
            found[6] = _complete(None, addresses.complete_subnet(str(free)))
        return tuple(found[family] for family in sorted(found))

    async def remove(self, request: NetworkRemoveRequest, _fds: list[int]) -> Nothing:
        """Remove a network that no container is in.

        Raises:
            Conflict: containers are in it. NotFound: there is none.
        """
        if request.name in (*_BUILT_IN, DEFAULT_NETWORK):
            raise InvalidArgument(f"network {request.name} is built in and cannot be removed")
        try:
            record = self._core.endpoints.network(request.name)
        except NotFound:
            if request.force:
                return Nothing()
            raise
        members = [c.name for c in self._members(record) if c.name]
        if members:
            raise Conflict(
                f"network {record.name} is used by {', '.join(members)}",
                hint="remove those containers, or disconnect them, first",
            )
        self._remove(record)
        return Nothing()

    def _remove(self, record: NetworkRecord) -> None:
        core = self._core
        core.fabric.remove(record)
        core.records.delete_network(record.id)
        core.endpoints.forget_network(record.id)
        core.events.publish("network", "destroy", record.id, name=record.name, type="bridge")

    async def prune(self, request: SweepRequest, _fds: list[int]) -> SweepAnswer:
        """Remove the networks that no container is in."""
        filters = parse_prune_filters(request.filters)
        removed = []
        for record in list(self._core.records.networks.values()):
            unused = record.name != DEFAULT_NETWORK and not self._members(record)
            if unused and filters.accept(record.created_ns, record.labels):
                self._remove(record)
                removed.append(record.name)
        return SweepAnswer(removed=tuple(removed))

    # -- looking -----------------------------------------------------------------------------

    def _members(self, network: NetworkRecord) -> list[ContainerRecord]:
        return [
            record
            for record in self._core.holders()
            if any(place.network_id == network.id for place in record.endpoints)
        ]

    def _summary(self, record: NetworkRecord) -> NetworkSummary:
        places = [
            (container, place)
            for container in self._members(record)
            for place in container.endpoints
            if place.network_id == record.id
        ]
        return NetworkSummary(
            id=record.id,
            name=record.name,
            driver="bridge",
            created_ns=record.created_ns,
            bridge=record.bridge,
            internal=record.internal,
            ipv6=any(":" in subnet.subnet for subnet in record.subnets),
            mtu=record.mtu,
            subnets=record.subnets,
            labels=record.labels,
            endpoints=tuple(_answer(record, *place) for place in places),
        )

    async def list_networks(
        self, request: ListRequest, _fds: list[int]
    ) -> tuple[NetworkSummary, ...]:
        """All networks by name, the built-in ones included."""
        filters = Filters(request.filters, _FILTERS)
        self.default()
        rows = [self._summary(record) for record in self._core.records.networks.values()]
        rows += [_built_in(name) for name in _BUILT_IN]
        return tuple(
            row
            for row in sorted(rows, key=lambda row: row.name)
            if filters.accepts_part("name", row.name)
            and filters.accepts_id("id", row.id, row.id)
            and filters.accepts("driver", row.driver)
            and filters.accepts("scope", "local")
            and filters.accepts("type", _type_of(row))
            and filters.accepts(
                "dangling", str(_type_of(row) == "custom" and not row.endpoints).lower()
            )
            and filters.accepts_label(row.labels)
        )

    async def inspect(self, request: Target, _fds: list[int]) -> dict[str, Any]:
        """One network as docker shows it. Source: Docker Engine API v1.51 NetworkInspect."""
        if request.target in _BUILT_IN:
            row = _built_in(request.target)
        else:
            self.default()
            row = self._summary(self._core.endpoints.network(request.target))
        return {
            "Name": row.name,
            "Id": row.id,
            "Created": rfc3339(row.created_ns),
            "Scope": "local",
            "Driver": row.driver,
            "EnableIPv4": any(":" not in s.subnet for s in row.subnets),
            "EnableIPv6": row.ipv6,
            "IPAM": {
                "Driver": "default",
                "Options": None,
                "Config": [_range(s) for s in row.subnets],
            },
            "Internal": row.internal,
            "Attachable": False,
            "Ingress": False,
            "ConfigFrom": {"Network": ""},
            "ConfigOnly": False,
            "Containers": {
                place.container_id: {
                    "Name": place.container,
                    "EndpointID": place.container_id[:32] + row.id[:32],
                    "MacAddress": place.mac,
                    "IPv4Address": place.ipv4,
                    "IPv6Address": place.ipv6,
                }
                for place in row.endpoints
            },
            "Options": {
                "com.docker.network.bridge.name": row.bridge,
                "com.docker.network.driver.mtu": str(row.mtu),
            }
            if row.bridge
            else {},
            "Labels": row.labels,
        }

    # -- connecting --------------------------------------------------------------------------

    async def connect(self, request: ConnectRequest, _fds: list[int]) -> Nothing:
        """Put a container into one more network, now if it runs.

        Raises:
            FailedPrecondition: it has no network namespace of its own. Conflict: it is in it.
        """
        core = self._core
        record = core.records.find_container(request.container)
        if request.endpoint.network == DEFAULT_NETWORK:
            self.default()
        network = core.endpoints.network(request.endpoint.network)
        async with core.lock(record.id):
            record = core.records.find_container(record.id)
            if record.spec.network not in ("bridge",):
                raise FailedPrecondition(
                    f"container {record.name} has the network {record.spec.network!r}, "
                    "and can be in no other",
                    hint="make it with --network NAME",
                )
            if any(place.network_id == network.id for place in record.endpoints):
                raise Conflict(f"container {record.name} is in network {network.name} already")
            index = max((place.index for place in record.endpoints), default=-1) + 1
            place = core.endpoints.place(network, request.endpoint, record.id, index)
            await join(core, record, place, core.running(record.id))
        core.events.publish(
            "network", "connect", network.id, name=network.name, container=record.id
        )
        return Nothing()

    async def disconnect(self, request: DisconnectRequest, _fds: list[int]) -> Nothing:
        """Take a container out of a network, now if it runs.

        Raises:
            NotFound: it is not in it, or there is none of these.
        """
        core = self._core
        network = core.endpoints.network(request.network)
        record = core.records.find_container(request.container)
        async with core.lock(record.id):
            record = core.records.find_container(record.id)
            place = next((p for p in record.endpoints if p.network_id == network.id), None)
            if place is None:
                if request.force:
                    return Nothing()
                raise NotFound(f"container {record.name} is not in network {network.name}")
            await leave(core, record, place, core.running(record.id))
        core.events.publish(
            "network", "disconnect", network.id, name=network.name, container=record.id
        )
        return Nothing()


def _complete(asked: SubnetSpec | None, subnet: Subnet) -> SubnetSpec:
    """A range as the record has it: in the usual form, its gateway chosen."""
    gateway = subnet.gateway
    reserved = tuple(sorted(subnet.reserved - {gateway}))
    return SubnetSpec(
        subnet=str(subnet.network),
        gateway=gateway,
        range=asked.range if asked else "",
        reserved=reserved,
    )


def _answer(
    network: NetworkRecord, container: ContainerRecord, place: EndpointRecord
) -> EndpointAnswer:
    lengths = {":" in s.subnet: s.subnet.rpartition("/")[2] for s in network.subnets}
    return EndpointAnswer(
        container_id=container.id,
        container=container.name,
        ipv4=f"{place.ipv4}/{lengths[False]}" if place.ipv4 else "",
        ipv6=f"{place.ipv6}/{lengths[True]}" if place.ipv6 else "",
        mac=place.mac,
    )


def _built_in(name: str) -> NetworkSummary:
    driver = "null" if name == "none" else name
    return NetworkSummary(id=name.ljust(64, "0"), name=name, driver=driver, created_ns=0)


def _type_of(row: NetworkSummary) -> str:
    return "builtin" if row.name in (*_BUILT_IN, DEFAULT_NETWORK) else "custom"


def _range(subnet: SubnetSpec) -> dict[str, Any]:
    shown: dict[str, Any] = {"Subnet": subnet.subnet, "Gateway": subnet.gateway}
    if subnet.range and subnet.range != subnet.subnet:
        shown["IPRange"] = subnet.range
    if subnet.reserved:
        shown["AuxiliaryAddresses"] = {f"reserved{n}": a for n, a in enumerate(subnet.reserved)}
    return shown
