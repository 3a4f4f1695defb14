"""Containers' interfaces on the real kernel: made by the batches that keel sends, and live."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import subprocess
from collections.abc import Iterator

import msgspec
import pytest

from network_rig import Namespace, datagram, fresh
from onggi.errors import SyscallError
from onggi.network.attach import (
    Batch,
    connect,
    disconnect,
    host_batch,
    inside_batch,
    set_default_routes,
)
from onggi.network.bridges import ensure_bridge, find_link, links_named
from onggi.network.netlink import Netlink, each_attribute, split
from onggi.network.values import Attachment, Bridge

BRIDGE = Bridge(name="og0", mac="02:00:00:00:00:01", ipv4="10.89.0.1/24", ipv6="fd00:1::1/64")
ALONE = Bridge(name="og1", mac="02:00:00:00:00:02", ipv4="10.90.0.1/24", internal=True)


def attachment(number: int, bridge: Bridge = BRIDGE, index: int = 100) -> Attachment:
    net = bridge.ipv4.rpartition(".")[0]
    both = bool(bridge.ipv6)
    return Attachment(
        interface=f"eth{index - 100}",
        index=index,
        host_name=f"ov{bridge.name[-1]}c{number}",
        bridge=bridge.name,
        mac=f"02:00:00:00:01:{number:02x}",
        ipv4=f"{net}.{number}/24",
        ipv6=f"fd00:1::{number:x}/64" if both else "",
        gateway4="" if bridge.internal else bridge.ipv4.split("/")[0],
        gateway6=bridge.ipv6.split("/")[0] if both and not bridge.internal else "",
    )


@contextlib.contextmanager
def host_with(*containers: Namespace, host: Namespace, bridge: Bridge = BRIDGE) -> Iterator[int]:
    """The index of a bridge on the host, with containers numbered from 2 attached to it."""
    index = host.call(lambda: ensured(bridge))
    for number, container in enumerate(containers, 2):
        attach(host, container, attachment(number, bridge), index)
    yield index


def ensured(bridge: Bridge) -> int:
    with Netlink.open() as nl:
        return ensure_bridge(nl, bridge)


def with_pid(batch: Batch, pid: int) -> bytes:
    data = bytearray(batch.messages)
    for offset in batch.pid_offsets:
        assert data[offset : offset + 4] == bytes(4)
        struct.pack_into("=I", data, offset, pid)
    return bytes(data)


def attach(host: Namespace, container: Namespace, what: Attachment, index: int) -> None:
    """As keel does: one batch on the host with the pid written in, one inside."""
    with host.netlink() as outside, container.netlink() as inside, container.process() as program:
        outside.request(with_pid(host_batch(what, index), program.pid))
        inside.request(inside_batch([what]))


def exchanged(sender: Namespace, receiver: Namespace, family: int, address: str) -> bool:
    kind = socket.SOCK_DGRAM
    with sender.socket(family, kind) as out, receiver.socket(family, kind, 1) as into:
        into.bind((address, 4000))
        try:
            return datagram(out, into, (address, 4000)) == b"ping"
        except TimeoutError:
            return False


def test_two_containers_and_their_host_reach_each_other() -> None:
    with fresh(3) as (host, a, b), host_with(a, b, host=host):
        # The very first packet passes: nothing waits for duplicate address detection.
        assert exchanged(a, b, socket.AF_INET6, "fd00:1::3")
        assert exchanged(a, b, socket.AF_INET, "10.89.0.3")
        for there, four, six in ((a, "10.89.0.2", "fd00:1::2"), (b, "10.89.0.3", "fd00:1::3")):
            assert exchanged(host, there, socket.AF_INET, four)
            assert exchanged(host, there, socket.AF_INET6, six)
            assert exchanged(there, host, socket.AF_INET, "10.89.0.1")
            assert exchanged(there, host, socket.AF_INET6, "fd00:1::1")
        assert exchanged(a, a, socket.AF_INET, "127.0.0.1")


def test_container_sees_what_was_described() -> None:
    with fresh(2) as (host, a), host_with(a, host=host), a.netlink() as nl:
        link = find_link(nl, "eth0")
        assert link is not None
        assert (link.index, link.mac, link.mtu, link.up) == (100, "02:00:00:00:01:02", 1500, True)
        shown = a.command("ip", "addr", "show", "eth0")
        assert "inet 10.89.0.2/24 brd 10.89.0.255" in shown
        assert "inet6 fd00:1::2/64" in shown
        assert "inet6 fe80::ff:fe00:102/64" in shown
        assert "tentative" not in shown
        assert "default via 10.89.0.1 dev eth0" in a.command("ip", "route")
        assert "default via fd00:1::1 dev eth0" in a.command("ip", "-6", "route")


def test_host_end_is_a_quiet_hairpin_port() -> None:
    with fresh(2) as (host, a), host_with(a, host=host) as index, host.netlink() as nl:
        link = find_link(nl, "ov0c2")
        assert link is not None
        assert (link.kind, link.master, link.up) == ("veth", index, True)
        shown = host.command("ip", "-d", "link", "show", "ov0c2")
        assert "hairpin on" in shown
        assert "isolated off" in shown
        assert "inet6" not in host.command("ip", "addr", "show", "ov0c2")


def test_isolated_ports_do_not_reach_each_other() -> None:
    with fresh(3) as (host, a, b), host_with(host=host) as index, host.netlink() as nl:
        for number, container in ((2, a), (3, b)):
            connect(nl, container.fd, attachment(number), index, isolated=True)
        assert not exchanged(a, b, socket.AF_INET, "10.89.0.3")
        assert exchanged(a, host, socket.AF_INET, "10.89.0.1")


def test_interfaces_of_two_networks() -> None:
    with (
        fresh(2) as (host, a),
        host_with(host=host) as first,
        host_with(host=host, bridge=ALONE) as second,
        host.netlink() as outside,
        a.netlink() as inside,
        a.process() as program,
    ):
        both = [attachment(2), attachment(2, ALONE, 101)]
        for what, index in zip(both, (first, second), strict=True):
            outside.request(with_pid(host_batch(what, index), program.pid))
        inside.request(inside_batch(both))
        assert links_named(inside, "eth") == {"eth0": 100, "eth1": 101}
        assert exchanged(a, host, socket.AF_INET, "10.90.0.1")
        assert a.command("ip", "route").count("default") == 1


def test_network_without_ipv6_gives_none() -> None:
    with fresh(2) as (host, a), host_with(a, host=host, bridge=ALONE):
        assert "inet6" not in a.command("ip", "addr", "show", "eth0")


def test_more_addresses_of_an_interface() -> None:
    extra = ("169.254.9.9/16", "fe80::77/64", "fe80::ff:fe00:102/64")
    with fresh(2) as (host, a), host_with(host=host) as index, host.netlink() as nl:
        connect(nl, a.fd, msgspec.structs.replace(attachment(2), extra=extra), index)
        shown = a.command("ip", "addr", "show", "eth0")
        for address in extra:
            assert shown.count(address) == 1


def test_live_connection_comes_and_goes() -> None:
    with fresh(3) as (host, a, b), host_with(a, host=host) as index, host.netlink() as nl:
        connect(nl, b.fd, attachment(3), index)
        assert exchanged(a, b, socket.AF_INET, "10.89.0.3")
        assert exchanged(b, a, socket.AF_INET6, "fd00:1::2")
        disconnect(nl, "ov0c3")
        with b.netlink() as inside:
            assert links_named(inside, "").keys() == {"lo"}
        disconnect(nl, "ov0c3")


def test_default_route_moves_to_another_interface() -> None:
    with fresh(2) as (host, a), host_with(a, host=host), host.netlink() as nl:
        index = host.call(lambda: ensured(ALONE))
        other = attachment(2, ALONE, 101)
        connect(nl, a.fd, other, index)
        assert "default via 10.89.0.1" in a.command("ip", "route")
        set_default_routes(a.fd, msgspec.structs.replace(other, gateway4="10.90.0.1"))
        assert a.command("ip", "route").count("default") == 1
        assert "default via 10.90.0.1 dev eth1" in a.command("ip", "route")


def test_failed_connection_leaves_nothing() -> None:
    with fresh(2) as (host, a), host_with(host=host) as index, host.netlink() as nl:
        wrong = msgspec.structs.replace(attachment(2), gateway4="10.1.1.1")
        with pytest.raises(SyscallError, match=r"newroute default via 10\.1\.1\.1") as caught:
            connect(nl, a.fd, wrong, index)
        assert "lies in no subnet" in (caught.value.hint or "")
        assert not links_named(nl, "ov")
        with a.netlink() as inside:
            assert links_named(inside, "").keys() == {"lo"}
        connect(nl, a.fd, attachment(2), index)
        with pytest.raises(SyscallError) as caught:
            connect(nl, a.fd, msgspec.structs.replace(attachment(3), host_name="ovx"), index)
        assert caught.value.errno == errno.EEXIST
        # The one that is there is not touched by a second one that failed.
        assert links_named(nl, "ov").keys() == {"ov0c2"}


def test_failing_batch_names_its_message() -> None:
    with fresh(2) as (host, a), host_with(a, host=host) as index, host.netlink() as nl:
        batch = host_batch(attachment(2), index)
        with subprocess.Popen(["true"]) as gone:
            gone.wait()
        with pytest.raises(SyscallError, match=r"newlink ov0c2.*ESRCH") as caught:
            nl.request(with_pid(batch, gone.pid))
        assert "has ended" in (caught.value.hint or "")
        with a.process() as program, pytest.raises(SyscallError, match=r"newlink ov0c2.*EEXIST"):
            nl.request(with_pid(batch, program.pid))
        with a.netlink() as inside, pytest.raises(SyscallError, match="newaddr .*on link 100"):
            inside.request(inside_batch([attachment(2)]))


def test_interface_ends_with_the_containers_namespace() -> None:
    with fresh() as (host,), host_with(host=host) as index, host.netlink() as nl:
        with fresh() as (a,):
            connect(nl, a.fd, attachment(2), index)
            assert links_named(nl, "ov").keys() == {"ov0c2"}
        # The kernel takes the namespace apart in its own time; deleting waits for nothing else.
        disconnect(nl, "ov0c2")
        assert not links_named(nl, "ov")


def test_kernel_without_ipv6_is_asked_for_none() -> None:
    only4 = msgspec.structs.replace(attachment(2), ipv6="", gateway6="")
    batches = (host_batch(only4, 1, ipv6=False).messages, inside_batch([only4], ipv6=False))
    for batch in batches:
        for request in split(batch):
            assert 26 not in dict(each_attribute(request[32:]))
    with fresh(2) as (host, a), host_with(host=host) as index, host.netlink() as nl:
        connect(nl, a.fd, only4, index, ipv6=False)
        assert exchanged(a, host, socket.AF_INET, "10.89.0.1")
