"""Containers' places in networks: chosen with the container, addresses leased for a run.

An address that was asked for belongs to its container for as long as that exists; others are given
out when a run begins and come back when it is cleaned up. Leases are in memory, rebuilt from the
records at start; a record names an address before the kernel has it.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import msgspec

from onggi.engine.api.spec import EndpointSpec
from onggi.engine.fabric import Fabric, unplug
from onggi.engine.records import ContainerRecord, EndpointRecord, NetworkRecord, Records
from onggi.errors import Conflict, InvalidArgument, NotFound
from onggi.network.values import Attachment
from onggi.runtime.request import LinkSetup

if TYPE_CHECKING:
    from onggi.network.addresses import Subnet

DEFAULT_NETWORK = "bridge"
NAME_SERVER = "127.0.0.11"
#: The sockets on which a container asks for names.
_NAME_SOCKETS = (f"udp:{NAME_SERVER}:53", f"tcp:{NAME_SERVER}:53")


class Endpoints:
    """Places and leases of one engine."""

    def __init__(self, records: Records, fabric: Fabric) -> None:
        self._records = records
        self._fabric = fabric
        #: network id → address → the container that has it
        self._leases: dict[str, dict[str, str]] = {}
        self._last: dict[str, str] = {}
        self._ranges: dict[str, dict[int, Subnet]] = {}
        for record in records.containers.values():
            lives = record.state in ("starting", "running", "paused", "removing")
            for place in record.endpoints:
                leased = (place.ipv4, place.ipv6) if lives else ()
                for address in (*leased, place.spec.ipv4, place.spec.ipv6):
                    self._keep(place.network_id, address, record.id)

    def _keep(self, network_id: str, address: str, container_id: str) -> None:
        if address:
            self._leases.setdefault(network_id, {})[address] = container_id

    # -- what a container asks for -----------------------------------------------------------

    def chosen(
        self, wanted: tuple[EndpointSpec, ...], container_id: str
    ) -> tuple[EndpointRecord, ...]:
        """The places of a new container.

        Raises:
            NotFound: no such network. InvalidArgument: a network twice, or an address that does
            not fit. Conflict: an address that another container has.
        """
        found: list[EndpointRecord] = []
        try:
            for index, place in enumerate(wanted):
                network = self.network(place.network)
                if any(other.network_id == network.id for other in found):
                    raise InvalidArgument(f"network {network.name} is named twice")
                found.append(self.place(network, place, container_id, index))
        except BaseException:
            self.give_back(container_id, tuple(found), forever=True)
            raise
        return tuple(found)

    def network(self, name: str) -> NetworkRecord:
        """The network of this name, id, or unique beginning of an id.

        Raises:
            NotFound: none. InvalidArgument: the beginning of several ids.
        """
        networks = self._records.networks
        found = [n for n in networks.values() if name in (n.name, n.id)]
        found = found or [n for n in networks.values() if name and n.id.startswith(name)]
        if len(found) > 1:
            raise InvalidArgument(f"{name!r} is the beginning of several network ids")
        if not found:
            raise NotFound(
                f"no such network: {name}",
                hint=f"onggi network create {name} makes it, onggi network ls lists all",
            )
        return found[0]

    def place(
        self, network: NetworkRecord, spec: EndpointSpec, container_id: str, index: int
    ) -> EndpointRecord:
        """A place in a network, with the addresses that were asked for leased.

        Raises: as `chosen`.
        """
        from onggi.network.addresses import (  # noqa: PLC0415
            check_address,
            check_link_local,
            check_mac,
            derive_mac,
        )

        leases = self._leases.setdefault(network.id, {})
        asked = {}
        for family, address in ((4, spec.ipv4), (6, spec.ipv6)):
            if address:
                text = check_address(self._range_of(network, family, address), address, {})
                self._check_free(network, text, container_id)
                asked[f"ipv{family}"] = text
        spec = msgspec.structs.replace(
            spec, **asked, link_local=tuple(map(check_link_local, spec.link_local))
        )
        leases |= dict.fromkeys(asked.values(), container_id)
        mac = check_mac(spec.mac) if spec.mac else derive_mac(container_id, network.id)
        return EndpointRecord(network_id=network.id, index=index, mac=mac, spec=spec)

    def _range_of(self, network: NetworkRecord, family: int, address: str) -> Subnet:
        subnet = self.ranges(network).get(family)
        if subnet is None:
            raise InvalidArgument(
                f"network {network.name} has no IPv{family} range for {address}",
                hint=f"onggi network inspect {network.name} shows its ranges",
            )
        return subnet

    def _check_free(self, network: NetworkRecord, address: str, container_id: str) -> None:
        holder = self._leases[network.id].get(address)
        if holder is not None and holder != container_id:
            raise Conflict(
                f"{address} is taken in network {network.name} by container "
                f"{self._name_of(holder)}",
                hint="choose another one, or disconnect its holder from the network",
            )

    def ranges(self, network: NetworkRecord) -> dict[int, Subnet]:
        """The network's ranges by family (4, 6), read once."""
        known = self._ranges.get(network.id)
        if known is None:
            from onggi.network.addresses import complete_subnet  # noqa: PLC0415

            found = (
                complete_subnet(s.subnet, s.gateway, s.range, s.reserved) for s in network.subnets
            )
            known = self._ranges[network.id] = {subnet.version: subnet for subnet in found}
        return known

    def _name_of(self, container_id: str) -> str:
        record = self._records.containers.get(container_id)
        return record.name if record is not None and record.name else container_id[:12]

    # -- leases ------------------------------------------------------------------------------

    def lease(self, record: ContainerRecord) -> ContainerRecord:
        """The record with an address in each network and family; not stored.

        Raises:
            ResourceExhausted: a network is full. NotFound: it has been removed.
        """
        places = []
        try:
            places = [self.lease_place(place, record.id) for place in record.endpoints]
        except BaseException:
            self.give_back(record.id, record.endpoints)
            raise
        return msgspec.structs.replace(record, endpoints=tuple(places))

    def lease_place(self, place: EndpointRecord, container_id: str) -> EndpointRecord:
        """One place with its addresses. Raises: as `lease`."""
        network = self._records.networks.get(place.network_id)
        if network is None:
            raise NotFound(
                f"network {place.spec.network} of this container has been removed",
                hint="onggi network disconnect, then connect it to another",
            )
        leased = {"ipv4": place.spec.ipv4, "ipv6": place.spec.ipv6}
        for family, subnet in self.ranges(network).items():
            key = f"ipv{family}"
            leased[key] = leased[key] or self._next(network, subnet)
            self._keep(network.id, leased[key], container_id)
        return msgspec.structs.replace(place, **leased)

    def _next(self, network: NetworkRecord, subnet: Subnet) -> str:
        from onggi.network.addresses import choose_address  # noqa: PLC0415

        leases = self._leases.setdefault(network.id, {})
        key = str(subnet.network)
        self._last[key] = choose_address(subnet, leases, self._last.get(key, ""))
        return self._last[key]

    def give_back(
        self, container_id: str, places: tuple[EndpointRecord, ...], *, forever: bool = False
    ) -> None:
        """Return leases; `forever`: those that were asked for, too."""
        for place in places:
            kept = () if forever else (place.spec.ipv4, place.spec.ipv6)
            leases = self._leases.get(place.network_id, {})
            for address in (place.ipv4, place.ipv6, place.spec.ipv4, place.spec.ipv6):
                if address and address not in kept and leases.get(address) == container_id:
                    del leases[address]

    def used(self, network_id: str) -> int:
        """How many addresses of a network are given out."""
        return len(self._leases.get(network_id, {}))

    def forget_network(self, network_id: str) -> None:
        """A network is gone, and its leases with it."""
        self._leases.pop(network_id, None)
        self._ranges.pop(network_id, None)

    # -- what a start makes of them ----------------------------------------------------------

    def links(self, record: ContainerRecord) -> LinkSetup | None:
        """The batches that keel sends at a start; bridges and names are made here.

        Raises:
            EngineError: the kernel refuses a bridge.
        """
        if not record.endpoints:
            return None
        from onggi.network import attach  # noqa: PLC0415
        from onggi.network.routes import kernel_has_ipv6  # noqa: PLC0415

        attachments = self.attachments(record)
        host, offsets, ipv6 = b"", [], kernel_has_ipv6()
        for place, attachment in zip(record.endpoints, attachments, strict=True):
            index = self._fabric.ensure(self._records.networks[place.network_id])
            batch = attach.host_batch(attachment, index, ipv6=ipv6)
            offsets += [len(host) + offset for offset in batch.pid_offsets]
            host += batch.messages
            self.name(record, place)
        return LinkSetup(
            host_messages=host,
            pid_offsets=tuple(offsets),
            inside_messages=attach.inside_batch(attachments, ipv6=ipv6),
            inside_settings=attach.inside_settings(attachments, ipv6=ipv6),
            lines=tuple(line for a in attachments for line in attach.lines(a)),
            sockets=_NAME_SOCKETS,
        )

    def preview(self, record: ContainerRecord) -> LinkSetup | None:
        """The same with nothing made and nothing leased, to be explained."""
        if record.spec.network != "bridge":
            return None
        from onggi.network import attach  # noqa: PLC0415

        sketch = Attachment(
            interface="eth0",
            index=100,
            host_name=self._fabric.link_name(record.id, 0),
            bridge=self._fabric.bridge_name("0" * 64),
            mac="02:00:00:00:00:01",
            ipv4="10.89.0.2/24",
            gateway4="10.89.0.1",
        )
        batch = attach.host_batch(sketch, 0)
        return LinkSetup(
            host_messages=batch.messages,
            pid_offsets=batch.pid_offsets,
            inside_messages=attach.inside_batch((sketch,)),
            inside_settings=attach.inside_settings((sketch,)),
            lines=tuple(attach.lines(sketch)),
            sockets=_NAME_SOCKETS,
        )

    def attachments(self, record: ContainerRecord) -> tuple[Attachment, ...]:
        """The interfaces of a container whose addresses are leased."""
        way_out = self.way_out(record)
        return tuple(self._attachment(record, place, way_out) for place in record.endpoints)

    def way_out(self, record: ContainerRecord) -> EndpointRecord | None:
        """The place that default routes and published ports go by: the first not internal."""
        networks = self._records.networks
        places = [p for p in record.endpoints if p.network_id in networks]
        return next((p for p in places if not networks[p.network_id].internal), None)

    def _attachment(
        self, record: ContainerRecord, place: EndpointRecord, way_out: EndpointRecord | None
    ) -> Attachment:
        from onggi.network import attach  # noqa: PLC0415

        network = self._records.networks[place.network_id]
        values = {}
        for family, subnet in self.ranges(network).items():
            address = place.ipv6 if family == 6 else place.ipv4
            values[f"ipv{family}"] = subnet.with_length(address)
            if place is way_out:
                values[f"gateway{family}"] = subnet.gateway
        return Attachment(
            interface=f"eth{place.index}",
            index=attach.FIRST_INDEX + place.index,
            host_name=self._fabric.link_name(record.id, place.index),
            bridge=network.bridge,
            mac=place.mac,
            mtu=network.mtu,
            extra=place.spec.link_local,
            **values,
        )

    def hosts(self, record: ContainerRecord) -> tuple[str, ...]:
        """`--add-host`; `host-gateway` is the host's address in the container's network."""
        way_out = self.way_out(record)
        if way_out is None:
            return record.spec.add_hosts
        network = self._records.networks[way_out.network_id]
        gateway = next(s.gateway for s in network.subnets if ":" not in s.subnet)
        return tuple(text.replace("host-gateway", gateway) for text in record.spec.add_hosts)

    # -- names -------------------------------------------------------------------------------

    def name(self, record: ContainerRecord, place: EndpointRecord) -> None:
        """Let others in the network find the container."""
        names = (record.name, record.id[:12], *place.spec.aliases)
        if record.spec.hostname:
            names += (record.spec.hostname,)
        addresses = tuple(filter(None, (place.ipv4, place.ipv6)))
        network = self._records.networks[place.network_id]
        names += tuple(f"{name}.{network.name}" for name in (record.name, *place.spec.aliases))
        self._fabric.zones.set_endpoint(
            place.network_id, record.id, tuple(dict.fromkeys(names)), addresses
        )

    def answer(self, record: ContainerRecord, sockets: tuple[int, ...]) -> None:
        """Serve the container's questions for names on its sockets, which are ours from here on."""
        if len(sockets) != len(_NAME_SOCKETS):
            for fd in sockets:
                os.close(fd)
            return
        import socket  # noqa: PLC0415

        udp, tcp = (socket.socket(fileno=fd) for fd in sockets)
        container_id = record.id
        self._fabric.names.serve(
            container_id,
            udp,
            tcp,
            networks=lambda: self._networks_of(container_id),
            upstream=record.spec.dns or None,
            forward=lambda: self._leads_out(container_id),
        )

    def _leads_out(self, container_id: str) -> bool:
        record = self._records.containers.get(container_id)
        return record is not None and self.way_out(record) is not None

    def _networks_of(self, container_id: str) -> tuple[str, ...]:
        record = self._records.containers.get(container_id)
        return () if record is None else tuple(p.network_id for p in record.endpoints)

    # -- the end of a run --------------------------------------------------------------------

    async def release(self, record: ContainerRecord, *, forever: bool = False) -> None:
        """Take back what a run had: names, links, leases. `forever`: the container goes, too."""
        if not record.endpoints:
            return
        fabric = self._fabric
        fabric.names.forget(record.id)
        for place in record.endpoints:
            fabric.zones.remove_endpoint(place.network_id, record.id)
        # The kernel removes them with the namespace, but only some time later.
        names = [fabric.link_name(record.id, place.index) for place in record.endpoints]
        await asyncio.to_thread(unplug, names)
        self.give_back(record.id, record.endpoints, forever=forever)
