"""Whose the sockets are that come with STARTED: adopted once, taken once, never left open."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest

from onggi.engine.tasks import Task
from onggi.sandbox.messages import MAX_DESCRIPTORS, Started
from onggi.sandbox.monitor import Monitor

STARTED = struct.pack("<IIQQ", 65, 12, 34, 56)
Check = Callable[[socket.socket, Monitor, Task], Awaitable[None]]


@contextmanager
def pair() -> Iterator[tuple[socket.socket, Monitor]]:
    """A monitor's end, and the engine's."""
    theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, Monitor(ours, None) as monitor:
        yield theirs, monitor


def send(control: socket.socket, count: int, packet: bytes = STARTED) -> list[int]:
    """Send a packet with `count` descriptors; returns the inodes behind them."""
    pipes = [os.pipe() for _ in range(count)]
    try:
        socket.send_fds(control, [packet], [read for read, _ in pipes])
        return [os.fstat(read).st_ino for read, _ in pipes]
    finally:
        for ends in pipes:
            for fd in ends:
                os.close(fd)


def inodes(fds: tuple[int, ...]) -> list[int]:
    return [os.fstat(fd).st_ino for fd in fds]


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def run(check: Check) -> None:
    """Run `check` with a task, and see that no descriptor is left."""

    async def main() -> None:
        with pair() as (control, monitor):
            await check(control, monitor, Task(monitor, asyncio.get_running_loop()))

    before = open_descriptors()
    asyncio.run(main())
    assert open_descriptors() == before


def test_the_pidfd_comes_first_and_the_sockets_in_their_order() -> None:
    before = open_descriptors()
    with pair() as (control, monitor):
        sent = send(control, MAX_DESCRIPTORS)
        event = monitor.receive()
        assert isinstance(event, Started)
        assert event.pidfd is not None
        assert inodes((event.pidfd, *event.sockets)) == sent
        for fd in (event.pidfd, *event.sockets):
            assert not os.get_inheritable(fd)
            os.close(fd)
    assert open_descriptors() == before


def test_descriptors_of_another_message_are_closed() -> None:
    with pair() as (control, monitor):
        before = open_descriptors()
        send(control, 3, struct.pack("<IiiIQQ", 68, 0, 0, 0, 1, 2))
        assert monitor.receive() is not None
        assert open_descriptors() == before


def test_sockets_are_taken_once() -> None:
    async def check(control: socket.socket, _: Monitor, task: Task) -> None:
        sent = send(control, 3)
        await task.started
        assert inodes(task.sockets) == sent[1:]
        taken = task.take_sockets()
        assert inodes(taken) == sent[1:]
        assert task.take_sockets() == task.sockets == ()
        task.detach()
        assert inodes(taken) == sent[1:]  # still open: they are ours
        for fd in taken:
            os.close(fd)

    run(check)


def test_detaching_closes_what_nobody_took() -> None:
    async def check(control: socket.socket, _: Monitor, task: Task) -> None:
        send(control, 3)
        await task.started
        task.detach()
        assert task.sockets == ()

    run(check)


def test_a_second_answer_is_not_kept() -> None:
    async def check(control: socket.socket, _: Monitor, task: Task) -> None:
        sent = send(control, 3)
        send(control, 3)
        await task.started
        await asyncio.sleep(0)
        assert inodes(task.sockets) == sent[1:]
        task.detach()

    run(check)


@pytest.mark.parametrize("ended", [True, False])
def test_the_monitors_end_closes_them(ended: bool) -> None:
    async def check(control: socket.socket, _: Monitor, task: Task) -> None:
        send(control, 1)
        await task.started
        pidfd, task.pidfd = task.pidfd, -1  # a pipe, which takes no signal
        os.close(pidfd)
        if ended:
            control.send(struct.pack("<IiiIQQ", 68, 0, 0, 0, 1, 2))
        control.close()
        assert (await task.exited is None) == (not ended)
        assert task.sockets == ()

    run(check)
