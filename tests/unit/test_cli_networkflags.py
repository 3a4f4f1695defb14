"""`--network` and the flags beside it, and the options of `network create`."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onggi.engine.api.networks import NetworkCreateRequest, SubnetSpec
from onggi.engine.api.spec import ContainerSpec, EndpointSpec
from onggi.errors import InvalidArgument
from onggi.faces.cli import addresses, catalogue, networkflags, subnetflags
from onggi.faces.cli.options import BadValueError, parse
from onggi.faces.cli.runflags import CONTAINER
from onggi.faces.cli.runspec import container_spec


def fields(line: str) -> dict[str, Any]:
    parsed = parse("run", CONTAINER, [*line.split(), "img"], interspersed=False)
    found = container_spec(parsed, {}, "/cwd")
    msgspec.convert(found, ContainerSpec)
    del found["image"]
    return found


def endpoints(line: str) -> tuple[EndpointSpec, ...]:
    return msgspec.convert({"image": "i", **fields(line)}, ContainerSpec).endpoints


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("", {}),
        ("--network none", {"network": "none"}),
        ("--net=host", {"network": "host"}),
        ("--network container:web", {"network": "container:web"}),
        ("--network bridge", {"network": "bridge"}),
        ("--network default", {"network": "bridge"}),
        ("--network name=default", {"network": "bridge"}),
    ],
)
def test_modes(line: str, wanted: dict[str, Any]) -> None:
    assert fields(line) == wanted


def test_networks_by_name() -> None:
    assert endpoints("--network back") == (EndpointSpec("back"),)
    assert endpoints("--network back --network front --network bridge") == (
        EndpointSpec("back"), EndpointSpec("front"), EndpointSpec("bridge"),
    )  # fmt: skip
    everything = EndpointSpec(
        "back", aliases=("db", "db2"), ipv4="10.7.0.9", ipv6="fd00::9", mac="92:d0:c6:0a:29:33",
        link_local=("169.254.7.7",),
    )  # fmt: skip
    assert endpoints(
        "--network name=back,alias=db,alias=db2,ip=10.7.0.9,ip6=FD00:0::9,"
        "mac-address=92-D0-C6-0A-29-33,link-local-ip=169.254.7.7"
    ) == (everything,)
    assert endpoints(
        "--network back:alias=db,alias=db2,ip=10.7.0.9,ip6=fd00::9,mac=92:d0:c6:0a:29:33,"
        "link-local-ip=169.254.7.7"
    ) == (everything,)
    assert endpoints(
        "--network back --network-alias db --net-alias db2 --ip 10.7.0.9 --ip6 fd00::9 "
        "--mac-address 92:d0:c6:0a:29:33 --link-local-ip 169.254.7.7"
    ) == (everything,)


def test_flags_beside_it_are_of_the_first_network() -> None:
    assert endpoints("--network a --network b --network-alias x --ip 10.7.0.9") == (
        EndpointSpec("a", aliases=("x",), ipv4="10.7.0.9"), EndpointSpec("b"),
    )  # fmt: skip
    assert endpoints("--network name=a,alias=x --network-alias y") == (
        EndpointSpec("a", aliases=("x", "y")),
    )


def test_the_default_network_has_names_too() -> None:
    assert endpoints("--network-alias db") == (EndpointSpec("bridge", aliases=("db",)),)
    assert endpoints("--mac-address 92:d0:c6:0a:29:33") == (
        EndpointSpec("bridge", mac="92:d0:c6:0a:29:33"),
    )
    assert endpoints("--network bridge --ip 10.7.0.9") == (EndpointSpec("bridge", ipv4="10.7.0.9"),)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--network none -p 80", "--publish with --network none"),
        ("--network host -p 80:80", "the host's already"),
        ("--network container:web -P", "publish on the container whose network it is (web)"),
        ("--network host --network back", "no other network"),
        ("--network back --network none", "no other network"),
        ("--network host --ip 10.7.0.9", "--ip with --network host"),
        ("--network none --network-alias x", "--network-alias with --network none"),
        ("--network a --network a", "given twice"),
        ("--network bridge --network default", "given twice"),
        ("--ip 10.7.0.9", "needs a --network"),
        ("--ip6 fd00::9", "needs a --network"),
        ("--network name=a,ip=10.7.0.9 --ip 10.7.0.8", "both given"),
        ("--network container:", "no container"),
        ("--network ns:/run/x", "a path is not joined"),
        ("--network slirp4netns", "needs no slirp4netns"),
        ("--network a/b", "no network's name"),
        ("--network alias=x", "name=NETWORK"),
        ("--network name=a,name=b", "name=NETWORK"),
        ("--network name=a,colour=red", "colour=red"),
        ("--network name=a,ip=10.7.0.9,ip=10.7.0.8", "given twice"),
        ("--network name=host,alias=x", "no network that could have options"),
        ("--network name=a,gw-priority=1", "default route"),
        ("--network name=a,ip=fd00::1", "not an IPv4 address"),
        ("--network-alias a_b!", "not a host's name"),
        ("--ip 10.7.0.9/24", "without /LENGTH"),
        ("--ip 127.0.0.1", "one container can have"),
        ("--ip 239.0.0.1", "one container can have"),
        ("--ip6 ::", "one container can have"),
        ("--ip6 ff02::1", "one container can have"),
        ("--mac-address 92:d0:c6:0a:29", "six bytes"),
        ("--mac-address 01:00:5e:00:00:01", "of a group"),
        ("--mac-address 00:00:00:00:00:00", "all zeros"),
        ("--link-local-ip 10.7.0.9", "169.254.0.0/16"),
        ("--link-local-ip febf::1 --link-local-ip fec0::1", "fe80::/10"),
    ],
)
def test_refusals_are_one_line(line: str, words: str) -> None:
    with pytest.raises(InvalidArgument) as found:
        fields(line)
    assert words in str(found.value)
    assert "\n" not in str(found.value)


@given(st.ip_addresses())
def test_addresses_agree_with_pythons(address: Any) -> None:
    assert ip_address(addresses.ip_address(str(address), "")) == address
    link_local = address.is_link_local
    for read, expected in (
        (addresses.link_local, link_local),
        (addresses.ipv4, address.version == 4 and not (
            address.is_multicast or address.is_loopback or address.is_unspecified
            or int(address) >= 0xF0000000)),
        (addresses.ipv6, address.version == 6 and not (
            address.is_multicast or address.is_loopback or address.is_unspecified)),
    ):  # fmt: skip
        try:
            read(str(address))
            accepted = True
        except BadValueError:
            accepted = False
        assert accepted == expected, (read, address)


@given(st.text(max_size=30) | st.text("abnme=,:.-host1", max_size=30))
def test_any_network_is_read_or_refused(text: str) -> None:
    try:
        assert networkflags.network(text)
    except BadValueError as error:
        assert error.reason


def created(line: str) -> NetworkCreateRequest:
    verb = catalogue.load(("networks", "create", ""))
    parsed = parse("network create", verb.options, line.split())
    request = {"name": "n", **subnetflags.bridge_options(parsed.many("opt"))}
    return msgspec.convert(
        request | {"subnets": subnetflags.subnets(parsed)}, NetworkCreateRequest
    )  # fmt: skip


def test_subnets() -> None:
    assert created("").subnets == ()
    found = created(
        "--subnet 10.7.0.0/24 --subnet fd00:7::/64 --gateway fd00:7::1 --gateway 10.7.0.254 "
        "--ip-range 10.7.0.128/25 --aux-address router=10.7.0.5 --aux-address fd00:7::5 "
        "--aux-address b=10.7.0.6"
    )
    assert found.subnets == (
        SubnetSpec("10.7.0.0/24", "10.7.0.254", "10.7.0.128/25", ("10.7.0.5", "10.7.0.6")),
        SubnetSpec("fd00:7::/64", "fd00:7::1", "", ("fd00:7::5",)),
    )


def test_options_of_bridges() -> None:
    found = created(
        "-o com.docker.network.driver.mtu=1400 -o com.docker.network.bridge.name=br7 "
        "-o com.docker.network.bridge.enable_icc=true -o isolate=true"
    )
    assert (found.mtu, found.bridge) == (1400, "br7")
    assert created("--opt mtu=9000").mtu == 9000


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--subnet 10.7.0.1/24", "10.7.0.0/24"),
        ("--subnet 10.7.0.0", "not a range"),
        ("--subnet 10.7.0.0/24 --subnet 10.8.0.0/24", "one of each family"),
        ("--gateway 10.7.0.1", "needs the --subnet"),
        ("--subnet 10.7.0.0/24 --gateway 10.8.0.1", "is not of --subnet 10.7.0.0/24"),
        ("--subnet 10.7.0.0/24 --gateway 10.7.0.1 --gateway 10.7.0.2", "two --gateway"),
        ("--subnet 10.7.0.0/24 --ip-range 10.7.0.0/16", "larger"),
        ("--subnet 10.7.0.0/24 --aux-address a=10.8.0.1", "--aux-address 10.8.0.1"),
        ("--aux-address a=b", "not an IP address"),
        ("-d macvlan", "publish ports"),
        ("-d overlay", "one host"),
        ("--driver nat", "the only one"),
        ("--ipam-driver dhcp", "the only one"),
        ("-o mtu=1", "between 68 and 65535"),
        ("-o mtu", "between 68 and 65535"),
        ("-o com.docker.network.bridge.name=a/b", "1 to 15 characters"),
        ("-o com.docker.network.bridge.enable_icc=false", "only true"),
        ("-o com.docker.network.bridge.host_binding_ipv4=127.0.0.1", "with each port"),
        ("-o colour=red", "there are mtu"),
        ("--attachable", "no swarm"),
        ("--config-from x", "write the options again"),
    ],
)
def test_refusals_of_create(line: str, words: str) -> None:
    with pytest.raises(InvalidArgument) as found:
        created(line)
    assert words in str(found.value)
    assert "\n" not in str(found.value)
