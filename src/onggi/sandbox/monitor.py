"""The engine's end of one task's control socket: spawn a monitor or find a running one, and talk.

Nothing here waits: `fileno()` becomes readable when `receive()` has an event. It does not know
asyncio, nor what a plan holds. A monitor lives in a session of its own and outlives the engine;
while the engine lives it must `reap()` the monitors that it spawned.
Source: keel/README.md.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from onggi.errors import DataLoss, Unavailable, from_os_error
from onggi.kernel.syscalls import sealed_memfd
from onggi.runtime.steps import Plan
from onggi.sandbox import messages
from onggi.sandbox.keel import MAX_BORROWED, Keel, spawn
from onggi.sandbox.messages import Cloned, Closed, MonitorEvent, Started

SOCKET_NAME: Final = "monitor.sock"
_DESCRIPTORS: Final = socket.CMSG_SPACE(4 * messages.MAX_DESCRIPTORS)


class Monitor:
    """One monitor, from the outside. A context manager that owns the socket, not the monitor."""

    def __init__(self, control: socket.socket, pid: int | None) -> None:
        """Take over a socket that does not block, and a process."""
        self._control = control
        self._closed = False
        self._told_to_go = pid is None
        #: The monitor's own process id where this process spawned it and has not reaped it yet.
        self.pid = pid

    @classmethod
    def spawn(
        cls, keel: Keel, plan: Plan, borrowed: Sequence[int] = (), stderr_fd: int = 2
    ) -> Monitor:
        """Start a monitor with this plan; it waits for `go()`.

        `borrowed` become slots 0, 1, …; `stderr_fd` takes its complaints; both stay the caller's.

        Raises:
            ResourceExhausted: no descriptors, memory or processes left.
            ValueError: more borrowed descriptors than there are slots.
        """
        if len(borrowed) > MAX_BORROWED:
            raise ValueError(f"{len(borrowed)} descriptors do not fit {MAX_BORROWED} slots")
        with ExitStack() as stack:
            memfd = stack.enter_context(sealed_memfd("plan", plan.encode()))
            ours, theirs = socket_pair()
            stack.enter_context(theirs)
            try:
                # All that can fail comes before the process, which somebody would have to collect.
                ours.setblocking(False)
                stdio = [
                    # stderr first: its source may be a number that the next ones overwrite.
                    (os.POSIX_SPAWN_DUP2, stderr_fd, 2),
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                ]
                sources = [memfd, theirs.fileno(), *borrowed]
                pid = spawn(keel, "monitor", sources, stdio)
            except BaseException:
                ours.close()
                raise
        return cls(ours, pid)

    @classmethod
    def connect(cls, run_dirfd: int) -> Monitor:
        """Reach the monitor that serves the run directory `run_dirfd`.

        Raises:
            Unavailable: there is none, or it is about to end: the exit record tells more.
        """
        control = socket.socket(
            socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        try:
            # Through the descriptor: a path longer than sun_path's 108 bytes would not do.
            control.connect(f"/proc/self/fd/{run_dirfd}/{SOCKET_NAME}")
        except OSError as error:
            control.close()
            raise Unavailable(f"no monitor answers: {os.strerror(error.errno or 0)}") from error
        return cls(control, None)

    def fileno(self) -> int:
        """The socket, borrowed, for a selector."""
        return self._control.fileno()

    def go(self) -> None:
        """Let it carry out the plan. A monitor that has ended before says why in `receive()`.

        Raises:
            Unavailable: the monitor does not listen.
        """
        self._send(messages.go())
        self._told_to_go = True

    def attach(self, sock_fd: int, *, stdin: bool, stdout: bool, stderr: bool) -> None:
        """Hand it a stream socket to serve; `sock_fd` stays the caller's to close.

        Raises:
            Unavailable: the monitor does not listen, or is gone after it was told to go.
        """
        self._send(messages.attach(stdin=stdin, stdout=stdout, stderr=stderr), sock_fd)

    def resize(self, rows: int, columns: int) -> None:
        """Give the terminal this size; without a terminal nothing happens.

        Raises:
            Unavailable: the monitor is gone or does not listen.
        """
        self._send(messages.resize(rows, columns))

    def close_stdin(self) -> None:
        """End the application's stdin; a terminal has none to end.

        Raises:
            Unavailable: the monitor is gone or does not listen.
        """
        self._send(messages.close_stdin())

    def request_info(self) -> None:
        """Ask for `Started` again; there is no answer before the application runs.

        Raises:
            Unavailable: the monitor is gone or does not listen.
        """
        self._send(messages.info())

    def receive(self) -> MonitorEvent | None:
        """The next event; None: nothing now. The caller owns the descriptors of a `Started`.

        Raises:
            DataLoss: what came is not a message.
        """
        if self._closed:
            return Closed()
        flags = socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
        try:
            packet, control, _, _ = self._control.recvmsg(
                messages.MAX_PACKET_BYTES, _DESCRIPTORS, flags
            )
        except (BlockingIOError, InterruptedError):
            return None
        except ConnectionError:
            # A monitor that was killed with messages unread: the kernel says so once, and what it
            # had told before is still there.
            return self.receive()
        if not packet:
            self._closed = True
            return Closed()
        return _decode(packet, passed(control))

    def reap(self) -> bool:
        """Collect the spawned monitor's process if it has ended; never waits.

        True: it is collected (or was not ours to collect). No zombie is left behind it.
        """
        if self.pid is None:
            return True
        try:
            ended = os.waitpid(self.pid, os.WNOHANG)[0] != 0
        except ChildProcessError:
            ended = True  # collected elsewhere, by a SIGCHLD handler for instance
        if ended:
            self.pid = None
        return ended

    def close(self) -> None:
        """Close the socket. The container runs on, unless its plan says `die_with_engine`."""
        self._closed = True
        self._control.close()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, packet: bytes, fd: int | None = None) -> None:
        flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
        try:
            if fd is None:
                self._control.send(packet, flags)
            else:
                socket.send_fds(self._control, [packet], [fd], flags)
        except OSError as error:
            if isinstance(error, ConnectionError) and not self._told_to_go:
                return  # it could not even begin; `receive()` tells why
            reason = os.strerror(error.errno or 0)
            raise Unavailable(f"the monitor takes no message: {reason}") from error


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """A control socket: our end, keel's end.

    Raises:
        ResourceExhausted: no descriptors left.
    """
    kind = socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC
    try:
        return socket.socketpair(socket.AF_UNIX, kind)
    except OSError as error:
        raise from_os_error(error, "make a control socket") from error


def passed(control: Sequence[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors that came with a packet."""
    fds: list[int] = []
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds += memoryview(data[: len(data) // 4 * 4]).cast("i")
    return fds


def _decode(packet: bytes, fds: list[int]) -> MonitorEvent:
    """The event; descriptors that it does not carry are closed."""
    event: MonitorEvent | Cloned | None = None
    try:
        event = messages.decode(packet, fds[0] if fds else None, tuple(fds[1:]))
        if isinstance(event, Cloned):
            raise DataLoss("a monitor spoke as if it did not stay")
        return event
    finally:
        if not isinstance(event, Started):
            for fd in fds:
                os.close(fd)
