"""A fake engine behind the real server on a real socket, and ways to run the command against it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from onggi.engine.api.answers import (
    ContainerSummary,
    Created,
    EngineStatus,
    Event,
    ExitStatus,
    ImageAnswer,
    LogLine,
    Progress,
    Session,
    Statistics,
)
from onggi.engine.api.requests import Nothing
from onggi.errors import NotFound, StartFailed, SyscallError
from onggi.faces.cli.server import serve
from onggi.faces.resident import bind_socket

IDENTITY = "0123456789abcdef" * 4


def frame(stream: int, data: bytes) -> bytes:
    return bytes((stream, 0, 0, 0)) + len(data).to_bytes(4, "big") + data


class FakeEngine:
    """Does by image name what a test wants to see; records what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.closed_streams = 0
        self.stopping = asyncio.Event()
        self.told: asyncio.Queue[Any] = asyncio.Queue()
        self.gate = asyncio.Event()
        self.kept: list[socket.socket] = []
        self.began = threading.Event()
        self.ended = threading.Event()

    def handlers(self) -> dict[str, Callable[..., Any]]:
        return {
            "containers.create": self.create,
            "containers.run": self.run,
            "containers.exec": self.run,
            "containers.resize": self.tell,
            "containers.signal": self.tell,
            "containers.wait": self.wait,
            "containers.stop": self.stop_container,
            "containers.list": self.list_containers,
            "containers.logs": self.logs,
            "containers.stats": self.stats,
            "images.load": self.load,
            "images.save": self.save,
            "events": self.events,
            "engine.status": self.status,
            "engine.stop": self.stop,
        }

    async def close(self) -> None:
        self.stopping.set()

    async def status(self, _request: Any, _fds: list[int]) -> EngineStatus:
        return EngineStatus(os.getpid(), "1", "/r", "/s", 0, 0, 0, 0, 0)

    async def stop(self, _request: Any, _fds: list[int]) -> Nothing:
        self.stopping.set()
        return Nothing()

    async def create(self, request: Any, _fds: list[int]) -> Created:
        self.asked.append(("create", request))
        return Created(id=IDENTITY, name="made", warnings=("no swap here",))

    async def list_containers(self, request: Any, _fds: list[int]) -> tuple[ContainerSummary, ...]:
        self.asked.append(("list", request))
        return (
            ContainerSummary(
                id=IDENTITY,
                name="box",
                image="busybox:latest",
                image_id="sha256:1",
                command="sh -c 'sleep 1000000'\x1b[2J",
                created_ns=1,
                state="exited",
                finished_ns=1,
                exit=ExitStatus(code=-1, signal=9, oom_killed=True),
            ),
        )

    async def tell(self, request: Any, _fds: list[int]) -> Nothing:
        self.asked.append(("tell", request))
        await self.told.put(request)
        return Nothing()

    async def wait(self, request: Any, _fds: list[int]) -> ExitStatus:
        self.asked.append(("wait", request))
        if request.target == "never":
            self.began.set()
            try:
                await self.gate.wait()
            finally:
                self.ended.set()
        return ExitStatus(code=7)

    async def stop_container(self, request: Any, _fds: list[int]) -> Nothing:
        self.asked.append(("stop", request))
        if request.target == "slow":
            self.began.set()
            await asyncio.sleep(0.05)
            self.ended.set()
        elif request.target == "defect":
            raise ValueError("boom")
        elif request.target == "kernel":
            raise SyscallError("mount", "/x", 1)
        else:
            raise NotFound(f"no container is named {request.target}", hint="onggi ps -a")
        return Nothing()

    async def logs(self, _request: Any, _fds: list[int]) -> AsyncIterator[LogLine]:
        yield LogLine("stdout", "T1", "out\n")
        yield LogLine("stderr", "T2", "err\n")

    async def stats(self, request: Any, _fds: list[int]) -> AsyncIterator[Any]:
        for _ in range(2 if request.stream else 1):
            yield (
                Statistics(
                    id=IDENTITY, name="box", read_ns=1, cpu_usage_ns=1, cpu_percent=12.5,
                    memory_usage_bytes=1 << 20, memory_limit_bytes=1 << 26, memory_peak_bytes=2,
                    pids=3, pids_limit=9, block_read_bytes=0, block_write_bytes=0,
                    network_receive_bytes=0, network_transmit_bytes=0,
                ),
            )  # fmt: skip

    async def events(self, _request: Any, _fds: list[int]) -> AsyncIterator[Event]:
        try:
            number = 0
            while True:
                number += 1
                self.began.set()
                yield Event(number, "container", "start", IDENTITY, {"image": "x" * 1000})
                await asyncio.sleep(0)
        finally:
            self.closed_streams += 1
            self.ended.set()

    async def load(self, _request: Any, fds: list[int]) -> AsyncIterator[Any]:
        content = await asyncio.to_thread(_read_all, fds[0])
        yield Progress("reading", len(content), len(content))
        yield ImageAnswer("sha256:2", (content.decode(),))

    async def save(self, request: Any, fds: list[int]) -> AsyncIterator[Any]:
        yield Progress("writing")
        os.write(fds[0], ",".join(request.images).encode())

    async def run(self, request: Any, _fds: list[int]) -> AsyncIterator[Any]:
        self.asked.append(("run", request))
        kind = request.spec.image if hasattr(request, "spec") else request.target
        if kind == "missing":
            raise StartFailed("/bin/nope is not there", exit_code=127, hint="see the image")
        session = Session(id=IDENTITY, name="box", session=f"s-{kind}", pid=1)
        if not getattr(request, "attach", True):
            yield session
            return
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            yield session, theirs.detach()
            status = await self._behave(kind, ours)
            ours.close()
            yield status
        finally:
            if kind == "outlives":
                self.kept.append(ours)
            else:
                ours.close()
            self.closed_streams += 1
            self.ended.set()

    async def _behave(self, kind: str, sock: socket.socket) -> ExitStatus:
        loop = asyncio.get_running_loop()
        if kind == "echo":
            await loop.sock_sendall(sock, frame(1, b"out\n") + frame(2, b"err\n"))
            return ExitStatus(code=3)
        if kind == "flood":
            await loop.sock_sendall(sock, frame(1, b"y" * 65536) * 64)
            return ExitStatus(code=0)
        if kind == "oom":
            return ExitStatus(
                code=-1, signal=9, oom_killed=True,
                explanation="killed by the out-of-memory killer at 64 MiB",
            )  # fmt: skip
        if kind == "cat":
            while data := await loop.sock_recv(sock, 4096):
                await loop.sock_sendall(sock, frame(1, data))
            return ExitStatus(code=0)
        if kind == "outlives":
            await loop.sock_sendall(sock, frame(1, b"ready\n"))
        if kind == "signalled":
            await loop.sock_sendall(sock, frame(1, b"ready\n"))
            while not hasattr(request := await self.told.get(), "signal"):
                pass
            return ExitStatus(code=-1, signal=request.signal)
        if kind == "resized":
            await loop.sock_sendall(sock, frame(1, b"ready\r\n"))
            while True:
                request = await self.told.get()
                text = f"{request.rows}x{request.columns}\r\n".encode()
                await loop.sock_sendall(sock, frame(1, text))
                if request.rows == 40:
                    return ExitStatus(code=0)
        await self.gate.wait()
        return ExitStatus(code=0)


def _read_all(fd: int) -> bytes:
    with os.fdopen(os.dup(fd), "rb") as file:
        return file.read()


class Rig:
    """The fake engine in a thread of its own, listening below `root`."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.path = f"{root}/run/onggi.sock"
        os.makedirs(f"{root}/run", mode=0o711, exist_ok=True)
        self.engine: FakeEngine
        self.loop: asyncio.AbstractEventLoop
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.engine = FakeEngine()
        self.server = await serve(self.engine, bind_socket(self.path), self.path)
        self._ready.set()
        await self.engine.stopping.wait()
        await self.server.close()

    def stop(self) -> None:
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self.engine.stopping.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def open_gate(self) -> None:
        self.loop.call_soon_threadsafe(self.engine.gate.set)

    def __enter__(self) -> Rig:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@contextlib.contextmanager
def rig(root: Any) -> Iterator[Rig]:
    with Rig(str(root)) as running:
        yield running
