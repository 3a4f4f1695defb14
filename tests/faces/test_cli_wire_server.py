"""The real server and the real client over a real socket, with a fake engine behind."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from faces.cli_rig import IDENTITY, Rig, rig
from onggi import errors
from onggi.faces.cli import wire
from onggi.faces.cli.client import Client
from onggi.faces.cli.server import error_fields, peer_allowed


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path / "r") as found:
        yield found


def client(found: Rig) -> Client:
    return Client(found.path, found.root)


def raw(found: Rig) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(5)
    sock.connect(found.path)
    return sock


def answer(sock: socket.socket) -> dict[str, object]:
    framer = wire.Framer(wire.MAX_ANSWER_BYTES)
    while data := sock.recv(65536):
        for message in framer.feed(data):
            found: dict[str, object] = msgspec.json.decode(message)
            return found
    raise ConnectionError("closed without an answer")


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def settle(count: int) -> None:
    """Wait until the server's thread has closed what it should."""
    deadline = time.monotonic() + 5
    while open_descriptors() > count and time.monotonic() < deadline:
        time.sleep(0.005)
    assert open_descriptors() <= count


def test_reply(running: Rig) -> None:
    assert client(running).call("engine.status", {})["version"] == "1"


def test_socket_is_for_owner_and_group_only(running: Rig) -> None:
    assert os.stat(running.path).st_mode & 0o777 == 0o660


def test_stream_of_one_class_and_of_several(running: Rig) -> None:
    with client(running).open("containers.logs", {"target": "x"}) as call:
        assert [(i.type, i.value["log"]) for i in call.items()] == [("", "out\n"), ("", "err\n")]
    with client(running).open("containers.run", {"spec": {"image": "x"}}) as call:
        assert [(i.type, i.value["id"]) for i in call.items()] == [("Session", IDENTITY)]


def test_a_tuple_item_is_not_taken_for_a_descriptor(running: Rig) -> None:
    with client(running).open("containers.stats", {"stream": False}) as call:
        assert [len(i.value) for i in call.items()] == [1]


def test_errors_come_back_as_their_class(running: Rig) -> None:
    with pytest.raises(errors.NotFound) as found:
        client(running).call("containers.stop", {"target": "gone"})
    assert found.value.hint == "onggi ps -a"
    with pytest.raises(errors.StartFailed) as failed:
        client(running).call("containers.run", {"spec": {"image": "missing"}})
    assert failed.value.exit_code == 127
    with pytest.raises(errors.PermissionDenied, match="mount"):
        client(running).call("containers.stop", {"target": "kernel"})


def test_a_defect_is_internal_and_its_traceback_is_logged(
    running: Rig, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(errors.Internal, match="boom"):
        client(running).call("containers.stop", {"target": "defect"})
    assert "Traceback" in capfd.readouterr().err


def test_a_module_that_cannot_be_read_is_no_defect() -> None:
    error = ImportError("x.so: cannot open shared object file: Input/output error")
    fields = error_fields(error, "containers.run")
    assert fields["kind"] == "Unavailable"
    assert "a part of onggi cannot be loaded: x.so" in fields["message"]


@pytest.mark.parametrize(
    ("name", "args", "path"),
    [
        ("containers.stop", {"target": 5}, "$.target"),
        ("containers.stop", {"target": "x", "tiemout_s": 5}, "tiemout_s"),
        ("containers.run", {"spec": {"image": "x", "mounts": [{"kind": "nfs"}]}}, "$.spec.mounts"),
        ("containers.wait", {}, "target"),
    ],
)
def test_bad_arguments_name_the_json_path(running: Rig, name: str, args: object, path: str) -> None:
    with pytest.raises(errors.InvalidArgument) as found:
        client(running).call(name, args)
    assert path in found.value.message


def test_unknown_call(running: Rig) -> None:
    with pytest.raises(errors.InvalidArgument, match=r"containers\.eat"):
        client(running).call("containers.eat", {})


def test_a_descriptor_goes_along_and_comes_back(running: Rig, tmp_path: Path) -> None:
    before = open_descriptors()
    archive = tmp_path / "archive"
    archive.write_bytes(b"content")
    with archive.open("rb") as file, client(running).open("images.load", {}, [file.fileno()]) as c:
        assert [i.value for i in c.items()][-1]["names"] == ["content"]
    with client(running).open("containers.run", {"spec": {"image": "cat"}, "attach": True}) as call:
        item = next(call.items())
        attached = socket.socket(fileno=item.fd)
        attached.sendall(b"hello")
        attached.shutdown(socket.SHUT_WR)
        assert attached.recv(100) == b"\1\0\0\0\0\0\0\5hello"
        assert attached.recv(100) == b""
        attached.close()
        assert [i.value["code"] for i in call.items()] == [0]
    settle(before)


def test_a_call_that_needs_a_descriptor_says_so(running: Rig) -> None:
    with pytest.raises(errors.InvalidArgument, match="descriptor"):
        client(running).call("images.load", {})


def test_descriptors_nobody_announced_are_closed(running: Rig) -> None:
    before = open_descriptors()
    reader, writer = os.pipe()
    with client(running).open("engine.status", {}, [writer]) as call:
        os.close(writer)
        assert call.reply()["version"] == "1"
        assert os.read(reader, 1) == b""
    os.close(reader)
    settle(before)


def test_too_many_descriptors_hurt_their_sender_only(running: Rig) -> None:
    before = open_descriptors()
    with raw(running) as sock:
        socket.send_fds(sock, [wire.pack(b'{"call":"engine.status"}')], [0] * 200)
        with pytest.raises(ConnectionError):
            answer(sock)
    assert client(running).call("engine.status", {})["version"] == "1"
    settle(before)


@pytest.mark.parametrize(
    "payload",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"call":5}', b'{"call":"ps","x":1}', b"[" * 100_000],
)
def test_a_bad_request_is_answered_and_nothing_else_harmed(running: Rig, payload: bytes) -> None:
    with raw(running) as sock:
        sock.sendall(wire.pack(payload))
        error = answer(sock)["error"]
        assert isinstance(error, dict)
        assert error["kind"] == "InvalidArgument"
    assert client(running).call("engine.status", {})["version"] == "1"


def test_deep_arguments_are_refused(running: Rig) -> None:
    with raw(running) as sock:
        deep = b"[" * 50_000 + b"]" * 50_000
        sock.sendall(wire.pack(b'{"call":"containers.stop","args":{"target":' + deep + b"}}"))
        assert "error" in answer(sock)
    assert client(running).call("engine.status", {})["version"] == "1"


def test_a_message_beyond_the_limit_is_refused_before_it_is_sent(running: Rig) -> None:
    with raw(running) as sock:
        sock.sendall((wire.MAX_REQUEST_BYTES + 1).to_bytes(4, "little"))
        assert "at most" in str(answer(sock))


def test_half_a_message_then_gone(running: Rig) -> None:
    before = open_descriptors()
    for _ in range(20):
        with raw(running) as sock:
            sock.sendall(b"\x10\0\0\0half")
    settle(before)
    assert client(running).call("engine.status", {})["version"] == "1"


def test_a_request_byte_by_byte(running: Rig) -> None:
    with raw(running) as sock:
        for byte in wire.pack(b'{"call":"engine.status"}'):
            sock.sendall(bytes((byte,)))
        assert "reply" in answer(sock)


def test_a_client_that_leaves_closes_its_stream(running: Rig) -> None:
    before = open_descriptors()
    with client(running).open("events", {}) as call:
        next(call.items())
    assert running.engine.ended.wait(5)
    assert running.engine.closed_streams == 1
    settle(before)


def test_a_stream_waits_for_a_slow_reader_and_ends_with_it(running: Rig) -> None:
    with raw(running) as sock:
        sock.sendall(wire.pack(b'{"call":"events"}'))
        assert running.engine.began.wait(5)
        assert client(running).call("engine.status", {})["version"] == "1"
        assert not running.engine.ended.is_set()
    assert running.engine.ended.wait(5)


def test_a_wait_is_given_up_with_its_client(running: Rig) -> None:
    with client(running).open("containers.wait", {"target": "never"}):
        assert running.engine.began.wait(5)
    assert running.engine.ended.wait(5)


def test_other_replies_run_to_their_end_without_their_client(running: Rig) -> None:
    with client(running).open("containers.stop", {"target": "slow"}):
        assert running.engine.began.wait(5)
    assert running.engine.ended.wait(5)


def test_resize_and_signal_reach_the_session(running: Rig) -> None:
    request = {"spec": {"image": "signalled"}, "attach": True}
    with client(running).open("containers.run", request) as call:
        call.tell({"resize": [1, 2]})
        item = next(call.items())
        call.tell({"signal": 15})
        with socket.socket(fileno=item.fd):
            assert [i.value["signal"] for i in call.items()] == [15]
    told = [value for kind, value in running.engine.asked if kind == "tell"]
    assert (told[0].session, told[0].rows, told[0].columns) == ("s-signalled", 1, 2)
    assert (told[1].session, told[1].signal) == ("s-signalled", 15)


def test_a_second_message_of_another_call_ends_the_connection(running: Rig) -> None:
    before = open_descriptors()
    with raw(running) as sock:
        sock.sendall(wire.pack(b'{"call":"events"}') + wire.pack(b'{"signal":9}'))
        with contextlib.suppress(ConnectionError):
            while sock.recv(65536):
                pass
    settle(before)
    assert client(running).call("engine.status", {})["version"] == "1"


def test_stopping_tells_those_who_wait(tmp_path: Path) -> None:
    never = {"target": "never"}
    with rig(tmp_path / "r") as found, client(found).open("containers.wait", never) as call:
        assert found.engine.began.wait(5)
        found.stop()
        with pytest.raises(errors.Unavailable, match="stopping"):
            call.reply()


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(errors.Unavailable, match="no engine"):
        Client(str(tmp_path / "none.sock"), None).call("engine.status", {}, start=False)


def test_an_engine_that_hangs_up_is_unavailable(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with Client(path, None).open("engine.status", {}) as call:
            listener.accept()[0].close()
            with pytest.raises(errors.Unavailable, match="went away"):
                call.reply()


def test_a_path_too_long_for_an_address(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    with rig(deep / "r") as found:
        assert client(found).call("engine.status", {})["version"] == "1"


def test_who_may_connect() -> None:
    assert peer_allowed(0, {5}, 1000, 7)
    assert peer_allowed(1000, {5}, 1000, 7)
    assert peer_allowed(1001, {5, 7}, 1000, 7)
    assert not peer_allowed(1001, {5}, 1000, 7)


def test_a_stranger_is_turned_away_even_if_the_mode_let_it_in(tmp_path: Path) -> None:
    root = Path(tempfile.mkdtemp(dir="/tmp"))
    root.chmod(0o711)
    go, told = os.pipe(), os.pipe()
    child = os.fork()  # before the rig: a process with threads must not fork
    if child == 0:
        _stranger(str(root / "r/run/onggi.sock"), go[0], told[1])
    os.close(told[1])
    with rig(root / "r") as found:
        os.chmod(found.path, 0o666)
        os.write(go[1], b"!")
        os.waitpid(child, 0)
    assert os.read(told[0], 100) == b"closed"
    for fd in (*go, told[0]):
        os.close(fd)
    shutil.rmtree(root)


def _stranger(path: str, go: int, told: int) -> None:
    try:
        os.setgroups([])
        os.setgid(54321)
        os.setuid(54321)
        os.read(go, 1)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            try:
                sock.sendall(wire.pack(b'{"call":"engine.status"}'))
                said = sock.recv(100)
            except ConnectionError:
                said = b""
        os.write(told, b"let in" if said else b"closed")
    except OSError as error:
        os.write(told, str(error).encode())
    finally:
        os._exit(0)


@pytest.mark.parametrize(("said", "reason"), [
    (b"link x has no container\nonggi: no space left\n", "no space left"),
    (b"Traceback (most recent call last):\n  ...\nKeyError: 'a'\n", "KeyError: 'a'"),
    (b"link x has no container\n", "it ended without a word"),
    (b"", "it ended without a word"),
])  # fmt: skip
def test_why_an_engine_could_not_start(
    said: bytes, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onggi.faces.cli.spawn._spawn", lambda _: said)
    with pytest.raises(errors.Unavailable, match=f"could not start: {re.escape(reason)} — "):
        Client(f"{tmp_path}/none.sock", None).call("engine.status", {})


def test_a_client_who_cannot_be_served_is_hung_up_on(
    running: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr("onggi.faces.cli.server._Connection", full)
    gc.disable()  # which would close what nobody does
    try:
        with raw(running) as sock:
            assert sock.recv(1) == b""
    finally:
        gc.enable()
