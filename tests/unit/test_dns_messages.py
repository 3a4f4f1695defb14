"""DNS messages: what is read, what is refused, what is answered."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onggi.network.dns import messages
from onggi.network.dns.messages import MalformedError, Query
from onggi.network.dns.upstreams import parse
from onggi.network.dns.zones import Zones


def question(
    name: str, kind: int = messages.A, *, number: int = 7, flags: int = 0x100, edns: int = 0
) -> bytes:
    head = struct.pack("!HHHHHH", number, flags, 1, 0, 0, 1 if edns else 0)
    extra = b"\0" + struct.pack("!HHIH", messages.OPT, edns, 0, 0) if edns else b""
    return head + messages.write_name(name) + struct.pack("!HH", kind, messages.IN) + extra


def test_a_question_is_read_without_regard_to_case() -> None:
    query = messages.read_query(question("Db.Example", messages.AAAA, number=300))
    assert (query.number, query.name, query.kind, query.edns) == (300, "db.example", 28, False)
    assert query.size_bytes == 512
    assert messages.read_query(question("a", edns=4096)).size_bytes == 1232
    assert messages.read_query(question("a", edns=100)).size_bytes == 512


@pytest.mark.parametrize(
    ("packet", "code"),
    [
        (b"", None),
        (question("a")[:11], None),
        (question("a", flags=0x8100), None),
        (question("a", flags=0x2900), messages.NOTIMP),
        (question("a")[:-1], messages.FORMERR),
        (question("a")[:12] + b"\xc0\x0c\0\1\0\1", messages.FORMERR),
        (question("a")[:4] + b"\0\2" + question("a")[6:], messages.FORMERR),
        (question("a")[:-1] + b"\3", messages.REFUSED),
        (question(".".join(["x" * 63] * 5)), messages.FORMERR),
    ],
)
def test_what_is_no_question_is_answered_with_its_code(packet: bytes, code: int | None) -> None:
    with pytest.raises(MalformedError) as caught:
        messages.read_query(packet)
    answer = caught.value.answer
    assert (answer is None) == (code is None)
    if answer is not None:
        assert messages.head(answer)[1] & 0x800F == 0x8000 | (code or 0)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(packet: bytes) -> None:
    with contextlib.suppress(MalformedError):
        assert isinstance(messages.read_query(packet), Query)


def test_an_answer_repeats_the_question_and_points_to_its_name() -> None:
    query = messages.read_query(question("db", edns=1232))
    answer = messages.reply(query, records=messages.addresses(("10.0.0.2",)), count=1)
    assert answer[:4] == b"\0\7\x85\x80"
    assert answer[12:].startswith(query.question + b"\xc0\x0c\0\1\0\1\0\0\0\5\0\4\x0a\0\0\2")
    assert messages.head(messages.truncated(query))[1] & 0x0200


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("5.0.89.10.in-addr.arpa", "10.89.0.5"),
        ("300.0.89.10.in-addr.arpa", None),
        ("0.89.10.in-addr.arpa", None),
        (".".join("5" + "0" * 27 + "00df") + ".ip6.arpa", "fd00::5"),
        ("example.com", None),
    ],
)
def test_reverse_names(name: str, address: str | None) -> None:
    assert messages.read_reverse(name) == address


def test_zones_know_names_aliases_and_addresses_of_their_networks_only() -> None:
    zones = Zones()
    zones.set_endpoint("n", "1", ("web1", "web"), ("10.0.0.2", "fd00::2"))
    zones.set_endpoint("n", "2", ("web2", "web"), ("10.0.0.3",))
    zones.set_endpoint("m", "3", ("web3", "web"), ("10.0.1.2",))
    turns = [zones.addresses(("n",), "web") for _ in range(2)]
    assert turns[0] == ("10.0.0.2", "fd00::2", "10.0.0.3")
    assert turns[1] == ("10.0.0.3", "10.0.0.2", "fd00::2")
    assert zones.addresses(("n",), "web3") is None
    assert zones.names(("n",), "10.0.0.3") == ("web2",)
    assert zones.names(("m",), "10.0.0.3") == ()
    zones.remove_endpoint("n", "1")
    zones.remove_endpoint("n", "1")
    assert zones.addresses(("n", "m"), "web") == ("10.0.0.3", "10.0.1.2")
    zones.remove_network("n")
    assert zones.addresses(("n",), "web") is None


def test_resolvers_of_the_host() -> None:
    text = "# x\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\nnameserver nonsense\nsearch a b\n"
    assert parse(text) == ("10.0.0.1", "fe80::1%eth0")
    assert len(parse("nameserver 10.0.0.1\n" * 9)) == 3
