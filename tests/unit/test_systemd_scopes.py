"""A scope's life as systemd is asked for it, and whatever systemd may answer."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from onggi.errors import (
    AlreadyExists,
    EngineError,
    FailedPrecondition,
    Unavailable,
    Unsupported,
)
from onggi.sandbox.oci.systemd import bus
from onggi.sandbox.oci.systemd.scopes import Holder, Scope
from onggi.sandbox.oci.systemd.units import unit_of
from onggi.specs.runtime import Memory, Pids, Resources
from systemd_double import SystemdDouble

UNIT = unit_of("a.slice:b:c", "id", user=False)
NAME = "b-c.scope"


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SystemdDouble]:
    with SystemdDouble(tmp_path) as double:
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", double.address)
        yield double


def start(resources: Resources | None = None, timeout_s: float = 20.0) -> None:
    with Scope(UNIT, timeout_s) as scope:
        scope.start("what", 42, resources or Resources(), {}, unified=True)


def test_from_start_to_end(systemd: SystemdDouble) -> None:
    start(Resources(memory=Memory(limit=4096)))
    assert systemd.properties(NAME)["PIDs"] == [42]
    assert systemd.properties(NAME)["MemoryMax"] == 4096
    with Scope(UNIT) as scope:
        assert scope.path() == "a.slice/b-c.scope"
        assert scope.description() == "what"
        assert scope.update(Resources(pids=Pids(limit=3)), unified=True)
        assert not scope.update(Resources(), unified=True)
        scope.remove()
        assert scope.description() == ""
        scope.remove()
    assert systemd.methods() == [
        "StartTransientUnit", "GetUnit", "SetUnitProperties", "StopUnit", "ResetFailedUnit",
        "GetUnit", "StopUnit", "ResetFailedUnit",
    ]  # fmt: skip


def test_what_is_left_of_a_failed_unit_is_cleared_away(systemd: SystemdDouble) -> None:
    systemd.failed.add(NAME)
    start()
    assert systemd.methods() == ["StartTransientUnit", "ResetFailedUnit", "StartTransientUnit"]


def test_an_active_unit_of_that_name_is_left_alone(systemd: SystemdDouble) -> None:
    systemd.units[NAME] = {"Description": ("s", "another's")}
    with pytest.raises(AlreadyExists, match="active unit b-c.scope"):
        start()
    assert systemd.properties(NAME) == {"Description": "another's"}
    assert "StopUnit" not in systemd.methods()


@pytest.mark.parametrize("result", ["failed", "canceled", "timeout", "dependency", "skipped"])
def test_a_job_that_does_not_end_well_is_an_error(systemd: SystemdDouble, result: str) -> None:
    systemd.result = result
    with pytest.raises(FailedPrecondition, match=f"ended with '{result}'.*journalctl -u b-c.scope"):
        start()


def test_a_job_that_does_not_end_is_waited_for_in_vain(systemd: SystemdDouble) -> None:
    systemd.result = ""
    with pytest.raises(Unavailable, match=r"b-c\.scope is not started.* within 0\.2 s"):
        start(timeout_s=0.2)


def test_a_stop_that_does_not_end_is_an_error(systemd: SystemdDouble) -> None:
    start()
    systemd.result = ""
    with Scope(UNIT, 0.2) as scope, pytest.raises(Unavailable, match="does not answer"):
        scope.remove()


def test_a_refusal_says_who_may(systemd: SystemdDouble) -> None:
    systemd.refuse = {"StartTransientUnit": "AccessDenied"}
    with pytest.raises(
        FailedPrecondition, match=r"refuses StartTransientUnit: the double refuses .* only root"
    ):
        start()


def test_a_caller_that_the_bus_does_not_know_is_refused(systemd: SystemdDouble) -> None:
    systemd.rejects = True
    with pytest.raises(FailedPrecondition, match="authentication: REJECTED"):
        start()


@pytest.mark.parametrize("method", ["Hello", "Subscribe", "Get", "StartTransientUnit"])
def test_a_connection_that_breaks_is_an_error(systemd: SystemdDouble, method: str) -> None:
    systemd.drop = method
    with pytest.raises(Unavailable, match="closed the connection"):
        start()


@pytest.mark.parametrize(
    "noise",
    [
        b"l\x02\x01\x01\0\0\0\0\x01\0\0\0\x08\0\0\0" + b"\xff" * 8,
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\0" * 64,
    ],
)
def test_who_does_not_speak_d_bus_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noise: bytes
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/bus")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "bus"))
        listener.listen(1)
        thread = threading.Thread(target=_answer_with, args=(listener, noise))
        thread.start()
        with pytest.raises(Unavailable, match="does not speak D-Bus"):
            bus.connect(user=False)
        thread.join(20)
        assert not thread.is_alive()


def _answer_with(listener: socket.socket, noise: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(100)
        connection.sendall(b"OK 0\r\n")
        connection.recv(4096)
        connection.sendall(noise)
        while connection.recv(4096):
            pass


def test_without_systemd_one_line_names_the_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(Unsupported) as caught:
        bus.connect(user=True)
    text = str(caught.value)
    assert f"{tmp_path}/bus: No such file or directory" in text
    assert f"{tmp_path}/systemd/private: No such file or directory" in text
    assert "--cgroup-manager=cgroupfs" in text
    assert "\n" not in text


@pytest.mark.parametrize("address", ["nonsense", "tcp:host=a,port=1", "unix:path"])
def test_an_address_that_is_none_is_an_error(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
    with pytest.raises(Unsupported, match="no address of a socket"):
        bus.connect(user=False)


def test_systemds_own_socket_has_no_bus_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "systemd").mkdir()
    with SystemdDouble(tmp_path / "systemd") as double:
        os.rename(double.socket_path, tmp_path / "systemd/private")
        double.refuse = {"Hello": "NoBus", "AddMatch": "NoBus"}
        with Scope(unit_of("", "id", user=True)) as scope:
            scope.start("what", 42, Resources(), {}, unified=True)
        assert list(double.units) == ["onggi-id.scope"]
        assert double.properties("onggi-id.scope")["Slice"] == "user.slice"


def test_a_holder_ends_when_it_is_told_to() -> None:
    with Holder() as holder:
        comm = Path(f"/proc/{holder.pid}/comm")
        while comm.read_text() != "keel:hold\n":
            time.sleep(0.01)
        holder.end()
        assert not Path(f"/proc/{holder.pid}").exists()
        holder.end()


def test_a_holder_ends_with_who_has_it() -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        holder = Holder()
        os.write(writer, str(holder.pid).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    held = int(os.read(reader, 20))
    os.close(reader)
    os.close(writer)
    try:
        pidfd = os.pidfd_open(held)
    except ProcessLookupError:
        return
    assert select.select([pidfd], [], [], 20.0)[0]
    os.close(pidfd)


def test_errors_are_one_line(systemd: SystemdDouble) -> None:
    systemd.refuse = {"StartTransientUnit": "A\nB"}
    with pytest.raises(EngineError) as caught:
        start()
    assert "\n" not in str(caught.value)
