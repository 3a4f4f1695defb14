"""The name server on real sockets: its own names, other servers that are honest, slow, or lie, and
clients that ask too much."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest

from onggi.network.dns import listener, messages
from onggi.network.dns.forward import MOST_EACH, Forwarder
from onggi.network.dns.messages import AAAA
from onggi.network.dns.server import NameServer
from onggi.network.dns.zones import Zones
from unit.test_dns_messages import code, counts, data_of, honest, packed, question

SERVERS = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
#: What a server says: to each question, the datagrams or the messages of a stream.
Says = Callable[[bytes], list[bytes]]
GIVE_UP_S = 1.2


def truthful(asked: bytes) -> list[bytes]:
    return [honest(asked)]


def silent(_: bytes) -> list[bytes]:
    return []


class Upstream(asyncio.DatagramProtocol):
    """A server on one address, over UDP and TCP, that says what a test wants. `asked`, `ports`:
    the questions, and from where they came."""

    def __init__(self, says: Says, says_over_tcp: Says) -> None:
        self.says = says
        self.says_over_tcp = says_over_tcp
        self.asked: list[bytes] = []
        self.asked_over_tcp: list[bytes] = []
        self.ports: list[int] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.asked.append(data)
        self.ports.append(addr[1])
        for answer in self.says(data):
            self.transport.sendto(answer, addr)

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            asked = await reader.readexactly(length)
            self.asked_over_tcp.append(asked)
            for answer in self.says_over_tcp(asked):
                writer.write(struct.pack("!H", len(answer)) + answer)
        writer.close()


class Rig:
    """A name server with one container `c` in the network `n`, and servers that it may ask."""

    def __init__(self, loop: asyncio.AbstractEventLoop, port: int) -> None:
        self.loop = loop
        self.zones = Zones()
        self.zones.set_endpoint("n", "db", ("db",), ("10.0.0.2", "fd00::2"))
        self.port = port
        self.servers: tuple[str, ...] = ()
        self.forwarder = Forwarder(loop, port, GIVE_UP_S)
        self.server = NameServer(loop, self.zones, lambda: self.servers, self.forwarder)
        self._open: list[Any] = []

    async def upstream(self, says: Says, says_over_tcp: Says = silent) -> Upstream:
        """One more server."""
        address = SERVERS[len(self.servers)]
        double = Upstream(says, says_over_tcp)
        udp, _ = await self.loop.create_datagram_endpoint(
            lambda: double, local_addr=(address, self.port)
        )
        tcp = await asyncio.start_server(double.converse, address, self.port)
        self._open += [udp, tcp]
        self.servers += (address,)
        return double

    def serve(self, container_id: str = "c", **options: Any) -> tuple[Any, Any]:
        """Where the container asks: by UDP, by TCP."""
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.11", 0))
        tcp = socket.create_server(("127.0.0.11", 0))
        where = udp.getsockname(), tcp.getsockname()
        self.server.serve(container_id, udp, tcp, networks=lambda: ("n",), **options)
        return where

    async def ask(self, where: Any, packet: bytes, wait_s: float = 5.0) -> bytes:
        """The answer to a datagram."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.connect(where)
            await self.loop.sock_sendall(client, packet)
            return await asyncio.wait_for(self.loop.sock_recv(client, 65535), wait_s)

    async def close(self) -> None:
        self.server.close()
        for one in self._open:
            one.close()
            if hasattr(one, "wait_closed"):
                await one.wait_closed()
        await asyncio.sleep(0)


def free_port() -> int:
    """One that is free over UDP and TCP on all our addresses."""
    with socket.create_server(("", 0)) as probe:
        return int(probe.getsockname()[1])


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def run(test: Callable[[Rig], Any]) -> None:
    """Run a test with a rig; descriptors are as many afterwards as before."""

    async def whole() -> None:
        before = descriptors()
        rig = Rig(asyncio.get_running_loop(), free_port())
        try:
            await test(rig)
        finally:
            await rig.close()
        for _ in range(50):
            if descriptors() == before:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("descriptors are left open")

    asyncio.run(whole())


async def talk(where: Any, *packets: bytes) -> list[bytes]:
    """Several questions on one connection, all sent before the first answer is read."""
    reader, writer = await asyncio.open_connection(*where)
    writer.write(b"".join(struct.pack("!H", len(packet)) + packet for packet in packets))
    found = []
    for _ in packets:
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        found.append(await reader.readexactly(length))
    writer.close()
    await writer.wait_closed()
    return found


# -- names of ours ---------------------------------------------------------------------------


def test_names_of_ours_are_answered_and_never_asked_of_others() -> None:
    async def test(rig: Rig) -> None:
        other = await rig.upstream(truthful)
        where, _ = rig.serve()
        assert data_of(await rig.ask(where, question("db"))) == packed("10.0.0.2")
        assert data_of(await rig.ask(where, question("DB", AAAA))) == packed("fd00::2")
        assert counts(await rig.ask(where, question("db", 16))) == (1, 0, 0, 0)
        assert code(await rig.ask(where, question("db")[:-1])) == messages.FORMERR
        assert not other.asked

    run(test)


def test_a_container_sees_changes_at_once() -> None:
    async def test(rig: Rig) -> None:
        where, _ = rig.serve(forward=False)
        assert code(await rig.ask(where, question("new"))) == messages.NXDOMAIN
        rig.zones.set_endpoint("n", "new", ("new",), ("10.0.0.9",))
        assert data_of(await rig.ask(where, question("new"))) == packed("10.0.0.9")
        rig.zones.remove_endpoint("n", "new")
        assert code(await rig.ask(where, question("new"))) == messages.NXDOMAIN

    run(test)


def test_what_does_not_fit_is_cut_and_whole_over_tcp() -> None:
    async def test(rig: Rig) -> None:
        addresses = [f"10.0.{n >> 8}.{n & 255}" for n in range(500)]
        for address in addresses:
            rig.zones.set_endpoint("n", address, ("all",), (address,))
        udp, tcp = rig.serve()
        for edns, limit in ((0, 512), (65535, 1232)):
            answer = await rig.ask(udp, question("all", edns=edns))
            assert answer[2] & 2 and limit - 16 < len(answer) <= limit
        (whole,) = await talk(tcp, question("all"))
        assert not whole[2] & 2 and sorted(data_of(whole)) == sorted(packed(*addresses))

    run(test)


def test_several_questions_on_one_connection() -> None:
    async def test(rig: Rig) -> None:
        await rig.upstream(truthful)
        _, tcp = rig.serve()
        asked = [question("db", number=1), question("example.test", number=2), question("db")[:-1]]
        found = await talk(tcp, *asked)
        assert [answer[:2] for answer in found] == [b"\0\1", b"\0\2", b"\0\7"]
        assert [code(answer) for answer in found] == [0, 0, messages.FORMERR]
        assert data_of(found[1]) == packed("192.0.2.7")

    run(test)


def test_garbage_is_survived() -> None:
    async def test(rig: Rig) -> None:
        where, tcp = rig.serve()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for packet in (b"", b"x", bytes(12), os.urandom(600), b"\xff" * 9000):
                client.sendto(packet, where)
        assert data_of(await rig.ask(where, question("db"))) == packed("10.0.0.2")
        for stream in (b"\xff\xff" + bytes(100), b"\0\0", b"\0\5abc", b"\0\x0c" + b"\xff" * 12):
            reader, writer = await asyncio.open_connection(*tcp)
            writer.write(stream)
            writer.write_eof()
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
        assert len(await talk(tcp, question("db"))) == 1

    run(test)


# -- other servers ---------------------------------------------------------------------------


def test_others_are_asked_with_a_number_and_a_port_that_nobody_can_guess() -> None:
    async def test(rig: Rig) -> None:
        other = await rig.upstream(truthful)
        where, _ = rig.serve()
        for _ in range(8):
            answer = await rig.ask(where, question("Example.Test", number=7, edns=4096))
            assert answer[:2] == b"\0\7" and b"\7Example\4Test" in answer
            assert data_of(answer) == packed("192.0.2.7")
        assert len({asked[:2] for asked in other.asked}) > 6
        assert len(set(other.ports)) > 6
        assert all(asked[2:] == question("Example.Test", edns=1232)[2:] for asked in other.asked)

    run(test)


def test_a_container_with_servers_of_its_own_asks_those() -> None:
    async def test(rig: Rig) -> None:
        first, second = await rig.upstream(truthful), await rig.upstream(truthful)
        where, _ = rig.serve(upstream=(SERVERS[1],))
        assert code(await rig.ask(where, question("example.test"))) == 0
        assert (len(first.asked), len(second.asked)) == (0, 1)

    run(test)


def test_who_has_no_way_out_asks_nobody_until_it_has() -> None:
    async def test(rig: Rig) -> None:
        other = await rig.upstream(truthful)
        connected = False
        where, tcp = rig.serve(forward=lambda: connected)
        assert code(await rig.ask(where, question("example.test"))) == messages.NXDOMAIN
        assert code((await talk(tcp, question("example.test")))[0]) == messages.NXDOMAIN
        assert not other.asked
        connected = True
        assert code(await rig.ask(where, question("example.test"))) == 0

    run(test)


def _with(**changed: Any) -> Says:
    """A server that gets one thing wrong, several times, and is right in the end."""

    def says(asked: bytes) -> list[bytes]:
        good = honest(asked)
        wrong = {
            "number": bytes((good[0] ^ 1,)) + good[1:],
            "name": honest(question("other.test", number=int.from_bytes(asked[:2], "big"))),
            "kind": good.replace(b"\0\1\0\1", b"\0\x1c\0\1", 1),
            "asked": asked,
            "short": good[:7],
            "empty": b"",
        }[changed["what"]]
        return [wrong, wrong, good]

    return says


@pytest.mark.parametrize("what", ["number", "name", "kind", "asked", "short", "empty"])
def test_what_is_no_answer_is_waited_out_for_the_true_one(what: str) -> None:
    async def test(rig: Rig) -> None:
        other = await rig.upstream(_with(what=what))
        where, _ = rig.serve()
        assert data_of(await rig.ask(where, question("example.test"))) == packed("192.0.2.7")
        assert len(other.asked) == 1

    run(test)


def test_an_answer_from_another_address_is_not_heard() -> None:
    async def test(rig: Rig) -> None:
        def forged(asked: bytes) -> list[bytes]:
            forger.sendto(honest(asked, "203.0.113.66"), ("127.0.0.1", double.ports[-1]))
            return [honest(asked)]

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as forger:
            forger.bind(("127.0.0.9", rig.port))
            double = await rig.upstream(forged)
            where, _ = rig.serve()
            assert data_of(await rig.ask(where, question("example.test"))) == packed("192.0.2.7")

    run(test)


def refuses(asked: bytes) -> list[bytes]:
    return [asked[:2] + b"\x81\x85" + asked[4:]]


def sends_half(asked: bytes) -> list[bytes]:
    return [honest(asked)[:-3]]


@pytest.mark.parametrize("says", [silent, refuses, sends_half])
def test_the_next_server_is_asked_when_one_fails(says: Says) -> None:
    async def test(rig: Rig) -> None:
        await rig.upstream(says)
        second = await rig.upstream(truthful)
        where, tcp = rig.serve()
        assert data_of(await rig.ask(where, question("example.test"))) == packed("192.0.2.7")
        assert data_of((await talk(tcp, question("example.test")))[0]) == packed("192.0.2.7")
        assert len(second.asked) == 2

    run(test)


def test_a_server_that_is_silent_is_asked_last_for_a_while() -> None:
    async def test(rig: Rig) -> None:
        first, second = await rig.upstream(silent), await rig.upstream(truthful)
        where, _ = rig.serve()
        for _ in range(3):
            assert code(await rig.ask(where, question("example.test"))) == 0
        assert (len(first.asked), len(second.asked)) == (1, 3)

    run(test)


def test_where_nobody_listens_the_next_is_asked_without_waiting() -> None:
    async def test(rig: Rig) -> None:
        where, _ = rig.serve(upstream=("127.0.0.7", "::1", SERVERS[0]))
        await rig.upstream(truthful)
        began = rig.loop.time()
        assert code(await rig.ask(where, question("example.test"))) == 0
        assert rig.loop.time() - began < GIVE_UP_S / 7, "waited for a port that is closed"

    run(test)


def test_a_late_answer_of_the_first_server_still_counts() -> None:
    async def test(rig: Rig) -> None:
        kept: list[bytes] = []

        def later(asked: bytes) -> list[bytes]:
            kept.append(asked)
            return []

        def after_the_second(_: bytes) -> list[bytes]:
            if not second.ports[1:]:
                where_to = ("127.0.0.1", first.ports[0])
                first.transport.sendto(honest(kept[0], "192.0.2.9"), where_to)
            return []

        first, second = await rig.upstream(later), await rig.upstream(after_the_second)
        where, _ = rig.serve()
        assert data_of(await rig.ask(where, question("example.test"))) == packed("192.0.2.9")

    run(test)


def test_when_all_fail_the_client_hears_why() -> None:
    async def test(rig: Rig) -> None:
        where, _ = rig.serve()
        assert code(await rig.ask(where, question("a.test"))) == messages.SERVFAIL, "no server"
        await rig.upstream(silent)
        assert code(await rig.ask(where, question("a.test"))) == messages.SERVFAIL
        own, _ = rig.serve("d", upstream=(SERVERS[1], SERVERS[2]))
        await rig.upstream(refuses)
        await rig.upstream(refuses)
        assert code(await rig.ask(own, question("a.test"))) == messages.REFUSED

    run(test)


def cut(asked: bytes) -> list[bytes]:
    good = honest(asked)
    return [good[:2] + bytes((good[2] | 2,)) + good[3:]]


def long(asked: bytes) -> list[bytes]:
    records = tuple(messages.address_record(n.to_bytes(4, "big")) for n in range(4000))
    return [messages.reply(messages.read_query(asked), records=records)]


def test_a_cut_answer_sends_the_client_to_tcp_where_it_gets_the_whole() -> None:
    async def test(rig: Rig) -> None:
        other = await rig.upstream(cut, long)
        udp, tcp = rig.serve()
        answer = await rig.ask(udp, question("example.test"))
        assert answer[2] & 2 and not other.asked_over_tcp
        (whole,) = await talk(tcp, question("example.test"))
        assert not whole[2] & 2 and len(data_of(whole)) == 4000
        assert other.asked_over_tcp[0][2:] == question("example.test")[2:]

    run(test)


@pytest.mark.parametrize("wrong", [silent, refuses, lambda asked: [b"x"], sends_half])
def test_a_server_that_breaks_off_over_tcp_has_failed(wrong: Says) -> None:
    async def test(rig: Rig) -> None:
        await rig.upstream(cut, wrong)
        await rig.upstream(cut, long)
        _, tcp = rig.serve()
        assert len(data_of((await talk(tcp, question("example.test")))[0])) == 4000

    run(test)


def test_an_answer_longer_than_the_client_takes_is_cut() -> None:
    async def test(rig: Rig) -> None:
        records = tuple(messages.address_record(n.to_bytes(4, "big")) for n in range(50))
        await rig.upstream(lambda a: [messages.reply(messages.read_query(a), records=records)])
        udp, tcp = rig.serve()
        short = await rig.ask(udp, question("example.test"))
        assert short[2] & 2 and counts(short) == (1, 0, 0, 0)
        assert len(data_of(await rig.ask(udp, question("example.test", edns=1232)))) == 50
        assert len(data_of((await talk(tcp, question("example.test")))[0])) == 50

    run(test)


# -- clients that ask too much ---------------------------------------------------------------


def test_one_who_asks_much_is_refused_and_others_are_served() -> None:
    async def test(rig: Rig) -> None:
        held = await rig.upstream(lambda asked: truthful(asked) if b"quick" in asked else [])
        greedy, _ = rig.serve("greedy")
        modest, _ = rig.serve("modest")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.connect(greedy)
            for number in range(MOST_EACH + 20):
                client.send(question("slow.test", number=number))
            refused = [code(await rig.loop.sock_recv(client, 600)) for _ in range(20)]
            assert refused == [messages.SERVFAIL] * 20
            assert len(held.asked) <= MOST_EACH
            assert code(await rig.ask(modest, question("quick.test"))) == 0
            assert data_of(await rig.ask(greedy, question("db"))) == packed("10.0.0.2")
            assert (
                len({(await rig.loop.sock_recv(client, 600))[:2] for _ in range(MOST_EACH)}) == 64
            )
        assert code(await rig.ask(greedy, question("quick.test"))) == 0, "room again"

    run(test)


def test_whoever_comes_late_finds_room() -> None:
    async def test(rig: Rig) -> None:
        held = await rig.upstream(lambda asked: truthful(asked) if b"quick" in asked else [])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for n in range(20):
                where, _ = rig.serve(str(n))
                for _ in range(MOST_EACH):
                    client.sendto(question("slow.test"), where)
                await asyncio.sleep(0)
            late, _ = rig.serve("late")
            assert code(await rig.ask(late, question("quick.test"))) == 0
        assert len(held.asked) > 4 * MOST_EACH // 2

    run(test)


def test_a_flood_does_not_keep_others_waiting() -> None:
    async def test(rig: Rig) -> None:
        where, _ = rig.serve("flood")
        modest, _ = rig.serve("modest")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for number in range(200):
                client.sendto(question("db", number=number), where)
            client.setblocking(False)
            assert code(await rig.ask(modest, question("db"))) == 0
            answered = 0
            with contextlib.suppress(BlockingIOError):
                while client.recv(600):
                    answered += 1
        assert answered < 150, "the flood was answered to the end first"

    run(test)


def test_connections_beyond_the_bound_wait_until_idle_ones_are_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listener, "MOST_EACH", 2)
    monkeypatch.setattr(listener, "IDLE_S", 0.3)

    async def test(rig: Rig) -> None:
        udp, tcp = rig.serve()
        idle = [await asyncio.open_connection(*tcp) for _ in range(2)]
        idle[0][1].write(b"\0")
        began = rig.loop.time()
        assert data_of((await talk(tcp, question("db")))[0]) == packed("10.0.0.2")
        assert rig.loop.time() - began > 0.2, "was let in beside the others"
        for reader, writer in idle:
            assert await reader.read() == b""
            writer.close()
        assert code(await rig.ask(udp, question("db"))) == 0

    run(test)


def test_out_of_descriptors_new_connections_wait_and_nothing_spins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test(rig: Rig) -> None:
        full = True
        tries = 0

        class Listening(socket.socket):
            def accept(self) -> tuple[socket.socket, Any]:
                nonlocal tries
                tries += 1
                if full:
                    raise OSError(24, "too many open files")
                return super().accept()

        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        tcp = Listening(socket.AF_INET, socket.SOCK_STREAM)
        tcp.bind(("127.0.0.11", 0))
        tcp.listen()
        where = tcp.getsockname()
        rig.server.serve("c", udp, tcp, networks=lambda: ("n",))
        asking = asyncio.ensure_future(talk(where, question("db")))
        await asyncio.sleep(0.3)
        assert 1 <= tries <= 3
        full = False
        assert code((await asking)[0]) == 0

    run(test)


# -- the end ---------------------------------------------------------------------------------


def test_a_container_that_goes_takes_its_sockets_and_questions_along() -> None:
    async def test(rig: Rig) -> None:
        other = await rig.upstream(silent, silent)
        udp, tcp = rig.serve()
        reader, writer = await asyncio.open_connection(*tcp)
        idle_reader, idle_writer = await asyncio.open_connection(*tcp)
        packet = question("slow.test")
        writer.write(struct.pack("!H", len(packet)) + packet)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(packet, udp)
            while len(other.asked) < 2:
                await asyncio.sleep(0.005)
            rig.server.forget("c")
            rig.server.forget("c")
            assert await reader.read() == b"" and await idle_reader.read() == b""
            with pytest.raises(ConnectionRefusedError):
                await rig.ask(udp, packet)
            await asyncio.sleep(0.05)
            with pytest.raises(BlockingIOError):
                client.recv(1, socket.MSG_DONTWAIT)
        for one in (writer, idle_writer):
            one.close()
        udp, _ = rig.serve()
        assert code(await rig.ask(udp, question("db"))) == 0, "the same container, started again"

    run(test)


def test_a_container_that_goes_during_a_fetch_over_tcp() -> None:
    async def test(rig: Rig) -> None:
        asked = asyncio.Event()

        def never(_: bytes) -> list[bytes]:
            asked.set()
            return []

        await rig.upstream(cut, never)
        _, tcp = rig.serve()
        reader, writer = await asyncio.open_connection(*tcp)
        packet = question("example.test")
        writer.write(struct.pack("!H", len(packet)) + packet)
        await asked.wait()
        rig.server.forget("c")
        assert await reader.read() == b""
        writer.close()

    run(test)
