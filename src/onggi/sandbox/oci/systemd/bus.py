"""One connection to a systemd: methods of its manager, and the ends of its jobs.

By way of the message bus, or, where none answers, of systemd's own socket. The wire format is
jeepney's; every wait has an end.
Source: D-Bus specification; org.freedesktop.systemd1(5); sd_bus_default(3) for the addresses.
"""

from __future__ import annotations

import os
import struct
import time
from socket import AF_UNIX, SOCK_CLOEXEC, SOCK_STREAM, socket

from jeepney import (  # type: ignore[import-untyped]
    DBusAddress,
    HeaderFields,
    Message,
    MessageType,
    Parser,
    new_method_call,
)
from jeepney.bus import get_connectable_addresses  # type: ignore[import-untyped]

from onggi.errors import EngineError, FailedPrecondition, Unavailable, Unsupported
from onggi.runtime.printable import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TIMEOUT_S = 30.0
_NAME = "org.freedesktop.systemd1"
_PATH = "/org/freedesktop/systemd1"
_MANAGER = DBusAddress(_PATH, _NAME, f"{_NAME}.Manager")
_PROPERTIES = "org.freedesktop.DBus.Properties"
_BUS = DBusAddress("/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus")
_JOBS_END = f"type='signal',interface='{_NAME}.Manager',member='JobRemoved'"
_CHUNK_BYTES = 65536
_MAX_LINE_BYTES = 4096
CGROUPFS_HINT = (
    "start systemd, or let the caller use cgroupfs: --cgroup-manager=cgroupfs of podman, "
    "native.cgroupdriver=cgroupfs of dockerd, SystemdCgroup = false of containerd"
)


class RefusedError(FailedPrecondition):
    """systemd, or the bus, answers with an error; `name` is D-Bus's."""

    def __init__(self, method: str, name: str, text: str) -> None:
        self.name = name
        denied = name.endswith(("AccessDenied", "InteractiveAuthorizationRequired"))
        hint = "only root may ask the system's systemd" if denied else None
        super().__init__(
            f"systemd refuses {method}: {printable(text)} ({printable(name)})", hint=hint
        )


class Bus:
    """A connection to systemd's manager. A context manager."""

    def __init__(
        self, connection: socket, *, through_bus: bool, uid: int, timeout_s: float
    ) -> None:
        """Take over a connected socket. Raises: OSError, RefusedError, Unavailable."""
        self._socket = connection
        self._deadline = time.monotonic() + timeout_s
        self._timeout_s = timeout_s
        self._parser = Parser()
        self._serial = 0
        self._replies: dict[int, Message] = {}
        #: A job's object → how it ended.
        self._ended: dict[str, str] = {}
        self._authenticate(uid)
        if through_bus:
            self._call(_BUS, "Hello")
            self._call(_BUS, "AddMatch", "s", (_JOBS_END,))
        self._call(_MANAGER, "Subscribe")

    def __enter__(self) -> Bus:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def call(self, method: str, signature: str = "", body: tuple[Any, ...] = ()) -> tuple[Any, ...]:
        """What the manager's method answers.

        Raises:
            RefusedError: an error. Unavailable: nothing in time.
        """
        self._deadline = time.monotonic() + self._timeout_s
        return self._call(_MANAGER, method, signature, body)

    def property(self, name: str, path: str = _PATH, interface: str = "Manager") -> str:
        """A property that is a string, of the manager or of a unit. Raises: as `call`."""
        self._deadline = time.monotonic() + self._timeout_s
        at = DBusAddress(path, _NAME, _PROPERTIES)
        return str(self._call(at, "Get", "ss", (f"{_NAME}.{interface}", name))[0][1])

    def end_of(self, job: str) -> str:
        """Wait until a job has ended: `done`, or why it was not.

        Raises:
            Unavailable: it has not in time.
        """
        self._deadline = time.monotonic() + self._timeout_s
        while job not in self._ended:
            self._receive()
        return self._ended.pop(job)

    def _call(
        self, at: DBusAddress, method: str, signature: str = "", body: tuple[Any, ...] = ()
    ) -> tuple[Any, ...]:
        self._serial += 1
        serial = self._serial
        message = new_method_call(at, method, signature or None, body)
        self._within()
        try:
            self._socket.sendall(message.serialise(serial=serial))
        except OSError as error:
            raise self._silent(error) from None
        while serial not in self._replies:
            self._receive()
        reply = self._replies.pop(serial)
        if reply.header.message_type is MessageType.error:
            name = str(reply.header.fields.get(HeaderFields.error_name, ""))
            raise RefusedError(method, name, str(reply.body[0]) if reply.body else "")
        return tuple(reply.body)

    def _receive(self) -> None:
        """Take in what comes next."""
        self._parser.add_data(self._read())
        try:
            while (message := self._parser.get_next_message()) is not None:
                self._take(message)
        except (LookupError, TypeError, ValueError, struct.error) as error:
            raise Unavailable(f"what answers as systemd does not speak D-Bus: {error}") from None

    def _take(self, message: Message) -> None:
        fields = message.header.fields
        if message.header.message_type is MessageType.signal:
            if fields.get(HeaderFields.member) == "JobRemoved":
                _, job, _, result = message.body
                self._ended[job] = result
        elif HeaderFields.reply_serial in fields:
            self._replies[fields[HeaderFields.reply_serial]] = message

    def _read(self) -> bytes:
        self._within()
        try:
            data = self._socket.recv(_CHUNK_BYTES)
        except OSError as error:
            raise self._silent(error) from None
        if not data:
            raise Unavailable("systemd has closed the connection", hint="try again")
        return data

    def _within(self) -> None:
        # 0 would mean not to wait at all, which is another error
        self._socket.settimeout(max(self._deadline - time.monotonic(), 0.001))

    def _silent(self, error: OSError) -> Unavailable:
        if isinstance(error, TimeoutError):
            return Unavailable(f"systemd does not answer within {self._timeout_s:g} s")
        return Unavailable(f"the connection to systemd: {error.strerror}", hint="try again")

    def _authenticate(self, uid: int) -> None:
        """EXTERNAL: the kernel has told who we are; the id is the one that systemd sees.

        BEGIN is not kept until we are known, as sd-bus does it too: systemd forgets a call that it
        has read together with BEGIN.
        """
        self._within()
        name = str(uid).encode().hex()
        self._socket.sendall(f"\0AUTH EXTERNAL {name}\r\nBEGIN\r\n".encode())
        line = b""
        while not line.endswith(b"\r\n") and len(line) < _MAX_LINE_BYTES:
            line += self._read()
        if not line.startswith(b"OK "):
            answer = printable(line[:80].decode("ascii", "replace").strip())
            raise RefusedError("authentication", "AccessDenied", answer)


def connect(*, user: bool, timeout_s: float = TIMEOUT_S) -> Bus:
    """A connection to the system's systemd, or to the user's.

    Raises:
        Unsupported: there is none. Unavailable: it does not answer. RefusedError: not to us.
    """
    tried = []
    uid = _outer_uid() if user else os.geteuid()
    for address, through_bus in _addresses(user=user):
        connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
        try:
            connection.settimeout(timeout_s)
            connection.connect(address)
            return Bus(connection, through_bus=through_bus, uid=uid, timeout_s=timeout_s)
        except OSError as error:
            connection.close()
            tried.append(f"{printable(address)}: {error.strerror or error}")
        except EngineError:
            connection.close()
            raise
    whose = "the user's systemd" if user else "systemd"
    raise Unsupported(f"{whose} is not there: {'; '.join(tried)}", hint=CGROUPFS_HINT)


def _addresses(*, user: bool) -> list[tuple[str, bool]]:
    """Sockets to try, and whether a message bus is behind them."""
    name = "DBUS_SESSION_BUS_ADDRESS" if user else "DBUS_SYSTEM_BUS_ADDRESS"
    place = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{_outer_uid()}" if user else "/run"
    default = f"{place}/bus" if user else f"{place}/dbus/system_bus_socket"
    private = (f"{place}/systemd/private", False)
    if not (given := os.environ.get(name, "")):
        return [(default, True), private]
    try:
        return [*((address, True) for address in get_connectable_addresses(given)), private]
    except (RuntimeError, ValueError):
        raise Unsupported(
            f"{name}: {printable(given[:80])} is no address of a socket", hint="unix:path=/…"
        ) from None


def _outer_uid() -> int:
    """Our user as those outside of this user namespace see him.

    Source: user_namespaces(7).
    """
    own = os.geteuid()
    with open("/proc/self/uid_map", encoding="ascii") as file:
        for line in file:
            inside, outside, count = (int(word) for word in line.split())
            if inside <= own < inside + count:
                return outside + own - inside
    return own
