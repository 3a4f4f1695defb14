"""Containers that keel connects: the monitor runs in a network namespace of the test's own, which
plays the host; the bridge, the wires and every address are in there."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import select
import signal
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kernel.keel_run import NEEDS_ROOT_AND_BUSYBOX, Box, Task
from kernel.monitor_rig import expect, wait_until
from network_rig import Namespace, fresh
from onggi.network.attach import host_batch, inside_batch, lines
from onggi.network.bridges import ensure_bridge, links_named
from onggi.network.links import delete_link
from onggi.network.netlink import Netlink
from onggi.network.values import Attachment, Bridge
from onggi.runtime.failure import explain_failure
from onggi.runtime.host import HostFacts, probe
from onggi.runtime.plan import plan
from onggi.runtime.request import LinkSetup, Overlay, StartRequest, Supervision
from onggi.runtime.steps import (
    BindSockets,
    CloneInto,
    ConfigureNetwork,
    Execute,
    Plan,
    SendNetlink,
)
from onggi.sandbox.keel import Keel
from onggi.sandbox.messages import Failed, Started
from onggi.sandbox.monitor import Monitor
from unit.plan_cases import MOUNTS, default_config, with_process

pytestmark = NEEDS_ROOT_AND_BUSYBOX
replace = msgspec.structs.replace

BRIDGE = Bridge(name="og0", mac="02:00:00:00:00:01", ipv4="10.89.0.1/24", ipv6="fd00:1::1/64")
ETH0 = Attachment(
    interface="eth0",
    index=100,
    host_name="ov0c2",
    bridge=BRIDGE.name,
    mac="02:00:00:00:01:02",
    ipv4="10.89.0.2/24",
    ipv6="fd00:1::2/64",
    gateway4="10.89.0.1",
    gateway6="fd00:1::1",
)
DNS = ("udp:127.0.0.11:53", "tcp:127.0.0.11:53")


class Room:
    """A host of the test's own with a bridge, and containers started on it."""

    def __init__(self, keel: Keel, facts: HostFacts, box: Box, host: Namespace) -> None:
        self.keel = keel
        self.facts = facts
        self.box = box
        self.host = host
        self.bridge_index = host.call(ensured)

    def links(self, attachment: Attachment = ETH0, sockets: tuple[str, ...] = ()) -> LinkSetup:
        batch = host_batch(attachment, self.bridge_index)
        return LinkSetup(
            host_messages=batch.messages,
            pid_offsets=batch.pid_offsets,
            inside_messages=inside_batch([attachment]),
            lines=lines(attachment),
            sockets=sockets,
        )

    def plan(self, script: str, links: LinkSetup | None, **request: Any) -> Plan:
        config = replace(default_config(seccomp=None), mounts=MOUNTS[:4])
        config = with_process(config, args=("sh", "-c", script), env=("PATH=/bin",))
        fields: dict[str, Any] = {
            "supervision": Supervision(run_dir=str(self.box.run_dir), record_name=""),
            "root_mountpoint": str(self.box.place),
            "overlay": Overlay((str(self.box.layer),), str(self.box.snapshot)),
            "links": links,
        }
        return plan(config, self.facts, StartRequest(**{**fields, **request}))

    def start(self, made: Plan) -> Task:
        """The plan under way, its monitor in the test's host."""
        return self.host.call(lambda: Task(self.keel, made))

    def wires(self) -> set[str]:
        """The links on the host beside loopback and the bridge."""
        with self.host.netlink() as nl:
            return links_named(nl, "").keys() - {"lo", BRIDGE.name}


def ensured() -> int:
    with Netlink.open() as nl:
        return ensure_bridge(nl, BRIDGE)


@pytest.fixture(scope="module")
def keel() -> Iterator[Keel]:
    with Keel() as program:
        yield program


@pytest.fixture(scope="module")
def facts() -> HostFacts:
    return probe()


@pytest.fixture
def room(keel: Keel, facts: HostFacts, tmp_path: Path) -> Iterator[Room]:
    gc.collect()  # what other tests have left to be closed
    before = descriptors()
    with fresh() as (host,):
        yield Room(keel, facts, Box(tmp_path), host)
    assert descriptors() == before


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@contextlib.contextmanager
def held(*events: Started) -> Iterator[list[socket.socket]]:
    """The sockets of these events as Python's, closed at the end."""
    with contextlib.ExitStack() as stack:
        made = [socket.socket(fileno=fd) for event in events for fd in event.sockets]
        for sock in made:
            stack.enter_context(sock)
        yield made


def readable(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 10)[0])


def test_container_reaches_the_bridge_and_back(room: Room) -> None:
    script = "ls /sys/class/net; busybox ip route; read x; echo hello | busybox nc 10.89.0.1 4000"
    supervision = Supervision(run_dir=str(room.box.run_dir), record_name="", stdin=True)
    made = room.plan(script, room.links(), supervision=supervision)
    with (
        room.host.socket(socket.AF_INET, socket.SOCK_STREAM) as listener,
        room.start(made) as task,
    ):
        listener.bind(("10.89.0.1", 4000))
        listener.listen()
        task.until_started()
        assert room.wires() == {"ov0c2"}
        task.attached.sendall(b"go\n")
        connection, (address, _) = listener.accept()
        with connection:
            assert (connection.recv(64), address) == (b"hello\n", "10.89.0.2")
        out = task.finish().succeed()
    assert out.split()[:2] == ["eth0", "lo"]
    assert "default via 10.89.0.1 dev eth0" in out
    wait_until(lambda: not room.wires())


def test_queries_from_inside_reach_whoever_holds_the_sockets(room: Room) -> None:
    script = (
        "busybox nslookup web 127.0.0.11 >/dev/null & "
        "echo two | busybox nc 127.0.0.11 53; kill $!; wait"
    )
    with room.start(room.plan(script, room.links(sockets=DNS))) as task:
        with held(task.until_started()) as (udp, tcp):
            assert [s.type for s in (udp, tcp)] == [socket.SOCK_DGRAM, socket.SOCK_STREAM]
            assert not any(os.get_blocking(s.fileno()) for s in (udp, tcp))
            assert readable(udp)
            query, sender = udp.recvfrom(64)
            assert b"\3web\0" in query
            assert sender[0] == "127.0.0.1"
            assert readable(tcp)
            connection, _ = tcp.accept()
            with connection:
                connection.settimeout(10)
                assert connection.recv(64) == b"two\n"
                connection.sendall(b"second")
        assert task.finish().out == "second"


def test_a_query_waits_for_the_next_engine(room: Room) -> None:
    """An engine that dies takes nothing with it: the successor gets the same sockets."""
    script = "busybox nslookup web 127.0.0.11"
    made = room.plan(script, room.links(sockets=DNS))
    run_dirfd = os.open(room.box.run_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with room.start(made) as task:
            first = task.until_started()
            known = [os.fstat(fd).st_ino for fd in first.sockets]
            for fd in first.sockets:
                os.close(fd)
            with Monitor.connect(run_dirfd) as successor:
                successor.request_info()
                second = expect(successor, Started)
            assert second.pidfd is not None
            os.close(second.pidfd)
            with held(second) as sockets:
                assert [os.fstat(s.fileno()).st_ino for s in sockets] == known
                assert readable(sockets[0])
                assert b"\3web\0" in sockets[0].recv(64)
    finally:
        os.close(run_dirfd)


def test_ipv6_sockets(room: Room) -> None:
    sockets = ("udp:[::1]:53", "udp:127.0.0.11:53", "tcp:[fd00:1::2]:5353", "udp:[::]:1053")
    made = room.plan("sleep 100", room.links(sockets=sockets))
    with room.start(made) as task, held(task.until_started()) as bound:
        assert [s.getsockname()[:2] for s in bound] == [
            ("::1", 53),
            ("127.0.0.11", 53),
            ("fd00:1::2", 5353),
            ("::", 1053),
        ]


@pytest.mark.parametrize("reap", [False, True])
def test_the_application_has_none_of_it(room: Room, reap: bool) -> None:
    made = room.plan(
        "ls -l /proc/self/fd; echo seen; sleep 100", room.links(sockets=DNS), reap=reap
    )
    with room.start(made) as task:
        started = task.until_started()
        task.until(lambda: "seen" in task.outcome.out)
        assert "socket:" not in task.outcome.out
        # Everybody in the container: init too, where it stays.
        members = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
        for pid in (str(started.pid), *members):
            links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
            assert not [link for link in links if link.startswith("socket:")]
        with held(started):
            pass


def test_the_monitor_keeps_the_sockets_and_nothing_else(room: Room) -> None:
    def open_in_monitor(links: LinkSetup | None) -> list[str]:
        wait_until(lambda: not room.wires())  # those of the one before
        with room.start(room.plan("sleep 100", links)) as task, held(task.until_started()):
            place = f"/proc/{task.spawned_pid}/fd"
            return [os.readlink(f"{place}/{fd}").partition(":")[0] for fd in os.listdir(place)]

    alone = open_in_monitor(None)
    assert sorted(open_in_monitor(room.links())) == sorted(alone)
    assert sorted(open_in_monitor(room.links(sockets=DNS))) == sorted([*alone, "socket", "socket"])


def test_the_end_frees_the_namespace_once_the_engine_lets_go(room: Room) -> None:
    with room.start(room.plan("sleep 100", room.links(sockets=DNS))) as task:
        started = task.until_started()
        with held(started):
            os.kill(started.pid, signal.SIGKILL)
            task.finish()
            assert room.wires() == {"ov0c2"}
        wait_until(lambda: not room.wires())


def failure(room: Room, made: Plan) -> tuple[Failed, str]:
    """How a start fails, in keel's words and in a person's; nothing is left of it."""
    with room.start(made) as task:
        outcome = task.finish()
    wait_until(lambda: not room.wires())
    assert not os.path.exists(f"/proc/{task.spawned_pid}")
    assert not os.listdir(room.box.run_dir)
    assert not any(isinstance(event, Started) for event in outcome.events)
    return outcome.failed, str(explain_failure(outcome.failed, made))


def test_a_name_that_is_taken(room: Room) -> None:
    room.host.command("ip", "link", "add", "ov0c2", "type", "veth", "peer", "ov0x")
    batch = room.links()
    with room.start(room.plan("true", batch)) as task:
        failed = task.finish().failed
    assert room.wires() == {"ov0c2", "ov0x"}  # not ours: it stays
    assert (failed.opcode, failed.errno) == (SendNetlink.opcode, errno.EEXIST)
    assert failed.call == "netlink RTM_NEWLINK"
    assert failed.detail.startswith("message 1 of 3")
    text = str(explain_failure(failed, room.plan("true", batch)))
    assert "plug in eth0: ov0c2 on bridge og0" in text
    assert "a link of this name is on the host already" in text
    with room.host.netlink() as nl:
        nl.request([delete_link("ov0c2")])


def test_a_bridge_that_is_gone(room: Room) -> None:
    links = room.links()
    with room.host.netlink() as nl:
        nl.request([delete_link(BRIDGE.name)])
    failed, text = failure(room, room.plan("true", links))
    assert failed.call == "netlink RTM_NEWLINK"
    assert "the bridge" in text


def test_an_interface_that_is_gone_inside(room: Room) -> None:
    links = replace(room.links(), host_messages=b"", pid_offsets=())
    failed, text = failure(room, room.plan("true", links))
    assert (failed.opcode, failed.errno) == (ConfigureNetwork.opcode, errno.ENODEV)
    assert failed.call in ("netlink RTM_SETLINK", "netlink RTM_NEWLINK")
    assert "the interface" in text


def test_a_gateway_out_of_reach(room: Room) -> None:
    wrong = replace(ETH0, gateway4="10.1.1.1")
    failed, text = failure(room, room.plan("true", room.links(wrong)))
    assert failed.call == "netlink RTM_NEWROUTE"
    # The kernel's own words come along.
    assert "Nexthop has invalid gateway" in failed.detail
    assert "the gateway lies in no subnet" in text


@pytest.mark.parametrize(
    ("sockets", "number", "words"),
    [
        (("udp:127.0.0.11:53", "udp:127.0.0.11:53"), errno.EADDRINUSE, "is taken"),
        (("tcp:10.1.1.1:53",), errno.EADDRNOTAVAIL, "no address of the container"),
    ],
)
def test_sockets_that_cannot_be_bound(
    room: Room, sockets: tuple[str, ...], number: int, words: str
) -> None:
    failed, text = failure(room, room.plan("true", room.links(sockets=sockets)))
    assert (failed.opcode, failed.errno, failed.call) == (BindSockets.opcode, number, "bind")
    assert failed.detail == sockets[-1]
    assert words in text


def test_a_start_that_fails_after_everything_was_connected(room: Room) -> None:
    made = room.plan("true", room.links(sockets=DNS))
    last = made.steps[-1]
    assert isinstance(last, Execute)
    failed, _ = failure(
        room, replace(made, steps=(*made.steps[:-1], replace(last, candidates=("/no/such",))))
    )
    assert (failed.opcode, failed.errno) == (Execute.opcode, errno.ENOENT)


def message(kind: int, body: bytes, flags: int = 1) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 0, 0) + body


@pytest.mark.parametrize(
    ("messages", "offsets", "call", "number"),
    [
        # Neither a length that the pid makes of itself, nor a request with another kind of answer.
        (message(16, bytes(16)), (0,), "netlink", errno.EBADMSG),
        (message(18, bytes(16), 0x301), (), "netlink message of type 18", errno.EPROTO),
        (message(999, bytes(16)), (), "netlink message of type 999", errno.EOPNOTSUPP),
        (message(20, b"\2\0\0\0"), (), "netlink RTM_NEWADDR", errno.EINVAL),
    ],
)
def test_odd_messages_end_the_walk(
    room: Room, messages: bytes, offsets: Sequence[int], call: str, number: int
) -> None:
    made = room.plan("true", replace(room.links(), host_messages=messages, pid_offsets=offsets))
    failed, _ = failure(room, made)
    assert (failed.opcode, failed.call, failed.errno) == (SendNetlink.opcode, call, number)


def refuses(made: Plan, index: int, step: Any) -> Callable[[], Plan]:
    return lambda: replace(made, steps=(*made.steps[:index], step, *made.steps[index + 1 :]))


def test_keel_refuses_what_it_could_not_send_safely(room: Room) -> None:
    made = room.plan("true", room.links(sockets=DNS))
    at = {type(step): index for index, step in enumerate(made.steps)}
    assert at[CloneInto] < at[SendNetlink] < at[ConfigureNetwork] < at[BindSockets]
    for kind, changes, words in (
        (SendNetlink, {"messages": b"123"}, "these are not netlink messages"),
        (SendNetlink, {"pid_offsets": (1 << 63,)}, "a pid's place lies outside the messages"),
        (ConfigureNetwork, {"messages": message(16, b"")[:-1]}, "these are not netlink messages"),
        (BindSockets, {"sockets": ("udp:127.0.0.1",)}, "not an address to bind to"),
        (BindSockets, {"sockets": ("udp:[::1]:53",) * 9}, "too many sockets, or none"),
    ):
        changed = replace(made.steps[at[kind]], **changes)
        failed, _ = failure(room, refuses(made, at[kind], changed)())
        assert (failed.call, failed.detail, failed.step_index) == ("decode", words, at[kind])
