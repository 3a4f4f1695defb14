"""Questions that are not about containers, asked of other servers from the host's network.

Each question has sockets of its own, and so a source port that nobody can guess beside the number;
an answer counts only from the server that was asked, with the number and the very question
(RFC 5452). Nothing is kept: the resolvers of the host have caches. Knows no container's names.
Source: RFC 5452, RFC 7766 (TCP), RFC 5625 (what a DNS proxy passes on).
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence

from onggi.network.dns import messages
from onggi.network.dns.messages import SERVFAIL, TCP_BYTES, Query
from onggi.network.dns.stream import read_message, write_message
from onggi.network.dns.upstreams import Standing

PORT = 53
#: Less than the 5 s after which clients ask again (resolv.conf(5), `timeout`).
GIVE_UP_S = 4.5
#: Questions under way: in all, and of one container.
MOST, MOST_EACH = 256, 64
_ROUNDS = 2
_RECEIVE_BYTES = 65535
Done = Callable[[bytes], None]


class Forwarder:
    """Asks servers in turn until one answers. Bounded: what is too much is answered SERVFAIL."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, port: int = PORT, give_up_s: float = GIVE_UP_S
    ) -> None:
        self.loop = loop
        self.port = port
        self.give_up_s = give_up_s
        self.standing = Standing()
        self._asking: dict[str, dict[_Asking, None]] = {}
        self._count = 0

    def ask(self, owner: str, query: Query, servers: Sequence[str], tcp: bool, done: Done) -> None:
        """Ask the servers; `done` gets what the client is to be told, once, perhaps before this
        returns, and never after `forget`. `owner`: the container that asks; `tcp`: how it did."""
        if not servers or not self._make_room(owner):
            done(messages.reply(query, SERVFAIL))
            return
        ordered = self.standing.ordered(servers, self.loop.time())
        asking = _Asking(self, owner, query, ordered, tcp, done)
        self._asking.setdefault(owner, {})[asking] = None
        self._count += 1
        asking.next()

    def _make_room(self, owner: str) -> bool:
        """Whether there is room, if need be that of the oldest question of whoever asks most: who
        asks little is served however many others ask as much as they may."""
        mine = len(self._asking.get(owner, ()))
        if mine >= MOST_EACH or self._count < MOST:
            return mine < MOST_EACH
        greediest = max(self._asking.values(), key=len)
        if len(greediest) <= mine + 1:
            return False
        next(iter(greediest)).give_up()
        return True

    def ended(self, asking: _Asking) -> None:
        """Told by each question when it is over."""
        mine = self._asking[asking.owner]
        del mine[asking]
        self._count -= 1
        if not mine:
            del self._asking[asking.owner]

    def forget(self, owner: str) -> None:
        """Drop a container's questions; nobody is told."""
        for asking in tuple(self._asking.get(owner, ())):
            asking.drop()

    def close(self) -> None:
        """Drop all questions."""
        for owner in tuple(self._asking):
            self.forget(owner)

    def connect(self, server: str, kind: int) -> socket.socket:
        """A non-blocking socket that hears this server alone, from a port of the kernel's choice;
        one of TCP is still on its way. Raises: OSError."""
        address, _, scope = server.partition("%")
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            if scope:
                sock.connect((address, self.port, 0, socket.if_nametoindex(scope)))
            else:
                sock.connect((address, self.port))
        except BlockingIOError:
            return sock
        except OSError:
            sock.close()
            raise
        return sock


class _Asked:
    """One server that was asked a question over UDP, and may still answer."""

    __slots__ = ("asked_s", "number", "sock")

    def __init__(self, sock: socket.socket, asked_s: float) -> None:
        self.sock = sock
        self.asked_s = asked_s
        self.number = os.urandom(2)


class _Asking:
    """One question under way. The next server is asked when one fails or takes long; those asked
    before are still listened to."""

    def __init__(
        self,
        forwarder: Forwarder,
        owner: str,
        query: Query,
        servers: tuple[str, ...],
        tcp: bool,
        done: Done,
    ) -> None:
        self.owner = owner
        self._forwarder = forwarder
        self._loop = forwarder.loop
        self._query = query
        self._tcp = tcp
        self._done = done
        self._turns = list(servers * _ROUNDS)[::-1]
        self._patience_s = forwarder.give_up_s / (len(self._turns) + 1)
        self._failed: set[str] = set()
        self._code = SERVFAIL
        self._asked: dict[str, _Asked] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._stream: asyncio.Task[None] | None = None

    def next(self) -> None:
        """Ask the server whose turn it is."""
        if self._timer is not None:
            self._timer.cancel()
        while self._turns:
            server = self._turns.pop()
            if server not in self._failed and self._ask(server):
                self._timer = self._loop.call_later(self._patience_s, self._waited)
                return
        if self._asked:
            self._timer = self._loop.call_later(self._patience_s, self._gave_up)
        else:
            self.give_up()

    def _ask(self, server: str) -> bool:
        asked = self._asked.get(server)
        try:
            if asked is None:
                sock = self._forwarder.connect(server, socket.SOCK_DGRAM)
                asked = self._asked[server] = _Asked(sock, self._loop.time())
                self._loop.add_reader(sock.fileno(), self._readable, server, asked)
            asked.sock.send(messages.passed_on(self._query, asked.number))
        except BlockingIOError:
            return True  # as if it was lost on its way
        except OSError:
            self._forwarder.standing.failed(server, self._loop.time())
            self._fail(server)
            return False
        return True

    def _readable(self, server: str, asked: _Asked) -> None:
        try:
            packet = asked.sock.recv(_RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # nobody listens there
            self._forwarder.standing.failed(server, self._loop.time())
            self._fail(server)
            self.next()
            return
        if not messages.answers(self._query, asked.number, packet):
            return  # not from whom we asked: the true one may still come
        self._forwarder.standing.answered(server, self._loop.time())
        self._take(server, packet)

    def _take(self, server: str, packet: bytes) -> None:
        code = messages.failure(packet)
        if code:
            self._code = code
            self._fail(server)
            self.next()
        elif self._tcp and messages.is_truncated(packet):
            self._over_tcp(server)
        else:
            limit_bytes = TCP_BYTES if self._tcp else self._query.size_bytes
            self._finish(messages.handed_back(self._query, packet, limit_bytes))

    def _waited(self) -> None:
        self._note_silence()
        self.next()

    def _gave_up(self) -> None:
        self._note_silence()
        self.give_up()

    def give_up(self) -> None:
        """End with the failure that was heard last."""
        self._finish(messages.reply(self._query, self._code))

    def _note_silence(self) -> None:
        now_s = self._loop.time()
        for server, asked in self._asked.items():
            if now_s - asked.asked_s >= self._patience_s:
                self._forwarder.standing.silent(server, asked.asked_s, now_s)

    # -- what does not fit into a datagram ---------------------------------------------------

    def _over_tcp(self, server: str) -> None:
        """There is more of the answer; the client, which came by TCP, can take it."""
        self._hang_up()
        self._stream = self._loop.create_task(self._fetch(server))

    async def _fetch(self, server: str) -> None:
        packet = b""
        number = os.urandom(2)
        try:
            async with asyncio.timeout(self._forwarder.give_up_s / _ROUNDS):
                packet = await self._exchange(server, number)
        except (OSError, EOFError, TimeoutError):
            self._forwarder.standing.failed(server, self._loop.time())
        self._stream = None
        if messages.answers(self._query, number, packet) and not messages.failure(packet):
            self._finish(messages.handed_back(self._query, packet, TCP_BYTES))
            return
        self._fail(server)
        self.next()

    async def _exchange(self, server: str, number: bytes) -> bytes:
        with self._forwarder.connect(server, socket.SOCK_STREAM) as sock:
            # Writable or broken: the first byte sent tells.
            await write_message(self._loop, sock, messages.passed_on(self._query, number))
            return await read_message(self._loop, sock, TCP_BYTES)

    # -- the end -----------------------------------------------------------------------------

    def _fail(self, server: str) -> None:
        self._failed.add(server)
        asked = self._asked.pop(server, None)
        if asked is not None:
            self._close(asked)

    def _finish(self, answer: bytes) -> None:
        self.drop()
        self._done(answer)

    def drop(self) -> None:
        """End without a word."""
        self._hang_up()
        if self._stream is not None:
            self._stream.cancel()
        self._forwarder.ended(self)

    def _hang_up(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for asked in self._asked.values():
            self._close(asked)
        self._asked.clear()

    def _close(self, asked: _Asked) -> None:
        self._loop.remove_reader(asked.sock.fileno())
        asked.sock.close()
