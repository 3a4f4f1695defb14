"""An attached session: the user's stdio on one side, the attach socket on the other.

Copies until the process has ended and all of its output has been shown, or the user detaches.
Knows nothing about which verb it serves.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import select
from _socket import SHUT_WR, socket, timeout

from onggi.errors import DataLoss, Unavailable
from onggi.faces.cli.detach import DetachKeys
from onggi.faces.cli.frames import STDERR, FrameDecoder
from onggi.faces.cli.output import write_all
from onggi.faces.cli.terminal import Handlers, RawTerminal, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from onggi.faces.cli.client import Call

#: docker's. Source: docker-attach(1), --detach-keys.
DETACH_KEYS = b"\x10\x11"
_CHUNK = 65536
_MSG_DONTWAIT = 0x40
#: Not passed on: they are about this process (job control, its children, its own faults).
_OWN_SIGNALS = frozenset(
    (_signal.SIGKILL, _signal.SIGSTOP, _signal.SIGCHLD, _signal.SIGPIPE, _signal.SIGURG,
     _signal.SIGSEGV, _signal.SIGBUS, _signal.SIGFPE, _signal.SIGILL, _signal.SIGABRT,
     _signal.SIGTSTP, _signal.SIGTTIN, _signal.SIGTTOU, _signal.SIGPROF, _signal.SIGVTALRM,
     _signal.SIGWINCH, _signal.SIGTRAP, _signal.SIGSYS),
)  # fmt: skip


class Ended:
    """How a session ended: by detaching, or with the exit status's fields.

    `lost`: the engine went away meanwhile, so that the status must be asked of its successor.
    """

    __slots__ = ("detached", "lost", "status")

    def __init__(
        self,
        *,
        detached: bool = False,
        lost: bool = False,
        status: dict[str, Any] | None = None,
    ) -> None:
        self.detached = detached
        self.lost = lost
        self.status = status


class Streams:
    """What a session connects, and how: descriptors of the user's stdio, -1 for none."""

    __slots__ = ("detach_keys", "sig_proxy", "stderr", "stdin", "stdout", "tty")

    def __init__(
        self, *, stdin: bool, tty: bool, detach_keys: bytes = DETACH_KEYS, sig_proxy: bool = True
    ) -> None:
        self.stdin = 0 if stdin else -1
        self.stdout = 1
        self.stderr = 2
        self.tty = tty
        self.detach_keys = detach_keys
        self.sig_proxy = sig_proxy


class Session:
    """One attached process. Owns the attach socket `fd`."""

    def __init__(self, call: Call, fd: int, streams: Streams) -> None:
        self._call = call
        self._attach = socket(fileno=fd)
        self._attach.setblocking(True)
        self._streams = streams
        self._decoder = FrameDecoder()
        self._typed: bytes = b""
        self._stdin = streams.stdin
        self._keys = DetachKeys(streams.detach_keys if streams.tty and self._stdin >= 0 else b"")
        self._status: dict[str, Any] | None = None
        self._open = True
        self._lost = False
        self._handlers = Handlers()

    def run(self) -> Ended:
        """Copy until the end.

        Raises: the engine's error; BrokenPipeError when nobody reads our output.
        """
        handlers = self._handlers
        raw = None
        try:
            if self._streams.tty:
                self._resize()
                handlers.set(_signal.SIGWINCH, self._resize)
                if self._stdin >= 0 and os.isatty(self._stdin):
                    raw = RawTerminal(self._stdin).__enter__()
            elif self._streams.sig_proxy:
                for number in range(1, 32):
                    if number not in _OWN_SIGNALS:
                        handlers.set(number, self._forward)
            return self._copy()
        finally:
            if raw is not None:
                raw.__exit__()
            handlers.restore()
            self._attach.close()

    def _resize(self, *_: object) -> None:
        rows, columns = size(self._streams.stdout)
        if rows and columns:
            self._call.tell({"resize": [rows, columns]})

    def _forward(self, number: int, _frame: object) -> None:
        # Runs between two tries of an interrupted read or write, however long those wait.
        self._call.tell({"signal": number})

    def _copy(self) -> Ended:
        while self._open or not (self._call.finished or self._lost):
            poll = select.poll()
            control = self._call.sock.fileno()
            if not (self._call.finished or self._lost):
                poll.register(control, select.POLLIN)
            if self._open:
                want = select.POLLIN | (select.POLLOUT if self._typed else 0)
                poll.register(self._attach.fileno(), want)
                if self._stdin >= 0 and not self._typed:
                    poll.register(self._stdin, select.POLLIN)
            ready = dict(poll.poll())
            if self._attach.fileno() in ready:
                self._attached(ready[self._attach.fileno()])
            if self._stdin >= 0 and self._stdin in ready:
                self._read_stdin()
                if self._keys.detached:
                    return Ended(detached=True)
            if control in ready:
                self._read_control()
        return Ended(status=self._status, lost=self._lost)

    def _attached(self, events: int) -> None:
        if self._typed and events & select.POLLOUT:
            self._write_typed()
        if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
            self._read_attached()

    def _read_attached(self) -> None:
        try:
            data = self._attach.recv(_CHUNK)
        except ConnectionResetError:
            data = b""
        if not data:
            self._open = False
            return
        try:
            for stream, piece in self._decoder.feed(data):
                to_stderr = stream == STDERR
                write_all(self._streams.stderr if to_stderr else self._streams.stdout, piece)
        except ValueError as error:
            raise DataLoss(f"the container's output cannot be read: {error}") from None

    def _read_stdin(self) -> None:
        try:
            data = os.read(self._stdin, _CHUNK)
        except OSError:
            data = b""  # EIO: the terminal hung up
        if not data:
            self._stdin = -1
            self._shut()
            return
        self._typed = self._keys.feed(data)
        self._write_typed()

    def _write_typed(self) -> None:
        # Never waits: the container may itself be waiting for us to read its output.
        try:
            while self._typed:
                sent = self._attach.send(self._typed, _MSG_DONTWAIT)
                self._typed = self._typed[sent:]
        except (BlockingIOError, timeout):
            return
        except (BrokenPipeError, ConnectionResetError):
            self._typed = b""
            self._stdin = -1

    def _shut(self) -> None:
        try:
            self._attach.shutdown(SHUT_WR)
        except OSError:
            return  # the other side has ended already

    def _read_control(self) -> None:
        try:
            self._call.receive()
            while (item := self._call.take()) is not None:
                if item.type == "ExitStatus":
                    self._status = item.value
        except Unavailable:
            # The engine went away. The container and this socket belong to its monitor: go on,
            # but nobody is left to pass signals to, so they are about this process again.
            self._lost = True
            if not self._streams.tty:
                self._handlers.restore()
