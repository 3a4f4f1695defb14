"""`python -m onggi.faces.warm`: the engine starts it, with the socket as 3, its lifeline as 4."""

from __future__ import annotations

import gc
import os
from _socket import socket

from onggi.faces.cli import catalogue, main
from onggi.faces.warm.descriptors import LIFELINE_FD, LISTENER_FD, close_from
from onggi.faces.warm.rehearsal import rehearse
from onggi.faces.warm.server import Server
from onggi.faces.warm.world import schedule

#: What a command needs often enough to lie ready. The rest is imported by the child that needs it.
_VERBS = (
    "run", "start", "exec", "stop", "ps", "logs", "inspect", "images", "info",
)  # fmt: skip
_ROOMS = ("foreground", "session", "terminal", "frames", "help")
#: An interpreter adapts a function after eight calls.
_REHEARSALS = 12


def _preload() -> None:
    for name in _VERBS:
        entry = catalogue.entry_of(name)
        assert entry is not None
        catalogue.load(entry)
    for room in _ROOMS:
        __import__(f"onggi.faces.cli.{room}")


def _run() -> None:
    close_from(LIFELINE_FD + 1)
    for fd in (LISTENER_FD, LIFELINE_FD):
        os.set_inheritable(fd, False)
    listener = socket(fileno=LISTENER_FD)
    listener.setblocking(False)
    _preload()
    for _ in range(_REHEARSALS):
        rehearse()
    # What is done here ahead of time must not take the processor from a command.
    schedule(os.SCHED_BATCH)
    gc.collect()
    gc.freeze()
    Server(listener, LIFELINE_FD, main.main, rehearse).run()


if __name__ == "__main__":
    _run()
