"""A proxy in the engine, for what the kernel cannot translate: [::1], and hosts without NAT.

Its sockets are the host's own, so the host's input rules hold for them without more ado; the
container sees the proxy as its client. Runs on the engine's event loop.
Source: tcp(7) (half-closed connections), udp(7).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Awaitable

from onggi.errors import Conflict, SyscallError, Unsupported
from onggi.network.held_ports import aside

TYPE_CHECKING = False  # typing's own costs 9 ms to import
if TYPE_CHECKING:
    from onggi.network.values import Publication

log = logging.getLogger(__name__)

_BACKLOG = 128
#: Of one publication, at once. More clients wait in the backlog; more senders are not heard.
_CONNECTIONS, _SESSIONS = 512, 1024
_CHUNK_BYTES = 64 << 10
_CONNECT_S = 10.0
#: As long as the kernel's connection tracking remembers a flow that goes both ways.
_UDP_IDLE_S = 120.0
_TIRED_S = 0.1
_EVERY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - what was asked for


class Proxy:
    """The publications that one engine serves itself. To be closed."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, udp_idle_s: float = _UDP_IDLE_S) -> None:
        self._loop = loop
        self._udp_idle_s = udp_idle_s
        self._open: dict[Publication, list[_TcpPort | _UdpPort]] = {}

    def open(self, publication: Publication) -> None:
        """Serve a publication, on all of its addresses; one that is served already goes on.

        Raises:
            Conflict: somebody else has the port.
            Unsupported: the container has no address.
            SyscallError: the kernel refused. Nothing is open then.
        """
        if publication in self._open:
            return
        addresses = (publication.host_address,) if publication.host_address else _EVERY_ADDRESS
        served: list[_TcpPort | _UdpPort] = []
        try:
            for address in addresses:
                target = _target(publication, address)
                sock = _listen(publication, address)
                if sock is None:
                    continue
                if publication.protocol == "tcp":
                    served.append(_TcpPort(self._loop, sock, target))
                else:
                    served.append(_UdpPort(self._loop, sock, target, self._udp_idle_s))
        except BaseException:
            for port in served:
                port.close()
            raise
        self._open[publication] = served

    def close(self, publication: Publication | None = None) -> None:
        """Serve a publication no more, or none at all, and end what goes through it; one that is
        not served is no error."""
        for one in list(self._open) if publication is None else [publication]:
            for port in self._open.pop(one, ()):
                port.close()


def _target(publication: Publication, address: str) -> tuple[str, int]:
    """Where to connect to: of the family that the client uses, where there is one."""
    both = (publication.ipv4, publication.ipv6)
    first, second = reversed(both) if ":" in address else both
    if not first and not second:
        raise Unsupported(f"port {publication.host_port} leads to a container without an address")
    return first or second, publication.container_port


def _listen(publication: Publication, address: str) -> socket.socket | None:
    """A bound socket, listening if it is one of TCP; None where this host has no IPv6 at all."""
    tcp = publication.protocol == "tcp"
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    text = f"{address} port {publication.host_port}"
    try:
        sock = socket.socket(family, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM)
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            return None
        raise SyscallError("socket", text, error.errno or 0) from None
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with aside(publication.protocol, publication.host_port):
            sock.bind((address, publication.host_port))
            if tcp:
                sock.listen(_BACKLOG)
        if not tcp:  # one that listens keeps others off, and its connections must not, later on
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRNOTAVAIL and family == socket.AF_INET6:
            return None  # IPv6 is switched off
        if error.errno == errno.EADDRINUSE:
            raise Conflict(f"port {publication.host_port} of {address} is in use") from None
        raise SyscallError("bind", text, error.errno or 0) from None
    return sock


class _TcpPort:
    """One listening socket, and the connections that came by it."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, target: tuple[str, int]
    ) -> None:
        self._loop, self._socket, self._target = loop, sock, target
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening = False
        self._listen()

    def close(self) -> None:
        self._pause()
        self._socket.close()
        for task in self._tasks:
            task.cancel()

    def _listen(self) -> None:
        if not self._listening and self._socket.fileno() >= 0:
            self._loop.add_reader(self._socket.fileno(), self._accept)
            self._listening = True

    def _pause(self) -> None:
        if self._listening:
            self._loop.remove_reader(self._socket.fileno())
            self._listening = False

    def _accept(self) -> None:
        try:
            client, _ = self._socket.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError as error:
            # No descriptor is left, for instance: try again when there may be.
            log.warning("port %d: accept: %s", self._socket.getsockname()[1], error)
            self._pause()
            self._loop.call_later(_TIRED_S, self._listen)
            return
        client.setblocking(False)
        task = self._loop.create_task(self._carry(client))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        if len(self._tasks) >= _CONNECTIONS:
            self._pause()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._listen()

    async def _carry(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError, asyncio.CancelledError):
            server = await _connect(self._loop, self._target)
            with server:
                await _both(_pump(self._loop, client, server), _pump(self._loop, server, client))


async def _connect(loop: asyncio.AbstractEventLoop, target: tuple[str, int]) -> socket.socket:
    family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
    server = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        async with asyncio.timeout(_CONNECT_S):
            await loop.sock_connect(server, target)
    except BaseException:
        server.close()
        raise
    return server


async def _both(*directions: Awaitable[None]) -> None:
    """Wait for both; when one fails, the other ends, too."""
    tasks = [asyncio.ensure_future(one) for one in directions]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(
    loop: asyncio.AbstractEventLoop, source: socket.socket, sink: socket.socket
) -> None:
    """Carry one direction to its end, and tell the sink that it has ended."""
    buffer = bytearray(_CHUNK_BYTES)
    view = memoryview(buffer)
    while size := await loop.sock_recv_into(source, buffer):
        await loop.sock_sendall(sink, view[:size])
    sink.shutdown(socket.SHUT_WR)


class _UdpPort:
    """One bound socket, and for each sender a socket of its own towards the container."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        target: tuple[str, int],
        idle_s: float,
    ) -> None:
        self._loop, self._socket, self._target, self._idle_s = loop, sock, target, idle_s
        self._sessions: dict[tuple[str, int], _Session] = {}
        self._sweep: asyncio.TimerHandle | None = None
        loop.add_reader(sock.fileno(), self._from_client)

    def close(self) -> None:
        self._loop.remove_reader(self._socket.fileno())
        if self._sweep is not None:
            self._sweep.cancel()
        for client in list(self._sessions):
            self._end(client)
        self._socket.close()

    def _from_client(self) -> None:
        with contextlib.suppress(OSError):
            data, client = self._socket.recvfrom(_CHUNK_BYTES)
            session = self._sessions.get(client) or self._begin(client)
            if session is not None:
                session.used_s = self._loop.time()
                session.socket.send(data)

    def _begin(self, client: tuple[str, int]) -> _Session | None:
        if len(self._sessions) >= _SESSIONS:
            return None
        family = socket.AF_INET6 if ":" in self._target[0] else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            sock.connect(self._target)
        except OSError:
            sock.close()
            raise
        session = self._sessions[client] = _Session(sock, self._loop.time())
        self._loop.add_reader(sock.fileno(), self._from_container, session, client)
        if self._sweep is None:
            self._sweep = self._loop.call_later(self._idle_s, self._sweep_idle)
        return session

    def _from_container(self, session: _Session, client: tuple[str, int]) -> None:
        # Refused by the container: its port may be opened later.
        with contextlib.suppress(OSError):
            data = session.socket.recv(_CHUNK_BYTES)
            session.used_s = self._loop.time()
            self._socket.sendto(data, client)

    def _sweep_idle(self) -> None:
        self._sweep = None
        oldest = self._loop.time() - self._idle_s
        for client, session in list(self._sessions.items()):
            if session.used_s <= oldest:
                self._end(client)
        if self._sessions:
            wait_s = min(s.used_s for s in self._sessions.values()) - oldest
            self._sweep = self._loop.call_later(max(wait_s, _TIRED_S), self._sweep_idle)

    def _end(self, client: tuple[str, int]) -> None:
        session = self._sessions.pop(client)
        self._loop.remove_reader(session.socket.fileno())
        session.socket.close()


class _Session:
    """One sender's socket, and when it was used last (the loop's time)."""

    __slots__ = ("socket", "used_s")

    def __init__(self, sock: socket.socket, used_s: float) -> None:
        self.socket, self.used_s = sock, used_s
