"""The name server: answers on sockets that lie in the containers' network namespaces.

Runs on the engine's event loop, a few questions a turn, so that nobody waits for a container that
asks much. What to say is decided in `answers`; whom else to ask, in `forward`.
Source: RFC 1035, RFC 7766.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence

from onggi.network.dns import messages
from onggi.network.dns.answers import own_answer
from onggi.network.dns.forward import Forwarder
from onggi.network.dns.listener import Listener
from onggi.network.dns.messages import TCP_BYTES, Query, Rejected
from onggi.network.dns.zones import Zones

#: Questions of one container before others have their turn.
_AT_ONCE = 16
_RECEIVE_BYTES = 4096


class _Client:
    """One container: its socket, and what it may ask."""

    __slots__ = ("container_id", "leaves", "listener", "networks", "udp", "upstream")

    def __init__(
        self,
        container_id: str,
        udp: socket.socket,
        networks: Callable[[], Sequence[str]],
        upstream: tuple[str, ...] | None,
        leaves: Callable[[], bool],
    ) -> None:
        self.container_id = container_id
        self.udp = udp
        self.networks = networks
        self.upstream = upstream
        self.leaves = leaves
        self.listener: Listener | None = None


class NameServer:
    """Answers for all containers of one engine. `upstreams`: the host's resolvers, at each call."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        zones: Zones,
        upstreams: Callable[[], Sequence[str]],
        forwarder: Forwarder | None = None,
    ) -> None:
        self._loop = loop
        self._zones = zones
        self._upstreams = upstreams
        self._forwarder = forwarder or Forwarder(loop)
        self._clients: dict[str, _Client] = {}
        self._connections: set[asyncio.Task[None]] = set()

    def serve(
        self,
        container_id: str,
        udp: socket.socket,
        tcp: socket.socket,
        *,
        networks: Callable[[], Sequence[str]],
        upstream: tuple[str, ...] | None = None,
        forward: bool | Callable[[], bool] = True,
    ) -> None:
        """Answer on these bound sockets, which are owned from here on, until `forget`.

        `networks`: those that the container is in, asked at each question, the first counts most;
        `upstream`: servers in place of the host's; `forward`: whether questions about others leave
        at all, asked at each question where that may change.
        """
        self.forget(container_id)
        leaves = forward if callable(forward) else lambda: forward
        client = _Client(container_id, udp, networks, upstream, leaves)
        self._clients[container_id] = client
        udp.setblocking(False)
        self._loop.add_reader(udp.fileno(), self._readable, client)

        async def answer(message: bytes) -> bytes:
            return await self._answer_over_tcp(client, message)

        client.listener = Listener(self._loop, tcp, answer, self._connections)

    def forget(self, container_id: str) -> None:
        """Close a container's sockets; one that is not served is no error."""
        client = self._clients.pop(container_id, None)
        if client is None:
            return
        self._forwarder.forget(container_id)
        self._loop.remove_reader(client.udp.fileno())
        client.udp.close()
        if client.listener is not None:
            client.listener.close()

    def close(self) -> None:
        """Forget all."""
        for container_id in tuple(self._clients):
            self.forget(container_id)
        self._forwarder.close()

    # -- UDP ---------------------------------------------------------------------------------

    def _readable(self, client: _Client) -> None:
        udp = client.udp
        for _ in range(_AT_ONCE):
            try:
                packet, sender = udp.recvfrom(_RECEIVE_BYTES)
            except OSError:  # nothing more, or a network that goes down
                return
            try:
                query = messages.read_query(packet)
            except Rejected as rejected:
                if rejected.answer:
                    _send(udp, rejected.answer, sender)
                continue
            answer = self._own(client, query, query.size_bytes)
            if answer is None:
                self._forward(client, query, sender)
            else:
                _send(udp, answer, sender)

    def _own(self, client: _Client, query: Query, limit_bytes: int) -> bytes | None:
        networks = client.networks()
        return own_answer(self._zones, networks, query, limit_bytes, leave=client.leaves())

    def _forward(self, client: _Client, query: Query, sender: tuple[str, int]) -> None:
        def done(answer: bytes) -> None:
            _send(client.udp, answer, sender)

        self._forwarder.ask(
            client.container_id, query, client.upstream or self._upstreams(), False, done
        )

    # -- TCP ---------------------------------------------------------------------------------

    async def _answer_over_tcp(self, client: _Client, message: bytes) -> bytes:
        try:
            query = messages.read_query(message)
        except Rejected as rejected:
            return rejected.answer
        answer = self._own(client, query, TCP_BYTES)
        if answer is not None:
            return answer
        future: asyncio.Future[bytes] = self._loop.create_future()

        def done(answer: bytes) -> None:
            if not future.done():  # the connection may have ended meanwhile
                future.set_result(answer)

        self._forwarder.ask(
            client.container_id, query, client.upstream or self._upstreams(), True, done
        )
        return await future


def _send(udp: socket.socket, answer: bytes, sender: tuple[str, int]) -> None:
    # Datagrams may be lost: the one who asked does not read, or is gone.
    with contextlib.suppress(OSError):
        udp.sendto(answer, sender)
