"""One running process and its monitor, as futures on the event loop.

A task is the engine's end of a monitor: it turns the monitor's events into two futures and a list
of warnings. It knows nothing about containers, records or cgroups.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

from onggi.sandbox.messages import Closed, Exited, Failed, Started, Warned
from onggi.sandbox.monitor import Monitor


class Task:
    """`started` answers Started or Failed; `exited` answers Exited, or None when it is unknown."""

    def __init__(self, monitor: Monitor, loop: asyncio.AbstractEventLoop) -> None:
        self.monitor = monitor
        self.started: asyncio.Future[Started | Failed] = loop.create_future()
        self.exited: asyncio.Future[Exited | None] = loop.create_future()
        self.warnings: list[Warned] = []
        self.pid = 0
        #: Wall clock of the start, by the monitor.
        self.started_ns = 0
        self.pidfd = -1
        self._sockets: tuple[int, ...] = ()
        self._loop = loop
        self._closed = False
        try:
            loop.add_reader(monitor.fileno(), self._readable)
        except OSError:
            self._closed = True
            monitor.close()
            self._reap(attempt=0)
            raise

    def _readable(self) -> None:
        while not self._closed:
            event = self.monitor.receive()
            if event is None:
                return
            self._take(event)

    def _take(self, event: Started | Failed | Warned | Exited | Closed) -> None:
        match event:
            case Started():
                self._adopt(event)
            case Warned():
                self.warnings.append(event)
            case Failed():
                if not self.started.done():
                    self.started.set_result(event)
            case Exited():
                if not self.exited.done():
                    self.exited.set_result(event)
            case Closed():
                self._close()

    def _adopt(self, event: Started) -> None:
        pidfd = -1 if event.pidfd is None else event.pidfd
        if self.started.done():
            if pidfd >= 0:
                os.close(pidfd)
            _close_all(event.sockets)
            return
        self.pid, self.pidfd, self._sockets = event.pid, pidfd, event.sockets
        self.started_ns = event.realtime_ns
        self.started.set_result(event)

    @property
    def sockets(self) -> tuple[int, ...]:
        """The sockets that keel bound inside for the engine, until they are taken; borrowed."""
        return self._sockets

    def take_sockets(self) -> tuple[int, ...]:
        """The sockets, once: the caller's to close.

        An open one holds the container's network namespace, and its links, after its end.
        """
        taken, self._sockets = self._sockets, ()
        return taken

    def _close(self) -> None:
        """The monitor is gone: what it has not said is unknown."""
        self._closed = True
        self._loop.remove_reader(self.monitor.fileno())
        self.monitor.close()
        if not self.started.done():
            self.started.set_result(
                Failed(
                    step_index=0,
                    opcode=0,
                    errno=0,
                    call="monitor",
                    detail="the monitor ended without a word",
                    facts={},
                )
            )
        if not self.exited.done():
            self.exited.set_result(None)
        _close_all(self.take_sockets())
        if self.pidfd >= 0:
            # A lost monitor must not leave an unwatched process behind.
            with contextlib.suppress(ProcessLookupError):
                if self.exited.result() is None:
                    signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            os.close(self.pidfd)
            self.pidfd = -1
        self._reap(attempt=0)

    def _reap(self, attempt: int) -> None:
        """Collect the monitor's own exit; it ends moments after it closed its socket."""
        if not self.monitor.reap() and attempt < 50:
            self._loop.call_later(0.002 * (attempt + 1), self._reap, attempt + 1)

    def signal(self, number: int) -> bool:
        """Send a signal to the first process; False when it has ended already."""
        if self.pidfd < 0:
            return False
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            return False
        return True

    def abandon(self) -> None:
        """Let go of a monitor that has nothing to do: one that was not told to go ends."""
        if not self._closed:
            self.detach()
            self._reap(attempt=0)

    def detach(self) -> None:
        """Let go of the monitor, which goes on: the engine ends."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self.monitor.fileno())
            self.monitor.close()
            _close_all(self.take_sockets())
            if self.pidfd >= 0:
                os.close(self.pidfd)
                self.pidfd = -1


def _close_all(fds: tuple[int, ...]) -> None:
    for fd in fds:
        os.close(fd)
