"""One engine's rules on the host: installed as a whole, then changed element by element.

What is published and which bridges there are is told by the caller, and remembered here only to
tell what is in the way of a new port and to put things back. Works on the network namespace of the
thread that calls first. Why the rules are as they are is told in `ruleset`.
"""

from __future__ import annotations

import contextlib
import errno
import os

from onggi.errors import Conflict, SyscallError, Unsupported
from onggi.network import elements, tables
from onggi.network.bridges import set_link_sysctl
from onggi.network.conntrack import Flows, flows_before, flows_through, forget
from onggi.network.elements import NFPROTO_IPV4, NFPROTO_IPV6, Element
from onggi.network.forwarding import Switched
from onggi.network.netlink import Netlink
from onggi.network.routes import kernel_has_ipv6
from onggi.network.ruleset import names_for, ruleset
from onggi.network.turnstile import ensure_turnstile, remove_turnstile, turnstile_there

TYPE_CHECKING = False  # typing's own costs 9 ms to import
if TYPE_CHECKING:
    from collections.abc import Iterable

    from onggi.network.values import Bridge, Publication

_EVERY_ADDRESS = {"0.0.0.0": False, "::": True}  # noqa: S104 - a key, nothing is bound
#: Of a kernel without an interface to its connection tracking: what flows goes on as it was.
_NO_CTNETLINK = (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT)


class Firewall:
    """The tables and the turnstile of one instance. To be closed; the rules stay then."""

    def __init__(self, instance: str) -> None:
        self.names = names_for(instance)
        self._ipv6 = kernel_has_ipv6()
        self._families = (NFPROTO_IPV4, NFPROTO_IPV6) if self._ipv6 else (NFPROTO_IPV4,)
        self._nl: Netlink | None = None
        self._port = 0
        self._watch: tables.Watch | None = None
        self._installed: dict[int, int] = {}
        self._rules: dict[int, list[tuple[str, bytes]]] = {}
        self._guard = Switched()
        self._bridges: dict[str, Bridge] = {}
        #: By protocol and port of the host; there, by its address.
        self._published: dict[tuple[str, int], dict[str, Publication]] = {}

    # -- the whole ---------------------------------------------------------------------------

    def install(
        self,
        bridges: Iterable[Bridge],
        publications: Iterable[Publication],
        *,
        guard: bool | Switched = False,
    ) -> None:
        """Replace whatever is there by the rules for these bridges and ports, in one transaction.

        `guard`: the host forwards (in which family) only because of us, and is kept from being a
        router for others.

        Raises:
            Conflict: two publications want the same port; nothing is changed.
            Unsupported: the host lacks nft or something that the rules need.
            SyscallError: the kernel refused.
        """
        kept = {bridge.name: bridge for bridge in bridges}
        published: dict[tuple[str, int], dict[str, Publication]] = {}
        ports = list(publications)
        for publication in ports:
            _enter(published, publication)
        if isinstance(guard, bool):
            guard = Switched(guard, guard)
        nl = self._open()
        self._ensure_turnstile()
        text = ruleset(self.names, ipv4_guard=guard.ipv4, ipv6_guard=guard.ipv6, ipv6=self._ipv6)
        wanted = self._of_families(self._wanted(kept.values(), ports))
        tables.load(text + elements.as_text(self.names.table, wanted))
        self._guard, self._bridges, self._published = guard, kept, published
        self._installed = tables.handles(nl, self.names.table, self._families)
        self._rules = self._read_rules()
        for bridge in kept.values():
            _let_loopback_in(bridge)
        self._forget(flows_before(ports))

    def remove(self) -> None:
        """Take the tables and the turnstile away; what is not there is no error.

        Raises:
            SyscallError: the kernel refused.
        """
        for bridge in self._bridges.values():
            _keep_loopback_out(bridge)
        with contextlib.suppress(Unsupported):  # without netfilter there are no tables
            tables.delete(self._open(), self.names.table, self._families)
        with Netlink.open() as nl:
            remove_turnstile(nl, self.names)
        self._installed, self._rules, self._bridges, self._published = {}, {}, {}, {}

    def close(self) -> None:
        """Let go of the descriptors."""
        if self._nl is not None:
            self._nl.close()
            self._nl = None
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    # -- bridges -----------------------------------------------------------------------------

    def add_bridge(self, bridge: Bridge) -> None:
        """Let the rules know a bridge, whose link is there; one known by this name is replaced.

        Raises:
            SyscallError: the kernel refused; nothing is changed then.
        """
        old = self._bridges.get(bridge.name)
        if old != bridge:
            gone = list(elements.of_bridge(old)) if old is not None else []
            self._bridges[bridge.name] = bridge
            try:
                self._exchange(gone, list(elements.of_bridge(bridge)))
            except SyscallError:
                del self._bridges[bridge.name]
                if old is not None:
                    self._bridges[old.name] = old
                raise
        _let_loopback_in(bridge)

    def remove_bridge(self, bridge: Bridge) -> None:
        """Forget a bridge; one that is not known is no error. Before its link is removed.

        Raises:
            SyscallError: the kernel refused.
        """
        old = self._bridges.pop(bridge.name, None)
        if old is not None:
            _keep_loopback_out(old)
            self._exchange(list(elements.of_bridge(old)), [])

    # -- ports -------------------------------------------------------------------------------

    def publish(self, publications: Iterable[Publication]) -> None:
        """Let ports of the host lead to containers: all of them, or none and an error.

        Raises:
            Conflict: a port is published already, which the message names.
            SyscallError: the kernel refused.
        """
        wanted = list(publications)
        entered: list[Publication] = []
        try:
            for publication in wanted:
                _enter(self._published, publication)
                entered.append(publication)
            self._exchange([], [e for p in wanted for e in elements.of_publication(p)], wanted)
        except (Conflict, SyscallError):
            for publication in entered:
                _leave(self._published, publication)
            raise
        self._forget(flows_before(wanted))

    def unpublish(self, publications: Iterable[Publication]) -> None:
        """Take publications back, and end what flows through them; what is not there is no error.

        Raises:
            SyscallError: the kernel refused.
        """
        gone = [p for p in publications if _leave(self._published, p)]
        if not gone:
            return
        try:
            self._exchange([e for p in gone for e in elements.of_publication(p)], [])
        except SyscallError:
            for publication in gone:  # still there, and to be taken back again
                _enter(self._published, publication)
            raise
        self._forget(flows_through(gone))

    # -- what is really there ----------------------------------------------------------------

    def fileno(self) -> int:
        """The descriptor, borrowed, that is readable when `changed` should be asked."""
        self._open()
        assert self._watch is not None
        return self._watch.fileno()

    def changed(self) -> bool:
        """Whether somebody else has changed anything of our tables since this was asked last.

        Raises:
            SyscallError: the kernel refused.
        """
        if self._watch is None or not self._installed:
            return False
        changed = self._watch.changed(self._port, self._installed)
        if changed is None:
            return bool(self.differences(tuple(self._bridges.values()), self._known()))
        return changed

    def differences(
        self, bridges: Iterable[Bridge], publications: Iterable[Publication]
    ) -> tuple[str, ...]:
        """What the kernel has too much or too little for these bridges and ports, in words.

        Raises:
            SyscallError: the kernel refused.
        """
        nl, table = self._open(), self.names.table
        there = tables.handles(nl, table, self._families)
        wanted = set(self._of_families(self._wanted(bridges, list(publications))))
        found: list[str] = []
        for family in self._families:
            title = f"table {'ip6' if family == NFPROTO_IPV6 else 'ip'} {table}"
            if family not in there:
                found.append(f"{title} is missing")
                continue
            if tables.rules(nl, table, family) != self._rules.get(family):
                found.append(f"{title} has other rules than those installed")
            should = {element for element in wanted if element.family == family}
            has = tables.contents(nl, table, family)
            found += (f"{title} lacks {elements.describe(e)}" for e in _sorted(should - has))
            found += (f"{title} has {elements.describe(e)} too much" for e in _sorted(has - should))
        with Netlink.open() as route:
            if not turnstile_there(route, self.names):
                found.append(
                    f"the links {self.names.turn_in} and {self.names.turn_out} are missing"
                )
        return tuple(found)

    def rule_count(self) -> int:
        """How many rules the kernel has in our tables."""
        return sum(len(found) for found in self._read_rules().values())

    # -- how ---------------------------------------------------------------------------------

    def _open(self) -> Netlink:
        if self._nl is None:
            self._nl, self._port = tables.connect()
            self._watch = tables.Watch(self.names.table)
        return self._nl

    def _ensure_turnstile(self) -> None:
        with Netlink.open() as nl:
            try:
                ensure_turnstile(nl, self.names, ipv6=self._ipv6)
            except SyscallError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                raise Unsupported(f"this kernel makes no veth links: {error}") from None

    def _exchange(
        self, gone: list[Element], new: list[Element], ports: Iterable[Publication] = ()
    ) -> None:
        """One transaction. Where the kernel has not what should be there (somebody flushed it a
        moment ago), everything is put back as it should be by now."""
        nl, table = self._open(), self.names.table
        gone, new = self._of_families(gone), self._of_families(new)
        messages = elements.delete(table, gone) + elements.add(table, new)
        # Who has been judged is asked again: the flow it was judged for may be gone.
        messages += [
            elements.clear(table, family, "judged")
            for family in {e.family for e in gone if e.set in ("any_port", "own_port")}
        ]
        try:
            nl.transact(messages)
        except SyscallError as error:
            if error.errno == errno.EEXIST and ports:
                names = ", ".join(_port_text(port) for port in ports)
                raise Conflict(f"port {names} is in the rules already") from None
            if error.errno != errno.ENOENT:
                raise
            self.install(self._bridges.values(), self._known(), guard=self._guard)

    def _wanted(
        self, bridges: Iterable[Bridge], publications: Iterable[Publication]
    ) -> list[Element]:
        found = [element for bridge in bridges for element in elements.of_bridge(bridge)]
        return found + [e for p in publications for e in elements.of_publication(p)]

    def _of_families(self, found: list[Element]) -> list[Element]:
        return found if self._ipv6 else [e for e in found if e.family == NFPROTO_IPV4]

    def _known(self) -> list[Publication]:
        return [p for by_address in self._published.values() for p in by_address.values()]

    def _read_rules(self) -> dict[int, list[tuple[str, bytes]]]:
        nl = self._open()
        return {family: tables.rules(nl, self.names.table, family) for family in self._families}

    def _forget(self, flows: list[Flows]) -> None:
        try:
            forget(self._open(), flows)
        except SyscallError as error:
            if error.errno not in _NO_CTNETLINK:
                raise


# Who has a port


def _enter(
    published: dict[tuple[str, int], dict[str, Publication]], publication: Publication
) -> None:
    key = (publication.protocol, publication.host_port)
    others = published.setdefault(key, {})
    for address in others:
        if _overlap(address, publication.host_address):
            there = _port_text(others[address])
            raise Conflict(
                f"port {_port_text(publication)} is published already, as {there}",
                hint="choose another port of the host, or stop the container that has it",
            )
    others[publication.host_address] = publication


def _leave(
    published: dict[tuple[str, int], dict[str, Publication]], publication: Publication
) -> bool:
    key = (publication.protocol, publication.host_port)
    others = published.get(key, {})
    if others.get(publication.host_address) != publication:
        return False
    del others[publication.host_address]
    if not others:
        del published[key]
    return True


def _overlap(one: str, other: str) -> bool:
    """Whether the host's addresses have one in common. [::1] is the proxy's, not the rules'."""
    if one == other:
        return True
    if "::1" in (one, other):
        return False
    if "" in (one, other):
        return True
    return any(
        wide in (one, other) and (":" in one) == (":" in other) == v6
        for wide, v6 in _EVERY_ADDRESS.items()
    )


def _port_text(publication: Publication) -> str:
    address = publication.host_address
    where = f"[{address}]:" if ":" in address else f"{address}:" if address else ""
    return f"{where}{publication.host_port}/{publication.protocol}"


# 127.0.0.1 as a client


def _let_loopback_in(bridge: Bridge) -> None:
    """Answers to 127.0.0.1 come by the bridge. Its rules forbid everything else from or to there,
    so it is only done when they are."""
    if os.path.isdir(f"/proc/sys/net/ipv4/conf/{bridge.name}"):
        set_link_sysctl("ipv4", bridge.name, "route_localnet", 1)


def _keep_loopback_out(bridge: Bridge) -> None:
    with contextlib.suppress(SyscallError):  # the link is gone
        set_link_sysctl("ipv4", bridge.name, "route_localnet", 0)


def _sorted(found: set[Element]) -> list[Element]:
    return sorted(found, key=lambda e: (e.set, e.key, e.end))
