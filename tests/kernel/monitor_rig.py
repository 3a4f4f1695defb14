"""A task run by a real keel without namespaces: what the monitor's tests share."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TypeVar

from onggi.runtime.steps import CloneInto, Execute, Plan, Step, Supervise
from onggi.sandbox.keel import Keel
from onggi.sandbox.messages import Closed, Exited, MonitorEvent, Started
from onggi.sandbox.monitor import Monitor
from onggi.sandbox.stream import Stream, StreamDecoder

PATIENCE_S = 20.0  # a limit for what hangs, never a measure of what works

Event = TypeVar("Event", bound=MonitorEvent)


class Task:
    """One started task and everything it leaves to clean up."""

    def __init__(
        self, keel: Keel, directory: Path, script: str, *more: Step, **supervise: object
    ) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self._stack = ExitStack()
        self.run_dirfd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._stack.callback(os.close, self.run_dirfd)
        self.monitor = self._stack.enter_context(
            Monitor.spawn(keel, plan(directory, script, *more, **supervise))
        )
        self.monitor_pid = self.monitor.pid
        self.started: Started | None = None

    def start(self) -> Started:
        self.monitor.go()
        self.started = expect(self.monitor, Started)
        return self.started

    def attach(self, *, stdin: bool = False, stdout: bool = True, stderr: bool = True) -> Client:
        client = Client.attached(self.monitor, stdin=stdin, stdout=stdout, stderr=stderr)
        self._stack.callback(client.close)
        return client

    def connect(self) -> Monitor:
        return self._stack.enter_context(Monitor.connect(self.run_dirfd))

    def finish(self) -> Exited:
        """Wait for the end: EXITED, the socket's end, the monitor's own end."""
        exited = expect(self.monitor, Exited)
        expect(self.monitor, Closed)
        wait_until(self.monitor.reap)
        return exited

    def close(self) -> None:
        if self.started and self.started.pidfd is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.started.pidfd, signal.SIGKILL)
            os.close(self.started.pidfd)
            self.started = None
        self._stack.close()
        wait_until(self.monitor.reap)

    def __enter__(self) -> Task:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Client:
    """One end of an attach socket, read by stream."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        sock.settimeout(PATIENCE_S)

    @classmethod
    def attached(cls, monitor: Monitor, *, stdin: bool, stdout: bool, stderr: bool) -> Client:
        ours, theirs = socket.socketpair()
        with theirs:
            monitor.attach(theirs.fileno(), stdin=stdin, stdout=stdout, stderr=stderr)
        return cls(ours)

    def read_all(self) -> dict[Stream, bytes]:
        """Everything until the monitor closes the socket."""
        decoder = StreamDecoder()
        streams: dict[Stream, bytearray] = {}
        while data := self.socket.recv(1 << 16):
            for stream, piece in decoder.feed(data):
                streams.setdefault(stream, bytearray()).extend(piece)
        decoder.end()
        return {stream: bytes(data) for stream, data in streams.items()}

    def read_until(self, needle: bytes) -> bytes:
        """Text of all streams up to `needle`, which ends it."""
        decoder = StreamDecoder()
        text = b""
        while needle not in text:
            data = self.socket.recv(1)
            assert data, f"the stream ended after {text!r}"
            text += b"".join(piece.data for piece in decoder.feed(data))
        return text

    def close(self) -> None:
        self.socket.close()


def plan(directory: Path, script: str, *more: Step, **supervise: object) -> Plan:
    return Plan(
        steps=(
            Supervise(**{"run_dir": str(directory), "record_name": "exit", **supervise}),  # type: ignore[arg-type]
            CloneInto(flags=0),
            *more,
            Execute(
                arguments=("/bin/sh", "-c", script),
                environment=("PATH=/usr/bin:/bin",),
                candidates=("/bin/sh",),
            ),
        )
    )


def expect(monitor: Monitor, kind: type[Event]) -> Event:
    """The next event, which must be of this kind."""
    event = wait_event(monitor)
    assert isinstance(event, kind), event
    return event


def wait_event(monitor: Monitor) -> MonitorEvent:
    limit = time.monotonic() + PATIENCE_S
    while (event := monitor.receive()) is None:
        assert select.select([monitor], [], [], max(0, limit - time.monotonic()))[0], "no event"
    return event


def wait_until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.002)


def log_files(directory: Path) -> list[Path]:
    """The log and its rotated files, oldest first."""
    found = [path for path in directory.glob("log*") if path.name == "log" or path.suffix]
    return sorted(found, key=lambda path: -int(path.name.partition(".")[2] or 0))


def log_entries(directory: Path) -> Iterator[dict[str, str]]:
    for path in log_files(directory):
        for line in path.read_bytes().splitlines(keepends=True):
            assert line.endswith(b"\n")
            yield json.loads(line)


def log_text(directory: Path, stream: str = "stdout") -> str:
    return "".join(e["log"] for e in log_entries(directory) if e["stream"] == stream)
