"""Published ports: chosen and held for a run, led to the container, changed while it runs.

A container's record names every host port before the kernel knows it. The ports follow the place
that leads out (`Endpoints.way_out`); a container without one publishes nothing.
"""

from __future__ import annotations

import contextlib

import msgspec

from onggi.engine.api.changes import PortRow
from onggi.engine.api.requests import Target
from onggi.engine.api.spec import PortSpec
from onggi.engine.endpoints import Endpoints
from onggi.engine.fabric import Fabric
from onggi.engine.records import ContainerRecord, Records
from onggi.errors import EngineError, FailedPrecondition, InvalidArgument, NotFound
from onggi.network.values import Publication
from onggi.specs.image import ContainerConfig


class Publishing:
    """The published ports of one engine's containers."""

    def __init__(self, records: Records, fabric: Fabric, endpoints: Endpoints) -> None:
        self._records = records
        self._fabric = fabric
        self._endpoints = endpoints
        #: The ports that a container holds, whether its record says so yet or not.
        self._held: dict[str, tuple[PortSpec, ...]] = {}

    def lease(self, record: ContainerRecord, image: ContainerConfig | None) -> ContainerRecord:
        """The record with a host port for everything it publishes; not stored. `image`: names ports
        that `--publish-all` publishes too.

        Raises:
            Conflict: another container or program has a port.
        """
        if not record.endpoints:
            return record
        exposed = tuple((image.exposed_ports if image else None) or ())
        held = self._hold(_wanted(record, exposed))
        self._held[record.id] = held
        return msgspec.structs.replace(record, ports=held)

    def _hold(self, wanted: tuple[PortSpec, ...]) -> tuple[PortSpec, ...]:
        held: list[PortSpec] = []
        try:
            for port in wanted:
                number = self._fabric.held.hold(port.protocol, port.host_address, port.host_port)
                held.append(msgspec.structs.replace(port, host_port=number))
        except BaseException:
            self._let_go(tuple(held))
            raise
        return tuple(held)

    def _let_go(self, ports: tuple[PortSpec, ...]) -> None:
        for port in ports:
            self._fabric.held.release(port.protocol, port.host_address, port.host_port)

    def open(self, record: ContainerRecord) -> None:
        """Lead the record's ports to the container.

        Raises:
            EngineError: the kernel refuses; nothing is published then.
        """
        if record.ports:
            self._fabric.publish(self.publications(record, record.ports))

    def close(self, record: ContainerRecord) -> None:
        """Take everything back that a run published."""
        held = self._held.get(record.id, record.ports)
        if held:
            self._fabric.unpublish(self.publications(record, held))
            self._let_go(held)
        self._held.pop(record.id, None)

    def keep(self, record: ContainerRecord) -> tuple[Publication, ...]:
        """After a start of the engine: hold a running container's ports again, and name them."""
        for port in record.ports:
            try:
                self._fabric.held.hold(port.protocol, port.host_address, port.host_port)
            except EngineError:
                continue  # taken meanwhile: the rules still lead it to the container
        self._held[record.id] = record.ports
        return self.publications(record, record.ports)

    def publications(
        self, record: ContainerRecord, ports: tuple[PortSpec, ...]
    ) -> tuple[Publication, ...]:
        """What the rules are told. A port of every address is one of [::1] as well."""
        place = self._endpoints.way_out(record)
        if place is None:
            return ()
        found = []
        for port in ports:
            publication = Publication(
                protocol=port.protocol,
                host_address=port.host_address,
                host_port=port.host_port,
                container_port=port.container_port,
                ipv4=place.ipv4,
                ipv6=place.ipv6,
            )
            found.append(publication)
            if not port.host_address:
                found.append(msgspec.structs.replace(publication, host_address="::1"))
        return tuple(found)

    def change(
        self, record: ContainerRecord, add: tuple[PortSpec, ...], remove: tuple[str, ...]
    ) -> ContainerRecord:
        """Publish and unpublish on a container, running or not; the new record, stored.

        Raises:
            NotFound: one to remove is not published. FailedPrecondition: it has no network that
            leads out. EngineError: a port is taken; nothing is changed then.
        """
        if not record.endpoints or self._endpoints.way_out(record) is None:
            raise FailedPrecondition(
                f"container {record.name} has no network that ports could be published on",
                hint=f"onggi network connect NETWORK {record.name}",
            )
        going = tuple(port for text in remove for port in _named(text, record))
        spec_ports = tuple(p for p in record.spec.ports if not _covers(p, going)) + add
        spec = msgspec.structs.replace(record.spec, ports=spec_ports)
        changed = msgspec.structs.replace(record, spec=spec)
        if record.id in self._held:
            new = self._hold(add)
            try:
                self._fabric.publish(self.publications(record, new))
                self._fabric.unpublish(self.publications(record, going))
            except BaseException:
                with contextlib.suppress(EngineError):
                    self._fabric.unpublish(self.publications(record, new))
                self._let_go(new)
                raise
            self._let_go(going)
            kept = tuple(p for p in record.ports if p not in going) + new
            self._held[record.id] = kept
            changed = msgspec.structs.replace(changed, ports=kept)
        self._records.update_container(changed)
        return changed

    async def ports(self, request: Target, _fds: list[int]) -> tuple[PortRow, ...]:
        """The published ports of a container; none when it does not run."""
        return port_rows(self._records.find_container(request.target))


def port_rows(record: ContainerRecord) -> tuple[PortRow, ...]:
    """A container's ports as `port` and `ps` show them: both families where both are meant."""
    rows = []
    for port in record.ports:
        for address in (port.host_address,) if port.host_address else ("0.0.0.0", "::"):  # noqa: S104
            rows.append(PortRow(port.container_port, port.protocol, address, port.host_port))
    return tuple(rows)


def _wanted(record: ContainerRecord, exposed: tuple[str, ...]) -> tuple[PortSpec, ...]:
    spec = record.spec
    wanted = list(spec.ports)
    if spec.publish_all:
        named = {(port.container_port, port.protocol) for port in wanted}
        for text in dict.fromkeys((*spec.expose, *exposed)):
            port = _exposed(text)
            if (port.container_port, port.protocol) not in named:
                wanted.append(port)
    return tuple(wanted)


def _exposed(text: str) -> PortSpec:
    """`80`, `80/udp` as images and `--expose` write them (image-spec config.md#properties)."""
    number, _, protocol = text.partition("/")
    if not number.isascii() or not number.isdigit() or not 0 < int(number) < 65536:
        raise InvalidArgument(f"invalid exposed port {text!r}", hint="write 80, or 80/udp")
    if protocol not in ("", "tcp", "udp"):
        raise InvalidArgument(f"exposed port {text!r}: only tcp and udp can be published")
    return PortSpec(container_port=int(number), protocol="udp" if protocol == "udp" else "tcp")


def _named(text: str, record: ContainerRecord) -> list[PortSpec]:
    """The published ports that `[ADDRESS:]PORT[/PROTOCOL]` means."""
    head, _, protocol = text.partition("/")
    address, _, number = head.rpartition(":")
    address = address.strip("[]")
    found = [
        port
        for port in record.ports or record.spec.ports
        if str(port.host_port) == number
        and (not address or port.host_address == address)
        and (not protocol or port.protocol == protocol)
    ]
    if not found:
        raise NotFound(
            f"container {record.name} does not publish {text}",
            hint=f"onggi port {record.name} shows what it publishes",
        )
    return found


def _covers(asked: PortSpec, going: tuple[PortSpec, ...]) -> bool:
    """Whether one of those that go is what was asked for here (perhaps as `any free port`)."""
    return any(
        msgspec.structs.replace(port, host_port=asked.host_port) == asked
        and asked.host_port in (0, port.host_port)
        for port in going
    )
