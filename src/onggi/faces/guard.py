"""The engine's part of the guard: a tiny process that becomes the engine's successor when that dies
without having been asked, while containers need one.

Without a guard the next command starts the successor: whatever goes wrong here is logged, and
nothing else. Policy is `guard/guard.c`'s: it waits longer after engines that lived shortly.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from onggi.engine.layout import Layout

PIPE_FD = 3
_PROGRAM = Path(__file__).resolve().parent.parent / "bin" / "guard"
_AGAIN_S = 1.0
_END_S = 2.0


class Guard:
    """The guard of one engine; spawned when it is first needed, and again when somebody ends it."""

    def __init__(self, layout: Layout, root: str | None) -> None:
        """`root`: as the engine was given it."""
        self._argv = [str(_PROGRAM), sys.executable, layout.lock, layout.log]
        self._argv += [os.path.realpath(root)] if root else []
        self._loop = asyncio.get_running_loop()
        self._needed = False
        self._told = b""
        self._pipe = -1
        self._pidfd = -1
        self._pid = 0
        self._closed = False

    def need(self, needed: bool) -> None:
        """Say whether containers need an engine; cheap when nothing has changed."""
        self._needed = needed
        if self._pidfd >= 0:
            self._tell(b"1" if needed else b"0")
        elif needed and not self._pid:
            # Off the path of the start that asks for it.
            self._pid = -1
            self._loop.call_soon(self._spawn)

    def _tell(self, word: bytes) -> None:
        if word == self._told:
            return
        try:
            os.write(self._pipe, word)
            self._told = word
        except OSError:
            return  # it has just ended, or is told with the next word

    def _spawn(self) -> None:
        if self._closed or not self._needed:
            self._pid = 0
            return
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            self._pid = _start(self._argv, reader)
            self._pidfd = os.pidfd_open(self._pid)
        except OSError as error:
            print(f"onggi: no guard: {error}", file=sys.stderr, flush=True)
            os.close(writer)
            if self._pid > 0:  # spawned, and without a descriptor nobody would see its end
                os.kill(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)
                self._pid = -1
            self._loop.call_later(_AGAIN_S, self._spawn)
            return
        finally:
            os.close(reader)
        self._pipe, self._told = writer, b""
        self._loop.add_reader(self._pidfd, self._ended)
        self._tell(b"1")

    def _ended(self) -> None:
        """Somebody ended it: collect it, and start another in a while."""
        self._collect()
        if not self._closed:
            self._pid = -1
            self._loop.call_later(_AGAIN_S, self._spawn)

    def _collect(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        if self._pipe >= 0:
            os.close(self._pipe)
        self._pidfd = self._pipe = -1
        os.waitpid(self._pid, 0)
        self._pid = 0

    async def close(self) -> None:
        """The engine ends because it was asked: no successor. On return the guard has ended."""
        self._closed = True
        if self._pidfd < 0:
            return
        self._tell(b"0")
        ended: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(self._pidfd, _settle, ended)
        os.close(self._pipe)
        self._pipe = -1
        await asyncio.wait((ended,), timeout=_END_S)
        if ended.done():
            self._collect()


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _start(argv: list[str], reader: int) -> int:
    """Spawn it; its pid. It holds nothing below the root, and no descriptor but the pipe."""
    # Its name, not its path: what it will execute is told by the first argument.
    words = ["onggi-guard", *argv[1:]]
    high = os.dup(reader) if reader == PIPE_FD else reader
    try:
        return os.posix_spawn(
            argv[0],
            words,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
                (os.POSIX_SPAWN_DUP2, 0, 1),
                (os.POSIX_SPAWN_DUP2, 0, 2),
                (os.POSIX_SPAWN_DUP2, high, PIPE_FD),
            ],
            setsid=True,
            setsigdef=range(1, 32),
            setsigmask=(),
        )
    finally:
        if high != reader:
            os.close(high)
