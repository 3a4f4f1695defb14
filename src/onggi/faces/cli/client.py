"""The client's end of the native wire: one connection carries one call.

Synchronous, with as few imports as can be. Knows nothing about verbs or about printing.
"""

from __future__ import annotations

import os
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_STREAM, socket

from onggi.errors import LEAVES, EngineError, Internal, StartFailed, Unavailable
from onggi.faces.cli import wire
from onggi.faces.cli.place import SocketAddress
from onggi.specs import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

_RECEIVE_BYTES = 65536
_LOST = "the engine went away before it answered"
_LOST_HINT = "containers run on; look at the engine's log, then run the command again"


def dial(path: str) -> socket | None:
    """A socket connected to the engine at `path`; None when nobody listens there.

    Raises: OSError for anything else (EACCES for instance).
    """
    sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)
    try:
        with SocketAddress(path) as address:
            sock.connect(address)
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        return None
    except NotADirectoryError:
        sock.close()
        raise LEAVES["FailedPrecondition"](
            f"{path}: a part of this path is not a directory", hint="name another --root"
        ) from None
    except BaseException:
        sock.close()
        raise
    return sock


class Item:
    """One item of a stream: its class's name, its fields, and a descriptor (or -1).

    Whoever takes the item owns the descriptor.
    """

    __slots__ = ("fd", "type", "value")

    def __init__(self, kind: str, value: Any, fd: int) -> None:
        self.type = kind
        self.value = value
        self.fd = fd


class Call:
    """A call under way. A context manager: leaving it cancels what has not been answered."""

    __slots__ = ("_fds", "_framer", "_ready", "finished", "sock")

    def __init__(self, sock: socket, name: str, args: object, fds: Sequence[int] = ()) -> None:
        self.sock = sock
        self.finished = False
        self._framer = wire.Framer(wire.MAX_ANSWER_BYTES)
        self._ready: list[bytes] = []
        self._fds: list[int] = []
        try:
            self._send(wire.pack(jsontext.encode({"call": name, "args": args})), fds)
        except BaseException:
            sock.close()
            raise

    def _send(self, data: bytes, fds: Sequence[int]) -> None:
        try:
            sent = self.sock.sendmsg([data], wire.rights(fds)) if fds else self.sock.send(data)
            if sent < len(data):
                self.sock.sendall(data[sent:])
        except (BrokenPipeError, ConnectionResetError):
            # The engine refused early: its answer, if there is one, is still to be read.
            return

    def __enter__(self) -> Call:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; descriptors nobody took are closed."""
        wire.close_all(self._fds)
        self.sock.close()

    def tell(self, message: dict[str, Any]) -> None:
        """A message about the running session (`resize`, `signal`). One send, never interleaved."""
        try:
            self.sock.send(wire.pack(jsontext.encode(message)))
        except (BrokenPipeError, ConnectionResetError):
            return  # the session has ended; its status is still to be read

    def receive(self) -> None:
        """One receive: blocks until the engine says something.

        Raises: Unavailable when the engine went away.
        """
        try:
            data, fds = wire.receive(self.sock, _RECEIVE_BYTES)
            self._fds += fds
            self._ready.extend(self._framer.feed(data))
        except ConnectionResetError:
            raise Unavailable(_LOST, hint=_LOST_HINT) from None
        except wire.WireError as error:
            raise Internal(f"the engine's answer cannot be read: {error}") from None
        if not data:
            raise Unavailable(_LOST, hint=_LOST_HINT)

    def take(self) -> Item | None:
        """The next complete item, if one has been received; sets `finished` at the call's end.

        Raises: the engine's error.
        """
        if not self._ready or self.finished:
            return None
        message = jsontext.decode(self._ready.pop(0))
        if "item" in message:
            fd = self._fds.pop(0) if self._fds else -1
            return Item(message.get("type", ""), message["item"], fd)
        self.finished = True
        if "error" in message:
            raise error_from(message["error"])
        if "reply" in message:
            return Item(message.get("type", ""), message["reply"], -1)
        return None

    def items(self) -> Iterator[Item]:
        """Each item until the call ends.

        Raises: the engine's error; Unavailable when the engine went away.
        """
        while True:
            item = self.take()
            if item is not None:
                yield item
            if self.finished:
                return
            if not self._ready:
                self.receive()

    def reply(self) -> Any:
        """The answer of a call that answers once."""
        for item in self.items():
            return item.value
        raise Internal("the engine answered a reply with an empty stream")


def error_from(fields: dict[str, Any]) -> EngineError:
    """The error that the engine raised, as its own class."""
    message, hint = str(fields.get("message", "")), fields.get("hint")
    exit_code = fields.get("exit_code", 125)
    if exit_code != 125:
        return StartFailed(message, exit_code=exit_code, hint=hint)
    return LEAVES.get(str(fields.get("kind")), Internal)(message, hint=hint)


class Client:
    """Calls to the engine of one root; starts it at the first call if nobody listens."""

    __slots__ = ("_path", "_root")

    def __init__(self, path: str, root: str | None) -> None:
        self._path = path
        self._root = root

    @property
    def path(self) -> str:
        """The engine's socket."""
        return self._path

    def open(self, name: str, args: object, fds: Sequence[int] = (), *, start: bool = True) -> Call:
        """Begin a call; `fds` are borrowed.

        Raises: Unavailable when no engine runs and none may (`start`) or can be started;
        PermissionDenied when the socket may not be used.
        """
        return Call(self._connect(start), name, args, fds)

    def call(self, name: str, args: object, fds: Sequence[int] = (), *, start: bool = True) -> Any:
        """Call and wait for the one answer."""
        with self.open(name, args, fds, start=start) as call:
            return call.reply()

    def _connect(self, start: bool) -> socket:
        try:
            sock = dial(self._path)
        except PermissionError:
            raise self._forbidden() from None
        if sock is not None:
            return sock
        if not start:
            raise Unavailable("no engine is running", hint="any other command starts it")
        from onggi.faces.cli import spawn  # noqa: PLC0415 - only the first command pays for it

        return spawn.start_and_dial(self._path, self._root)

    def _forbidden(self) -> EngineError:
        return LEAVES["PermissionDenied"](
            f"the engine's socket {self._path} is not open to uid {os.getuid()}",
            hint="run it as root, or join the group that owns the socket",
        )
