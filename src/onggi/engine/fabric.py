"""The host's side of one engine's networks: bridges, firewall, held ports, proxies, names.

Opened when the first network is needed, so that an engine without networks pays nothing; the rooms
below are imported then. Names of links and rules derive from ids and from the root's instance. All
calls are short (a netlink request or two), and run on the engine's loop; what waits for the
kernel's grace periods goes to a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec

from onggi.engine.layout import Layout
from onggi.engine.records import NetworkRecord
from onggi.errors import EngineError, Unsupported
from onggi.network.values import Attachment, Bridge, Publication

if TYPE_CHECKING:
    from onggi.network.dns.server import NameServer
    from onggi.network.dns.zones import Zones
    from onggi.network.firewall import Firewall
    from onggi.network.forwarding import Switched
    from onggi.network.held_ports import HeldPorts
    from onggi.network.netlink import Netlink
    from onggi.network.proxy import Proxy

log = logging.getLogger(__name__)
#: Others' changes come in bursts: one repair for all of them.
_SETTLE_S = 0.02


class Fabric:
    """Kernel objects of an engine's networks. What they should be is told by `wanted`."""

    def __init__(self, layout: Layout, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._instance = layout.instance
        self._forwarding = f"{layout.run}/forwarding"
        self._marker = f"{layout.run}/fabric"
        self._bridges: dict[str, Bridge] = {}
        self._indexes: dict[str, int] = {}
        self._published: dict[Publication, None] = {}
        self._firewall: Firewall | None = None
        self._without_nat = ""
        self._repairing = False

    # -- rooms, each imported when it is first used ------------------------------------------

    @cached_property
    def netlink(self) -> Netlink:
        """Questions and orders about links, in the host's network namespace."""
        from onggi.network.netlink import Netlink  # noqa: PLC0415

        return Netlink.open()

    @cached_property
    def zones(self) -> Zones:
        """Who is called what, in which network."""
        from onggi.network.dns.zones import Zones  # noqa: PLC0415

        return Zones()

    @cached_property
    def names(self) -> NameServer:
        """Answers the containers' questions for names."""
        from onggi.network.dns.server import NameServer  # noqa: PLC0415
        from onggi.network.dns.upstreams import Upstreams  # noqa: PLC0415

        return NameServer(self._loop, self.zones, Upstreams())

    @cached_property
    def held(self) -> HeldPorts:
        """Ports of the host that no other program can take while they are published."""
        from onggi.network.held_ports import HeldPorts  # noqa: PLC0415

        return HeldPorts()

    @cached_property
    def proxy(self) -> Proxy:
        """Carries what the kernel cannot translate."""
        from onggi.network.proxy import Proxy  # noqa: PLC0415

        return Proxy(self._loop)

    # -- names of kernel objects -------------------------------------------------------------

    def bridge_name(self, network_id: str) -> str:
        """The bridge of a network: `og`, six digits of the instance, seven of the network."""
        return f"og{self._tag}{network_id[:7]}"

    def link_name(self, container_id: str, index: int) -> str:
        """The host's end of `ethN`: `ov`, six digits of the instance, six of the container, N."""
        return f"ov{self._tag}{container_id[:6]}{index:x}"

    @cached_property
    def _tag(self) -> str:
        import zlib  # noqa: PLC0415

        return f"{zlib.crc32(self._instance.encode()) & 0xFFFFFF:06x}"

    # -- bridges -----------------------------------------------------------------------------

    def ensure(self, network: NetworkRecord) -> int:
        """The index of the network's bridge; it and its rules are there afterwards.

        Raises:
            EngineError: the kernel refuses.
        """
        from onggi.network.bridges import ensure_bridge  # noqa: PLC0415

        bridge = as_bridge(network)
        if not self._bridges:
            _touch(self._marker)
        index = ensure_bridge(self.netlink, bridge)
        if self._bridges.get(network.id) != bridge:
            self._forward(bridge)
            firewall = self._ready()
            self._bridges[network.id] = bridge
            self.zones.set_network(network.id, tuple(s.subnet for s in network.subnets))
            if firewall is not None:
                firewall.add_bridge(bridge)
        elif self._firewall is not None and index != self._indexes.get(network.id):
            self._firewall.add_bridge(bridge)  # somebody removed the link: this is another one
        self._indexes[network.id] = index
        return index

    def remove(self, network: NetworkRecord) -> None:
        """Take the network's bridge and rules away; what is not there is no error."""
        from onggi.network.bridges import remove_bridge  # noqa: PLC0415

        bridge = self._bridges.pop(network.id, None) or as_bridge(network)
        if self._firewall is not None:
            self._firewall.remove_bridge(bridge)
        remove_bridge(self.netlink, bridge.name)
        self.zones.remove_network(network.id)

    def _forward(self, bridge: Bridge) -> None:
        from onggi.network.forwarding import Switched, switch_on  # noqa: PLC0415

        before = self.guard
        now = switch_on(ipv6=bool(bridge.ipv6))
        switched = Switched(ipv4=before.ipv4 or now.ipv4, ipv6=before.ipv6 or now.ipv6)
        if switched != before:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            fd = os.open(self._forwarding, flags, 0o600)
            try:
                os.write(fd, msgspec.json.encode(switched))
            finally:
                os.close(fd)
            if self._firewall is not None:
                self._install(self._firewall)

    @property
    def used(self) -> bool:
        """Whether this root may have bridges and rules in the kernel, of an earlier engine too."""
        return bool(self._bridges) or os.path.exists(self._marker)

    @property
    def guard(self) -> Switched:
        """The families that this host forwards only because of us, and so must not for others."""
        from onggi.network.forwarding import Switched  # noqa: PLC0415

        try:
            with open(self._forwarding, "rb") as file:
                return msgspec.json.decode(file.read(), type=Switched)
        except (FileNotFoundError, msgspec.DecodeError):
            return Switched()

    # -- rules -------------------------------------------------------------------------------

    def _ready(self) -> Firewall | None:
        """The firewall, installed; None where the host has none, which was told once."""
        if self._firewall is not None or self._without_nat:
            return self._firewall
        from onggi.network.firewall import Firewall  # noqa: PLC0415

        firewall = Firewall(self._instance)
        try:
            self._install(firewall)
        except Unsupported as error:
            firewall.close()
            self._without_nat = str(error)
            log.warning("no address translation: %s", error)
            return None
        self._firewall = firewall
        self._loop.add_reader(firewall.fileno(), self._look)
        return firewall

    def _install(self, firewall: Firewall) -> None:
        firewall.install(self._bridges.values(), self._translated(), guard=self.guard)

    def _look(self) -> None:
        """Somebody changed tables: when they were ours, put them back."""
        if self._firewall is None or not self._firewall.changed() or self._repairing:
            return
        self._repairing = True
        self._loop.call_later(_SETTLE_S, self._repair)

    def _repair(self) -> None:
        self._repairing = False
        if self._firewall is None:
            return
        log.warning("somebody changed the rules of table %s: they are put back", self._instance)
        try:
            self._install(self._firewall)
        except EngineError as error:
            log.error("the rules cannot be put back: %s", error)

    def _translated(self) -> list[Publication]:
        return [p for p in self._published if not self._by_proxy(p)]

    def _by_proxy(self, publication: Publication) -> bool:
        """Linux routes nothing to or from ::1 (RFC 4291 section 2.5.3)."""
        return publication.host_address == "::1" or bool(self._without_nat)

    def publish(self, publications: Iterable[Publication]) -> None:
        """Let ports of the host lead to containers: all of them, or none and an error."""
        wanted = list(publications)
        firewall = self._ready()
        if firewall is not None:
            firewall.publish([p for p in wanted if not self._by_proxy(p)])
        opened: list[Publication] = []
        try:
            for publication in filter(self._by_proxy, wanted):
                self.proxy.open(publication)
                opened.append(publication)
        except BaseException:
            for publication in opened:
                self.proxy.close(publication)
            if firewall is not None:
                firewall.unpublish([p for p in wanted if not self._by_proxy(p)])
            raise
        self._published |= dict.fromkeys(wanted)

    def unpublish(self, publications: Iterable[Publication]) -> None:
        """Take publications back; those that are not there are no error."""
        gone = [p for p in publications if p in self._published]
        if self._firewall is not None:
            self._firewall.unpublish([p for p in gone if not self._by_proxy(p)])
        for publication in gone:
            if self._by_proxy(publication):
                self.proxy.close(publication)
            # Last: what could not be taken back is found again.
            del self._published[publication]

    # -- the whole ---------------------------------------------------------------------------

    def restore(self, networks: Iterable[NetworkRecord], published: Iterable[Publication]) -> None:
        """After a start of the engine: make the kernel agree with what containers use."""
        self._published = dict.fromkeys(published)
        for network in networks:
            self.ensure(network)
        for publication in filter(self._by_proxy, self._published):
            try:
                self.proxy.open(publication)
            except EngineError as error:
                log.error("port %d: %s", publication.host_port, error)

    def strangers(self, known: frozenset[str]) -> list[str]:
        """Links with this instance's names that are not among `known`."""
        from onggi.network.bridges import links_named  # noqa: PLC0415

        ours = (f"og{self._tag}", f"ov{self._tag}")
        return [n for p in ours for n in links_named(self.netlink, p) if n not in known]

    def put_back(self) -> None:
        """Install the rules anew, as they should be. Raises: EngineError."""
        if self._firewall is not None:
            self._install(self._firewall)

    def differences(self) -> tuple[str, ...]:
        """What the kernel's rules have too much or too little."""
        if self._firewall is None:
            return ()
        return self._firewall.differences(tuple(self._bridges.values()), tuple(self._translated()))

    def close(self) -> None:
        """Let go of descriptors; bridges, rules and links stay."""
        if self._firewall is not None:
            self._loop.remove_reader(self._firewall.fileno())
            self._firewall.close()
            self._firewall = None
        for room in ("names", "proxy", "held", "netlink"):
            if room in self.__dict__:
                self.__dict__.pop(room).close()

    def remove_all(self, networks: Iterable[NetworkRecord]) -> None:
        """Nothing uses a network: take bridges, rules and forwarding away."""
        from onggi.network.forwarding import switch_off  # noqa: PLC0415

        for network in list(networks):
            self.remove(network)
        if self._firewall is None:  # an earlier engine's rules
            from onggi.network.firewall import Firewall  # noqa: PLC0415

            self._firewall = Firewall(self._instance)
        else:
            self._loop.remove_reader(self._firewall.fileno())
        self._firewall.remove()
        self._firewall.close()
        self._firewall = None
        switched = self.guard
        if switched.ipv4 or switched.ipv6:
            switch_off(switched)
            os.unlink(self._forwarding)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._marker)


def plug(netns_fd: int, attachment: Attachment, bridge_index: int) -> None:
    """Give a running container one more interface. For a thread.

    Raises:
        SyscallError: the kernel refuses; nothing is left then.
    """
    from onggi.network.attach import connect  # noqa: PLC0415
    from onggi.network.netlink import Netlink  # noqa: PLC0415
    from onggi.network.routes import kernel_has_ipv6  # noqa: PLC0415

    with Netlink.open() as netlink:
        connect(netlink, netns_fd, attachment, bridge_index, ipv6=kernel_has_ipv6())


def unplug(names: list[str]) -> None:
    """Remove links of the host; those that are gone are no error. Waits for the kernel: for a
    thread."""
    from onggi.network.attach import disconnect  # noqa: PLC0415
    from onggi.network.netlink import Netlink  # noqa: PLC0415

    with Netlink.open() as netlink:
        for name in names:
            disconnect(netlink, name)


def _touch(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def as_bridge(network: NetworkRecord) -> Bridge:
    """What the host makes of a network."""
    from onggi.network.addresses import derive_mac  # noqa: PLC0415

    gateways = {"4": "", "6": ""}
    for subnet in network.subnets:
        length = subnet.subnet.rpartition("/")[2]
        gateways["6" if ":" in subnet.subnet else "4"] = f"{subnet.gateway}/{length}"
    return Bridge(
        name=network.bridge,
        mac=derive_mac(network.id),
        mtu=network.mtu,
        ipv4=gateways["4"],
        ipv6=gateways["6"],
        internal=network.internal,
    )
