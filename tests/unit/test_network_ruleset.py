"""The text of the rules, and elements as bytes and as text: pure."""

from __future__ import annotations

import re

import pytest

from onggi.network import elements
from onggi.network.conntrack import Flows, flows_before, flows_through
from onggi.network.elements import NFPROTO_IPV4, NFPROTO_IPV6, Element
from onggi.network.netlink import split
from onggi.network.ruleset import BRIDGE_PREFIX, TURN_OUT_PREFIX, Names, names_for, ruleset
from onggi.network.values import Bridge, Publication

NAMES = Names(table="onggi-x", turn_in="otin", turn_out="otout")


def text(ipv4_guard: bool = False, ipv6_guard: bool = False, ipv6: bool = True) -> str:
    return ruleset(NAMES, ipv4_guard=ipv4_guard, ipv6_guard=ipv6_guard, ipv6=ipv6)


def chain(name: str, family: str = "ip", **options: bool) -> list[str]:
    """The rules of a chain, without their comments."""
    table = text(**options).split(f"\ntable {family} onggi-x {{\n")[1].split("\n}\n")[0]
    body = table.split(f"  chain {name} {{\n")[1].split("\n  }")[0]
    return [line.strip().partition(" comment ")[0] for line in body.split("\n")]


def test_names_belong_to_one_instance() -> None:
    assert names_for("onggi").table == "onggi"
    assert names_for("onggi-12345678").table == "onggi-12345678"
    assert names_for("other").table == "onggi-other"
    assert names_for("onggitwo").table == "onggi-onggitwo"
    every = [names_for(f"onggi-{n}") for n in range(50)]
    links = {name for names in every for name in (names.turn_in, names.turn_out)}
    assert len(links) == 100
    assert all(len(name) <= 15 and not name.startswith(BRIDGE_PREFIX) for name in links)
    assert all(names.turn_out.startswith(TURN_OUT_PREFIX) for names in every)
    assert not any(names.turn_in.startswith(TURN_OUT_PREFIX) for names in every)


def test_text_replaces_what_was_there() -> None:
    assert text().startswith("add table ip onggi-x\ndelete table ip onggi-x\ntable ip onggi-x {\n")
    assert "\nadd table ip6 onggi-x\ndelete table ip6 onggi-x\ntable ip6 onggi-x {\n" in text()
    assert "ip6" not in text(ipv6=False)
    assert "$" not in text(ipv4_guard=True, ipv6_guard=True)


def test_comments_fit_into_the_kernel() -> None:
    comments = re.findall(r'comment "([^"]*)"', text(True, True))
    assert len(comments) > 40
    assert max(map(len, comments)) < 128


@pytest.mark.parametrize("family", ["ip", "ip6"])
def test_established_packets_meet_few_rules(family: str) -> None:
    assert chain("forward", family)[2] == "ct state established,related accept"
    assert chain("late", family)[1] == "ct state != { new, untracked } accept"
    assert chain("local_raw", family)[1] == 'oif != "lo" accept'
    assert chain("sources", family)[1:3] == [
        "iifname != @bridges accept",
        "ct state established,related accept",
    ]


def test_guard_is_of_a_family_and_last() -> None:
    for family, other in (("ip", "ip6"), ("ip6", "ip")):
        options = {f"{'ipv4' if family == 'ip' else 'ipv6'}_guard": True}
        assert chain("forward", family, **options)[-1] == "drop"
        assert 'iifname "og*" accept' in chain("forward", family, **options)
        assert chain("forward", other, **options) == chain("forward", other)
        assert "drop" not in chain("forward", other)


def test_published_ports_are_judged_before_they_are_copied() -> None:
    assert chain("late")[0] == "type filter hook input priority 200; policy accept;"
    assert chain("turn")[-2:] == ['dup to 192.0.0.10 device "otin"', "drop"]
    assert chain("turn", "ip6")[-2] == 'dup to fe80::9 device "otin"'
    assert chain("published")[1] == 'iifname != "otout" accept'
    assert 'oifname "otin" ct state != untracked drop' in chain("local_forged")


# Elements


def test_messages_are_as_the_kernel_defines_them() -> None:
    key, value = b"\x7f\0\0\1" + b"\x11\0\0\0\0\x35\0\0", b"\x0a\x5a\1\5\0\x50\0\0"
    udp = Element(NFPROTO_IPV4, "own_target", key, value)
    (made,) = elements.add("t", [udp])
    rest = (
        "02000000"  # NFPROTO_IPV4
        "06000100" "74000000"  # NFTA_SET_ELEM_LIST_TABLE
        "0f000200" "6f776e5f7461726765740000"  # NFTA_SET_ELEM_LIST_SET
        "2c000380" "28000180"  # NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_LIST_ELEM
        "14000180" "10000100" "7f000001" "11000000" "00350000"  # NFTA_SET_ELEM_KEY
        "10000280" "0c000100" "0a5a0105" "00500000"  # NFTA_SET_ELEM_DATA
    )  # fmt: skip
    assert made.hex() == "58000000" + "0c0a" + "0106" + 16 * "0" + rest  # REQUEST, CREATE, EXCL
    (gone,) = elements.delete("t", [udp])
    assert gone.hex() == "58000000" + "0e0a" + "0100" + 16 * "0" + rest
    assert list(elements.read(made[16:])) == [udp]
    end = Element(NFPROTO_IPV4, "subnets", b"\x0a\x5a\2\0", end=True)
    (made,) = elements.add("t", [end])
    # The key, then NFTA_SET_ELEM_FLAGS, in network order.
    assert made.hex().endswith("180001800c000180080001000a5a02000800030000000001")
    assert list(elements.read(made[16:])) == [end]
    assert elements.clear("t", NFPROTO_IPV6, "judged").hex() == (
        "28000000" "0e0a" "0100" "00000000" "00000000" "0a000000"
        "06000100" "74000000" "0b000200" "6a75646765640000"
    )  # fmt: skip


def test_publication_of_every_address() -> None:
    one = Publication("tcp", "", 8080, 80, ipv4="10.90.1.5", ipv6="fd90::5")
    key, port = b"\6\0\0\0\x1f\x90\0\0", b"\0\x50\0\0"
    six = bytes.fromhex("fd90") + bytes(13) + b"\5"
    assert list(elements.of_publication(one)) == [
        Element(NFPROTO_IPV4, "any_port", key),
        Element(NFPROTO_IPV4, "any_target", key, b"\x0a\x5a\1\5" + port),
        Element(NFPROTO_IPV6, "any_port", key),
        Element(NFPROTO_IPV6, "any_target", key, six + port),
    ]


@pytest.mark.parametrize(
    ("address", "families"),
    [
        ("0.0.0.0", {NFPROTO_IPV4}),
        ("::", {NFPROTO_IPV6}),
        ("192.0.2.1", {NFPROTO_IPV4}),
        ("2001:db8::1", {NFPROTO_IPV6}),
        ("::1", set()),
    ],
)
def test_publication_has_the_families_of_its_address(address: str, families: set[int]) -> None:
    one = Publication("udp", address, 53, 53, ipv4="10.90.1.5", ipv6="fd90::5")
    assert {element.family for element in elements.of_publication(one)} == families
    none = Publication("udp", address, 53, 53)
    assert list(elements.of_publication(none)) == []


def test_internal_bridge_has_no_range_that_leads_out() -> None:
    outer = Bridge("og1", "", ipv4="10.90.1.7/24", ipv6="fd90:1::1/64")
    assert {e.set for e in elements.of_bridge(outer)} == {"bridges", "pairs", "subnets"}
    inner = Bridge("og1", "", ipv4="10.90.1.7/24", internal=True)
    assert {e.set for e in elements.of_bridge(inner)} == {"bridges", "pairs", "internal"}
    ranges = [(e.key.hex(), e.end) for e in elements.of_bridge(outer) if e.set == "subnets"]
    assert ranges == [
        ("0a5a0100", False),
        ("0a5a0200", True),
        ("fd900001000000000000000000000000", False),
        ("fd900001000000010000000000000000", True),
    ]


def test_text_of_elements() -> None:
    bridges = [
        Bridge("og1", "", ipv4="10.90.1.1/24"),
        Bridge("og2", "", ipv4="255.255.255.1/25", internal=True),
        Bridge("og3", "", ipv4="255.255.255.129/25"),
    ]
    ports = [
        Publication("tcp", "", 8080, 80, ipv4="10.90.1.5"),
        Publication("udp", "127.0.0.1", 53, 5353, ipv4="10.90.1.5"),
        Publication("tcp", "fd77::1", 443, 443, ipv6="fd90::5"),
    ]
    found = [e for b in bridges for e in elements.of_bridge(b)]
    found += [e for p in ports for e in elements.of_publication(p)]
    four = [e for e in found if e.family == NFPROTO_IPV4]
    assert elements.as_text("t", four).splitlines() == [
        'add element ip t bridges { "og1", "og2", "og3" }',
        'add element ip t pairs { "og1" . "og1", "og2" . "og2", "og3" . "og3" }',
        "add element ip t subnets { 10.90.1.0-10.90.1.255, 255.255.255.128-255.255.255.255 }",
        'add element ip t internal { "og2" }',
        "add element ip t any_port { tcp . 8080 }",
        "add element ip t any_target { tcp . 8080 : 10.90.1.5 . 80 }",
        "add element ip t own_port { 127.0.0.1 . udp . 53 }",
        "add element ip t own_target { 127.0.0.1 . udp . 53 : 10.90.1.5 . 5353 }",
    ]
    assert "add element ip6 t own_target { fd77::1 . tcp . 443 : fd90::5 . 443 }" in (
        elements.as_text("t", found)
    )
    assert elements.describe(four[2]) == "subnets from 10.90.1.0"
    assert elements.describe(four[3]) == "subnets up to 10.90.2.0"


def test_many_elements_fit_into_messages() -> None:
    ports = [Publication("tcp", "fd77::1", n, 80, ipv6="fd90::5") for n in range(1, 2001)]
    made = elements.add("t", (e for p in ports for e in elements.of_publication(p)))
    assert len(made) == 2 * 5
    assert all(len(message) < 65536 for message in made)
    assert split(b"".join(made)) == made
    assert [e for message in made for e in elements.read(message[16:]) if e.set == "own_port"] == [
        e for p in ports for e in elements.of_publication(p) if e.set == "own_port"
    ]


def test_flows_of_a_publication() -> None:
    tcp = Publication("tcp", "", 8080, 80, ipv4="10.90.1.5", ipv6="fd90::5")
    udp = Publication("udp", "127.0.0.1", 53, 54, ipv4="10.90.1.5", ipv6="fd90::5")
    assert flows_through([tcp, udp]) == [
        Flows(2, 6, "", 8080, "10.90.1.5", 80, True),
        Flows(10, 6, "", 8080, "fd90::5", 80, True),
        Flows(2, 17, "127.0.0.1", 53, "10.90.1.5", 54, True),
    ]
    assert flows_before([tcp, udp]) == [Flows(2, 17, "127.0.0.1", 53, translated=False)]
    every = Publication("udp", "::", 53, 54, ipv4="10.90.1.5", ipv6="fd90::5")
    assert flows_before([every]) == [Flows(10, 17, "", 53, translated=False)]
