"""A small town of network namespaces: a LAN, a host with networks and rules, containers with a
service. `with Town() as town:`; everything is gone at its end.

A service answers each client with its own name and the address it sees, on TCP and UDP, both
families. It is a thread of the test; only its sockets are inside the container.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
import time
from collections.abc import Iterable
from typing import Literal

from network_rig import Namespace, fresh
from onggi.network import links
from onggi.network.bridges import ensure_bridge
from onggi.network.firewall import Firewall
from onggi.network.forwarding import Switched, switch_on
from onggi.network.netlink import Netlink
from onggi.network.values import Bridge, Publication

HOST4, HOST6, LAN4, LAN6 = "198.51.100.1", "fd77::1", "198.51.100.2", "fd77::2"
#: More than loopback ever needs; only what must not arrive waits for it.
SOON_S = 0.15


def bridge(number: int, *, internal: bool = False) -> Bridge:
    """The bridge of network `number`: 10.90.NUMBER.0/24 and fd90:NUMBER::/64."""
    return Bridge(
        name=f"ogt{number}",
        mac=f"02:00:00:00:01:{number:02x}",
        ipv4=f"10.90.{number}.1/24",
        ipv6=f"fd90:{number}::1/64",
        internal=internal,
    )


class Container:
    """A namespace at a bridge, with its service."""

    def __init__(self, town: Town, ns: Namespace, bridge: Bridge, name: str, number: int) -> None:
        self.ns, self.name, self.bridge = ns, name, bridge
        self.ipv4 = bridge.ipv4.replace(".1/24", f".{number}")
        self.ipv6 = bridge.ipv6.replace("::1/64", f"::{number}")
        with town.host.netlink() as here, ns.netlink() as there:
            here.request([links.create_veth(f"v{name}", 1500, peer="eth0", netns_fd=ns.fd)])
            index = _index(here, bridge.name)
            here.request([links.set_master(f"v{name}", index), links.set_port(f"v{name}")])
            here.request([links.set_up(f"v{name}")])
            eth0 = _index(there, "eth0")
            there.request(
                [
                    links.no_generated_address(eth0),
                    links.set_up(eth0),
                    links.add_address(eth0, f"{self.ipv4}/24"),
                    links.add_address(eth0, f"{self.ipv6}/64"),
                    links.default_route(eth0, bridge.ipv4.partition("/")[0]),
                    links.default_route(eth0, bridge.ipv6.partition("/")[0]),
                ]
            )
        town.serve(ns, name)

    def published(
        self,
        port: int,
        *,
        protocol: Literal["tcp", "udp"] = "tcp",
        address: str = "",
    ) -> Publication:
        """This container's service as a port of the host."""
        return Publication(protocol, address, port, 80, ipv4=self.ipv4, ipv6=self.ipv6)

    def both(self, port: int, address: str = "") -> list[Publication]:
        return [self.published(port, protocol=p, address=address) for p in ("tcp", "udp")]


class Town:
    """`lan` and `host` on a wire; `firewall` is the host's."""

    def __init__(self, *, bridge_calls: int = 1) -> None:
        self._stack = contextlib.ExitStack()
        self._bridge_calls = bridge_calls
        self._selector = selectors.DefaultSelector()
        self._count = 0

    def __enter__(self) -> Town:
        with contextlib.ExitStack() as stack:
            self.lan, self.host = stack.enter_context(fresh(2))
            stack.callback(self._selector.close)
            self._wire()
            self.firewall = Firewall("onggi-test")
            stack.callback(self.firewall.close)
            for name in ("iptables", "ip6tables"):
                if os.path.exists(f"/proc/sys/net/bridge/bridge-nf-call-{name}"):
                    self.host.sysctl(f"bridge/bridge-nf-call-{name}", self._bridge_calls)
            self.host.sysctl("ipv4/ip_forward", 0)  # a new namespace has it as the host
            self.switched = self.host.call(lambda: switch_on(ipv6=True))
            self._stop, write = os.pipe()
            self._selector.register(self._stop, selectors.EVENT_READ)
            server = threading.Thread(target=self._serve)
            server.start()
            stack.callback(os.close, self._stop)
            stack.callback(server.join)
            stack.callback(os.close, write)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _wire(self) -> None:
        with self.lan.netlink() as lan, self.host.netlink() as host:
            host.request([links.create_veth("eth0", 1500, peer="eth0", netns_fd=self.lan.fd)])
            for nl, four, six in ((host, HOST4, HOST6), (lan, LAN4, LAN6)):
                index = _index(nl, "eth0")
                nl.request([links.no_generated_address(index), links.set_up(index)])
                nl.request([links.add_address(index, f"{four}/24")])
                nl.request([links.add_address(index, f"{six}/64")])

    def install(
        self,
        bridges: Iterable[Bridge],
        publications: Iterable[Publication] = (),
        guard: bool | Switched = False,
    ) -> None:
        """Bridges and rules of the host."""
        wanted = list(bridges)

        def run() -> None:
            with Netlink.open() as nl:
                for one in wanted:
                    ensure_bridge(nl, one)
            self.firewall.install(wanted, publications, guard=guard)

        self.host.call(run)

    def publish(self, publications: Iterable[Publication]) -> None:
        self.host.call(lambda: self.firewall.publish(publications))

    def unpublish(self, publications: Iterable[Publication]) -> None:
        self.host.call(lambda: self.firewall.unpublish(publications))

    def container(self, name: str, bridge: Bridge) -> Container:
        """One more container, which answers by its name on port 80."""
        (ns,) = self._stack.enter_context(fresh(1))
        self._count += 1
        return Container(self, ns, bridge, name, self._count + 4)

    def serve(self, ns: Namespace, name: str, port: int = 80) -> None:
        """A service in a namespace."""
        for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                sock = ns.socket(family, kind)
                self._stack.callback(sock.close)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind((address, port))
                if kind == socket.SOCK_STREAM:
                    sock.listen()
                self._selector.register(sock, selectors.EVENT_READ, name.encode())

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                with contextlib.suppress(OSError):
                    if sock.type == socket.SOCK_STREAM:
                        connection, peer = sock.accept()
                        with connection:
                            connection.sendall(key.data + b" " + peer[0].encode())
                    else:
                        _, peer = sock.recvfrom(1 << 16)
                        sock.sendto(key.data + b" " + peer[0].encode(), peer)


def ask(
    ns: Namespace,
    address: str,
    port: int,
    *,
    udp: bool = False,
    bind: tuple[str, int] | None = None,
    size: int = 4,
    timeout_s: float = 5,
) -> str:
    """What a client in the namespace hears from a service: its name, and the client as it saw it.

    Raises:
        OSError: refused, or no answer.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_DGRAM if udp else socket.SOCK_STREAM
    with ns.socket(family, kind, timeout_s) as sock:
        if bind is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(bind)
        sock.connect((address, port))
        if udp:
            sock.send(b"x" * size)
        return sock.recv(100).decode()


def answered(
    questions: Iterable[tuple[Namespace, str, int]], *, udp: bool = False
) -> list[tuple[str, int]]:
    """Which addresses and ports answer to clients in these namespaces, all asked at once."""
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        for ns, address, port in questions:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            kind = socket.SOCK_DGRAM if udp else socket.SOCK_STREAM
            sock = stack.enter_context(ns.socket(family, kind))
            sock.setblocking(False)
            with contextlib.suppress(OSError):  # it is under way, or unreachable
                sock.connect((address, port))
                sock.send(b"x")
            selector.register(sock, selectors.EVENT_READ, (address, port))
        found = []
        deadline = time.monotonic() + SOON_S
        while (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                selector.unregister(sock)
                with contextlib.suppress(OSError):  # refused
                    if sock.recv(100):
                        found.append(key.data)
        return found


def silent(ns: Namespace, address: str, port: int, *, udp: bool = False) -> bool:
    """Whether a client gets no answer: it is refused, or waits for nothing."""
    return not answered([(ns, address, port)], udp=udp)


def _index(nl: Netlink, name: str) -> int:
    return int.from_bytes(nl.query(links.get_link(name))[0][1][4:8], "little")
