"""The name server on real sockets: its own names, forwarding, and servers that lie."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from onggi.network.dns import messages
from onggi.network.dns.forward import Forwarder
from onggi.network.dns.server import NameServer
from onggi.network.dns.zones import Zones
from unit.test_dns_messages import question

Upstream = Callable[[bytes], bytes | None]


def answered(question_bytes: bytes, *, number: bytes | None = None) -> bytes:
    """What an honest server says: 192.0.2.7."""
    query = messages.read_query(question_bytes)
    answer = messages.reply(query, records=messages.addresses(("192.0.2.7",)), count=1)
    return (number or answer[:2]) + answer[2:]


class Fixture:
    """A server on loopback, with an upstream that a test's function plays."""

    def __init__(self, loop: asyncio.AbstractEventLoop, upstream: Upstream) -> None:
        self.zones = Zones()
        self._upstream = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._upstream.bind(("127.0.0.1", 0))
        port = self._upstream.getsockname()[1]
        self.asked: list[bytes] = []
        threading.Thread(target=self._play, args=(upstream,), daemon=True).start()
        self.server = NameServer(
            loop, self.zones, lambda: ("127.0.0.1",), Forwarder(loop, port=port)
        )
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.udp_port = self.udp.getsockname()[1]
        self.tcp_port = self.tcp.getsockname()[1]

    def _play(self, upstream: Upstream) -> None:
        while True:
            packet, sender = self._upstream.recvfrom(2000)
            if packet == b"end":
                self._upstream.close()
                return
            self.asked.append(packet)
            answer = upstream(packet)
            if answer is not None:
                self._upstream.sendto(answer, sender)

    def serve(self, *, forward: bool = True) -> None:
        self.server.serve("c", self.udp, self.tcp, networks=lambda: ("n",), forward=forward)

    def close(self) -> None:
        address = self._upstream.getsockname()
        self.server.close()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ender:
            ender.sendto(b"end", address)


def with_server(
    test: Callable[[Fixture], Coroutine[Any, Any, None]], upstream: Upstream = answered
) -> None:
    async def run() -> None:
        fixture = Fixture(asyncio.get_running_loop(), upstream)
        try:
            await test(fixture)
        finally:
            fixture.close()

    asyncio.run(run())


async def ask(fixture: Fixture, packet: bytes) -> bytes:
    def exchange() -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(8)
            client.connect(("127.0.0.1", fixture.udp_port))
            client.send(packet)
            return client.recv(4096)

    return await asyncio.to_thread(exchange)


def code(answer: bytes) -> int:
    return messages.head(answer)[1] & 0xF


def test_names_of_ours_are_answered_and_never_asked_of_others() -> None:
    async def test(fixture: Fixture) -> None:
        fixture.zones.set_endpoint("n", "1", ("db",), ("10.0.0.2", "fd00::2"))
        fixture.serve()
        assert socket.inet_aton("10.0.0.2") in await ask(fixture, question("db"))
        assert socket.inet_pton(socket.AF_INET6, "fd00::2") in await ask(
            fixture, question("DB", messages.AAAA)
        )
        nothing = await ask(fixture, question("db", 16))
        assert code(nothing) == 0 and struct.unpack_from("!H", nothing, 6) == (0,)
        assert b"\2db" in await ask(fixture, question("2.0.0.10.in-addr.arpa", messages.PTR))
        assert socket.inet_aton("127.0.0.1") in await ask(fixture, question("localhost"))
        assert fixture.asked == []

    with_server(test)


def test_others_are_asked_of_the_hosts_resolver_with_a_number_of_ours() -> None:
    async def test(fixture: Fixture) -> None:
        fixture.serve()
        answer = await ask(fixture, question("example.com", number=7))
        assert answer[:2] == b"\0\7" and socket.inet_aton("192.0.2.7") in answer
        assert len(fixture.asked) == 1

    with_server(test)


def test_a_network_that_leads_nowhere_asks_nobody() -> None:
    async def test(fixture: Fixture) -> None:
        fixture.serve(forward=False)
        assert code(await ask(fixture, question("example.com"))) == messages.NXDOMAIN
        assert fixture.asked == []

    with_server(test)


def test_an_answer_to_something_else_is_no_answer() -> None:
    lies = iter([b"x", None, None])

    def liar(packet: bytes) -> bytes | None:
        lie = next(lies, packet)
        if lie == b"x":
            return answered(packet, number=bytes([packet[0] ^ 1, packet[1]]))
        if lie is None:
            return answered(question("other.example", number=struct.unpack("!H", packet[:2])[0]))
        return answered(packet)

    async def test(fixture: Fixture) -> None:
        fixture.serve()
        answer = await ask(fixture, question("example.com"))
        assert code(answer) == messages.SERVFAIL
        assert len(fixture.asked) == 2, "one server, asked twice"

    with_server(test, liar)


def test_tcp_takes_several_questions_on_one_connection() -> None:
    async def test(fixture: Fixture) -> None:
        fixture.zones.set_endpoint("n", "1", ("db",), ("10.0.0.2",))
        fixture.serve()
        reader, writer = await asyncio.open_connection("127.0.0.1", fixture.tcp_port)
        for number in range(3):
            packet = question("db", number=number)
            writer.write(struct.pack("!H", len(packet)) + packet)
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            answer = await reader.readexactly(length)
            assert answer[:2] == struct.pack("!H", number)
        writer.close()
        await writer.wait_closed()

    with_server(test)


def test_a_long_answer_sends_the_client_to_tcp() -> None:
    async def test(fixture: Fixture) -> None:
        for number in range(60):
            fixture.zones.set_endpoint(
                "n", str(number), (f"c{number}", "all"), (f"10.0.1.{number}",)
            )
        fixture.serve()
        answer = await ask(fixture, question("all"))
        assert messages.head(answer)[1] & 0x0200 and len(answer) <= 512

    with_server(test)
