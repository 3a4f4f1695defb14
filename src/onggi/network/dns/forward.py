"""Questions that are not about containers, asked of the host's resolvers.

Each question has a socket of its own, and so a source port that nobody can guess; an answer counts
only from the server that was asked, with the number and the very question that it was asked.
Source: RFC 5452 (forgery resilience), RFC 7766 (TCP).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import struct
import time
from collections.abc import Callable, Sequence

from onggi.network.dns.messages import PLAIN_BYTES, Query, head

PORT = 53
TIMEOUT_S = 2.0
#: A server that did not answer is asked last for so long.
_PENALTY_S = 10.0
_ATTEMPTS = 2
MOST = 512
_RECEIVE_BYTES = 65535
Done = Callable[[bytes | None], None]


class Forwarder:
    """Asks servers in turn until one answers. Bounded: `ask` refuses what is too much."""

    def __init__(self, loop: asyncio.AbstractEventLoop, port: int = PORT) -> None:
        self._loop = loop
        self._port = port
        self._asking: set[_Asking] = set()
        self._failed_s: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def ask(self, query: Query, packet: bytes, servers: Sequence[str], done: Done) -> bool:
        """Ask over UDP; `done` gets the answer with the client's number, or None when nobody
        answers. False: too many questions are under way, `done` is not called."""
        if len(self._asking) >= MOST or not servers:
            return False
        self._asking.add(_Asking(self, query, packet, self.ordered(servers) * _ATTEMPTS, done))
        return True

    def ask_by_tcp(self, query: Query, packet: bytes, servers: Sequence[str], done: Done) -> bool:
        """The same over TCP, for clients that came by TCP and answers of any length."""
        if len(self._tasks) >= MOST or not servers:
            return False
        task = self._loop.create_task(self._converse(query, packet, self.ordered(servers), done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    def ordered(self, servers: Sequence[str]) -> tuple[str, ...]:
        """The servers, those that failed lately last."""
        now_s = time.monotonic()
        return tuple(
            sorted(servers, key=lambda s: now_s - self._failed_s.get(s, -_PENALTY_S) < _PENALTY_S)
        )

    def note(self, server: str, *, answered: bool) -> None:
        """Remember how a server did."""
        if answered:
            self._failed_s.pop(server, None)
        else:
            self._failed_s[server] = time.monotonic()

    def ended(self, asking: _Asking) -> None:
        self._asking.discard(asking)

    def connect(self, server: str, kind: int) -> socket.socket:
        """A non-blocking socket that hears this server alone. Raises: OSError."""
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            address, _, scope = server.partition("%")
            if scope:
                sock.connect((address, self._port, 0, socket.if_nametoindex(scope)))
            else:
                sock.connect((address, self._port))
        except BlockingIOError:
            pass
        except OSError:
            sock.close()
            raise
        return sock

    async def _converse(
        self, query: Query, packet: bytes, servers: Sequence[str], done: Done
    ) -> None:
        for server in servers:
            answer: bytes | None = None
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                async with asyncio.timeout(TIMEOUT_S):
                    answer = await self._one_by_tcp(query, packet, server)
            self.note(server, answered=answer is not None)
            if answer is not None:
                done(answer)
                return
        done(None)

    async def _one_by_tcp(self, query: Query, packet: bytes, server: str) -> bytes | None:
        number = secrets.token_bytes(2)
        reader, writer = await asyncio.open_connection(server, self._port)
        try:
            writer.write(struct.pack("!H", len(packet)) + number + packet[2:])
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            answer = await reader.readexactly(length)
        finally:
            writer.close()
        return checked(query, answer, number)

    def close(self) -> None:
        """Give up all questions; nobody is told."""
        for asking in list(self._asking):
            asking.give_up()
        for task in self._tasks:
            task.cancel()


def checked(query: Query, answer: bytes, number: bytes) -> bytes | None:
    """The answer with the client's number; None: it is no answer to this question."""
    try:
        _, flags = head(answer)
    except struct.error:
        return None
    question = answer[12 : 12 + len(query.question)]
    if answer[:2] != number or not flags & 0x8000 or question.lower() != query.question.lower():
        return None
    return struct.pack("!H", query.number) + answer[2:]


class _Asking:
    """One question under way over UDP."""

    def __init__(
        self, forwarder: Forwarder, query: Query, packet: bytes, servers: Sequence[str], done: Done
    ) -> None:
        self._forwarder = forwarder
        self._loop = forwarder._loop
        self._query = query
        self._packet = packet
        self._servers = list(servers)
        self._done = done
        self._sock: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._number = b""
        self._next()

    def _next(self) -> None:
        """Ask the next server; the last one has not answered."""
        self._drop()
        while self._servers:
            server = self._servers.pop(0)
            try:
                sock = self._forwarder.connect(server, socket.SOCK_DGRAM)
            except OSError:
                self._forwarder.note(server, answered=False)
                continue
            self._sock, self._server = sock, server
            self._number = secrets.token_bytes(2)
            try:
                sock.send(self._number + self._packet[2:])
            except OSError:
                self._failed()
                return
            self._loop.add_reader(sock.fileno(), self._readable)
            self._timer = self._loop.call_later(TIMEOUT_S, self._failed)
            return
        self._finish(None)

    def _failed(self) -> None:
        self._forwarder.note(self._server, answered=False)
        self._next()

    def _readable(self) -> None:
        if self._sock is None:
            return
        try:
            data = self._sock.recv(_RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # nobody listens there
            self._failed()
            return
        answer = checked(self._query, data, self._number)
        if answer is not None:  # anything else is not from whom we asked
            self._forwarder.note(self._server, answered=True)
            self._finish(answer)

    def _finish(self, answer: bytes | None) -> None:
        self._drop()
        # Not from inside the constructor: the caller counts on being told afterwards.
        self._loop.call_soon(self._forwarder.ended, self)
        self._loop.call_soon(self._done, answer)

    def give_up(self) -> None:
        self._drop()
        self._forwarder.ended(self)

    def _drop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._sock is not None:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()
            self._sock = None


def fits(query: Query, answer: bytes) -> bool:
    """Whether a UDP client takes an answer of this length."""
    return len(answer) <= (query.size_bytes if query.edns else PLAIN_BYTES)
