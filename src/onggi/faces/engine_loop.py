"""The engine's event loop: asyncio's, with a wake-up that does not get lost."""

from __future__ import annotations

import asyncio
import time

_TRIES = 50
_PAUSE_S = 0.002


class EngineLoop(asyncio.SelectorEventLoop):
    """A thread that has finished tells the loop by a byte on a socket. asyncio lets it go when the
    kernel has no memory for that byte just then, and whoever waits for the thread waits on."""

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
