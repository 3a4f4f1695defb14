"""A systemd that is none: a message bus with one manager behind it, in a thread.

It speaks D-Bus by the same library, keeps units by name, and, if it is given hierarchies, makes
their cgroups and moves processes in, as systemd does. How it misbehaves is chosen by a test.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jeepney import (
    DBusAddress,
    HeaderFields,
    Message,
    MessageType,
    Parser,
    new_error,
    new_method_return,
    new_signal,
)

NAME = "org.freedesktop.systemd1"
_MANAGER = DBusAddress("/org/freedesktop/systemd1", interface=f"{NAME}.Manager")
#: Where systemd keeps track of units with cgroup v1.
TRACKING = Path("/sys/fs/cgroup/systemd")
_JOB = "/org/freedesktop/systemd1/job/1"


class RefuseError(Exception):
    """Answer with an error: its D-Bus name (of systemd's own) and a text."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = f"{NAME}.{name}"


class SystemdDouble:
    """A context manager. `calls`: (method, arguments) in order, but for those on every connection.

    `result`: how jobs end; empty: they do not. `refuse`: method → the error's name. `drop`: the
    method at which the connection is closed. `before`: called with each method before it is done.
    """

    def __init__(self, place: Path, hierarchies: Sequence[Path] = ()) -> None:
        self.socket_path = str(place / "bus")
        self.address = f"unix:path={self.socket_path}"
        self.hierarchies = list(hierarchies)
        self.units: dict[str, dict[str, Any]] = {}
        self.failed: set[str] = set()
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.result = "done"
        self.refuse: dict[str, str] = {}
        self.drop = ""
        self.rejects = False
        self.before: Callable[[str], None] = lambda _: None
        self.version = "252.39-1~double"
        self._listener = socket.socket(socket.AF_UNIX)

    def __enter__(self) -> SystemdDouble:
        self._listener.bind(self.socket_path)
        self._listener.listen(8)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def methods(self) -> list[str]:
        return [method for method, _ in self.calls]

    def properties(self, unit: str) -> dict[str, Any]:
        """What a unit was started with and told since, without the types."""
        return {name: value for name, (_, value) in self.units[unit].items()}

    def cgroups_of(self, unit: str) -> list[Path]:
        slice_ = self.units[unit]["Slice"][1].removesuffix(".slice")
        words = slice_.split("-")
        parts = [f"{'-'.join(words[: n + 1])}.slice" for n in range(len(words))]
        return [hierarchy.joinpath(*parts, unit) for hierarchy in self.hierarchies]

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                self._authenticate(connection)
                parser = Parser()
                while data := connection.recv(4096):
                    for message in parser.feed(data):
                        self._answer(connection, message)
            except OSError:
                return

    def _authenticate(self, connection: socket.socket) -> None:
        line = _line(connection)
        uid = bytes.fromhex(line.split()[2].decode()).decode()
        if self.rejects or uid != str(os.geteuid()):
            connection.sendall(b"REJECTED EXTERNAL\r\n")
            raise ConnectionError
        connection.sendall(b"OK 0123456789abcdef\r\n")
        assert _line(connection) == b"BEGIN"

    def _answer(self, connection: socket.socket, message: Message) -> None:
        method = message.header.fields[HeaderFields.member]
        if method not in ("Hello", "AddMatch", "Subscribe", "Get"):
            self.calls.append((method, message.body))
        try:
            self.before(method)
            if method == self.drop:
                raise ConnectionError
            if method in self.refuse:
                raise RefuseError(self.refuse[method], "the double refuses")
            reply = getattr(self, f"on_{method}")(*message.body)
            answer = new_method_return(message, *(reply or ()))
        except RefuseError as error:
            answer = new_error(message, error.name, "s", (str(error),))
        connection.sendall(answer.serialise(serial=1))
        if answer.header.message_type is not MessageType.error and self.result and (
            method in ("StartTransientUnit", "StopUnit")
        ):  # fmt: skip
            body = (1, _JOB, message.body[0], self.result)
            signal = new_signal(_MANAGER, "JobRemoved", "uoss", body)
            connection.sendall(signal.serialise(serial=2))

    def on_Hello(self) -> tuple[str, tuple[Any, ...]]:
        return "s", (":1.1",)

    def on_AddMatch(self, rule: str) -> None:
        assert "JobRemoved" in rule

    def on_Subscribe(self) -> None:
        pass

    def on_Get(self, interface: str, name: str) -> tuple[str, tuple[Any, ...]]:
        if interface.endswith(".Unit"):
            return "v", (self.units[self._asked]["Description"],)
        return "v", (("s", {"Version": self.version, "ControlGroup": ""}[name]),)

    def on_GetUnit(self, unit: str) -> tuple[str, tuple[Any, ...]]:
        self._known(unit)
        self._asked = unit
        return "o", ("/org/freedesktop/systemd1/unit/asked",)

    def on_StartTransientUnit(
        self, unit: str, mode: str, properties: list[tuple[str, Any]], others: list[Any]
    ) -> tuple[str, tuple[Any, ...]]:
        assert mode == "replace"
        assert others == []
        if unit in self.units or unit in self.failed:
            raise RefuseError("UnitExists", f"Unit {unit} was already loaded")
        self.units[unit] = dict(properties)
        for directory in self.cgroups_of(unit):
            directory.mkdir(parents=True, exist_ok=True)
            for pid in self.units[unit]["PIDs"][1]:
                (directory / "cgroup.procs").write_text(str(pid))
        return "o", (_JOB,)

    def on_SetUnitProperties(
        self, unit: str, runtime: bool, properties: list[tuple[str, Any]]
    ) -> None:
        assert runtime
        self._known(unit)
        self.units[unit].update(properties)

    def on_StopUnit(self, unit: str, mode: str) -> tuple[str, tuple[Any, ...]]:
        self._known(unit)
        for directory in self.cgroups_of(unit):
            # with no controllers: systemd's to remove
            if directory.is_relative_to(TRACKING) and directory.is_dir():
                directory.rmdir()
        del self.units[unit]
        return "o", (_JOB,)

    def on_ResetFailedUnit(self, unit: str) -> None:
        if unit not in self.failed:
            self._known(unit)
        self.failed.discard(unit)

    def _known(self, unit: str) -> None:
        if unit not in self.units:
            raise RefuseError("NoSuchUnit", f"Unit {unit} not loaded.")


def _line(connection: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\r\n"):
        byte = connection.recv(1)
        if not byte:
            raise ConnectionError
        line += byte
    return line.strip(b"\r\n\0")
