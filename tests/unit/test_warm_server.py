"""The warm process's loop: a descriptor's number that is used again means another connection."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from onggi.faces.warm import server as server_room
from onggi.faces.warm.server import Server, _Running


def test_a_number_used_again_is_not_taken_for_the_front_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first command's end and the second's beginning in one round of the loop."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    reader, writer = os.pipe()
    server = Server(listener, reader, lambda _: 0, lambda: None)
    ended: list[int] = []
    monkeypatch.setattr(server_room.Server, "_end", lambda _self, pid, _running: ended.append(pid))
    mine, its = socket.socketpair()
    number = os.dup(mine.fileno())
    server._running[1] = _Running(number)

    def wait(_self: Server) -> dict[int, int]:
        server._serving = bool(server._running) and 2 not in server._running
        return {number: server_room._FRONT_GONE} if 1 in server._running else {}

    def reap(_self: Server) -> None:
        if 1 in server._running:  # the first is over; the next command gets its number
            os.close(number)
            del server._running[1]
            assert os.dup(mine.fileno()) == number
            server._running[2] = _Running(number)
        else:
            server._running.clear()
            server._serving = False

    monkeypatch.setattr(server_room.Server, "_wait", wait)
    monkeypatch.setattr(server_room.Server, "_reap", reap)
    monkeypatch.setattr(server_room.Server, "_take", lambda _self: None)
    monkeypatch.setattr(server_room.Server, "_fork_spare", lambda _self, *, rehearsed: None)
    before = signal.getsignal(signal.SIGCHLD)
    try:
        server.run()
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, before)
    assert ended == []
    for fd in (reader, writer, number, server._wake, server._woken):
        os.close(fd)
    for each in (listener, mine, its):
        each.close()
