"""The engine's event loop: asyncio's, with a wake-up that does not get lost, and threads that are
not missed."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

_TRIES = 50
_PAUSE_S = 0.002


class Threads(ThreadPoolExecutor):
    """A pool that needs no new thread to take work. Python queues the work, and says that it cannot
    be done when a further thread cannot be had: a thread that is there would do it later, when the
    caller has undone everything else."""

    def __init__(self) -> None:
        """Raises: RuntimeError: there is not even one thread."""
        super().__init__(thread_name_prefix="asyncio")
        self.submit(_nothing)

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except RuntimeError:
            if not self._threads:
                raise


def _nothing() -> None:
    """The first thread's first work."""


class EngineLoop(asyncio.SelectorEventLoop):
    """A thread that has finished tells the loop by a byte on a socket. asyncio lets it go when the
    kernel has no memory for that byte just then, and whoever waits for the thread waits on."""

    def __init__(self) -> None:
        super().__init__()
        self.set_default_executor(Threads())

    def _write_to_self(self) -> None:
        sock = self._csock  # type: ignore[attr-defined]
        for _ in range(_TRIES):
            if sock is None:
                return
            try:
                sock.send(b"\0")
            except BlockingIOError:
                return  # full: it is awake
            except OSError:
                time.sleep(_PAUSE_S)
            else:
                return
