"""The name server: answers on sockets that lie in the containers' network namespaces.

Runs on the engine's event loop, a few questions a turn, so that nobody waits for a container that
asks much. What is not about containers is forwarded (`forward`), except for networks that lead
nowhere: there it does not exist, which programs understand at once, other than a failure.
Source: RFC 1035, RFC 6761 (localhost), RFC 7766 (TCP).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Sequence

from onggi.network.dns import messages
from onggi.network.dns.forward import Forwarder, fits
from onggi.network.dns.messages import AAAA, ANY, PTR, A, MalformedError, Query
from onggi.network.dns.zones import Zones

#: Questions of one container before others have their turn.
_AT_ONCE = 32
_MOST_UNDER_WAY = 128
_MOST_CONNECTIONS = 16
_IDLE_S = 10.0
_RECEIVE_BYTES = 4096


class _Client:
    """One container: its sockets, and what it may ask."""

    def __init__(
        self,
        udp: socket.socket,
        tcp: socket.socket,
        networks: Callable[[], Sequence[str]],
        upstream: tuple[str, ...] | None,
        forward: bool,
    ) -> None:
        self.udp = udp
        self.tcp = tcp
        self.networks = networks
        self.upstream = upstream
        self.forward = forward
        self.under_way = 0
        self.connections: set[asyncio.Task[None]] = set()


class NameServer:
    """Answers for all containers of one engine. `upstreams`: the host's resolvers, at each call."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        zones: Zones,
        upstreams: Callable[[], tuple[str, ...]],
        forwarder: Forwarder | None = None,
    ) -> None:
        self._loop = loop
        self._zones = zones
        self._upstreams = upstreams
        self._forwarder = forwarder or Forwarder(loop)
        self._clients: dict[str, _Client] = {}

    def serve(
        self,
        container_id: str,
        udp: socket.socket,
        tcp: socket.socket,
        *,
        networks: Callable[[], Sequence[str]],
        upstream: tuple[str, ...] | None = None,
        forward: bool = True,
    ) -> None:
        """Answer on these bound sockets, which are owned from here on, until `forget`.

        `networks`: those that the container is in, asked at each question; `upstream`: servers in
        place of the host's; `forward`: whether questions about others leave at all.
        """
        self.forget(container_id)
        client = _Client(udp, tcp, networks, upstream, forward)
        self._clients[container_id] = client
        for sock in (udp, tcp):
            sock.setblocking(False)
        self._loop.add_reader(udp.fileno(), self._readable, client)
        self._loop.add_reader(tcp.fileno(), self._accept, client)

    def forget(self, container_id: str) -> None:
        """Close a container's sockets; one that is not served is no error."""
        client = self._clients.pop(container_id, None)
        if client is None:
            return
        for sock in (client.udp, client.tcp):
            self._loop.remove_reader(sock.fileno())
            sock.close()
        for task in list(client.connections):
            task.cancel()

    def close(self) -> None:
        """Forget all."""
        for container_id in list(self._clients):
            self.forget(container_id)
        self._forwarder.close()

    # -- UDP ---------------------------------------------------------------------------------

    def _readable(self, client: _Client) -> None:
        for _ in range(_AT_ONCE):
            try:
                packet, sender = client.udp.recvfrom(_RECEIVE_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                continue  # an ICMP error about an answer of ours
            self._answer_by_udp(client, packet, sender)

    def _answer_by_udp(self, client: _Client, packet: bytes, sender: tuple[str, int]) -> None:
        try:
            query = messages.read_query(packet)
        except MalformedError as error:
            if error.answer is not None:
                _send(client.udp, error.answer, sender)
            return
        answer = self._known(client, query)
        if answer is not None:
            _send(client.udp, answer if fits(query, answer) else messages.truncated(query), sender)
            return

        def done(found: bytes | None) -> None:
            client.under_way -= 1
            if client.udp.fileno() >= 0:
                _send(client.udp, found or messages.reply(query, messages.SERVFAIL), sender)

        if not self._forward(client, query, packet, done, self._forwarder.ask):
            _send(client.udp, messages.reply(query, messages.SERVFAIL), sender)

    def _forward(
        self,
        client: _Client,
        query: Query,
        packet: bytes,
        done: Callable[[bytes | None], None],
        ask: Callable[..., bool],
    ) -> bool:
        servers = client.upstream or self._upstreams()
        if client.under_way >= _MOST_UNDER_WAY or not ask(query, packet, servers, done):
            return False
        client.under_way += 1
        return True

    # -- answers -----------------------------------------------------------------------------

    def _known(self, client: _Client, query: Query) -> bytes | None:
        """The answer, where it is ours to give; None: others must be asked."""
        name = query.name
        if name == "localhost" or name.endswith(".localhost"):
            return _addresses(query, ("127.0.0.1", "::1"))
        found = self._zones.addresses(client.networks(), name)
        if found is not None:
            return _addresses(query, found)
        if query.kind == PTR:
            address = messages.read_reverse(name)
            names = self._zones.names(client.networks(), address) if address else ()
            if names:
                return messages.reply(query, records=messages.pointers(names), count=len(names))
        if not client.forward:
            return messages.reply(query, messages.NXDOMAIN)
        return None

    # -- TCP ---------------------------------------------------------------------------------

    def _accept(self, client: _Client) -> None:
        try:
            sock, _ = client.tcp.accept()
        except OSError:
            return
        if len(client.connections) >= _MOST_CONNECTIONS:
            sock.close()
            return
        sock.setblocking(False)
        task = self._loop.create_task(self._converse(client, sock))
        client.connections.add(task)
        task.add_done_callback(client.connections.discard)

    async def _converse(self, client: _Client, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError, TimeoutError, EOFError):
            while True:
                async with asyncio.timeout(_IDLE_S):
                    (length,) = struct.unpack("!H", await self._read(sock, 2))
                    packet = await self._read(sock, length)
                    answer = await self._answer_by_tcp(client, packet)
                    if answer is None:
                        return
                    await self._loop.sock_sendall(sock, struct.pack("!H", len(answer)) + answer)

    async def _read(self, sock: socket.socket, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = await self._loop.sock_recv(sock, count - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    async def _answer_by_tcp(self, client: _Client, packet: bytes) -> bytes | None:
        try:
            query = messages.read_query(packet)
        except MalformedError as error:
            return error.answer
        answer = self._known(client, query)
        if answer is not None:
            return answer
        future: asyncio.Future[bytes | None] = self._loop.create_future()

        def done(found: bytes | None) -> None:
            client.under_way -= 1
            if not future.done():
                future.set_result(found)

        if self._forward(client, query, packet, done, self._forwarder.ask_by_tcp):
            answer = await future
        return answer or messages.reply(query, messages.SERVFAIL)


def _addresses(query: Query, found: tuple[str, ...]) -> bytes:
    """An answer with the addresses of the family that was asked for; other types have no data."""
    if query.kind != ANY:
        wanted = {A: False, AAAA: True}.get(query.kind)
        found = tuple(address for address in found if (":" in address) is wanted)
    return messages.reply(query, records=messages.addresses(found), count=len(found))


def _send(sock: socket.socket, answer: bytes, sender: tuple[str, int]) -> None:
    with contextlib.suppress(OSError):  # the one who asked does not read, or is gone
        sock.sendto(answer, sender)
