"""DNS messages made at random: what is written reads back, and no bytes do harm."""

from __future__ import annotations

import socket
import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from onggi.network.dns import messages
from onggi.network.dns.answers import own_answer
from onggi.network.dns.messages import Rejected, read_query
from onggi.network.dns.zones import Zones

LABELS = st.binary(min_size=1, max_size=63)
NAMES = st.lists(LABELS, max_size=6).filter(lambda labels: sum(map(len, labels)) + 7 <= 255)
PLAIN_LABELS = st.text("abcxyz019-_é", min_size=1, max_size=15)
PLAIN_NAMES = st.lists(PLAIN_LABELS, min_size=1, max_size=4).map(".".join)
V4 = st.binary(min_size=4, max_size=4)
V6 = st.binary(min_size=16, max_size=16)
KINDS = st.integers(1, 40) | st.integers(42, 248) | st.just(255) | st.integers(256, 65535)


@st.composite
def questions(draw: st.DrawFn, labels: st.SearchStrategy[list[bytes]] = NAMES) -> bytes:
    """What an honest client may send."""
    wire = b"".join(bytes((len(x),)) + x for x in draw(labels)) + b"\0"
    flags = draw(st.sampled_from((0, 0x100, 0x110, 0x120)))
    body = wire + struct.pack("!HH", draw(KINDS), 1)
    edns = draw(st.booleans())
    if edns:
        options = draw(st.binary(max_size=40))
        ttl = draw(st.sampled_from((0, 0x8000)))
        size = draw(st.integers(0, 65535))
        body += b"\0" + struct.pack("!HHIH", messages.OPT, size, ttl, len(options)) + options
    number = draw(st.integers(0, 65535))
    return struct.pack("!HHHHHH", number, flags, 1, 0, 0, int(edns)) + body


@given(questions())
def test_every_honest_question_is_read_and_repeated(packet: bytes) -> None:
    query = read_query(packet)
    assert packet[12:].startswith(query.question)
    assert query.name == query.question[:-4].lower()
    answer = messages.reply(query)
    assert answer[:2] == packet[:2] and answer[12:].startswith(query.question)
    assert bool(query.opt) == bool(packet[11])


@given(questions())
def test_what_is_passed_on_is_the_same_question(packet: bytes) -> None:
    query = read_query(packet)
    passed = messages.passed_on(query, b"\1\2")
    again = read_query(passed)
    assert passed[:2] == b"\1\2" and len(passed) == len(packet)
    assert (again.question, again.flags, again.opt) == (query.question, query.flags, query.opt)
    assert again.size_bytes == query.size_bytes
    differing = [at for at in range(2, len(packet)) if passed[at] != packet[at]]
    assert all(query.opt_at + 3 <= at < query.opt_at + 5 for at in differing)


@given(questions(), st.lists(V4 | V6, max_size=80), st.integers(512, 1232))
def test_an_answer_is_within_its_limit_and_whole(
    packet: bytes, addresses: list[bytes], limit_bytes: int
) -> None:
    query = read_query(packet)
    records = tuple(map(messages.address_record, addresses))
    answer = messages.reply(query, records=records, limit_bytes=limit_bytes)
    assert len(answer) <= limit_bytes
    assert messages.answers(query, packet[:2], answer) and messages.failure(answer) == 0
    assert messages.is_truncated(answer) == (answer[6:8] != len(addresses).to_bytes(2, "big"))
    assert messages.handed_back(query, answer, limit_bytes) == answer


@given(st.binary(max_size=300), questions(), st.integers(0, 400))
def test_no_bytes_do_harm(noise: bytes, packet: bytes, at: int) -> None:
    """Neither from clients nor from servers; what is let through is within its limits."""
    for data in (
        noise,
        packet[:at] + noise,
        packet[:at],
        packet[:at] + noise[:2] + packet[at + 2 :],
    ):
        try:
            query = read_query(data)
        except Rejected as rejected:
            assert not rejected.answer or rejected.answer[:2] == data[:2]
            assert len(rejected.answer) <= len(data) + 11, "no amplifier"
        else:
            assert len(query.name) <= 255 and 512 <= query.size_bytes <= 1232
    query = read_query(packet)
    answer = packet[:2] + b"\x81\x80" + packet[4:at] + noise
    if messages.answers(query, packet[:2], answer):
        messages.failure(answer)
        assert len(messages.handed_back(query, answer, 512)) <= max(512, len(query.question) + 23)


@given(PLAIN_NAMES, PLAIN_NAMES, st.lists(V4 | V6, min_size=1, max_size=4, unique=True))
def test_a_container_is_found_by_its_name_in_any_spelling(
    name: str, other: str, addresses: list[bytes]
) -> None:
    zones = Zones()
    families = {4: socket.AF_INET, 16: socket.AF_INET6}
    texts = tuple(socket.inet_ntop(families[len(a)], a) for a in addresses)
    zones.set_endpoint("n", "c", (name,), texts)
    for spelling in (name, name.upper().lower(), name + "."):
        found = zones.find(("n",), messages.wire_name(spelling))
        assert found is not None
        for length in (4, 16):
            assert set(found.addresses(length)) == {a for a in addresses if len(a) == length}
    if other != name:
        assert zones.find(("n",), messages.wire_name(other)) is None
    assert all(zones.names(("n",), address) == (name,) for address in addresses)
    zones.remove_endpoint("n", "c")
    assert zones.find(("n",), messages.wire_name(name)) is None


@given(V4 | V6)
def test_reverse_names_read_back(address: bytes) -> None:
    if len(address) == 4:
        text = ".".join(map(str, reversed(address))) + ".in-addr.arpa"
    else:
        text = ".".join(reversed(address.hex())) + ".ip6.arpa"
    assert messages.read_reverse(messages.wire_name(text)) == address


@given(st.lists(st.tuples(st.sampled_from("nm"), st.sampled_from("abc"), st.booleans(),
                          st.sets(st.sampled_from(("x", "y", "z"))),
                          st.sets(st.integers(1, 4), max_size=2)), max_size=25))  # fmt: skip
@settings(max_examples=60)
def test_zones_are_as_if_made_anew(
    steps: list[tuple[str, str, bool, set[str], set[int]]],
) -> None:
    """After any changes, answers are those of a table that holds only what is left."""
    zones = Zones()
    left: dict[tuple[str, str], tuple[set[str], set[str]]] = {}
    for network, container, put, names, numbers in steps:
        addresses = {f"10.0.{ord(container)}.{n}" for n in numbers}
        if put:
            zones.set_endpoint(network, container, tuple(names), tuple(addresses))
            left[network, container] = names, addresses
        else:
            zones.remove_endpoint(network, container)
            left.pop((network, container), None)
    for network in "nm":
        for name in "xyz":
            expected = [a for (n, _), (names, a) in left.items() if n == network and name in names]
            found = zones.find((network,), messages.wire_name(name))
            assert (found is not None) == bool(expected)
            if found is not None:
                assert set(found.addresses(4)) == {
                    socket.inet_aton(address) for some in expected for address in some
                }


@given(questions(PLAIN_NAMES.map(lambda text: [x.encode()[:60] for x in text.split(".")])))
def test_who_has_no_way_out_is_always_answered(packet: bytes) -> None:
    answer = own_answer(Zones(), (), read_query(packet), 512, leave=False)
    assert answer is not None and len(answer) <= 512
