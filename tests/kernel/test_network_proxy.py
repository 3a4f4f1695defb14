"""The engine's own proxy and the ports it holds, on loopback of a namespace of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest

from network_rig import Namespace, fresh
from onggi.errors import Conflict, FailedPrecondition, ResourceExhausted, Unsupported
from onggi.network.held_ports import HeldPorts
from onggi.network.proxy import Proxy
from onggi.network.values import Publication
from ports_rig import Town, ask, bridge, silent


@pytest.fixture
def host() -> Iterator[Namespace]:
    with fresh(1) as (ns,):
        yield ns


@pytest.fixture
def held() -> Iterator[HeldPorts]:
    ports = HeldPorts()
    yield ports
    ports.close()


def program(
    ns: Namespace, address: str, port: int, kind: int = socket.SOCK_STREAM, reuse: bool = True
) -> socket.socket:
    """A server as every other one: with SO_REUSEADDR, and both families where the address is ::."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = ns.socket(family, kind)
    try:
        if reuse and kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        if kind == socket.SOCK_STREAM:
            sock.listen()
    except OSError:
        sock.close()
        raise
    return sock


def taken(ns: Namespace, address: str, port: int, kind: int = socket.SOCK_STREAM) -> bool:
    try:
        program(ns, address, port, kind).close()
    except OSError as error:
        assert error.errno == errno.EADDRINUSE
        return True
    return False


# Held ports


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_held_port_is_nobody_elses(
    host: Namespace, held: HeldPorts, protocol: Literal["tcp", "udp"]
) -> None:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    assert host.call(lambda: held.hold(protocol, "", 8080)) == 8080
    for address in ("0.0.0.0", "::", "127.0.0.1", "::1"):
        assert taken(host, address, 8080, kind)
        assert not taken(host, address, 8081, kind)
    other = socket.SOCK_DGRAM if protocol == "tcp" else socket.SOCK_STREAM
    assert not taken(host, "0.0.0.0", 8080, other)
    held.release(protocol, "", 8080)
    held.release(protocol, "", 8080)
    for address in ("0.0.0.0", "::", "127.0.0.1", "::1"):
        assert not taken(host, address, 8080, kind)


def test_addresses_of_a_port_are_held_apart(host: Namespace, held: HeldPorts) -> None:
    host.command("ip", "address", "add", "192.0.2.5/32", "dev", "lo")
    host.call(lambda: held.hold("tcp", "127.0.0.1", 8080))
    host.call(lambda: held.hold("tcp", "192.0.2.5", 8080))
    host.call(lambda: held.hold("tcp", "::1", 8080))
    assert taken(host, "192.0.2.5", 8080)
    assert not taken(host, "127.0.0.2", 8080)
    for address in ("", "0.0.0.0", "::", "127.0.0.1"):
        with pytest.raises(Conflict, match=r"8080/tcp is (in use|published already)"):
            host.call(lambda address=address: held.hold("tcp", address, 8080))
    with pytest.raises(FailedPrecondition, match=r"no address 192\.0\.2\.6"):
        host.call(lambda: held.hold("udp", "192.0.2.6", 8080))


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("address", ["0.0.0.0", "::", "127.0.0.1", "::1"])
def test_program_that_has_the_port_is_named(
    host: Namespace,
    held: HeldPorts,
    protocol: str,
    address: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("onggi.network.held_ports._SEARCH_S", 30)  # a loaded machine takes longer
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with program(host, address, 8080, kind), pytest.raises(Conflict) as caught:
        host.call(lambda: held.hold(protocol, "", 8080))
    assert f"port 8080/{protocol} is in use by " in str(caught.value)
    assert f"(pid {os.getpid()})" in str(caught.value)
    # Nothing is left of the attempt.
    assert host.call(lambda: held.hold(protocol, "", 8080)) == 8080


def test_connections_that_are_over_are_in_nobodys_way(host: Namespace, held: HeldPorts) -> None:
    with (
        program(host, "127.0.0.1", 8080) as server,
        host.socket(socket.AF_INET, socket.SOCK_STREAM) as client,
    ):
        client.connect(("127.0.0.1", 8080))
        connection, _ = server.accept()
        connection.close()  # first, so that it is this side that remembers
        assert client.recv(1) == b""
    assert "TIME-WAIT" in host.command("ss", "-tan")
    assert host.call(lambda: held.hold("tcp", "", 8080)) == 8080
    for address in ("0.0.0.0", "::", "127.0.0.1", "127.0.0.9", "::1"):
        assert taken(host, address, 8080)


def test_held_port_takes_no_connection(host: Namespace, held: HeldPorts) -> None:
    host.call(lambda: held.hold("tcp", "", 8080))
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with (
            host.socket(family, socket.SOCK_STREAM) as sock,
            pytest.raises(ConnectionRefusedError),
        ):
            sock.connect((address, 8080))
    assert "8080" not in host.command("ss", "-tln")


def test_free_port_is_free_in_both_families(host: Namespace, held: HeldPorts) -> None:
    host.command("sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40009")
    with program(host, "::1", 40003), program(host, "127.0.0.1", 40004):
        found = {host.call(lambda: held.hold("tcp", "", 0)) for _ in range(8)}
        assert found == set(range(40000, 40010)) - {40003, 40004}
        with pytest.raises(ResourceExhausted, match="no tcp port is free"):
            host.call(lambda: held.hold("tcp", "", 0))
    assert host.call(lambda: held.hold("udp", "127.0.0.1", 0)) in range(40000, 40010)


def test_host_without_ipv6(host: Namespace, held: HeldPorts) -> None:
    host.sysctl("ipv6/conf/all/disable_ipv6", 1)
    assert host.call(lambda: held.hold("tcp", "", 8080)) == 8080
    assert taken(host, "127.0.0.1", 8080)


# The proxy


def carried(
    host: Namespace,
    publications: list[Publication],
    clients: Callable[[Proxy], Any],
    **options: Any,
) -> Any:
    """What `clients` returns, or raises, in a thread of its own while a proxy serves."""

    async def main() -> Any:
        proxy = Proxy(asyncio.get_running_loop(), **options)
        try:
            for one in publications:
                proxy.open(one)
            return await asyncio.to_thread(clients, proxy)
        finally:
            proxy.close()
            # What is under way ends by itself.
            others = asyncio.all_tasks() - {asyncio.current_task()}
            await asyncio.wait_for(asyncio.gather(*others, return_exceptions=True), 5)

    return host.call(lambda: asyncio.run(main()))


def published(address: str, port: int = 8080, protocol: Any = "tcp", to: int = 80) -> Publication:
    return Publication(protocol, address, port, to, ipv4="127.0.0.99", ipv6="::1")


def container(host: Namespace, kind: int, serve: Callable[[socket.socket], None]) -> None:
    """A service at the container's addresses, port 80, until its socket is closed."""
    for address in ("127.0.0.99", "::1"):
        sock = program(host, address, 80, kind)
        threading.Thread(target=serve, args=(sock,), daemon=True).start()


def uppercase(sock: socket.socket) -> None:
    """Answers only when the client has said that it is done; ends if no client comes."""
    with sock, contextlib.suppress(TimeoutError):
        connection, _ = sock.accept()
        with connection:
            connection.settimeout(5)
            data = b""
            while more := connection.recv(1 << 16):
                data += more
            connection.sendall(data.upper())


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_connection_is_closed_one_direction_at_a_time(host: Namespace, address: str) -> None:
    container(host, socket.SOCK_STREAM, uppercase)
    sent = b"onggi " * 100_000

    def client(_: Proxy) -> bytes:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with host.socket(family, socket.SOCK_STREAM) as sock:
            sock.connect((address, 8080))
            sock.sendall(sent)
            sock.shutdown(socket.SHUT_WR)
            got = b""
            while more := sock.recv(1 << 16):
                got += more
            return got

    assert carried(host, [published("")], client) == sent.upper()


def test_container_that_refuses_and_a_proxy_that_ends(host: Namespace) -> None:
    def client(proxy: Proxy) -> None:
        with host.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.connect(("127.0.0.1", 8080))
            assert sock.recv(1) == b""  # nobody listens behind

    carried(host, [published("127.0.0.1")], client)

    waiting = program(host, "127.0.0.99", 80)
    kept = []

    def stays(_: Proxy) -> None:
        sock = host.socket(socket.AF_INET, socket.SOCK_STREAM)
        kept.append(sock)
        sock.connect(("127.0.0.1", 8080))
        connection, _peer = waiting.accept()
        kept.append(connection)
        connection.sendall(b"x")
        assert sock.recv(1) == b"x"

    with waiting:
        carried(host, [published("127.0.0.1")], stays)
        try:
            for sock in kept:
                sock.settimeout(5)
                assert sock.recv(1) == b""
        finally:
            for sock in kept:
                sock.close()


def echo(sock: socket.socket) -> None:
    with sock, contextlib.suppress(TimeoutError):  # fewer came: the test says whether that is right
        for _ in range(6):
            data, peer = sock.recvfrom(1 << 16)
            sock.sendto(b"%d " % peer[1] + data, peer)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_senders_of_datagrams_have_sessions_that_end(host: Namespace, address: str) -> None:
    container(host, socket.SOCK_DGRAM, echo)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def client(_: Proxy) -> None:
        with (
            host.socket(family, socket.SOCK_DGRAM) as one,
            host.socket(family, socket.SOCK_DGRAM) as two,
        ):
            one.connect((address, 8080))
            two.connect((address, 8080))

            def said(sock: socket.socket, data: bytes) -> bytes:
                sock.send(data)
                port, _, echoed = sock.recv(100).partition(b" ")
                assert echoed == data
                return port

            first, other = said(one, b"a"), said(two, b"b")
            assert first != other
            assert said(one, b"c") == first
            for _ in range(500):
                sessions = host.command("ss", "-uanH", "dport", "=", ":80").splitlines()
                if not sessions:
                    break
            assert sessions == []
            said(one, b"d")

    carried(host, [published(address, protocol="udp")], client, udp_idle_s=0.05)


def test_number_of_sessions_is_bounded(host: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onggi.network.proxy._SESSIONS", 2)
    container(host, socket.SOCK_DGRAM, echo)

    def client(_: Proxy) -> list[bool]:
        heard = []
        for _number in range(3):
            try:
                ask_datagram(host)
                heard.append(True)
            except TimeoutError:
                heard.append(False)
        return heard

    assert carried(host, [published("127.0.0.1", protocol="udp")], client) == [True, True, False]


def ask_datagram(host: Namespace) -> None:
    with host.socket(socket.AF_INET, socket.SOCK_DGRAM, 0.2) as sock:
        sock.connect(("127.0.0.1", 8080))
        sock.send(b"x")
        sock.recv(100)


def test_number_of_connections_is_bounded(host: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onggi.network.proxy._CONNECTIONS", 2)
    server = program(host, "127.0.0.99", 80)

    def client(_: Proxy) -> None:
        clients, accepted = [], []
        for _ in range(3):
            clients.append(host.socket(socket.AF_INET, socket.SOCK_STREAM))
            clients[-1].connect(("127.0.0.1", 8080))
        for _ in range(2):
            accepted.append(server.accept()[0])
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.accept()
        # One ends, the one that waits comes in.
        server.settimeout(5)
        clients[0].close()
        accepted[0].close()
        accepted.append(server.accept()[0])
        for sock in (*clients, *accepted):
            sock.close()

    with server:
        carried(host, [published("127.0.0.1")], client)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_proxy_serves_what_is_held(host: Namespace, held: HeldPorts, protocol: Any) -> None:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    host.call(lambda: held.hold(protocol, "", 8080))

    def client(proxy: Proxy) -> None:
        for address in ("0.0.0.0", "::", "127.0.0.1", "::1"):
            assert taken(host, address, 8080, kind)
            with (
                host.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind) as sock,
                pytest.raises(OSError),
            ):
                # As some servers do: it must not help, either.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                sock.bind((address, 8080))

    carried(host, [published("::1", protocol=protocol)], client)
    carried(host, [published("", protocol=protocol)], client)
    held.release(protocol, "", 8080)
    assert not taken(host, "::", 8080, kind)


def test_port_of_somebody_else_is_told_and_nothing_opened(host: Namespace) -> None:
    with program(host, "::1", 8080), pytest.raises(Conflict, match="port 8080 of :: is in use"):
        carried(host, [published("")], lambda _: None)
    assert not taken(host, "127.0.0.1", 8080)
    nowhere = Publication("tcp", "127.0.0.1", 8080, 80)
    with pytest.raises(Unsupported, match="without an address"):
        carried(host, [nowhere], lambda _: None)
    assert not taken(host, "127.0.0.1", 8080)


def test_loopback_of_ipv6_beside_the_rules() -> None:
    """The kernel routes nothing from ::1: the rules leave it to the proxy."""
    with Town() as town:
        town.install([bridge(1)])
        web = town.container("web", bridge(1))
        held = HeldPorts()
        for protocol in ("tcp", "udp"):
            town.host.call(lambda protocol=protocol: held.hold(protocol, "", 8080))
        town.publish(web.both(8080))

        def clients(_: Proxy) -> None:
            for udp in (False, True):
                assert ask(town.host, "::1", 8080, udp=udp) == "web fd90:1::1"
                assert ask(town.host, "127.0.0.1", 8080, udp=udp) == "web 10.90.1.1"

        try:
            assert silent(town.host, "::1", 8080)
            carried(town.host, web.both(8080, "::1"), clients)
        finally:
            held.close()
