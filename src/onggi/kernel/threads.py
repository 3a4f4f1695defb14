"""Threads of their own, for what the event loop's pool is not for."""

from __future__ import annotations

import threading

from onggi.errors import ResourceExhausted


def start(thread: threading.Thread) -> None:
    """Start a thread.

    Raises:
        ResourceExhausted: the kernel gives no further one. Source: clone(2), EAGAIN and ENOMEM.
    """
    try:
        thread.start()
    except RuntimeError:
        raise ResourceExhausted(
            f"the kernel gives no thread for {thread.name}",
            hint="look at the limits on processes (ulimit -u, pids.max) and at free memory",
        ) from None
