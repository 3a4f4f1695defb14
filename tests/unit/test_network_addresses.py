"""Ranges and addresses: what is chosen, what is refused, and how that is said."""

from __future__ import annotations

import ipaddress

import pytest

from onggi.errors import Conflict, InvalidArgument, ResourceExhausted
from onggi.network.addresses import (
    Subnet,
    check_address,
    check_link_local,
    check_mac,
    choose_address,
    choose_ipv4_subnet,
    choose_ipv6_subnet,
    complete_subnet,
    derive_address,
    derive_mac,
)
from onggi.network.ranges import Network
from onggi.network.routes import nameservers


def nets(*texts: str) -> list[Network]:
    return [ipaddress.ip_network(text) for text in texts]


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        ((), "10.89.0.0/22"),
        (("10.89.0.0/22",), "10.89.4.0/22"),
        (("10.89.0.0/22", "10.89.8.0/24"), "10.89.4.0/22"),
        (("10.89.0.77/32",), "10.89.4.0/22"),
        (("10.89.0.0/16",), "10.90.0.0/22"),
        (("10.88.0.0/15",), "10.90.0.0/22"),
        (("10.0.0.0/8",), "172.16.0.0/22"),
        (("10.0.0.0/8", "172.16.0.0/12"), "192.168.0.0/22"),
        (("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/17"), "192.168.128.0/22"),
        (("fd00::/8",), "10.89.0.0/22"),
    ],
)
def test_first_free_private_range(taken: tuple[str, ...], expected: str) -> None:
    assert str(choose_ipv4_subnet(nets(*taken))) == expected


def test_pools_of_the_administrator() -> None:
    pools = ("10.1.0.0/21", "fd00:7::/63", "10.2.0.0/28")
    chosen: list[Network] = []
    for _ in range(3):
        chosen.append(choose_ipv4_subnet(chosen, pools))
    assert [str(c) for c in chosen] == ["10.1.0.0/22", "10.1.4.0/22", "10.2.0.0/28"]
    with pytest.raises(ResourceExhausted, match="no range is free for an IPv4 network") as caught:
        choose_ipv4_subnet(chosen, pools)
    assert "pools" in (caught.value.hint or "")
    six = [choose_ipv6_subnet("i", "n", (), pools)]
    six.append(choose_ipv6_subnet("i", "n", six, pools))
    assert [str(c) for c in six] == ["fd00:7::/64", "fd00:7:0:1::/64"]
    with pytest.raises(ResourceExhausted, match="IPv6"):
        choose_ipv6_subnet("i", "n", six, pools)
    with pytest.raises(InvalidArgument, match="pool"):
        choose_ipv4_subnet((), ("10.1.2.3/16",))


def test_ipv6_range_belongs_to_the_instance() -> None:
    a, b = (choose_ipv6_subnet("instance", network, ()) for network in ("a", "b"))
    assert a != b
    assert a == choose_ipv6_subnet("instance", "a", ())
    assert a.prefixlen == 64
    assert a.supernet(new_prefix=48) == b.supernet(new_prefix=48)
    assert a.subnet_of(ipaddress.ip_network("fd00::/8"))  # type: ignore[arg-type]
    assert choose_ipv6_subnet("other", "a", ()).supernet(new_prefix=48) != a.supernet(new_prefix=48)
    again = choose_ipv6_subnet("instance", "a", [a])
    assert again != a
    assert again.supernet(new_prefix=48) == a.supernet(new_prefix=48)
    with pytest.raises(ResourceExhausted):
        choose_ipv6_subnet("instance", "a", [a.supernet(new_prefix=48)])


def test_subnet_is_completed() -> None:
    subnet = complete_subnet("10.89.7.0/24")
    assert subnet.gateway == "10.89.7.1"
    assert (subnet.first, subnet.last) == (0x0A590701, 0x0A5907FE)
    assert subnet.with_length("10.89.7.9") == "10.89.7.9/24"
    six = complete_subnet("fd00:7::/64", gateway="FD00:7:0::00AA")
    assert six.gateway == "fd00:7::aa"
    part = complete_subnet("10.89.0.0/16", range="10.89.4.0/24", reserved=("10.89.4.9",))
    assert choose_address(part, ()) == "10.89.4.0"
    assert part.reserved == {"10.89.0.1", "10.89.4.9"}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("10.89.7.0",), "no prefix length"),
        (("10.89.7.5/24",), "bits behind its prefix — write 10.89.7.0/24"),
        (("nonsense/24",), "invalid subnet 'nonsense/24'"),
        (("10.0.0.0/33",), "invalid subnet"),
        (("10.0.0.0/31",), "too small"),
        (("fd00::/127",), "too small"),
        (("0.0.0.0/0",), "too large"),
        (("127.1.0.0/16",), "loopback"),
        (("169.254.1.0/24",), "link-local"),
        (("224.1.0.0/16",), "multicast"),
        (("240.0.0.0/8",), "set aside"),
        (("192.0.0.0/24",), "set aside"),
        (("ff00:1::/64",), "multicast"),
        (("fe80::/64",), "link-local"),
        (("::ffff:10.0.0.0/112",), "set aside"),
        (("10.89.7.0/24", "10.89.8.1"), "gateway 10.89.8.1 lies outside 10.89.7.0/24"),
        (("10.89.7.0/24", "10.89.7.0"), "is the address of 10.89.7.0/24 itself"),
        (("10.89.7.0/24", "10.89.7.255"), "is the broadcast address"),
        (("10.89.7.0/24", "fd00::1"), "lies outside"),
        (("10.89.7.0/24", "x"), "invalid gateway 'x'"),
        (("10.89.7.0/24", "", "10.89.8.0/25"), "range 10.89.8.0/25 lies outside subnet"),
        (("10.89.7.0/24", "", "10.89.0.0/16"), "lies outside"),
        (("10.89.7.0/24", "", "10.89.7.255/32"), "holds no address"),
        (("10.89.7.0/24", "", "", ("10.1.1.1",)), "reserved address 10.1.1.1 lies outside"),
        (("fd00::/64", "fe80::1%eth0"), "names a link"),
    ],
)
def test_subnets_that_cannot_be(arguments: tuple[str, ...], text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        complete_subnet(*arguments)  # type: ignore[arg-type]
    assert text in str(caught.value)


def test_overlap_names_the_other_network() -> None:
    others = {"web": nets("10.89.0.0/16", "fd00:1::/64"), "db": nets("10.90.1.0/24")}
    with pytest.raises(Conflict, match=r"10\.90\.0\.0/16 overlaps 10\.90\.1\.0/24 of network db"):
        complete_subnet("10.90.0.0/16", others=others)
    with pytest.raises(Conflict, match="of network web"):
        complete_subnet("fd00:1::8:0/112", others=others)
    assert complete_subnet("10.91.0.0/16", others=others)


def test_addresses_are_given_out_in_turn() -> None:
    subnet = complete_subnet("10.89.7.0/29", reserved=("10.89.7.3",))
    taken: set[str] = set()
    last = ""
    for expected in ("10.89.7.2", "10.89.7.4", "10.89.7.5", "10.89.7.6"):
        last = choose_address(subnet, taken, last)
        assert last == expected
        taken.add(last)
    with pytest.raises(ResourceExhausted, match=r"10\.89\.7\.0/29 is free: 4 are in use"):
        choose_address(subnet, taken | {"10.89.9.9", "fd00::2"}, last)
    taken.remove("10.89.7.4")
    assert choose_address(subnet, taken, last) == "10.89.7.4"


def test_freed_address_is_not_the_next_one() -> None:
    subnet = complete_subnet("10.89.7.0/24")
    first = choose_address(subnet, ())
    assert choose_address(subnet, (), first) != first


def test_last_of_another_range_is_no_place_to_begin() -> None:
    subnet = complete_subnet("10.89.7.0/24")
    assert choose_address(subnet, (), "192.168.1.1") == "10.89.7.2"
    assert choose_address(subnet, (), "fd00::1") == "10.89.7.2"


def test_derived_addresses_are_steady() -> None:
    subnet = complete_subnet("fd00:7::/64")
    address = derive_address(subnet, (), "container", "network")
    assert address == derive_address(subnet, (), "container", "network")
    assert address != derive_address(subnet, (), "container", "other")
    other = derive_address(subnet, {address}, "container", "network")
    assert int(ipaddress.ip_address(other)) == int(ipaddress.ip_address(address)) + 1


def test_address_of_a_user_is_checked() -> None:
    subnet = complete_subnet("10.89.7.0/24", reserved=("10.89.7.9",))
    assert check_address(subnet, "10.89.7.77", {}) == "10.89.7.77"
    for address, text in (
        ("10.89.8.1", "lies outside 10.89.7.0/24"),
        ("10.89.7.0", "itself"),
        ("10.89.7.255", "broadcast"),
        ("10.89.7.1", "gateway"),
        ("fd00::1", "outside"),
        ("10.89.7.300", "invalid address"),
        ("", "invalid address"),
    ):
        with pytest.raises(InvalidArgument, match=text):
            check_address(subnet, address, {})
    with pytest.raises(Conflict, match="reserved"):
        check_address(subnet, "10.89.7.9", {})
    with pytest.raises(Conflict, match=r"10\.89\.7\.8 is taken by container web"):
        check_address(subnet, "10.89.7.8", {"10.89.7.8": "container web"})


def test_ipv6_is_compared_in_one_form() -> None:
    subnet = complete_subnet("fd00:7::/64")
    assert check_address(subnet, "FD00:7:0:0::00B", {}) == "fd00:7::b"
    with pytest.raises(Conflict):
        check_address(subnet, "fd00:7:0:0:0:0:0:b", {"fd00:7::b": "x"})
    # The last address of an IPv6 range is one like any other.
    assert check_address(subnet, "fd00:7::ffff:ffff:ffff:ffff", {})


def test_link_local_addresses_get_their_length() -> None:
    assert check_link_local("169.254.7.7") == "169.254.7.7/16"
    assert check_link_local("FE80::7") == "fe80::7/64"
    with pytest.raises(InvalidArgument, match="not a link-local"):
        check_link_local("10.0.0.1")


def test_mac_addresses() -> None:
    mac = derive_mac("container", "network")
    assert mac == derive_mac("container", "network")
    assert mac != derive_mac("network", "container")
    assert mac.startswith("02:")
    assert check_mac(mac) == mac
    assert check_mac("02-42-AC-11-00-02") == "02:42:ac:11:00:02"
    for wrong in ("", "02:42:ac:11:00", "02:42:ac:11:00:0g", "0242ac110002", "2:42:ac:11:0:2"):
        with pytest.raises(InvalidArgument, match="invalid MAC"):
            check_mac(wrong)
    for wrong in ("01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"):
        with pytest.raises(InvalidArgument, match="does not belong to one interface"):
            check_mac(wrong)


def test_a_thousand_leases_are_no_matter() -> None:
    subnet: Subnet = complete_subnet("10.89.0.0/16")
    looked = 0

    class Counting(set[str]):
        def __contains__(self, item: object) -> bool:
            nonlocal looked
            looked += 1
            return super().__contains__(item)

    taken, last = Counting(), ""
    for _ in range(3000):
        last = choose_address(subnet, taken, last)
        taken.add(last)
    assert looked < 3010


def test_nameservers_are_ranges_of_one_address() -> None:
    text = "# x\nnameserver 10.5.5.5\n nameserver\tfd00::53\nnameserver 127.0.0.53\nnameserver x\n"
    assert nameservers(text.replace("\t", " ")) == frozenset(nets("10.5.5.5/32", "fd00::53/128"))
    assert nameservers("nameserver fe80::1%eth0\nsearch a\n") == frozenset()
