"""Who is called what in which network. Every lookup and every change costs the same, however many
containers there are."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class _Zone:
    """The names of one network: name → container → addresses, and back."""

    __slots__ = ("addresses", "names", "turn")

    def __init__(self) -> None:
        self.names: dict[str, dict[str, tuple[str, ...]]] = {}
        self.addresses: dict[str, tuple[str, ...]] = {}
        self.turn: dict[str, int] = {}


class Zones:
    """All networks of one engine."""

    def __init__(self) -> None:
        self._zones: dict[str, _Zone] = {}
        self._places: dict[tuple[str, str], tuple[tuple[str, ...], tuple[str, ...]]] = {}

    def set_endpoint(
        self, network_id: str, container_id: str, names: tuple[str, ...], addresses: tuple[str, ...]
    ) -> None:
        """Let a container be found in a network by these names; the first is its own."""
        self.remove_endpoint(network_id, container_id)
        names = tuple(dict.fromkeys(name.lower() for name in names if name.isascii()))
        zone = self._zones.setdefault(network_id, _Zone())
        for name in names:
            zone.names.setdefault(name, {})[container_id] = addresses
        for address in addresses:
            zone.addresses[address] = names[:1]
        self._places[network_id, container_id] = names, addresses

    def remove_endpoint(self, network_id: str, container_id: str) -> None:
        """Forget a container in a network; one that is not there is no error."""
        names, addresses = self._places.pop((network_id, container_id), ((), ()))
        zone = self._zones.get(network_id)
        if zone is None:
            return
        for name in names:
            holders = zone.names[name]
            holders.pop(container_id, None)
            if not holders:
                del zone.names[name]
                zone.turn.pop(name, None)
        for address in addresses:
            zone.addresses.pop(address, None)

    def remove_network(self, network_id: str) -> None:
        """Forget a network and all in it."""
        self._zones.pop(network_id, None)
        for key in [key for key in self._places if key[0] == network_id]:
            del self._places[key]

    def addresses(self, networks: Sequence[str], name: str) -> tuple[str, ...] | None:
        """All addresses that a name has in these networks, another one first each time; None:
        nobody is called so."""
        found: list[str] = []
        known = False
        for network_id in networks:
            zone = self._zones.get(network_id)
            holders = zone.names.get(name) if zone is not None else None
            if zone is None or holders is None:
                continue
            known = True
            members = list(holders.values())
            turn = zone.turn.get(name, 0) % len(members)
            if len(members) > 1:
                zone.turn[name] = turn + 1
            for addresses in members[turn:] + members[:turn]:
                found += addresses
        return tuple(dict.fromkeys(found)) if known else None

    def names(self, networks: Sequence[str], address: str) -> tuple[str, ...]:
        """The names of an address; none when nobody in these networks has it."""
        for network_id in networks:
            zone = self._zones.get(network_id)
            if zone is not None and address in zone.addresses:
                return zone.addresses[address]
        return ()
