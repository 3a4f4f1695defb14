"""Netlink messages as bytes: sizes, padding, numbers; and what is said about a failed one."""

from __future__ import annotations

import errno
import struct

import pytest

from onggi.network import links
from onggi.network.attach import (
    host_batch,
    host_index,
    inside_batch,
    lines,
    link_local_address,
)
from onggi.network.netlink import (
    NLM_F_ACK,
    NLM_F_REQUEST,
    attributes,
    batch,
    be16,
    be32,
    be64,
    each_attribute,
    flag,
    message,
    nested,
    split,
    string,
    text_of,
    u8,
    u16,
    u32,
    u64,
)
from onggi.network.netlink_text import describe, hint_for
from onggi.network.values import Attachment

ETH0 = Attachment(
    interface="eth0",
    index=100,
    host_name="ov0123456789abc",
    bridge="og0123456789",
    mac="02:00:00:00:01:02",
    ipv4="10.89.0.2/24",
    ipv6="fd00:1::2/64",
    gateway4="10.89.0.1",
    gateway6="fd00:1::1",
)
HEADER = struct.Struct("=IHHII")


def test_message_is_padded_and_says_its_true_size() -> None:
    made = message(16, 0x400, b"abcde")
    assert len(made) == 24
    assert HEADER.unpack_from(made) == (21, 16, 0x400 | NLM_F_REQUEST, 0, 0)
    assert made[16:] == b"abcde\0\0\0"


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (u8(1, 0xAB), b"\x05\0\x01\0\xab\0\0\0"),
        (u16(2, 1), struct.pack("=HHHxx", 6, 2, 1)),
        (u32(3, 7), struct.pack("=HHI", 8, 3, 7)),
        (u64(4, 7), struct.pack("=HHQ", 12, 4, 7)),
        (be16(5, 0x1234), b"\x06\0\x05\0\x12\x34\0\0"),
        (be32(6, 0x12345678), b"\x08\0\x06\0\x12\x34\x56\x78"),
        (be64(7, 1), b"\x0c\0\x07\0" + bytes(7) + b"\x01"),
        (string(8, "lo"), b"\x07\0\x08\0lo\0\0"),
        (flag(9), b"\x04\0\x09\0"),
        (nested(1, u8(2, 3)), b"\x0c\0\x01\x80\x05\0\x02\0\x03\0\0\0"),
    ],
)
def test_attributes_are_written_as_the_kernel_reads_them(made: bytes, expected: bytes) -> None:
    assert made == expected


def test_attributes_are_read_back() -> None:
    data = string(3, "eth0") + u32(4, 1500) + nested(18, string(1, "veth")) + u8(4, 1)
    assert [kind for kind, _ in each_attribute(data)] == [3, 4, 18, 4]
    found = attributes(data)
    assert text_of(found[3]) == "eth0"
    assert found[4] == b"\x01"
    assert text_of(attributes(found[18])[1]) == "veth"


@pytest.mark.parametrize(
    "data", [b"", b"\x01", b"\x00\0\x01\0", b"\xff\0\x01\0abcd", b"\x03\0\0\0"]
)
def test_unfinished_attributes_end_the_reading(data: bytes) -> None:
    assert attributes(data) == {}
    assert attributes(u8(1, 2) + data) == {1: b"\x02"}


def test_batch_is_numbered_and_each_message_acknowledged() -> None:
    parts = [message(16, 0, b"x"), message(17, 0x100, b""), message(18, 0, bytes(8))]
    made = split(batch(parts))
    assert [len(part) for part in made] == [len(part) for part in parts]
    heads = [HEADER.unpack_from(part) for part in made]
    assert [head[3] for head in heads] == [1, 2, 3]
    assert all(head[2] & NLM_F_ACK and head[2] & NLM_F_REQUEST for head in heads)
    assert heads[1][2] & 0x100


def test_pid_is_written_where_the_kernel_looks_for_it() -> None:
    made = host_batch(ETH0, 7)
    (offset,) = made.pid_offsets
    first = split(made.messages)[0]
    assert offset == len(first) - 4
    data = bytearray(made.messages)
    struct.pack_into("=I", data, offset, 4711)
    link = attributes(bytes(data[32 : len(first)]))
    assert text_of(link[links.IFLA_IFNAME]) == ETH0.host_name
    assert link[links.IFLA_MASTER] == struct.pack("=I", 7)
    info = attributes(link[links.IFLA_LINKINFO])
    assert text_of(info[links.IFLA_INFO_KIND]) == "veth"
    peer = attributes(info[links.IFLA_INFO_DATA])[1]
    assert struct.unpack_from("=i", peer, 4) == (100,)
    found = attributes(peer[16:])
    assert text_of(found[links.IFLA_IFNAME]) == "eth0"
    assert found[links.IFLA_ADDRESS].hex(":") == ETH0.mac
    assert found[19] == struct.pack("=I", 4711)


def test_batches_of_an_interface_say_what_they_do() -> None:
    outside = [describe(part, 0) for part in split(host_batch(ETH0, 7).messages)]
    assert outside == ["newlink ov0123456789abc"] * 3
    inside = [describe(part, 0) for part in split(inside_batch([ETH0]))]
    assert inside == [
        "newlink link 1",
        "newlink link 100",
        "newlink link 100",
        "newaddr 10.89.0.2/24 on link 100",
        "newaddr fd00:1::2/64 on link 100",
        "newaddr fe80::ff:fe00:102/64 on link 100",
        "newroute default via 10.89.0.1",
        "newroute default via fd00:1::1",
    ]


def test_no_gateway_no_route_and_no_network_only_loopback() -> None:
    internal = Attachment("eth0", 100, "ov1", "og1", ETH0.mac, ipv4="10.89.0.2/24")
    inside = [describe(part, 0) for part in split(inside_batch([internal]))]
    assert not [text for text in inside if "newroute" in text or ":" in text]
    assert [describe(part, 0) for part in split(inside_batch([]))] == ["newlink link 1"]


def test_batches_are_small() -> None:
    assert len(host_batch(ETH0, 7).messages) < 400
    assert len(inside_batch([ETH0] * 8)) < 4096


def test_index_on_the_host_is_steady_and_beyond_the_kernels_own() -> None:
    found = {host_index(f"ov{n:013}") for n in range(500)}
    assert len(found) == 500
    assert all(1 << 30 <= index < 1 << 31 for index in found)
    assert host_index("ov1") == host_index("ov1")


def test_lines_tell_a_person_about_an_interface() -> None:
    assert lines(ETH0) == (
        "eth0: ov0123456789abc on bridge og0123456789, MAC 02:00:00:00:01:02, MTU 1500",
        "eth0: address 10.89.0.2/24, everything else through 10.89.0.1",
        "eth0: address fd00:1::2/64, everything else through fd00:1::1",
    )
    alone = Attachment(
        "eth1", 101, "ov1", "og1", ETH0.mac, ipv4="10.9.0.2/24", extra=("fe80::7/64",)
    )
    assert lines(alone)[1:] == (
        "eth1: address 10.9.0.2/24, no way out",
        "eth1: address fe80::7/64",
    )


def test_link_local_address_of_a_mac() -> None:
    assert link_local_address("02:42:ac:11:00:02") == "fe80::42:acff:fe11:2/64"
    assert link_local_address("52:54:00:12:34:56") == "fe80::5054:ff:fe12:3456/64"


@pytest.mark.parametrize(
    ("data", "protocol", "text"),
    [
        (links.delete_link("og1"), 0, "dellink og1"),
        (links.get_link(3), 0, "getlink link 3"),
        (links.delete_address(3, "10.0.0.1/8"), 0, "deladdr 10.0.0.1/8 on link 3"),
        (links.add_route(3, "10.7.0.0/16"), 0, "newroute 10.7.0.0/16 via nothing"),
        (links.add_neighbour(3, "fe80::9", ETH0.mac), 0, "newneigh fe80::9 on link 3"),
        (message(0x0A0C, 0, b"\x02\0\0\0" + string(1, "t") + string(2, "s")), 12,
         "nft newsetelem ip t s"),
        (message(0x0102, 0, bytes(4)), 12, "delconntrack"),
        (message(0x10, 0, bytes(4)), 12, "nft transaction"),
        (message(99, 0, b""), 0, "message of kind 99"),
        (message(16, 0, b""), 0, "message of kind 16"),
        (b"", 0, "message"),
    ],
)  # fmt: skip
def test_messages_are_named(data: bytes, protocol: int, text: str) -> None:
    assert describe(data, protocol) == text


def test_hints_say_what_to_do() -> None:
    assert "CAP_NET_ADMIN" in (hint_for("newlink og1", errno.EPERM) or "")
    assert "modprobe bridge" in (hint_for("newlink og1", errno.EOPNOTSUPP) or "")
    assert "1,023 ports" in (hint_for("newlink og1", errno.EXFULL) or "")
    assert hint_for("newaddr 10.0.0.1/8", errno.EEXIST) is None
