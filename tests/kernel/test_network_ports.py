"""Published ports and the borders between networks, with real packets in namespaces of the test's
own."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from network_rig import Namespace
from ports_rig import HOST4, HOST6, LAN4, LAN6, Container, Town, answered, ask, bridge, silent

#: br_netfilter shows the rules what a bridge forwards between its ports, or does not.
both_ways = pytest.mark.parametrize(
    "town", [0, 1], indirect=True, ids=["bridged apart", "bridged through the rules"]
)


@pytest.fixture
def town(request: pytest.FixtureRequest) -> Iterator[Town]:
    with Town(bridge_calls=getattr(request, "param", 1)) as made:
        yield made


@both_ways
@pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
def test_published_port_is_reached_from_everywhere(town: Town, udp: bool) -> None:
    town.install([bridge(1)])
    web = town.container("web", bridge(1))
    other = town.container("other", bridge(1))
    town.publish(web.both(8080))
    # The container sees who it is, but for this host and for its own neighbours.
    assert ask(town.lan, HOST4, 8080, udp=udp) == f"web {LAN4}"
    assert ask(town.lan, HOST6, 8080, udp=udp) == f"web {LAN6}"
    for address in ("127.0.0.1", "127.0.0.7", HOST4, "10.90.1.1"):
        assert ask(town.host, address, 8080, udp=udp) == "web 10.90.1.1"
    assert ask(town.host, HOST6, 8080, udp=udp) == "web fd90:1::1"
    for client in (web, other):
        assert ask(client.ns, HOST4, 8080, udp=udp) == "web 10.90.1.1"
        assert ask(client.ns, HOST6, 8080, udp=udp) == "web fd90:1::1"
        assert ask(client.ns, "10.90.1.1", 8080, udp=udp) == "web 10.90.1.1"


@pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
def test_later_packets_and_answers_of_a_flow_arrive(town: Town, udp: bool) -> None:
    town.install([bridge(1)])
    web = town.container("web", bridge(1))
    town.publish(web.both(8080))
    for ns, address in ((town.lan, HOST4), (town.host, "127.0.0.1"), (town.host, HOST6)):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        if udp:
            with ns.socket(family, socket.SOCK_DGRAM) as sock:
                sock.connect((address, 8080))
                for _ in range(3):
                    sock.send(b"x")
                    assert sock.recv(100).startswith(b"web ")
                    # Nobody but the published address answers.
                    assert sock.getpeername()[0] == address
        else:
            with ns.socket(family, socket.SOCK_STREAM) as sock:
                sock.connect((address, 8080))
                assert sock.recv(100).startswith(b"web ")
                assert sock.recv(100) == b""


def test_addresses_of_one_port_lead_to_different_containers(town: Town) -> None:
    town.install([bridge(1)])
    local, outer = town.container("local", bridge(1)), town.container("outer", bridge(1))
    town.publish([local.published(8080, address="127.0.0.1")])
    town.publish([outer.published(8080, address=HOST4)])
    town.publish([outer.published(8080, address=HOST6)])
    assert ask(town.host, "127.0.0.1", 8080).startswith("local")
    assert ask(town.host, HOST4, 8080).startswith("outer")
    assert ask(town.lan, HOST4, 8080) == f"outer {LAN4}"
    assert ask(town.lan, HOST6, 8080) == f"outer {LAN6}"
    assert silent(town.host, "10.90.1.1", 8080)


def test_addresses_for_every_address_of_one_family(town: Town) -> None:
    town.install([bridge(1)])
    four, six = town.container("four", bridge(1)), town.container("six", bridge(1))
    town.publish([four.published(8080, address="0.0.0.0"), six.published(8080, address="::")])
    assert ask(town.lan, HOST4, 8080) == f"four {LAN4}"
    assert ask(town.lan, HOST6, 8080) == f"six {LAN6}"
    town.unpublish([four.published(8080, address="0.0.0.0")])
    assert silent(town.lan, HOST4, 8080)
    assert ask(town.lan, HOST6, 8080) == f"six {LAN6}"


@pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
def test_loopback_port_is_for_this_host_only(town: Town, udp: bool) -> None:
    town.install([bridge(1)])
    web = town.container("web", bridge(1))
    town.publish(web.both(8080, "127.0.0.1"))
    assert ask(town.host, "127.0.0.1", 8080, udp=udp) == "web 10.90.1.1"
    assert silent(town.lan, HOST4, 8080, udp=udp)
    # Forged: the LAN's host sends such packets to ours, which even routes loopback addresses.
    town.host.sysctl("ipv4/conf/eth0/route_localnet", 1)
    send_to_host(town, "127.0.0.1")
    assert silent(town.lan, "127.0.0.1", 8080, udp=udp)
    assert silent(web.ns, HOST4, 8080, udp=udp)


@both_ways
@pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
def test_forged_destination_reaches_no_container(town: Town, udp: bool) -> None:
    town.install([bridge(1)])
    web = town.container("web", bridge(1))
    town.publish(web.both(8080))
    assert ask(town.lan, HOST4, 8080, udp=udp)
    send_to_host(town, web.ipv4, web.ipv6)
    everything = [(town.lan, a, port) for a in (web.ipv4, web.ipv6) for port in (80, 8080)]
    assert not answered(everything, udp=udp)
    # The host itself may.
    assert ask(town.host, web.ipv4, 80, udp=udp) == "web 10.90.1.1"


def send_to_host(town: Town, *addresses: str) -> None:
    """Let the LAN's host route these addresses to our host."""
    town.lan.sysctl("ipv4/conf/eth0/route_localnet", 1)
    for address in addresses:
        if address.startswith("127."):
            town.lan.command("ip", "route", "del", "local", "127.0.0.0/8", "dev", "lo", "table",
                             "local")  # fmt: skip
            town.lan.command("ip", "address", "del", "127.0.0.1/8", "dev", "lo")
        via = HOST6 if ":" in address else HOST4
        town.lan.command("ip", "route", "add", address, "via", via, "dev", "eth0")


@pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
def test_input_rules_of_the_host_hold_for_published_ports(town: Town, udp: bool) -> None:
    town.install([bridge(1)])
    web = town.container("web", bridge(1))
    town.publish([*web.both(8080), *web.both(8081)])
    clients = (
        (town.lan, HOST4),
        (town.lan, HOST6),
        (town.host, "127.0.0.1"),
        (town.host, HOST4),
        (town.host, HOST6),
        (web.ns, HOST4),
    )
    chain = "chain input { type filter hook input priority 0; policy accept; th dport 8080 drop; }"
    town.host.command("nft", "-f", "-", stdin=f"table inet judge {{\n{chain}\n}}\n")
    assert not answered([(*client, 8080) for client in clients], udp=udp)
    for ns, address in clients:
        assert ask(ns, address, 8081, udp=udp).startswith("web ")
    town.host.command("nft", "delete", "table", "inet", "judge")
    for ns, address in clients:
        assert ask(ns, address, 8080, udp=udp).startswith("web ")


def test_host_that_lets_in_chosen_clients_only(town: Town) -> None:
    town.install([bridge(1)])
    web = town.container("web", bridge(1))
    town.publish(web.both(8080))
    chain = (
        "chain input { type filter hook input priority 0; policy drop; iif lo accept; "
        f"ct state established,related accept; ip saddr {LAN4} tcp dport 8080 accept; }}"
    )
    town.host.command("nft", "-f", "-", stdin=f"table inet judge {{\n{chain}\n}}\n")
    assert ask(town.lan, HOST4, 8080) == f"web {LAN4}"
    assert silent(town.lan, HOST4, 8080, udp=True)
    assert ask(town.host, "127.0.0.1", 8080, udp=True) == "web 10.90.1.1"
    assert silent(web.ns, HOST4, 8080)


@pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
def test_strict_reverse_path_filter_of_the_host(town: Town, udp: bool) -> None:
    for link in ("all", "default", "eth0"):
        town.host.sysctl(f"ipv4/conf/{link}/rp_filter", 1)
    town.install([bridge(1)])
    web = town.container("web", bridge(1))
    town.publish(web.both(8080))
    assert ask(town.lan, HOST4, 8080, udp=udp) == f"web {LAN4}"
    for address in ("127.0.0.1", HOST4):
        assert ask(town.host, address, 8080, udp=udp) == "web 10.90.1.1"
    assert ask(web.ns, HOST4, 8080, udp=udp) == "web 10.90.1.1"


@both_ways
def test_networks_are_apart_and_reach_each_other_by_published_ports(town: Town) -> None:
    town.install([bridge(1), bridge(2), bridge(3, internal=True)])
    one, two, inner = (
        town.container(name, bridge(number))
        for name, number in (("one", 1), ("two", 2), ("inner", 3))
    )
    inner_peer = town.container("peer", bridge(3, internal=True))
    town.publish([*one.both(8080), *inner.both(8083)])
    for udp in (False, True):
        assert ask(two.ns, HOST4, 8080, udp=udp) == "one 10.90.1.1"
        assert ask(two.ns, HOST6, 8080, udp=udp) == "one fd90:1::1"
        # Within an internal network they talk, and there it ends.
        assert ask(inner_peer.ns, inner.ipv4, 80, udp=udp) == f"inner {inner_peer.ipv4}"
        assert ask(inner_peer.ns, inner.ipv6, 80, udp=udp) == f"inner {inner_peer.ipv6}"
        apart = [(two, one.ipv4, 80), (two, one.ipv6, 80)]
        apart += [(one, inner.ipv4, 80), (one, inner.ipv6, 80), (inner, one.ipv4, 80)]
        # Nor by what should not have been published.
        apart += [(two, HOST4, 8083), (two, HOST6, 8083), (inner_peer, HOST4, 8083)]
        apart += [(inner, address, 8080) for address in (HOST4, HOST6, "10.90.3.1")]
        assert not answered([(c.ns, address, port) for c, address, port in apart], udp=udp)
        assert ask(one.ns, one.ipv4, 80, udp=udp) == f"one {one.ipv4}"


@both_ways
def test_way_out_shows_the_address_of_the_host(town: Town) -> None:
    town.install([bridge(1), bridge(3, internal=True)])
    web, inner = town.container("web", bridge(1)), town.container("in", bridge(3, internal=True))
    town.serve(town.lan, "lan", 7)
    for udp in (False, True):
        assert ask(web.ns, LAN4, 7, udp=udp) == f"lan {HOST4}"
        assert ask(web.ns, LAN6, 7, udp=udp) == f"lan {HOST6}"
        assert silent(inner.ns, LAN4, 7, udp=udp)
        assert silent(inner.ns, LAN6, 7, udp=udp)


@both_ways
def test_neighbours_see_each_other_untranslated(town: Town) -> None:
    town.install([bridge(1)])
    one, two = town.container("one", bridge(1)), town.container("two", bridge(1))
    for udp in (False, True):
        assert ask(two.ns, one.ipv4, 80, udp=udp) == f"one {two.ipv4}"
        assert ask(two.ns, one.ipv6, 80, udp=udp) == f"one {two.ipv6}"


@both_ways
def test_containers_cannot_forge_a_source(town: Town) -> None:
    town.install([bridge(1)])
    web = town.container("web", bridge(1))
    town.host.sysctl("ipv4/conf/all/rp_filter", 0)
    town.host.sysctl("ipv4/conf/ogt1/rp_filter", 0)
    with town.host.socket(socket.AF_INET, socket.SOCK_DGRAM, 0.3) as heard:
        heard.bind(("0.0.0.0", 9))
        for source, arrives in ((web.ipv4, True), (LAN4, False), ("127.0.0.1", False)):
            forge(web, source, "10.90.1.1", 9)
            forge(web, source, "127.0.0.1", 9)
            if arrives:
                assert heard.recvfrom(10) == (b"forged", (web.ipv4, 7))
            with pytest.raises(TimeoutError):
                heard.recvfrom(10)


def forge(container: Container, source: str, to: str, port: int) -> None:
    """Send a datagram with any source, by way of the gateway."""
    web = container.ns
    web.sysctl("ipv4/conf/eth0/route_localnet", 1)
    gateway = container.bridge.mac.replace(":", "")
    payload = b"forged"
    udp = struct.pack(">HHHH", 7, port, 8 + len(payload), 0) + payload
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0)
    head += socket.inet_aton(source) + socket.inet_aton(to)
    total = sum(struct.unpack(">10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack(">H", ~(total + (total >> 16)) & 0xFFFF) + head[12:]
    own = web.command("cat", "/sys/class/net/eth0/address").strip().replace(":", "")
    with web.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind(("eth0", 0))
        sock.send(bytes.fromhex(gateway + own) + b"\x08\x00" + head + udp)


def test_turnstile_cannot_be_reached_past_the_input_rules(town: Town) -> None:
    """Whoever routes packets into it would have them translated unjudged."""
    town.install([bridge(1)])
    web = town.container("web", bridge(1))
    town.publish(web.both(8080))
    chain = "chain input { type filter hook input priority 0; policy accept; th dport 8080 drop\n}"
    town.host.command("nft", "-f", "-", stdin=f"table inet judge {{\n{chain}\n}}\n")
    town.lan.command("ip", "route", "add", "192.0.0.0/24", "via", HOST4)
    for udp in (False, True):
        questions = [(ns, f"192.0.0.{n}", 8080) for ns in (town.lan, web.ns) for n in range(8, 14)]
        assert not answered(questions, udp=udp)
        # Asking so can have an answer.
        town.host.command("nft", "flush", "chain", "inet", "judge", "input")
        assert answered([(town.lan, HOST4, 8080)], udp=udp) == [(HOST4, 8080)]
        town.host.command("nft", "add", "rule", "inet", "judge", "input", "th", "dport", "8080",
                          "drop")  # fmt: skip


def test_host_talks_with_itself_untranslated(town: Town) -> None:
    town.install([bridge(1)])
    town.serve(town.host, "host", 7)
    for udp in (False, True):
        for address in ("10.90.1.1", "fd90:1::1", HOST4, "127.0.0.1"):
            assert ask(town.host, address, 7, udp=udp) == f"host {address}"


@both_ways
def test_link_local_addresses_stay_within_a_network(town: Town) -> None:
    town.install([bridge(1)])
    one, two = town.container("one", bridge(1)), town.container("two", bridge(1))
    for container, number in ((one, 1), (two, 2)):
        container.ns.command("ip", "address", "add", f"169.254.7.{number}/16", "dev", "eth0")
    town.serve(town.lan, "lan", 7)
    town.lan.command("ip", "route", "add", "169.254.0.0/16", "via", HOST4)
    town.host.command("ip", "route", "add", "169.254.0.0/16", "dev", "ogt1")
    for udp in (False, True):
        assert ask(one.ns, "169.254.7.2", 80, udp=udp) == "two 169.254.7.1"
        with pytest.raises(OSError):
            ask(one.ns, LAN4, 7, udp=udp, bind=("169.254.7.1", 0), timeout_s=0.15)
        assert ask(one.ns, LAN4, 7, udp=udp) == f"lan {HOST4}"


def test_forged_echo_does_not_leave(town: Town) -> None:
    town.install([bridge(1)])
    web = town.container("web", bridge(1))
    web.ns.command("ip", "address", "add", "fd99::1/128", "dev", "eth0", "nodad")
    town.host.command("ip", "route", "add", "fd99::/64", "dev", "eth0")
    with pings(town.lan) as heard:
        for source, seen in ((web.ipv6, HOST6), ("fd99::1", "")):
            with pings(web.ns) as sent:
                sent.bind((source, 0))
                sent.sendto(b"\x80\0\0\0\0\1\0\1onggi", (LAN6, 0))
            assert echo_seen(heard) == seen


def pings(ns: Namespace) -> socket.socket:
    sock = ns.call(lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6))
    sock.settimeout(0.2)
    return sock


def echo_seen(sock: socket.socket) -> str:
    """Who has sent the next echo request; empty when nobody has."""
    try:
        while True:
            data, peer = sock.recvfrom(100)
            if data.endswith(b"onggi") and data[0] == 128:
                return str(peer[0])
    except TimeoutError:
        return ""
