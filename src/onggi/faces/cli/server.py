"""The engine's end of the native wire (docs/wire.md): sockets in, handlers called, answers out.

A connection carries one call. Whatever a client sends or fails to send harms that connection alone.
Knows nothing about what the calls do.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from typing import Any, Protocol

import msgspec

from onggi import errors
from onggi.engine.api.answers import Session
from onggi.engine.api.calls import CALLS
from onggi.engine.api.requests import ResizeRequest, SignalSession
from onggi.faces.cli import wire

Handler = Callable[[Any, list[int]], Any]

#: Calls whose request has a descriptor. It is borrowed by the handler and closed after the call.
TAKES_DESCRIPTOR = frozenset(
    "images.load images.save images.import images.sbom remote.attach containers.export"
    " containers.copy_out containers.copy_in".split()
)
#: Calls whose request says itself how many it has.
TAKES_DESCRIPTORS = frozenset(("images.mutate",))
#: Replies that are given up with their client; every other one runs to its end.
GIVEN_UP = frozenset(("containers.wait",))
_BACKLOG = 512
_RECEIVE_BYTES = 65536
_REQUEST_TIMEOUT_S = 30.0
_ACCEPT_PAUSE_S = 0.1
_CLOSE_TIMEOUT_S = 3.0
_MAX_SESSION_MESSAGES = 256
_SO_PEERGROUPS = 59
#: The most that socket.getsockopt takes: 256 groups.
_GROUPS_BYTES = 1024


class Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first message of a connection."""

    call: str
    args: msgspec.Raw = msgspec.Raw(b"{}")


class SessionMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A later message of an attached session: exactly one of both."""

    resize: tuple[int, int] | None = None
    signal: int | None = None


class Handlers(Protocol):
    """What the server needs of the engine."""

    def handlers(self) -> Mapping[str, Handler]:
        """Call name → handler.

        A *reply* is `async def h(request, fds) -> value`; a *stream* an async generator of items or
        `(item, fd)`, whose descriptor is sent along and then closed by the server.
        """


_envelope = msgspec.json.Decoder(Envelope)
_session_message = msgspec.json.Decoder(SessionMessage)
_encode = msgspec.json.Encoder().encode


def peer_allowed(uid: int, groups: set[int], own_uid: int, socket_gid: int) -> bool:
    """True for root, the engine's own user and members of the socket's group."""
    return uid in (0, own_uid) or socket_gid in groups


def decode_request(name: str, raw: bytes) -> Any:
    """The typed request of the call `name`.

    Raises: InvalidArgument with the JSON path of what does not fit.
    """
    if name not in CALLS:
        raise errors.InvalidArgument(f"no call is named {name!r}")
    try:
        return msgspec.json.decode(raw, type=CALLS[name][0])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason, _, path = str(error).partition(" - at `")
        where = path.rstrip("`") or "$"
        text = reason[:1].lower() + reason[1:]
        raise errors.InvalidArgument(f"{name}: {where}: {text}") from None


def error_fields(error: Exception, name: str) -> dict[str, Any]:
    """What the client is told about a failed call; a defect's traceback goes to the log."""
    if isinstance(error, OSError):
        error = errors.from_os_error(error, name)
    if isinstance(error, ImportError):
        error = errors.Unavailable(
            f"{name}: a part of onggi cannot be loaded: {error}",
            hint="the disk fails, or onggi was upgraded meanwhile: then restart the engine",
        )
    if not isinstance(error, errors.EngineError):
        traceback.print_exception(error, file=sys.stderr)
        sys.stderr.flush()
        error = errors.Internal(
            f"{name}: {type(error).__name__}: {error}",
            hint="this is a defect in onggi; the engine's log has the traceback",
        )
    code = getattr(error, "exit_code", errors.EXIT_CODES[errors.LEAVES[error.kind]])
    return {"kind": error.kind, "message": error.message, "hint": error.hint, "exit_code": code}


class Server:
    """Accepts on a listening socket until closed. Owns the socket."""

    def __init__(self, handlers: Mapping[str, Handler], sock: socket.socket, path: str) -> None:
        self.handlers = handlers
        self.connections: set[_Connection] = set()
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._own_uid = os.geteuid()
        self._closed = False
        self._gid = os.stat(path).st_gid
        sock.setblocking(False)
        sock.listen(_BACKLOG)
        self._loop.add_reader(sock.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            sock, _ = self._sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            # Out of descriptors: a level-triggered loop would spin until one is free.
            print(f"accept: {error}", file=sys.stderr, flush=True)
            self._loop.remove_reader(self._sock.fileno())
            self._loop.call_later(_ACCEPT_PAUSE_S, self._accept_again)
            return
        try:
            if self._admits(sock):
                _Connection(self, sock, self._loop)
                return
        except OSError as error:
            # A traceback may keep the socket, and its client waiting, until garbage is collected.
            print(f"accept: {error}", file=sys.stderr, flush=True)
        sock.close()

    def _accept_again(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._sock.fileno(), self._accept)

    def _admits(self, sock: socket.socket) -> bool:
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        _, uid, gid = struct.unpack("iII", raw)
        if uid in (0, self._own_uid):
            return True
        try:
            groups = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES)
        except OSError:
            groups = b""  # ERANGE: more groups than Python can be told of; the first one counts
        members = {gid, *struct.unpack(f"{len(groups) // 4}I", groups)}
        return peer_allowed(uid, members, self._own_uid, self._gid)

    async def close(self) -> None:
        """Stop listening, cancel streams, and let replies under way finish (3 s at most)."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        tasks = [task for c in list(self.connections) if (task := c.leave()) is not None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_CLOSE_TIMEOUT_S)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=_CLOSE_TIMEOUT_S)


async def serve(engine: Handlers, sock: socket.socket, path: str = "") -> Server:
    """A server for `engine` on the bound socket `sock`, accepting when this returns.

    `path`: where the socket is now, if it was renamed after the bind; its group may connect.
    """
    return Server(engine.handlers(), sock, path or sock.getsockname())


class _Connection:
    """One client: collects its request, runs the handler, writes the answer."""

    def __init__(
        self, server: Server, sock: socket.socket, loop: asyncio.AbstractEventLoop
    ) -> None:
        sock.setblocking(False)
        self._server = server
        self._sock = sock
        self._loop = loop
        self._framer = wire.Framer(wire.MAX_REQUEST_BYTES)
        self._fds: list[int] = []
        self._name = ""
        self._session = ""
        self._task: asyncio.Task[None] | None = None
        self._messages: list[bytes] = []
        self._messenger: asyncio.Task[None] | None = None
        self._gone = False
        self._writable: asyncio.Future[None] | None = None
        loop.add_reader(sock.fileno(), self._readable)
        self._timer = loop.call_later(_REQUEST_TIMEOUT_S, self._drop)
        server.connections.add(self)
        # The request is mostly there already: one turn of the loop is saved.
        self._readable()

    # -- reading

    def _readable(self) -> None:
        try:
            data, fds = wire.receive(self._sock, _RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except (OSError, wire.WireError):
            self._drop()
            return
        if not data:
            self._drop()
            return
        if self._task is not None:
            wire.close_all(fds)
        self._fds += fds
        try:
            for message in self._framer.feed(data):
                self._message(message)
        except wire.WireError as error:
            if self._task is None:
                self._refuse(errors.InvalidArgument(str(error)))
            else:
                self._drop()
        if len(self._fds) > wire.MAX_DESCRIPTORS:
            self._drop()

    def _message(self, message: bytes) -> None:
        if self._task is None:
            self._timer.cancel()
            self._begin(message)
        elif not self._takes_messages() or len(self._messages) >= _MAX_SESSION_MESSAGES:
            self._drop()
        else:
            self._messages.append(message)
            self._tell()

    def _takes_messages(self) -> bool:
        return self._name in CALLS and CALLS[self._name][2][0] is Session

    def _begin(self, message: bytes) -> None:
        try:
            envelope = _envelope.decode(message)
            self._name = envelope.call
            request = decode_request(envelope.call, bytes(envelope.args))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._refuse(errors.InvalidArgument(f"the request cannot be read: {error}"))
            return
        except errors.InvalidArgument as error:
            self._refuse(error)
            return
        if self._name not in TAKES_DESCRIPTOR | TAKES_DESCRIPTORS:
            wire.close_all(self._fds)
        elif self._name in TAKES_DESCRIPTOR and len(self._fds) != 1:
            self._refuse(errors.InvalidArgument(f"{self._name} needs one descriptor"))
            return
        handler = self._server.handlers.get(self._name)
        if handler is None:
            self._refuse(errors.Unsupported(f"this engine has no {self._name}"))
            return
        self._perform(self._run(handler, request))

    def _refuse(self, error: errors.EngineError) -> None:
        self._perform(self._say_error(error))

    def _perform(self, work: Coroutine[Any, Any, None]) -> None:
        self._task = self._loop.create_task(work)
        # Not a `finally` in the work: cancelled before its first step it would never run.
        self._task.add_done_callback(lambda _: self._close())

    # -- the call

    async def _run(self, handler: Handler, request: Any) -> None:
        try:
            if CALLS[self._name][1] == "reply":
                value = await handler(request, self._fds)
                await self._send(b'{"reply":' + _encode(value) + b"}")
            else:
                await self._stream(handler(request, self._fds))
                await self._send(b'{"end":null}')
        except asyncio.CancelledError:
            if not self._gone:
                await self._say_error(errors.Unavailable("the engine is stopping"))
            raise
        except Exception as error:  # noqa: BLE001 - the client is told, whatever it is
            if not self._gone:
                await self._say_error(error)

    async def _stream(self, items: AsyncIterator[Any]) -> None:
        several = len(CALLS[self._name][2]) > 1
        try:
            async for item in items:
                value, fd = item if type(item) is tuple and _carries_fd(item) else (item, -1)
                try:
                    kind = b',"type":"%s"' % type(value).__name__.encode() if several else b""
                    await self._send(b'{"item":' + _encode(value) + kind + b"}", fd)
                finally:
                    if fd >= 0:
                        os.close(fd)
                if isinstance(value, Session):
                    self._session = value.session or value.id
                    self._tell()
        finally:
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()

    async def _say_error(self, error: Exception) -> None:
        await self._send(_encode({"error": error_fields(error, self._name)}))

    # -- messages of an attached session, in their order

    def _tell(self) -> None:
        if self._session and self._messages and self._messenger is None:
            self._messenger = self._loop.create_task(self._tell_all())

    async def _tell_all(self) -> None:
        try:
            while self._messages:
                await self._tell_one(self._messages.pop(0))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._drop()
        except Exception as error:  # noqa: BLE001 - the process may just have ended
            print(f"{self._name}: session {self._session}: {error}", file=sys.stderr, flush=True)
        finally:
            self._messenger = None
        self._tell()

    async def _tell_one(self, raw: bytes) -> None:
        message = _session_message.decode(raw)
        call: Callable[[Any, list[int]], Awaitable[Any]]
        if message.resize is not None:
            rows, columns = message.resize
            call = self._server.handlers["containers.resize"]
            await call(ResizeRequest(self._session, rows, columns), [])
        if message.signal is not None:
            call = self._server.handlers["containers.signal"]
            await call(SignalSession(self._session, message.signal), [])

    # -- writing and ending

    async def _send(self, payload: bytes, fd: int = -1) -> None:
        """Write one message; returns when the kernel has it all. Quiet when nobody is there."""
        view = memoryview(wire.pack(payload))
        ancillary = wire.rights([fd]) if fd >= 0 else []
        while view and not self._gone:
            try:
                sent = self._sock.sendmsg([view], ancillary)
            except (BlockingIOError, InterruptedError):
                await self._wait_writable()
                continue
            except OSError:
                self._drop()
                return
            ancillary = []
            view = view[sent:]

    async def _wait_writable(self) -> None:
        future = self._loop.create_future()
        self._writable = future
        self._loop.add_writer(self._sock.fileno(), _resolve, future)
        try:
            await future
        finally:
            self._writable = None
            if self._sock.fileno() >= 0:
                self._loop.remove_writer(self._sock.fileno())

    def leave(self) -> asyncio.Task[None] | None:
        """The engine is stopping: cancel a stream; the task that still has to end, if any."""
        if self._task is None or self._task.done():
            self._close()
            return None
        if CALLS.get(self._name, (None, "reply"))[1] == "stream" or self._name in GIVEN_UP:
            self._task.cancel()
        return self._task

    def _drop(self) -> None:
        """The client is gone or broke the rules: no more is read, a stream is cancelled."""
        if self._gone:
            return
        self._gone = True
        if self._task is None:
            self._close()
            return
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        if self._name in GIVEN_UP or CALLS.get(self._name, (None, "reply"))[1] == "stream":
            self._task.cancel()

    def _close(self) -> None:
        self._gone = True
        self._timer.cancel()
        wire.close_all(self._fds)
        if self._messenger is not None:
            self._messenger.cancel()
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()
        self._server.connections.discard(self)


def _carries_fd(item: tuple[Any, ...]) -> bool:
    """An item beside its descriptor, not an item that is itself a tuple (of statistics)."""
    return len(item) == 2 and type(item[1]) is int


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
