"""Messages about links on the real kernel, in network namespaces of the test's own."""

from __future__ import annotations

import errno
import subprocess

import pytest

from network_rig import Namespace, fresh, join
from onggi.errors import Conflict, SyscallError
from onggi.network import links, routes
from onggi.network.bridges import (
    LINK_LOCAL_GATEWAY,
    ensure_bridge,
    find_link,
    link_addresses,
    links_named,
    remove_bridge,
)
from onggi.network.namespaces import call_in, netlink_in, sockets_in
from onggi.network.netlink import NETLINK_NETFILTER, Netlink, message, string
from onggi.network.values import Bridge

BRIDGE = Bridge(
    name="ogtest", mac="02:00:00:00:00:01", mtu=1400, ipv4="10.89.0.1/24", ipv6="fd00:1::1/64"
)


def ensured(ns: Namespace, bridge: Bridge = BRIDGE) -> int:
    def run() -> int:
        with Netlink.open() as nl:
            return ensure_bridge(nl, bridge)

    return ns.call(run)


def test_bridge_is_made_as_described() -> None:
    with fresh() as (ns,), ns.netlink() as nl:
        index = ensured(ns)
        link = find_link(nl, "ogtest")
        assert link is not None
        assert (link.index, link.kind, link.mac) == (index, "bridge", BRIDGE.mac)
        assert (link.mtu, link.up) == (1400, True)
        assert set(link_addresses(nl, index)) == {BRIDGE.ipv4, BRIDGE.ipv6, LINK_LOCAL_GATEWAY}
        assert ns.sysctl("ipv6/conf/ogtest/accept_ra") == 0
        shown = ns.command("ip", "-d", "link", "show", "ogtest")
        for words in ("stp_state 0", "forward_delay 0", "mcast_snooping 0", "addrgenmode none"):
            assert words in shown
        assert "nf_call_iptables 0" in shown
        shown = ns.command("ip", "addr", "show", "ogtest")
        assert "tentative" not in shown
        assert "brd 10.89.0.255" in shown


def test_ensuring_twice_changes_nothing() -> None:
    with fresh() as (ns,):
        index = ensured(ns)
        before = ns.command("ip", "addr", "show", "ogtest")
        assert ensured(ns) == index
        assert ns.command("ip", "addr", "show", "ogtest") == before


@pytest.mark.parametrize(
    "damage",
    [
        "link set ogtest down",
        "link set ogtest mtu 1280",
        "link set ogtest address 02:00:00:00:00:99",
        "addr del 10.89.0.1/24 dev ogtest",
        "addr del fd00:1::1/64 dev ogtest",
        "addr del fe80::1/64 dev ogtest",
        "addr add 10.1.1.1/24 dev ogtest",
        "addr flush dev ogtest",
    ],
)
def test_bridge_is_repaired(damage: str) -> None:
    with fresh() as (ns,), ns.netlink() as nl:
        index = ensured(ns)
        ns.command("ip", *damage.split())
        assert ensured(ns) == index
        link = find_link(nl, "ogtest")
        assert link is not None
        assert (link.mac, link.mtu, link.up) == (BRIDGE.mac, 1400, True)
        assert set(link_addresses(nl, index)) == {BRIDGE.ipv4, BRIDGE.ipv6, LINK_LOCAL_GATEWAY}


def test_bridge_follows_a_changed_description() -> None:
    with fresh() as (ns,), ns.netlink() as nl:
        index = ensured(ns)
        only4 = Bridge(name="ogtest", mac="02:00:00:00:00:02", mtu=9000, ipv4="10.90.0.1/24")
        assert ensured(ns, only4) == index
        link = find_link(nl, "ogtest")
        assert link is not None
        assert (link.mac, link.mtu) == (only4.mac, 9000)
        assert link_addresses(nl, index) == ("10.90.0.1/24",)


def test_mtu_of_a_bridge_does_not_follow_its_ports() -> None:
    with fresh() as (ns,), ns.netlink() as nl:
        index = ensured(ns)
        nl.request([links.create_veth("p0", 9000, master=index, peer="p1")])
        nl.request([links.delete_link("p0")])
        link = find_link(nl, "ogtest")
        assert link is not None
        assert link.mtu == 1400


def test_name_taken_by_another_kind_is_told() -> None:
    with fresh() as (ns,), ns.netlink() as nl:
        nl.request([links.create_veth("ogtest", 1500, peer="other")])
        with pytest.raises(Conflict, match="ogtest is a veth, not a bridge") as caught:
            ensured(ns)
        assert "ip link delete ogtest" in (caught.value.hint or "")


def test_bridge_is_removed_once_and_again() -> None:
    with fresh() as (ns,), ns.netlink() as nl:
        ensured(ns)
        remove_bridge(nl, "ogtest")
        assert find_link(nl, "ogtest") is None
        remove_bridge(nl, "ogtest")


def test_links_by_the_beginning_of_their_name() -> None:
    with fresh() as (ns,), ns.netlink() as nl:
        index = ensured(ns)
        nl.request([links.create_veth("ogv", 1500, peer="xv"), links.set_alias("xv", "a text")])
        found = links_named(nl, "og")
        assert set(found) == {"ogtest", "ogv"}
        assert links_named(nl, "og", kind="bridge") == {"ogtest": index}
        assert links_named(nl, "").keys() == {"lo", "ogtest", "ogv", "xv"}
        assert "alias a text" in ns.command("ip", "link", "show", "xv")


def test_many_links_are_listed_whole() -> None:
    with fresh() as (ns,), ns.netlink() as nl:
        nl.request([links.create_veth(f"v{n:03}", 1500, peer=f"w{n:03}") for n in range(100)])
        assert len(links_named(nl, "v")) == 100


def test_failures_name_the_message_and_say_why() -> None:
    with fresh() as (ns,), ns.netlink() as nl:
        make = links.create_bridge("ogtest", BRIDGE.mac)
        nl.request([make])
        with pytest.raises(SyscallError) as caught:
            nl.request([links.set_up(links.LOOPBACK_INDEX), make, links.set_up("nothing")])
        assert caught.value.errno == errno.EEXIST
        assert "newlink ogtest" in str(caught.value)
        assert "another link has this name" in (caught.value.hint or "")
        with pytest.raises(SyscallError, match=r"newlink nothing.*ENODEV"):
            nl.request([links.set_up("nothing")])
        with pytest.raises(SyscallError, match=r"newaddr 10\.1\.1\.1/24 on link 4711"):
            nl.request([links.add_address(4711, "10.1.1.1/24")])
        with pytest.raises(SyscallError, match=r"newroute default via 10\.9\.9\.9.*ENETUNREACH"):
            nl.request([links.default_route(links.LOOPBACK_INDEX, "10.9.9.9")])
        # A failed request leaves nothing unread: the next answer is the next one's.
        assert links_named(nl, "ogt").keys() == {"ogtest"}


def test_kernel_says_why_in_its_own_words() -> None:
    with fresh() as (ns,), ns.netlink() as nl:
        wrong = message(
            links.RTM_NEWLINK,
            0x600,
            bytes(16) + string(3, "x") + b"\x14\0\x12\0" + string(1, "nosuchkind"),
        )
        with pytest.raises(SyscallError) as caught:
            nl.request([wrong])
        assert caught.value.errno == errno.EOPNOTSUPP
        assert "Unknown device type" in str(caught.value)


def test_batch_longer_than_the_receive_buffer_is_acknowledged() -> None:
    with fresh() as (ns,), ns.netlink() as nl:
        index = ensured(ns)
        many = [links.add_address(index, f"10.77.{n >> 8}.{n & 255}/32") for n in range(600)]
        nl.request(many)
        assert len(link_addresses(nl, index)) == 603
        with pytest.raises(SyscallError, match=r"newaddr 10\.77\.0\.0/32.*EEXIST"):
            nl.request(many)
        with pytest.raises(SyscallError, match=r"newaddr 10\.77\.0\.7/32"):
            nl.request(links_batch(index))


def links_batch(index: int) -> bytes:
    good, bad = links.set_up(index), links.add_address(index, "10.77.0.7/32")
    return good + bad


def test_transaction_is_all_or_nothing() -> None:
    table, missing = message(0x0A00, 0x400, b"\x02\0\0\0" + string(1, "t")), b"\x02\0\0\0"
    with fresh() as (ns,), ns.netlink(NETLINK_NETFILTER) as nl:
        with pytest.raises(SyscallError, match=r"nft deltable ip none.*ENOENT"):
            nl.transact([table, message(0x0A02, 0, missing + string(1, "none"))])
        assert "table" not in ns.command("nft", "list", "tables")
        nl.transact([table])
        assert "table ip t" in ns.command("nft", "list", "tables")
        nl.transact([])


def test_subscriber_hears_of_links() -> None:
    def subscribe() -> Netlink:
        return Netlink.open(groups=(1,))

    with fresh() as (ns,), ns.call(subscribe) as heard, ns.netlink() as nl:
        assert heard.receive() == []
        nl.request([links.create_veth("a0", 1500, peer="a1")])
        assert {kind for kind, _ in heard.receive()} == {links.RTM_NEWLINK}
        assert heard.receive() == []


def test_subscriber_is_told_that_it_missed_something() -> None:
    with fresh() as (ns,), ns.call(lambda: Netlink.open(groups=(1,))) as heard, ns.netlink() as nl:
        nl.request([links.create_veth("a0", 1500, peer="a1")])
        for _ in range(40):
            nl.request([links.set_up("a0", up) for up in (True, False) * 20])
        with pytest.raises(SyscallError) as caught:
            heard.receive()
        assert caught.value.errno == errno.ENOBUFS
        heard.receive()


def test_other_senders_are_not_believed() -> None:
    with fresh() as (ns,), ns.netlink() as nl, ns.netlink() as forger:
        nl.query(links.get_link(links.LOOPBACK_INDEX))  # binds it
        port = nl._socket.getsockname()[0]
        forger._socket.sendto(links.set_up(7), (port, 0))
        assert nl.receive() == []


def test_calls_leave_the_callers_namespace_alone() -> None:
    before = subprocess.check_output(["readlink", "/proc/self/ns/net"])
    with fresh() as (ns,):
        inside = call_in(ns.fd, lambda: subprocess.check_output(["readlink", "/proc/self/ns/net"]))
        assert inside != before
        assert subprocess.check_output(["readlink", "/proc/self/ns/net"]) == before
        with netlink_in(ns.fd) as nl:
            assert links_named(nl, "").keys() == {"lo"}
        with pytest.raises(ZeroDivisionError):
            call_in(ns.fd, lambda: 1 // 0)
    with open("/dev/null", "rb") as file, pytest.raises(SyscallError, match="setns"):
        call_in(file.fileno(), lambda: None)


def test_sockets_belong_to_the_namespace() -> None:
    import socket

    with fresh() as (ns,):
        kinds = ((socket.AF_INET, socket.SOCK_DGRAM), (socket.AF_INET6, socket.SOCK_STREAM))
        four, six = sockets_in(ns.fd, kinds)
        with four, six:
            four.bind(("127.0.0.1", 53))
            assert "127.0.0.1:53" in ns.command("ss", "-lun")
            assert four.getblocking() is False
            assert six.family == socket.AF_INET6
        with pytest.raises(SyscallError):
            sockets_in(ns.fd, (kinds[0], (4711, socket.SOCK_DGRAM)))


def test_host_ranges_and_way_out() -> None:
    with fresh(2) as (host, router), host.netlink() as nl:
        assert routes.used_ranges(nl) == frozenset()
        assert routes.default_mtu(nl) == 1500
        join(host, router, "upl", "192.0.2.2/24", "192.0.2.1/24")
        host.command("ip", "addr", "add", "fd00:9::2/64", "dev", "upl")
        host.command("ip", "link", "set", "upl", "mtu", "1380")
        host.command("ip", "route", "add", "default", "via", "192.0.2.1")
        host.command("ip", "route", "add", "10.200.0.0/16", "via", "192.0.2.1", "table", "77")
        host.command("ip", "route", "add", "0.0.0.0/1", "via", "192.0.2.1")
        host.command("ip", "route", "add", "blackhole", "172.20.0.0/16")
        assert {str(found) for found in routes.used_ranges(nl)} == {
            "192.0.2.0/24",
            "10.200.0.0/16",
            "172.20.0.0/16",
            "fd00:9::/64",
        }
        assert routes.default_mtu(nl) == 1380
        assert host.call(routes.has_ipv6) is True
        host.sysctl("ipv6/conf/all/disable_ipv6", 1)
        assert host.call(routes.has_ipv6) is False
        assert host.call(routes.kernel_has_ipv6) is True


def test_default_route_of_the_lowest_metric_and_of_several_ways() -> None:
    with fresh(2) as (host, router), host.netlink() as nl:
        join(host, router, "wan1", "192.0.2.2/24", "192.0.2.1/24")
        join(host, router, "wan2", "198.51.100.2/24", "198.51.100.1/24")
        host.command("ip", "link", "set", "wan1", "mtu", "1410")
        host.command("ip", "link", "set", "wan2", "mtu", "1420")
        host.command("ip", "route", "add", "default", "via", "192.0.2.1", "metric", "200")
        host.command("ip", "route", "add", "default", "via", "198.51.100.1", "metric", "100")
        assert routes.default_mtu(nl) == 1420
        host.command(
            "ip",
            "route",
            "add",
            "default",
            "metric",
            "5",
            "nexthop",
            "via",
            "192.0.2.1",
            "nexthop",
            "via",
            "198.51.100.1",
        )
        assert routes.default_mtu(nl) == 1410
