"""The descriptors that the engine starts a warm process with, and the end of all others."""

from __future__ import annotations

import os

LISTENER_FD = 3
#: A pipe's end; the other is the engine's, and closes with it.
LIFELINE_FD = 4


def close_from(first: int) -> None:
    """Close every descriptor from `first` on.

    For a process that outlives the shell it came from: a lock or a pipe's end which that shell had
    open would otherwise be held for as long.
    """
    for name in os.listdir("/proc/self/fd"):
        if int(name) >= first:
            try:
                os.close(int(name))
            except OSError:
                continue  # the listing's own, closed by now
