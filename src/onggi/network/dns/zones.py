"""Who is called what in which network. A lookup and a change cost the same, however many containers
there are. Names are those of `messages`: bytes in lower case."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence

from onggi.network.dns.messages import wire_name

log = logging.getLogger(__name__)


class Holders:
    """Those who share one name in one network: container → its addresses, each 4 or 16 bytes."""

    __slots__ = ("_families", "_of")

    def __init__(self) -> None:
        self._of: dict[str, tuple[bytes, ...]] = {}
        self._families: dict[int, tuple[bytes, ...]] = {}

    def put(self, container_id: str, addresses: tuple[bytes, ...]) -> None:
        self._of[container_id] = addresses
        self._families.clear()

    def drop(self, container_id: str) -> bool:
        """Whether nobody is left."""
        self._of.pop(container_id, None)
        self._families.clear()
        return not self._of

    def addresses(self, length: int) -> tuple[bytes, ...]:
        """All addresses of this length in bytes; each time another one is the first."""
        found = self._families.get(length)
        if found is None:
            every = (address for addresses in self._of.values() for address in addresses)
            found = tuple(address for address in every if len(address) == length)
        if len(found) > 1:
            self._families[length] = found[1:] + found[:1]
        else:
            self._families[length] = found
        return found


class _Zone:
    """One network. `places`: container → its names and addresses."""

    __slots__ = ("names", "owners", "places", "prefixes")

    def __init__(self) -> None:
        self.names: dict[bytes, Holders] = {}
        self.owners: dict[bytes, tuple[str, tuple[str, ...]]] = {}
        self.places: dict[str, tuple[tuple[bytes, ...], tuple[bytes, ...]]] = {}
        self.prefixes: set[tuple[int, int, int]] = set()


class Zones:
    """All networks of one engine."""

    def __init__(self) -> None:
        self._zones: dict[str, _Zone] = {}
        # (bytes of an address, bits that do not count) → the prefixes of that length
        self._prefixes: dict[tuple[int, int], set[int]] = {}

    def set_network(self, network_id: str, subnets: tuple[str, ...]) -> None:
        """Let the addresses of these ranges (`10.89.0.0/24`) be the network's own: those that
        nobody has are nobody's, and no other server is asked whose they are."""
        zone = self._zone(network_id)
        self._forget_prefixes(zone)
        zone.prefixes = set(map(_prefix, subnets))
        for size, shift, prefix in zone.prefixes:
            self._prefixes.setdefault((size, shift), set()).add(prefix)

    def remove_network(self, network_id: str) -> None:
        """Forget a network and all in it; one that is not there is no error."""
        zone = self._zones.pop(network_id, None)
        if zone is not None:
            self._forget_prefixes(zone)

    def set_endpoint(
        self, network_id: str, container_id: str, names: tuple[str, ...], addresses: tuple[str, ...]
    ) -> None:
        """Let a container be found in a network by these names, and by no others from now on; the
        first is what its addresses are called. Names that nobody could ask for (a label of 64
        bytes) are left out."""
        self.remove_endpoint(network_id, container_id)
        zone = self._zone(network_id)
        askable = {wire: name for name in names if (wire := _wire_or_none(name))}
        packed = tuple(map(_packed, addresses))
        for wire in askable:
            zone.names.setdefault(wire, Holders()).put(container_id, packed)
        for address in packed:
            zone.owners[address] = container_id, tuple(askable.values())
        zone.places[container_id] = tuple(askable), packed

    def remove_endpoint(self, network_id: str, container_id: str) -> None:
        """Forget a container in a network; one that is not there is no error."""
        zone = self._zones.get(network_id)
        if zone is None:
            return
        names, addresses = zone.places.pop(container_id, ((), ()))
        for wire in names:
            if zone.names[wire].drop(container_id):
                del zone.names[wire]
        for address in addresses:
            # Somebody else may have been given the address before this one was forgotten.
            if zone.owners.get(address, ("",))[0] == container_id:
                del zone.owners[address]

    def find(self, networks: Sequence[str], name: bytes) -> Holders | None:
        """Who has a name. The first of the networks that knows it decides: the same name in two
        networks may be two different services, and must not mean one and the other in turn."""
        for network_id in networks:
            zone = self._zones.get(network_id)
            if zone is not None:
                holders = zone.names.get(name)
                if holders is not None:
                    return holders
        return None

    def names(self, networks: Sequence[str], address: bytes) -> tuple[str, ...]:
        """The names of an address; none when nobody in these networks has it."""
        for network_id in networks:
            zone = self._zones.get(network_id)
            if zone is not None and address in zone.owners:
                return zone.owners[address][1]
        return ()

    def covers(self, address: bytes) -> bool:
        """Whether an address belongs to a network, whoever has it and whoever asks."""
        number, size = int.from_bytes(address, "big"), len(address)
        return any(
            length == size and number >> shift in prefixes
            for (length, shift), prefixes in self._prefixes.items()
        )

    def _zone(self, network_id: str) -> _Zone:
        return self._zones.setdefault(network_id, _Zone())

    def _forget_prefixes(self, zone: _Zone) -> None:
        for size, shift, prefix in zone.prefixes:
            same = self._prefixes[size, shift]
            same.discard(prefix)
            if not same:
                del self._prefixes[size, shift]


def _wire_or_none(name: str) -> bytes | None:
    try:
        return wire_name(name)
    except ValueError:
        log.debug("nobody can ask for the name %r", name)
        return None


def _packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def _prefix(subnet: str) -> tuple[int, int, int]:
    address, _, length = subnet.partition("/")
    packed = _packed(address)
    shift = len(packed) * 8 - int(length)
    return len(packed), shift, int.from_bytes(packed, "big") >> shift
