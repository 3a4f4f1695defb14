"""The rules as the kernel has them: installed, changed, watched, repaired, removed."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from network_rig import Namespace, fresh
from onggi.errors import Conflict, Unsupported
from onggi.network import tables
from onggi.network.bridges import ensure_bridge, find_link
from onggi.network.conntrack import Flows, _forget_each, forget, forget_address
from onggi.network.firewall import Firewall
from onggi.network.forwarding import Switched, switch_off, switch_on
from onggi.network.netlink import NETLINK_NETFILTER, message
from onggi.network.ruleset import names_for
from onggi.network.turnstile import ensure_turnstile, turnstile_there
from onggi.network.values import Bridge, Publication
from ports_rig import HOST4, HOST6, LAN4, LAN6, Town, answered, ask, bridge, silent


def port(number: int, *, address: str = "", protocol: Any = "tcp") -> Publication:
    return Publication(protocol, address, number, 80, ipv4="10.90.1.5", ipv6="fd90:1::5")


class Host(Firewall):
    """A firewall whose calls are made inside a namespace."""

    def __init__(self, ns: Namespace, instance: str = "onggi-test") -> None:
        self.ns = ns
        super().__init__(instance)

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name.startswith("_") or not callable(found):
            return found
        ns = super().__getattribute__("ns")
        return lambda *args, **options: ns.call(lambda: found(*args, **options))


@pytest.fixture
def host() -> Iterator[Host]:
    with fresh(1) as (ns,):
        firewall = Host(ns)
        yield firewall
        firewall.close()


def listed(ns: Namespace, *what: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(ns.command("nft", "-j", "list", *what))["nftables"]
    return found


def kept(ns: Namespace, family: str, name: str) -> list[Any]:
    """The elements of a set or map as nft understands them."""
    found = listed(ns, "set" if not name.endswith("_target") else "map", family, "onggi-test", name)
    return next(row[kind].get("elem", []) for row in found for kind in row if kind != "metainfo")


def test_elements_are_what_nft_reads(host: Host) -> None:
    outer = Bridge("ogt1", "02:00:00:00:00:01", ipv4="10.90.1.1/24", ipv6="fd90:1::1/64")
    inner = Bridge("ogt2", "02:00:00:00:00:02", ipv4="10.90.2.1/24", internal=True)
    host.install([], [])
    for one in (outer, inner):
        host.add_bridge(one)
    host.publish([port(8080), port(53, address="127.0.0.1", protocol="udp")])
    host.publish([port(443, address="fd77::1")])
    for family in ("ip", "ip6"):
        assert kept(host.ns, family, "bridges") == ["ogt1", "ogt2"]
        assert kept(host.ns, family, "internal") == ["ogt2"]
        assert {"concat": ["ogt1", "ogt1"]} in kept(host.ns, family, "pairs")
        assert kept(host.ns, family, "any_port") == [{"concat": ["tcp", 8080]}]
    assert kept(host.ns, "ip", "subnets") == [{"prefix": {"addr": "10.90.1.0", "len": 24}}]
    assert kept(host.ns, "ip6", "subnets") == [{"prefix": {"addr": "fd90:1::", "len": 64}}]
    assert kept(host.ns, "ip", "any_target") == [
        [{"concat": ["tcp", 8080]}, {"concat": ["10.90.1.5", 80]}]
    ]
    assert kept(host.ns, "ip6", "any_target") == [
        [{"concat": ["tcp", 8080]}, {"concat": ["fd90:1::5", 80]}]
    ]
    assert kept(host.ns, "ip", "own_port") == [{"concat": ["127.0.0.1", "udp", 53]}]
    assert kept(host.ns, "ip6", "own_target") == [
        [{"concat": ["fd77::1", "tcp", 443]}, {"concat": ["fd90:1::5", 80]}]
    ]


def test_both_ways_of_adding_make_the_same(host: Host) -> None:
    bridges = [
        Bridge(f"ogt{n}", f"02:00:00:00:00:0{n}", ipv4=f"10.90.{n}.1/24", ipv6=f"fd90:{n}::1/64")
        for n in (3, 1, 2)
    ]
    bridges.append(Bridge("ogt9", "02:00:00:00:00:09", ipv4="255.255.255.1/24"))
    ports = [port(8080), port(8080, protocol="udp"), port(1, address="192.0.2.1")]
    host.install([], [])
    for one in bridges:
        host.add_bridge(one)
    host.publish(ports)
    one_by_one = host.ns.command("nft", "list", "ruleset")
    host.install(bridges, ports)
    assert host.ns.command("nft", "list", "ruleset") == one_by_one
    assert host.differences(bridges, ports) == ()
    host.unpublish(ports)
    for one in bridges:
        host.remove_bridge(one)
    assert host.differences([], []) == ()


def test_ports_make_no_rules_and_the_last_is_as_fast_as_the_first(host: Host) -> None:
    host.install([bridge(1)], [])
    rules = host.rule_count()
    times = []
    for number in range(400):
        start = time.perf_counter()
        host.publish([port(1000 + number)])
        times.append(time.perf_counter() - start)
    assert host.rule_count() == rules
    assert len(kept(host.ns, "ip", "any_port")) == 400
    # Medians: other programs are at work on this machine, too.
    first, last = sorted(times[:100])[50], sorted(times[-100:])[50]
    assert last < 3 * first


def test_conflicts_are_told_and_nothing_is_changed(host: Host) -> None:
    host.install([bridge(1)], [port(8080), port(53, address="127.0.0.1", protocol="udp")])
    before = host.ns.command("nft", "list", "ruleset")
    for taken, words in (
        (port(8080), "port 8080/tcp is published already, as 8080/tcp"),
        (port(8080, address="127.0.0.1"), "127.0.0.1:8080/tcp is published already, as 8080/tcp"),
        (port(8080, address="::"), r"\[::\]:8080/tcp is published already"),
        (port(53, protocol="udp"), "53/udp is published already, as 127.0.0.1:53/udp"),
        (port(53, address="0.0.0.0", protocol="udp"), "as 127.0.0.1:53/udp"),
    ):
        with pytest.raises(Conflict, match=words):
            host.publish([port(9000), taken])
    with pytest.raises(Conflict, match="9000/tcp"):
        host.publish([port(9000), port(9000)])
    assert host.ns.command("nft", "list", "ruleset") == before
    host.publish([port(9000), port(8080, protocol="udp")])
    host.publish([port(53, address="192.0.2.1", protocol="udp")])
    host.publish([port(53, address="::", protocol="udp")])
    # What only the kernel knows of is told, too.
    nft(host, "add element ip onggi-test any_port { tcp . 77 }")
    with pytest.raises(Conflict, match="77/tcp"):
        host.publish([port(77)])
    host.publish([port(78)])


def nft(host: Host, command: str) -> None:
    host.ns.command("nft", *command.split())


def test_removing_what_is_not_there_is_no_error(host: Host) -> None:
    host.install([bridge(1)], [port(8080)])
    host.unpublish([port(8081), port(8080, protocol="udp")])
    host.remove_bridge(bridge(2))
    assert host.differences([bridge(1)], [port(8080)]) == ()
    host.remove()
    host.remove()
    never = Host(host.ns, "onggi-never")
    never.remove()
    never.close()


def test_own_changes_do_not_count_and_others_do(host: Host) -> None:
    assert host.changed() is False
    host.install([bridge(1)], [port(8080)])
    host.install([bridge(1)], [port(8080)])
    host.publish([port(8081)])
    host.unpublish([port(8080)])
    nft(host, "add table ip stranger")
    nft(host, "add table inet onggi-test-not-ours")
    nft(host, "delete table ip stranger")
    assert host.changed() is False
    for command in (
        "add element ip onggi-test any_port { tcp . 77 }",
        "add rule ip6 onggi-test forward accept",
        "add chain ip onggi-test mine",
        "flush chain ip onggi-test late",
        "delete table ip6 onggi-test",
        "flush ruleset",
    ):
        nft(host, command)
        assert host.changed() is True
        assert host.changed() is False
        host.install([bridge(1)], [port(8081)])
        assert host.changed() is False
        assert host.differences([bridge(1)], [port(8081)]) == ()
    # Somebody else's change before ours counts no more; after it, it does.
    nft(host, "flush ruleset")
    host.install([bridge(1)], [])
    nft(host, "flush chain ip onggi-test late")
    assert host.changed() is True


def test_readiness_of_the_descriptor_announces_changes(host: Host) -> None:
    import select

    host.install([], [])
    host.changed()
    assert select.select([host.fileno()], [], [], 0)[0] == []
    nft(host, "flush ruleset")
    assert select.select([host.fileno()], [], [], 0)[0] == [host.fileno()]


def test_lost_messages_make_it_look_at_the_kernel(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[bool | None] = []
    listen = tables.Watch.changed

    def changed(*arguments: Any) -> bool | None:
        heard.append(listen(*arguments))
        return heard[-1]

    monkeypatch.setattr(tables.Watch, "changed", changed)
    monkeypatch.setattr(tables, "_WATCH_BYTES", 1)
    host.install([bridge(1)], [port(8080)])
    many = ", ".join(map(str, range(5000)))
    text = f"add table ip s\nadd set ip s s {{ type mark; }}\nadd element ip s s {{ {many} }}\n"
    host.ns.command("nft", "-f", "-", stdin=text)
    assert host.changed() is False
    nft(host, "flush chain ip onggi-test late")
    host.ns.command("nft", "-f", "-", stdin=f"delete table ip s\n{text}")
    assert host.changed() is True
    assert heard == [None, None]


def test_differences_are_named(host: Host) -> None:
    host.install([bridge(1)], [port(8080)])
    nft(host, "delete element ip onggi-test any_port { tcp . 8080 }")
    nft(host, "add element ip6 onggi-test own_port { fd77::1 . udp . 9 }")
    nft(host, "flush chain ip onggi-test late")
    assert host.differences([bridge(1)], [port(8080)]) == (
        "table ip onggi-test has other rules than those installed",
        "table ip onggi-test lacks any_port tcp . 8080",
        "table ip6 onggi-test has own_port fd77::1 . udp . 9 too much",
    )
    nft(host, "delete table ip6 onggi-test")
    host.ns.command("ip", "link", "delete", host.names.turn_in)
    found = host.differences([bridge(1)], [port(8080)])
    assert "table ip6 onggi-test is missing" in found
    assert f"the links {host.names.turn_in} and {host.names.turn_out} are missing" in found


def test_changes_put_back_what_somebody_flushed(host: Host) -> None:
    host.install([bridge(1)], [port(8080)])
    nft(host, "flush ruleset")
    host.publish([port(8081)])
    assert host.differences([bridge(1)], [port(8080), port(8081)]) == ()
    nft(host, "flush ruleset")
    host.unpublish([port(8080)])
    assert host.differences([bridge(1)], [port(8081)]) == ()
    nft(host, "flush ruleset")
    host.add_bridge(bridge(2))
    assert host.differences([bridge(1), bridge(2)], [port(8081)]) == ()


def test_changes_while_others_change_tables(host: Host) -> None:
    host.install([bridge(1)], [])
    going = threading.Event()

    def others() -> None:
        while not going.is_set():
            for command in ("add table ip busy", "delete table ip busy"):
                nft(host, command)

    thread = threading.Thread(target=others)
    thread.start()
    try:
        for number in range(100):
            host.publish([port(1000 + number)])
            if number % 3:
                host.unpublish([port(1000 + number)])
    finally:
        going.set()
        thread.join()
    assert host.differences([bridge(1)], [port(1000 + n) for n in range(0, 100, 3)]) == ()
    assert host.changed() is False


def test_nothing_is_left(host: Host) -> None:
    links_before = host.ns.command("ip", "address")
    host.install([bridge(1)], [port(8080)])
    assert host.names.turn_in in host.ns.command("ip", "link")
    host.remove()
    assert host.ns.command("nft", "list", "ruleset") == ""
    assert host.ns.command("ip", "address") == links_before
    for family in ("-4", "-6"):
        assert host.ns.command("ip", family, "neigh", "show", "nud", "all") == ""
        assert "192.0.0" not in host.ns.command("ip", family, "route", "show", "table", "all")
    assert host.changed() is False


def test_rules_say_why(host: Host) -> None:
    host.install([], [], guard=True)
    text = host.ns.command("nft", "list", "ruleset")
    for words in ("published ports only", "this host is no router", "below: what containers send"):
        assert words in text


def test_missing_program_and_features_are_told(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onggi.network.tables.shutil.which", lambda *_, **__: None)
    with pytest.raises(Unsupported, match="the program nft is missing"):
        host.install([], [])
    monkeypatch.undo()
    monkeypatch.setattr("onggi.network.tables._FEATURES", (("dup", "nonsense"),))
    monkeypatch.setattr("onggi.network.firewall.ruleset", lambda *_, **__: "nonsense\n")
    with pytest.raises(Unsupported, match="nftables lacks dup for ip on this host"):
        host.install([], [])


# With real packets


@pytest.fixture
def town() -> Iterator[Town]:
    with Town() as made:
        yield made


@pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
def test_flushed_rules_are_put_back_and_work(town: Town, udp: bool) -> None:
    town.install([bridge(1)])
    web = town.container("web", bridge(1))
    town.publish(web.both(8080))
    town.host.command("nft", "flush", "ruleset")
    assert silent(town.lan, HOST4, 8080, udp=udp)
    assert town.firewall.changed()
    town.install([bridge(1)], web.both(8080))
    assert ask(town.lan, HOST4, 8080, udp=udp) == f"web {LAN4}"
    town.host.command("ip", "link", "delete", town.firewall.names.turn_in)
    assert silent(town.lan, HOST4, 8080, udp=udp)
    town.install([bridge(1)], web.both(8080))
    assert ask(town.lan, HOST4, 8080, udp=udp) == f"web {LAN4}"
    assert ask(town.host, "127.0.0.1", 8080, udp=udp) == "web 10.90.1.1"


@pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
def test_installing_again_disturbs_no_connection(town: Town, udp: bool) -> None:
    town.install([bridge(1)])
    web = town.container("web", bridge(1))
    town.publish(web.both(8080))
    kind = socket.SOCK_DGRAM if udp else socket.SOCK_STREAM
    with town.lan.socket(socket.AF_INET, kind) as sock:
        sock.connect((HOST4, 8080))
        if udp:
            sock.send(b"x")
            assert sock.recv(100)
        town.install([bridge(1)], web.both(8080))
        if udp:
            sock.send(b"x")
        assert sock.recv(100).startswith(b"web")


@pytest.mark.parametrize(
    "address", [HOST4, HOST6, "127.0.0.1"], ids=["lan ipv4", "lan ipv6", "this host"]
)
def test_datagrams_of_one_sender_follow_a_port_published_anew(town: Town, address: str) -> None:
    town.install([bridge(1)])
    one, two = town.container("one", bridge(1)), town.container("two", bridge(1))
    ns = town.host if address.startswith("127") else town.lan
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with ns.socket(family, socket.SOCK_DGRAM, 0.1) as sock:
        sock.bind(("", 4000))
        sock.connect((address, 53))

        def answer() -> str:
            try:
                sock.send(b"x")
                return sock.recv(100).decode().partition(" ")[0]
            except OSError:
                return ""

        # Already sending before anything is published, and between.
        assert answer() == ""
        town.publish([one.published(53, protocol="udp")])
        assert [answer(), answer()] == ["one", "one"]
        town.unpublish([one.published(53, protocol="udp")])
        assert [answer(), answer()] == ["", ""]
        town.publish([two.published(53, protocol="udp")])
        assert [answer(), answer()] == ["two", "two"]
        town.unpublish([two.published(53, protocol="udp")])
        town.publish([one.published(53, protocol="udp")])
        assert [answer(), answer()] == ["one", "one"]


def test_unpublishing_ends_connections_of_that_port_only(town: Town) -> None:
    town.install([bridge(1)])
    web = town.container("web", bridge(1))
    with web.ns.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("", 81))
        listener.listen()
        ports = [
            Publication("tcp", "", number, 81, ipv4=web.ipv4, ipv6=web.ipv6)
            for number in (8080, 8081)
        ]
        town.publish(ports)
        clients = []
        for number in (8080, 8081):
            client = town.lan.socket(socket.AF_INET, socket.SOCK_STREAM)
            client.connect((HOST4, number))
            clients.append((client, listener.accept()[0]))
        town.unpublish(ports[:1])
        (gone, gone_server), (there, server) = clients
        with gone, gone_server, there, server:
            there.send(b"x")
            assert server.recv(1) == b"x"
            with pytest.raises(ConnectionResetError):
                gone.send(b"x")
                gone.recv(1)


def test_datagrams_longer_than_a_packet_arrive(town: Town) -> None:
    town.install([bridge(1)])
    web = town.container("web", bridge(1))
    town.publish([web.published(8080, protocol="udp")])
    assert ask(town.lan, HOST4, 8080, udp=True, size=20000) == f"web {LAN4}"
    assert ask(town.host, "127.0.0.1", 8080, udp=True, size=20000) == "web 10.90.1.1"


def test_two_instances_side_by_side(town: Town) -> None:
    town.install([bridge(1)])
    other = Host(town.host, "onggi-other")
    with town.host.netlink() as nl:
        town.host.call(lambda: ensure_bridge(nl, bridge(2)))
    other.install([bridge(2)], [])
    mine, others = town.container("mine", bridge(1)), town.container("others", bridge(2))
    town.publish(mine.both(8080, HOST4))
    other.publish([*others.both(8080, "127.0.0.1"), *others.both(8081)])
    try:
        for udp in (False, True):
            assert ask(town.lan, HOST4, 8080, udp=udp) == f"mine {LAN4}"
            assert ask(town.lan, HOST4, 8081, udp=udp) == f"others {LAN4}"
            assert ask(town.host, "127.0.0.1", 8080, udp=udp) == "others 10.90.2.1"
            assert ask(town.host, HOST4, 8080, udp=udp) == "mine 10.90.1.1"
            assert ask(others.ns, HOST4, 8080, udp=udp) == "mine 10.90.1.1"
            assert ask(mine.ns, HOST6, 8081, udp=udp).startswith("others ")
        assert not answered([(mine.ns, others.ipv4, 80), (others.ns, mine.ipv6, 80)])
        assert not town.firewall.changed()
        assert not other.changed()
        town.host.call(town.firewall.remove)
        assert not other.changed()
        for udp in (False, True):
            assert ask(town.lan, HOST6, 8081, udp=udp) == f"others {LAN6}"
        assert silent(town.lan, HOST4, 8080)
    finally:
        other.remove()
        other.close()
    assert town.host.command("nft", "list", "ruleset") == ""


def test_host_that_forwards_because_of_us_is_no_router(town: Town) -> None:
    assert town.switched == Switched(ipv4=True, ipv6=True)
    with fresh(1) as (far,):
        from network_rig import join

        join(town.host, far, "wan", "192.0.2.1/24", "192.0.2.2/24")
        town.lan.command("ip", "route", "add", "192.0.2.0/24", "via", HOST4)
        far.command("ip", "route", "add", "default", "via", "192.0.2.1")
        for ns, address in ((town.host, "fd66::1/64"), (far, "fd66::2/64")):
            ns.command("ip", "address", "add", address, "dev", "wan", "nodad")
        town.lan.command("ip", "route", "add", "fd66::/64", "via", HOST6)
        far.command("ip", "route", "add", "fd77::/64", "via", "fd66::1")
        town.serve(far, "far", 7)
        ask(town.host, "fd66::2", 7)  # the new wire is ready for IPv6 when this has its answer
        web = None
        for guard, reached in (
            (False, ["192.0.2.2", "fd66::2"]),
            (True, []),
            (Switched(ipv4=True), ["fd66::2"]),
            (Switched(ipv6=True), ["192.0.2.2"]),
        ):
            town.install([bridge(1)], guard=guard)
            web = web or town.container("web", bridge(1))
            found = answered([(town.lan, "192.0.2.2", 7), (town.lan, "fd66::2", 7)])
            assert sorted(address for address, _ in found) == reached
            # Containers are not concerned.
            assert ask(web.ns, "192.0.2.2", 7) == "far 192.0.2.1"
            assert ask(web.ns, "fd66::2", 7, udp=True) == "far fd66::1"
            town.publish(web.both(8080))
            assert ask(town.lan, HOST4, 8080) == f"web {LAN4}"


def test_turnstile_is_not_for_programs(town: Town) -> None:
    """A program bound to it would get past the host's input rules."""
    town.install([bridge(1)])
    web = town.container("web", bridge(1))
    town.publish(web.both(8080))
    turn_in = town.firewall.names.turn_in.encode()
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with town.host.socket(socket.AF_INET, kind, 0.15) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, turn_in)
            with pytest.raises(OSError):
                sock.connect((HOST4, 8080))
                sock.send(b"x")
                assert sock.recv(100) == b""


def test_turnstile_is_repaired() -> None:
    names = names_for("onggi-test")
    with fresh(1) as (ns,), ns.netlink() as nl:

        def ensure() -> None:
            ensure_turnstile(nl, names)

        ns.call(ensure)
        shown = ns.command("ip", "address") + ns.command("ip", "neigh", "show", "nud", "all")
        ns.call(ensure)
        assert (
            ns.command("ip", "address") + ns.command("ip", "neigh", "show", "nud", "all") == shown
        )
        index = find_link(nl, names.turn_in)
        for damage in (
            f"link set {names.turn_out} down",
            f"address flush dev {names.turn_in}",
            f"neigh flush dev {names.turn_in} nud permanent",
            f"link delete {names.turn_out}",
        ):
            ns.command("ip", *damage.split())
            ns.call(ensure)
            assert turnstile_there(nl, names)
            for words in ("192.0.0.10", "fe80::9"):
                assert words in ns.command("ip", "neigh", "show", "nud", "permanent")
            assert "192.0.0.8/29" in ns.command("ip", "address")
        found = find_link(nl, names.turn_in)
        assert found is not None and index is not None
        assert found.index == index.index
        assert ns.sysctl(f"ipv4/conf/{names.turn_out}/rp_filter") == 2


# Forwarding, connection tracking


def test_forwarding_is_switched_on_and_off() -> None:
    with fresh(1) as (ns,):
        ns.sysctl("ipv4/ip_forward", 0)  # a new namespace has it as the host
        ns.command("ip", "link", "add", "up0", "type", "veth", "peer", "up1")
        ns.sysctl("ipv6/conf/up0/accept_ra", 1)
        ns.sysctl("ipv6/conf/up1/accept_ra", 0)
        assert ns.call(lambda: switch_on(ipv6=False)) == Switched(ipv4=True)
        assert ns.sysctl("ipv6/conf/all/forwarding") == 0
        assert ns.call(lambda: switch_on(ipv6=True)) == Switched(ipv6=True)
        assert ns.call(lambda: switch_on(ipv6=True)) == Switched()
        assert ns.sysctl("ipv4/ip_forward") == ns.sysctl("ipv6/conf/all/forwarding") == 1
        # Or the host would lose the default route that a router told it.
        assert ns.sysctl("ipv6/conf/up0/accept_ra") == 2
        assert ns.sysctl("ipv6/conf/up1/accept_ra") == 0
        ns.command("ip", "link", "add", "ogother", "type", "veth", "peer", "x")
        ns.call(switch_off)
        assert ns.sysctl("ipv4/ip_forward") == 1
        ns.command("ip", "link", "delete", "ogother")
        ns.call(lambda: switch_off(Switched(ipv6=True)))
        assert (ns.sysctl("ipv4/ip_forward"), ns.sysctl("ipv6/conf/all/forwarding")) == (1, 0)
        ns.call(switch_off)
        assert ns.sysctl("ipv4/ip_forward") == 0


@pytest.mark.parametrize("each", [False, True], ids=["filter", "one by one"])
def test_chosen_flows_are_forgotten(each: bool) -> None:
    rule = "chain c { type filter hook output priority 0; ct state new accept\n}"
    with fresh(1) as (ns,), ns.netlink(NETLINK_NETFILTER) as nl:
        ns.command("nft", "-f", "-", stdin=f"table inet t {{\n{rule}\n}}\n")

        def entries() -> int:
            return sum(
                1
                for family in (socket.AF_INET, socket.AF_INET6)
                for _ in nl.dump(message(0x0101, 0, bytes([family, 0, 0, 0])))
            )

        sockets = []
        for address in ("127.0.0.1", "127.0.0.2", "::1"):
            for number in (1111, 2222):
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                sockets.append(ns.socket(family, socket.SOCK_DGRAM))
                sockets[-1].sendto(b"x", (address, number))
        for sock in sockets:
            sock.close()
        assert entries() == 6
        for flows, left in (
            (Flows(socket.AF_INET, 6, "", 1111), 6),
            (Flows(socket.AF_INET, 17, "127.0.0.3", 1111), 6),
            (Flows(socket.AF_INET, 17, "127.0.0.1", 1111, "127.0.0.2", 1111), 6),
            (Flows(socket.AF_INET, 17, "127.0.0.1", 1111, "127.0.0.1", 1111), 5),
            (Flows(socket.AF_INET, 17, "", 2222, "127.0.0.2", 2222), 4),
            (Flows(socket.AF_INET6, 17, "", 1111), 3),
            (Flows(socket.AF_INET, 17, "", 1111), 2),
        ):
            if each:
                _forget_each(nl, flows)
            else:
                forget(nl, [flows])
            assert entries() == left
        forget_address(nl, "::1")
        assert entries() == 1
        forget_address(nl, "127.0.0.1")
        assert entries() == 0
