"""Networks as their users see them: names, ports, isolation, changes while a container runs."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance.rig import Onggi, until
from onggi.network.namespaces import call_in


@pytest.fixture
def pair(onggi: Onggi) -> Iterator[tuple[str, str]]:
    """Two networks; what is in them at the end is removed with them."""
    for name in ("front", "back"):
        onggi.run("network", "create", name)
    yield "front", "back"
    onggi.run("rm", "-f", *onggi.out("ps", "-aq").split(), check=False)
    onggi.run("network", "rm", "front", "back")


def server(onggi: Onggi, name: str, *words: str, text: str = "hello") -> None:
    """A container that answers every connection on port 80 with a line."""
    onggi.run("run", "-d", "--name", name, *words, "busybox",
              "nc", "-ll", "-p", "80", "-e", "echo", text)  # fmt: skip
    until(lambda: "80" in onggi.out("exec", name, "netstat", "-ltn"), "it listens")


def asked(address: str, port: int) -> str:
    """What a server says to a client on the host."""
    with socket.create_connection((address, port), 2) as client:
        return client.makefile().readline().strip()


def reaches(onggi: Onggi, client: str, target: str) -> bool:
    """Whether a container gets through to port 80 of another."""
    words = ("exec", client, "nc", "-w", "1", target, "80")
    return "hello" in onggi.run(*words, check=False).stdout


def test_the_default_bridge_gives_an_address_a_way_out_and_a_name_server(onggi: Onggi) -> None:
    shown = onggi.out(
        "run", "--rm", "busybox", "sh", "-c",
        "ip -o addr show eth0; ip route; ip -6 route show default; cat /etc/resolv.conf /etc/hosts",
    )  # fmt: skip
    assert "10." in shown and "default via" in shown and "inet6 fd" in shown
    assert "nameserver 127.0.0.11" in shown


def test_a_published_port_answers_on_every_local_address(onggi: Onggi) -> None:
    server(onggi, "web", "-p", "18080:80")
    assert [asked(a, 18080) for a in ("127.0.0.1", "::1")] == ["hello", "hello"]
    assert onggi.out("port", "web", "80") == "0.0.0.0:18080\n[::]:18080"
    assert "0.0.0.0:18080->80/tcp" in onggi.out("ps", "--format", "{{.Ports}}")
    onggi.run("rm", "-f", "web")
    until(lambda: refused("127.0.0.1", 18080), "the port is free again")


def refused(address: str, port: int) -> bool:
    try:
        asked(address, port)
    except ConnectionRefusedError:
        return True
    return False


def test_a_taken_port_is_told_and_nothing_is_left(onggi: Onggi) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = onggi.run("run", "-d", "-p", f"{port}:80", "busybox", "sleep", "9", check=False)
        assert done.returncode == 125
        assert str(port) in done.stderr
    server(onggi, "first", "-p", "18081:80")
    done = onggi.run("run", "-d", "-p", "18081:80", "busybox", "sleep", "9", check=False)
    assert "18081" in done.stderr
    assert onggi.out("ps", "-a", "--format", "{{.Names}}") == "first"
    onggi.run("rm", "-f", "first")


def test_services_find_each_other_by_name_and_alias(onggi: Onggi, pair: tuple[str, str]) -> None:
    server(onggi, "db", "--network", "front", "--network-alias", "data")
    server(onggi, "cache", "--network", "front", "--network-alias", "data")
    server(onggi, "alone", "--network", "back")
    onggi.run("run", "-d", "--name", "client", "--network", "front", "busybox", "sleep", "600")
    assert reaches(onggi, "client", "db") and reaches(onggi, "client", "data")
    both = onggi.out("exec", "client", "nslookup", "data", "127.0.0.11")
    assert all(address_of(onggi, name, "front") in both for name in ("db", "cache"))
    assert not reaches(onggi, "client", "alone")
    assert not reaches(onggi, "client", address_of(onggi, "alone", "back"))


def address_of(onggi: Onggi, name: str, network: str) -> str:
    found: str = onggi.inspect(name)["NetworkSettings"]["Networks"][network]["IPAddress"]
    return found


def test_connecting_and_disconnecting_while_it_runs(onggi: Onggi, pair: tuple[str, str]) -> None:
    server(onggi, "db", "--network", "back")
    onggi.run("run", "-d", "--name", "client", "--network", "front", "busybox", "sleep", "600")
    assert not reaches(onggi, "client", "db")
    onggi.run("network", "connect", "--alias", "me", "back", "client")
    assert reaches(onggi, "client", "db")
    assert "eth1" in onggi.out("exec", "client", "ip", "-o", "link")
    onggi.run("network", "disconnect", "front", "client")
    assert "eth0" not in onggi.out("exec", "client", "ip", "-o", "link")
    assert "default" in onggi.out("exec", "client", "ip", "route")
    onggi.run("network", "disconnect", "back", "client")
    assert not reaches(onggi, "client", "db")


def advertise(pid: int, interface: str) -> None:
    """What a router says, from the namespace of a process: send everything that leaves to me."""
    lifetime_s = 1800
    words = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, lifetime_s, 0, 0)

    def send() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw:
            index = socket.if_nametoindex(interface)
            raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
            raw.sendto(words, ("ff02::1", 0, 0, index))

    with open(f"/proc/{pid}/ns/net") as namespace:
        call_in(namespace.fileno(), send)


def heard(pid: int) -> int:
    """Router advertisements that reached the namespace of a process."""
    rows = (row.split() for row in Path(f"/proc/{pid}/net/snmp6").read_text().splitlines())
    return int(dict(rows)["Icmp6InRouterAdvertisements"])


def routes_by_routers(pid: int) -> list[str]:
    addrconf = 0x40000
    rows = Path(f"/proc/{pid}/net/ipv6_route").read_text().splitlines()
    return [row for row in rows if int(row.split()[8], 16) & addrconf and "0" * 32 + " 00" in row]


def test_no_neighbour_tells_a_container_where_its_routes_lead(onggi: Onggi) -> None:
    """On the network it starts with and on one that it is connected to."""
    onggi.run("network", "create", "--ipv6", "six")
    try:
        for name in ("victim", "rogue"):
            onggi.run("run", "-d", "--name", name, "busybox", "sleep", "600")
            onggi.run("network", "connect", "six", name)
        victim, rogue = onggi.pid("victim"), onggi.pid("rogue")
        for count, interface in enumerate(("eth0", "eth1"), 1):
            advertise(rogue, interface)
            until(lambda count=count: heard(victim) == count, "the advertisement arrives")
        assert not routes_by_routers(victim)

        setting = "/proc/sys/net/ipv6/conf/eth0/accept_ra"
        with open(f"/proc/{victim}/ns/net") as namespace:
            call_in(namespace.fileno(), lambda: Path(setting).write_text("1"))
        advertise(rogue, "eth0")
        until(lambda: bool(routes_by_routers(victim)), "without the setting it obeys")
    finally:
        onggi.run("rm", "-f", "victim", "rogue")
        onggi.run("network", "rm", "six")


def test_ports_change_while_it_runs(onggi: Onggi) -> None:
    server(onggi, "web")
    assert refused("127.0.0.1", 18082)
    onggi.run("update", "--publish", "18082:80", "web")
    assert asked("127.0.0.1", 18082) == "hello"
    onggi.run("update", "--unpublish", "18082", "web")
    assert refused("127.0.0.1", 18082)
    onggi.run("rm", "-f", "web")


def test_an_internal_network_leads_nowhere(onggi: Onggi) -> None:
    onggi.run("network", "create", "--internal", "inside")
    server(onggi, "one", "--network", "inside")
    onggi.run("run", "-d", "--name", "two", "--network", "inside", "busybox", "sleep", "600")
    assert reaches(onggi, "two", "one")
    assert "default" not in onggi.out("exec", "two", "ip", "route")
    onggi.run("rm", "-f", "one", "two")
    onggi.run("network", "rm", "inside")


def test_an_address_of_ones_own(onggi: Onggi) -> None:
    onggi.run("network", "create", "--subnet", "10.201.7.0/24", "fixed")
    words = ("--network", "fixed", "--ip", "10.201.7.77")
    onggi.run("run", "-d", "--name", "a", *words, "busybox", "sleep", "600")
    assert "10.201.7.77/24" in onggi.out("exec", "a", "ip", "addr")
    done = onggi.run("run", "--rm", *words, "busybox", "true", check=False)
    assert "10.201.7.77 is taken in network fixed by container a" in done.stderr
    onggi.run("stop", "-t", "0", "a")
    done = onggi.run("run", "--rm", *words, "busybox", "true", check=False)
    assert done.returncode == 125, "an address that was asked for stays with its container"
    assert onggi.run("network", "rm", "fixed", check=False).returncode == 1
    onggi.run("rm", "a")
    onggi.run("network", "rm", "fixed")


def test_a_killed_engine_leaves_networks_working(own_onggi: Onggi) -> None:
    onggi = own_onggi
    server(onggi, "web", "-p", "18083:80")
    onggi.run("run", "-d", "--name", "client", "busybox", "sleep", "600")
    onggi.kill_engine()
    assert asked("127.0.0.1", 18083) == "hello"
    assert reaches(onggi, "client", "web"), "its name is answered by the next engine"
    assert asked("::1", 18083) == "hello"
    onggi.run("rm", "-f", "web")
    until(lambda: refused("127.0.0.1", 18083), "the next engine takes the port away")


def test_networks_are_listed_and_inspected(onggi: Onggi, pair: tuple[str, str]) -> None:
    names = onggi.out("network", "ls", "--format", "{{.Name}}").split()
    assert names == ["back", "bridge", "front", "host", "none"]
    onggi.run("run", "-d", "--name", "a", "--network", "front", "busybox", "sleep", "600")
    (shown,) = json.loads(onggi.out("network", "inspect", "front"))
    assert [c["Name"] for c in shown["Containers"].values()] == ["a"]
    done = onggi.run("network", "rm", "front", check=False)
    assert "is used by a" in done.stderr
    assert "no such network" in onggi.run("run", "--network", "nope", "busybox", check=False).stderr
