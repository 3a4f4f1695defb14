"""When the front runs the plain command line, and what a warm process makes of strangers."""

from __future__ import annotations

import array
import os
import pty
import socket
import struct
import subprocess
import tempfile
from _socket import socket as _Socket
from _socket import socketpair
from collections.abc import Iterator
from pathlib import Path

import pytest

from faces.front_rig import PLAIN_CODE, Rig, build, children_of, eventually, warm
from onggi import __version__
from onggi.faces.warm.request import RefusedError, check_peer

NOBODY = 65534


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(os.environ.get("ONGGI_FRONT") or build(tmp_path_factory.mktemp("front")))


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, front: Path) -> Iterator[Rig]:
    with warm(tmp_path_factory.mktemp("root"), front) as found:
        yield found


def _is_plain(done: subprocess.CompletedProcess[bytes], *words: str) -> bool:
    return (
        done.returncode == PLAIN_CODE
        and done.stdout.split()[:1] == [b"plain"]
        and done.stdout.endswith(" ".join(words).encode() + b"\n")
    )


def _connect(rig: Rig) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    sock.connect(rig.socket)
    return sock


def _request(
    version: str = __version__, words: tuple[str, ...] = (), magic: bytes = b"ONGGIWM\1"
) -> bytes:
    body = b"".join(text.encode() + b"\0" for text in (version, *words))
    return struct.pack("=8sIIQII", magic, len(body), 0o22, 0, len(words), 0) + body


def _send(sock: socket.socket, data: bytes, root: str = "/") -> None:
    root_fd = os.open(root, os.O_PATH)
    here = os.open("/", os.O_PATH)
    fds = array.array("i", [0, 1, 2, here, root_fd])
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
    os.close(root_fd)
    os.close(here)


def _answer(sock: socket.socket) -> tuple[str, int]:
    data = sock.recv(8, socket.MSG_WAITALL)
    kind, value = struct.unpack("=Ii", data)
    return chr(kind), value


def _serves(rig: Rig) -> bool:
    return rig.run("exit", "6").returncode == 6


def test_asked_for(rig: Rig) -> None:
    plain = rig.run("exit", "6", env={"ONGGI_NO_WARM": "1"})
    assert _is_plain(plain, "--root", str(rig.root), "exit", "6")
    assert rig.run("exit", "6", env={"ONGGI_NO_WARM": ""}).returncode == 6


def test_descriptors_that_only_the_front_has(rig: Rig) -> None:
    for word in ("/dev/fd/63", "--input=/proc/self/fd/4"):
        assert _is_plain(rig.run("exit", "6", word), "exit", "6", word)
    assert rig.run("exit", "6", "/dev/stdin").returncode == 6


def test_no_socket_and_nobody_listening(front: Path, tmp_path: Path) -> None:
    with warm(tmp_path, front) as rig:
        rig.kill_warm()
        assert _is_plain(rig.run("exit", "6"))
        os.unlink(rig.socket)
        assert _is_plain(rig.run("exit", "6"))


def test_no_plain_command_line_either(front: Path, tmp_path: Path) -> None:
    alone = tmp_path / "onggi"
    alone.write_bytes(front.read_bytes())
    alone.chmod(0o755)
    done = subprocess.run([alone, "--root", tmp_path, "ps"], capture_output=True, check=False)
    assert done.returncode == 125
    assert f"cannot run {tmp_path}/onggi-python: No such file".encode() in done.stderr


def test_run_directory_beyond_a_socket_address(front: Path, tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 150)
    deep.mkdir()
    short = tmp_path / "short"
    short.mkdir()
    with warm(short, front) as rig:
        (deep / "run").symlink_to(short / "run")
        argv = [rig.front, "--root", deep, "exit", "6"]
        assert subprocess.run(argv, check=False).returncode == 6


def test_another_version(front: Path, tmp_path: Path) -> None:
    with warm(tmp_path, front, "9.9.9") as rig:
        assert _is_plain(rig.run("exit", "6"))
        assert len(eventually(lambda: children_of(rig.pid))) == 1


def test_another_users_front(front: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        with warm(Path(name), front) as rig:
            os.chmod(rig.socket, 0o666)
            assert _is_plain(rig.run("exit", "6", user=NOBODY, group=NOBODY, extra_groups=[]))
            assert _serves(rig)


def test_another_users_client_is_answered_no(front: Path) -> None:
    client = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
        "sys.stdout.buffer.write(s.recv(8, socket.MSG_WAITALL))"
    )
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        with warm(Path(name), front) as rig:
            os.chmod(rig.socket, 0o666)
            (spare,) = eventually(lambda: children_of(rig.pid))
            done = subprocess.run(
                ["/usr/bin/python3", "-I", "-c", client, rig.socket],
                user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, check=True,
            )  # fmt: skip
            assert struct.unpack("=Ii", done.stdout) == (ord("N"), 1)
            # Nobody's attempt costs not even a child.
            assert children_of(rig.pid) == [spare]


def _groups_of_nobody() -> tuple[bool, bool]:
    """Whether a peer of the same groups and one of other groups are taken for our own."""
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setgroups([4, 5])
    os.seteuid(NOBODY)
    other, _theirs = socketpair()
    os.seteuid(0)
    os.setgroups([5, 4, 7])
    os.seteuid(NOBODY)
    same, _ours = socketpair()
    return _is_our_own(same), _is_our_own(other)


def _is_our_own(sock: _Socket) -> bool:
    try:
        check_peer(sock)
    except RefusedError:
        return False
    return True


def test_other_groups_of_the_same_user() -> None:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if _groups_of_nobody() == (True, False) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_another_mount_namespace(rig: Rig) -> None:
    done = subprocess.run(
        ["unshare", "-m", *rig.argv("exit", "6")], capture_output=True, check=False
    )
    assert _is_plain(done)
    with _connect(rig) as sock:
        _send(sock, _request(), root="/proc")
        assert _answer(sock) == ("N", 4)


def test_another_pid_namespace(rig: Rig) -> None:
    # The child could not be signalled from there.
    argv = ["unshare", "--pid", "--fork", *rig.argv("exit", "6")]
    assert _is_plain(subprocess.run(argv, capture_output=True, check=False))
    assert _serves(rig)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 3),
        (_request(magic=b"ONGGIWM\2"), 3),
        (_request("0.0.0"), 2),
        (struct.pack("=8sIIQII", b"ONGGIWM\1", 0xFFFFFFFF, 0, 0, 0, 0), 3),
        (struct.pack("=8sIIQII", b"ONGGIWM\1", 7, 0, 0, 9, 9) + __version__.encode() + b"\0\0", 3),
        (
            struct.pack("=8sIIQII", b"ONGGIWM\1", 6, 0, 0, 0xFFFFFFFF, 1)
            + __version__.encode()
            + b"\0",
            3,
        ),
        (_request() + b"more", 3),
    ],
)
def test_malformed(rig: Rig, data: bytes, reason: int) -> None:
    with _connect(rig) as sock:
        _send(sock, data)
        assert _answer(sock) == ("N", reason)
    assert _serves(rig)


def test_without_descriptors_and_with_too_many(rig: Rig) -> None:
    with _connect(rig) as sock:
        sock.send(_request())
        assert _answer(sock) == ("N", 3)
    with _connect(rig) as sock:
        fds = array.array("i", [0] * 30)
        sock.sendmsg([_request()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        assert _answer(sock) == ("N", 3)
    assert _serves(rig)


def test_a_silent_client_holds_nobody_up(rig: Rig) -> None:
    with _connect(rig), _connect(rig), _connect(rig) as last:
        assert _serves(rig)
        last.send(b"ONGG")
        assert _serves(rig)
    eventually(lambda: len(children_of(rig.pid)) == 1)


def test_nothing_begins_without_the_word(rig: Rig, tmp_path: Path) -> None:
    with _connect(rig) as sock:
        _send(sock, _request(words=("--root", "/", "exit", "6")))
        assert _answer(sock)[0] == "T"
    with _connect(rig) as sock:
        _send(sock, _request(words=("--root", "/", "exit", "6")))
        assert _answer(sock)[0] == "T"
        sock.send(b"X")
        assert _answer(sock) == ("E", 0)
    assert _serves(rig)


def _in_background(argv: list[str]) -> int:
    """The exit code of `argv` as a background job of a terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        job = subprocess.Popen(argv, process_group=0, stdout=subprocess.DEVNULL)
        os._exit(job.wait())
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        os.close(terminal)


def test_a_background_job_of_the_terminal(rig: Rig) -> None:
    assert _in_background([str(word) for word in rig.argv("exit", "6")]) == PLAIN_CODE
