"""A command that stays until its process has ended: signals and terminal go through it.

The process's parent says how it ended: keel, or this command for one that CRIU restored.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` costs 3 ms for enums
import fcntl
import os
import select
import struct
import termios

from onggi.errors import SyscallError
from onggi.kernel.syscalls import pidfd_send_signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from onggi.sandbox.messages import Exited

    class Ending(Protocol):
        """Somebody who says how a process ended: keel, or the kernel of a child's own."""

        def fileno(self) -> int:
            """Readable when there is something to tell."""
            ...

        def exited(self) -> Exited | None:
            """How it ended; None: nobody knows. Waits."""
            ...

        def close(self) -> None:
            """Let go."""
            ...

    from onggi.sandbox.oci.readiness import Readiness

_SIGNAL_BASE = 128
_UNKNOWN = 255
_CHUNK = 32 * 1024
#: Signals about this process itself, not messages for the other.
_OWN = frozenset(
    getattr(_signal, name)
    for name in (
        "SIGKILL", "SIGSTOP", "SIGCHLD", "SIGPIPE", "SIGURG", "SIGWINCH", "SIGSEGV", "SIGBUS",
        "SIGFPE", "SIGILL", "SIGTRAP", "SIGABRT", "SIGSYS", "SIGTTIN", "SIGTTOU", "SIGTSTP",
        "SIGCONT", "SIGPROF",
    )
)  # fmt: skip
_FORWARDED = frozenset(range(1, 32)) - _OWN


def keep_signals() -> None:
    """Before there is somebody to forward them to: signals wait until `stay` takes them."""
    _signal.pthread_sigmask(_signal.SIG_BLOCK, _FORWARDED)


def stay(
    offspring: Ending, pidfd: int, terminal: int = -1, readiness: Readiness | None = None
) -> int:
    """Wait for the end, which is the exit code to answer with; 128+n: ended by signal n.

    `readiness` is served meanwhile, and closed.
    """
    with _Signals(pidfd, terminal) as signals, _Streams(terminal) as streams:
        while True:
            poll = select.poll()
            for fd in (offspring.fileno(), signals.fd):
                poll.register(fd, select.POLLIN)
            for fd, events in streams.interests():
                poll.register(fd, events)
            if readiness is not None and not readiness.done:
                poll.register(readiness, select.POLLIN)
            ready = dict(poll.poll())
            if readiness is not None and readiness.fileno() in ready:
                readiness.serve()
            if signals.fd in ready:
                signals.forward()
            streams.serve(ready)
            if offspring.fileno() in ready:
                break
        event = offspring.exited()
        streams.drain()
    os.close(pidfd)
    offspring.close()
    if readiness is not None:
        readiness.__exit__()
    if event is None:
        return _UNKNOWN
    return event.code if event.code >= 0 else _SIGNAL_BASE + event.signal


class _Signals:
    """Forwards what this process is sent. A context manager that puts handlers back."""

    def __init__(self, pidfd: int, terminal: int) -> None:
        self._pidfd = pidfd
        self._terminal = terminal
        self.fd, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def __enter__(self) -> _Signals:
        self._before = {}
        self._wakeup = _signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        for number in _FORWARDED:
            self._before[number] = _signal.signal(number, _ignore)
        if self._terminal >= 0:
            self._before[_signal.SIGWINCH] = _signal.signal(_signal.SIGWINCH, _ignore)
            _copy_size(self._terminal)
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, _FORWARDED)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            if handler is not None:
                _signal.signal(number, handler)
        _signal.set_wakeup_fd(self._wakeup)
        os.close(self.fd)
        os.close(self._wake)

    def forward(self) -> None:
        for number in os.read(self.fd, 256):
            if number == _signal.SIGWINCH:
                _copy_size(self._terminal)
                continue
            try:
                pidfd_send_signal(self._pidfd, number)
            except SyscallError:
                return  # it has ended: keel is about to say so


def _ignore(_number: int, _frame: object) -> None:
    """The wake-up descriptor has the number."""


def _copy_size(terminal: int) -> None:
    for fd in (0, 1, 2):
        try:
            size = fcntl.ioctl(fd, termios.TIOCGWINSZ, b"\0" * 8)
            if struct.unpack("HHHH", size)[:2] != (0, 0):
                fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)
        except OSError:
            continue
        return


class _Streams:
    """Copies between our stdio and the terminal's master; ours is raw meanwhile."""

    def __init__(self, terminal: int) -> None:
        self._master = terminal
        self._saved: list[Any] | None = None
        self._pending = b""
        self._reads_stdin = terminal >= 0
        self._reads_master = terminal >= 0

    def __enter__(self) -> _Streams:
        if self._master >= 0 and not os.isatty(1):
            attributes = termios.tcgetattr(self._master)
            attributes[1] &= ~termios.ONLCR  # who reads a pipe or file wants no carriage returns
            termios.tcsetattr(self._master, termios.TCSANOW, attributes)
        if self._master >= 0 and os.isatty(0):
            self._saved = termios.tcgetattr(0)
            import tty  # noqa: PLC0415

            tty.setraw(0, termios.TCSANOW)  # what was typed ahead is for the container
        return self

    def __exit__(self, *_: object) -> None:
        if self._saved is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, self._saved)
        if self._master >= 0:
            os.close(self._master)

    def interests(self) -> list[tuple[int, int]]:
        """What to wait for now."""
        found = []
        if self._reads_master:
            writes = select.POLLOUT if self._pending else 0
            found.append((self._master, select.POLLIN | writes))
        if self._reads_stdin and not self._pending:
            found.append((0, select.POLLIN))
        return found

    def serve(self, ready: dict[int, int]) -> None:
        """Copy what can be copied."""
        if ready.get(self._master, 0) & (select.POLLIN | select.POLLHUP):
            self._reads_master = self._copy_out()
        if self._pending and ready.get(self._master, 0) & select.POLLOUT:
            self._pending = self._pending[os.write(self._master, self._pending) :]
        if self._reads_stdin and 0 in ready:
            self._pending = os.read(0, _CHUNK)
            self._reads_stdin = bool(self._pending)

    def _copy_out(self) -> bool:
        """False: nobody has the other side open any more."""
        try:
            data = os.read(self._master, _CHUNK)
        except OSError:  # EIO
            return False
        while data:
            data = data[os.write(1, data) :]
        return True

    def drain(self) -> None:
        """Copy what was written before the end."""
        if self._master >= 0:
            os.set_blocking(self._master, False)
            while self._reads_master:
                self._reads_master = self._copy_out()
