"""Clients that come by TCP: several questions on one connection, one after the other.

One at a time, so that who sends many waits for himself; idle connections are closed, and what comes
beyond the bounds waits in the kernel until others have gone. Source: RFC 7766.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable

from onggi.network.dns.stream import read_message, write_message

MOST_EACH, MOST = 8, 256
IDLE_S = 10.0
_PAUSE_S = 0.2
#: No question is longer, whatever its options.
_MOST_BYTES = 4096
Answer = Callable[[bytes], Awaitable[bytes]]


class Listener:
    """The connections of one container. `everyone`: those of all, shared by all listeners."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        answer: Answer,
        everyone: set[asyncio.Task[None]],
    ) -> None:
        """Accept on a listening socket, which is owned from here on. `answer`: what to say to a
        message; empty: nothing, and the connection ends."""
        self._loop = loop
        self._sock = sock
        self._answer = answer
        self._everyone = everyone
        self._mine: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        sock.setblocking(False)
        self._listen()

    def close(self) -> None:
        """Close the socket and all connections."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        for task in self._mine:
            task.cancel()

    def _listen(self) -> None:
        self._pause = None
        self._loop.add_reader(self._sock.fileno(), self._accept)

    def _accept(self) -> None:
        if len(self._mine) >= MOST_EACH or len(self._everyone) >= MOST:
            self._wait()
            return
        try:
            connection, _ = self._sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionError):
            return
        except OSError:  # out of descriptors: the socket stays readable, and must not keep us busy
            self._wait()
            return
        connection.setblocking(False)
        task = self._loop.create_task(self._converse(connection))
        for tasks in (self._mine, self._everyone):
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    def _wait(self) -> None:
        self._loop.remove_reader(self._sock.fileno())
        self._pause = self._loop.call_later(_PAUSE_S, self._listen)

    async def _converse(self, connection: socket.socket) -> None:
        # Who breaks off, stays silent or does not read has ended the conversation.
        with connection, contextlib.suppress(OSError, EOFError, TimeoutError):
            while True:
                async with asyncio.timeout(IDLE_S):
                    message = await read_message(self._loop, connection, _MOST_BYTES)
                answer = await self._answer(message)
                if not answer:
                    return
                async with asyncio.timeout(IDLE_S):
                    await write_message(self._loop, connection, answer)
