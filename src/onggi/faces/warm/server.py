"""The warm process itself: keeps one child ready, and stands by the children that run commands.

It never reads what a client sends: a child does, and garbage harms only that child. It tells a
front how its child ended, and a child that its front is gone. When the engine ends it takes no
more commands, and ends after the last that had begun.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` costs 3 ms for enums
import os
import select
import sys
import time
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_SEQPACKET, socket, socketpair

from onggi.faces.cli import wire
from onggi.faces.warm.child import EXITED, KILLED, STOPPED, TAKEN, answer, serve_one
from onggi.faces.warm.request import directory_identity
from onggi.faces.warm.world import FRONT_LOST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from onggi.faces.warm.child import Admit, Command

#: From asking a child to end to killing it.
_GRACE_S = 2.0
#: From a spare's unexpected end to the next spare.
_PAUSE_S = 0.1
#: From a command's beginning to the next spare, unless a client waits: most commands are done then,
#: and forking does not take the processor from them.
_LULL_S = 0.005
_FRONT_GONE = select.POLLHUP | select.POLLRDHUP | select.POLLERR


class _Spare:
    __slots__ = ("channel", "pid")

    def __init__(self, pid: int, channel: socket) -> None:
        self.pid = pid
        self.channel = channel


class _Running:
    """A child with a command. `kill_at` is monotonic; 0.0 as long as its front lives."""

    __slots__ = ("connection", "kill_at")

    def __init__(self, connection: int) -> None:
        self.connection = connection
        self.kill_at = 0.0


class Server:
    """Serves `listener` (non-blocking, listening) until the end of `lifeline`. Owns both.

    Every child carries out one `command`, and does `rehearse` before, if nobody waits yet. `admit`
    may refuse a connection. `idle_s`: end when there was nothing to do for so long. `spares`: how
    many children are kept ready, for commands that follow each other faster than a child is made.
    """

    def __init__(
        self,
        listener: socket,
        lifeline: int,
        command: Command,
        rehearse: Callable[[], None],
        *,
        admit: Admit | None = None,
        idle_s: float | None = None,
        spares: int = 1,
    ) -> None:
        self._listener = listener
        self._lifeline = lifeline
        self._command = command
        self._rehearse = rehearse
        self._admit = admit
        self._idle_s = idle_s
        self._busy_at = time.monotonic()
        self._root = _own_root()
        self._wanted = spares
        self._spares: list[_Spare] = []
        self._spare_at = 0.0
        self._hurries = False
        self._running: dict[int, _Running] = {}
        self._serving = True
        self._wake, self._woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def run(self) -> None:
        """Serve until the engine has ended, and every command that had begun."""
        _signal.signal(_signal.SIGCHLD, lambda *_: None)
        _signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        while self._serving or self._running:
            ready = self._wait()
            # now: what follows closes descriptors and gets others of the same numbers
            lost = [p for p, r in self._running.items() if ready.get(r.connection, 0) & _FRONT_GONE]
            self._take()
            if self._wake in ready:
                os.read(self._wake, 4096)
            self._reap()
            for pid in lost:
                running = self._running.get(pid)
                if running is not None and not running.kill_at:
                    self._end(pid, running)
            self._kill_late()
            if self._serving and (self._lifeline in ready or self._is_idle()):
                self._stop_serving()
            if self._serving and len(self._spares) < self._wanted:
                waited_for = self._listener.fileno() in ready and not self._spares
                if waited_for or time.monotonic() >= self._spare_at:
                    self._fork_spare(rehearsed=not waited_for)

    def _is_idle(self) -> bool:
        now = time.monotonic()
        if self._running:
            self._busy_at = now
        return self._idle_s is not None and now - self._busy_at >= self._idle_s

    def _wait(self) -> dict[int, int]:
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        due = []
        if self._serving:
            poll.register(self._lifeline, select.POLLIN)
            if self._idle_s is not None and not self._running:
                due.append(self._busy_at + self._idle_s)
            if len(self._spares) < self._wanted:
                due.append(self._spare_at)
            if not self._spares and self._hurries:
                poll.register(self._listener, select.POLLIN)
        for spare in self._spares:
            poll.register(spare.channel.fileno(), select.POLLIN)
        for running in self._running.values():
            if running.kill_at:
                due.append(running.kill_at)
            else:
                poll.register(running.connection, select.POLLRDHUP)
        if not due:
            return dict(poll.poll())
        return dict(poll.poll(max(0, min(due) - time.monotonic()) * 1000 + 1))

    def _fork_spare(self, *, rehearsed: bool) -> None:
        try:
            mine, its = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
            mine.setblocking(False)
            pid = os.fork()
        except OSError as error:
            print(f"onggi: no more warm commands: {error}", file=sys.stderr, flush=True)
            self._stop_serving()
            return
        if pid == 0:
            self._close_inherited(mine)
            rehearse = self._rehearse if rehearsed else None
            serve_one(self._listener, its, self._root, rehearse, self._command, self._admit)
        its.close()
        self._spares.append(_Spare(pid, mine))

    def _close_inherited(self, channel: socket) -> None:
        """In the child: close what is its parent's, so that a front sees its own child's end."""
        channel.close()
        for fd in (self._lifeline, self._wake, self._woken):
            os.close(fd)
        for running in self._running.values():
            os.close(running.connection)
        self._running.clear()
        for spare in self._spares:
            spare.channel.close()
        self._spares.clear()

    def _take(self) -> None:
        """Enter the commands that spares have taken, if they have."""
        for spare in list(self._spares):
            try:
                data, fds = wire.receive(spare.channel, len(TAKEN))
            except BlockingIOError:
                continue
            spare.channel.close()
            self._hurries = data == TAKEN
            if not self._hurries or len(self._spares) == self._wanted:
                # a command that follows the first does not put the next spare off again
                self._spare_at = time.monotonic() + (_LULL_S if self._hurries else _PAUSE_S)
            self._spares.remove(spare)
            if fds:
                self._running[spare.pid] = _Running(fds[0])

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid not in self._running:
                # Perhaps it took a command and ended, all since the last look.
                self._take()
            running = self._running.get(pid)
            if running is None:
                continue
            if os.WIFSTOPPED(status):
                _tell(running.connection, answer(STOPPED, os.WSTOPSIG(status)))
                continue
            if os.WIFSIGNALED(status):
                _tell(running.connection, answer(KILLED, os.WTERMSIG(status)))
            else:
                _tell(running.connection, answer(EXITED, os.WEXITSTATUS(status)))
            os.close(running.connection)
            del self._running[pid]

    def _end(self, pid: int, running: _Running) -> None:
        """The front is gone: so must its command be. `pid` is ours, and has not been reaped."""
        os.kill(pid, FRONT_LOST)
        os.kill(pid, _signal.SIGCONT)
        running.kill_at = time.monotonic() + _GRACE_S

    def _kill_late(self) -> None:
        now = time.monotonic()
        for pid, running in self._running.items():
            if 0 < running.kill_at <= now:
                os.kill(pid, _signal.SIGKILL)
                running.kill_at = now + _GRACE_S

    def _stop_serving(self) -> None:
        """No more commands. A spare that has not taken one sees its channel end."""
        self._serving = False
        self._listener.close()
        os.close(self._lifeline)
        self._take()
        for spare in self._spares:
            spare.channel.close()
        self._spares.clear()


def _own_root() -> tuple[int, int, bytes]:
    fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return directory_identity(fd)
    finally:
        os.close(fd)


def _tell(connection: int, message: bytes) -> None:
    try:
        os.write(connection, message)
    except (BrokenPipeError, BlockingIOError):
        return  # the front has its answer, or is gone
