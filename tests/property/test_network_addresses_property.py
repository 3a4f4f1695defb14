"""Whatever is taken: a chosen range or address is free and inside, and what was freed returns."""

from __future__ import annotations

import ipaddress
import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from onggi.errors import ResourceExhausted
from onggi.network.addresses import (
    check_address,
    choose_address,
    choose_ipv4_subnet,
    choose_ipv6_subnet,
    complete_subnet,
    derive_address,
)
from onggi.network.netlink import attribute, batch, each_attribute, message, split
from onggi.network.ranges import Network, merged, number, span, text_of


@st.composite
def networks4(draw: st.DrawFn, shortest: int = 8) -> Network:
    length = draw(st.integers(shortest, 32))
    base = draw(st.sampled_from([0x0A590000, 0x0A000000, 0xAC100000, 0xC0A80000, 0x0A5A0000]))
    value = base + draw(st.integers(0, 0xFFFFF))
    return ipaddress.ip_network((value >> (32 - length) << (32 - length), length))


@st.composite
def subnets(draw: st.DrawFn) -> str:
    if draw(st.booleans()):
        length = draw(st.integers(24, 30))
        return f"10.89.0.0/{length}"
    return f"fd00:7::/{draw(st.integers(64, 126))}"


@given(st.lists(networks4(), max_size=30))
@settings(deadline=None)
def test_chosen_range_overlaps_nothing(taken: list[Network]) -> None:
    try:
        chosen = choose_ipv4_subnet(taken)
    except ResourceExhausted:
        private = 0xA7 * 65536 + 16 * 65536 + 65536
        assert sum(last - first + 1 for first, last in merged(taken)) >= private // 256
        return
    assert chosen.is_private
    assert chosen.prefixlen == 22
    assert not any(chosen.overlaps(other) for other in taken)


@given(st.lists(networks4(shortest=16), max_size=10), st.integers(1, 20))
@settings(deadline=None)
def test_ranges_chosen_one_after_the_other_differ(taken: list[Network], count: int) -> None:
    chosen: list[Network] = []
    for _ in range(count):
        chosen.append(choose_ipv4_subnet([*taken, *chosen]))
    assert len(merged(chosen)) <= len(set(chosen)) == count


@given(st.integers(0, 12), st.text(max_size=5))
@settings(deadline=None)
def test_ipv6_ranges_stay_in_the_instances_own(count: int, network_id: str) -> None:
    chosen: list[Network] = []
    for _ in range(count):
        chosen.append(choose_ipv6_subnet("i", network_id, chosen))
    assert len(set(chosen)) == count
    assert len({c.supernet(new_prefix=48) for c in chosen}) <= 1


@given(subnets(), st.lists(st.booleans(), max_size=60), st.integers(0, 1000))
@settings(deadline=None)
def test_addresses_never_collide_and_freed_ones_return(
    text: str, moves: list[bool], seed: int
) -> None:
    subnet = complete_subnet(text)
    size = subnet.last - subnet.first + 1
    taken: list[str] = []
    last = ""
    for take in moves:
        if not take:
            if taken:
                taken.pop(seed % len(taken))
            continue
        try:
            last = choose_address(subnet, set(taken), last)
        except ResourceExhausted:
            assert len(taken) == size - 1  # all but the gateway
            freed = taken.pop()
            assert choose_address(subnet, set(taken), last) == freed
            continue
        assert last not in taken
        assert check_address(subnet, last, {}) == last
        taken.append(last)


@given(subnets(), st.text(max_size=8), st.sets(st.integers(1, 6)))
@settings(deadline=None)
def test_derived_address_is_free_and_inside(text: str, seed: str, offsets: set[int]) -> None:
    subnet = complete_subnet(text)
    taken = {text_of(subnet.first + n, subnet.version) for n in offsets}
    try:
        found = derive_address(subnet, taken, seed)
    except ResourceExhausted:
        assert subnet.last - subnet.first + 1 <= len(taken) + 1
        return
    assert found not in taken
    assert check_address(subnet, found, {}) == found


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_numbers_and_texts_of_addresses_agree(address: ipaddress.IPv4Address) -> None:
    text = text_of(int(address), address.version)
    assert number(text) == int(address) == int(ipaddress.ip_address(text))


@given(st.lists(networks4(), max_size=12))
def test_merged_spans_are_in_order_and_apart(networks: list[Network]) -> None:
    found = merged(networks)
    for (_, end), (start, _) in itertools.pairwise(found):
        assert end + 1 < start
    for network in networks:
        first, last = span(network)
        assert any(a <= first and last <= b for a, b in found)


@given(st.lists(st.tuples(st.integers(1, 0x3FFF), st.binary(max_size=40)), max_size=12))
def test_attributes_are_read_as_written(wanted: list[tuple[int, bytes]]) -> None:
    data = b"".join(attribute(kind, value) for kind, value in wanted)
    assert len(data) % 4 == 0
    assert list(each_attribute(data)) == wanted


@given(st.binary(max_size=200))
def test_any_bytes_can_be_decoded(data: bytes) -> None:
    assert sum(4 + len(value) for _, value in each_attribute(data)) <= len(data)
    assert sum(len(part) for part in split(data)) <= len(data)


@given(st.lists(st.binary(max_size=30), min_size=1, max_size=8))
def test_batches_are_split_into_what_they_were(bodies: list[bytes]) -> None:
    parts = split(batch([message(16, 0, body) for body in bodies]))
    assert [part[16 : 16 + len(body)] for part, body in zip(parts, bodies, strict=True)] == bodies
