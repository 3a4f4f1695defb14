"""`pull`, `push`, `login`, `logout`, `image copy`: what is asked, printed and kept."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from faces import cli_rig
from faces.cli_rig import FakeEngine, Rig, rig
from onggi.engine.api.answers import (
    CopyAnswer,
    ImageAnswer,
    LoginAnswer,
    Progress,
    PushAnswer,
    RegistriesAnswer,
)
from onggi.errors import NotFound, PermissionDenied
from onggi.faces.cli.main import main

Capture = pytest.CaptureFixture[str]
DIGEST = "sha256:" + "ab" * 32
SECRET = "s3cr:et"


class RegistryEngine(FakeEngine):
    """Knows two registries; `private.io` one user only, `token.io` gives a token."""

    def handlers(self) -> dict[str, Callable[..., Any]]:
        return super().handlers() | {
            "registries.of": self.registries_of,
            "registries.login": self.login,
            "images.pull": self.pull,
            "images.push": self.push,
            "images.copy": self.copy,
        }

    async def registries_of(self, request: Any, _fds: list[int]) -> RegistriesAnswer:
        names: list[str] = []
        for text in request.references:
            if text.startswith(("store:", "oci:", "dir:", "oci-archive:", "docker-archive:")):
                continue
            first = text.removeprefix("docker://").partition("/")[0]
            names += [first] if "." in first else ["docker.io", "mirror.io"]
        return RegistriesAnswer(tuple(names))

    async def login(self, request: Any, _fds: list[int]) -> LoginAnswer:
        self.asked.append(("login", request))
        if request.credentials.password != SECRET:
            raise PermissionDenied(f"{request.registry} does not know this name and password")
        token = "tok" if request.registry == "token.io" else ""
        return LoginAnswer(request.registry, "Login Succeeded", token)

    async def pull(self, request: Any, _fds: list[int]) -> AsyncIterator[Any]:
        self.asked.append(("pull", request))
        yield Progress("resolving")
        if request.reference.startswith("missing"):
            raise NotFound(f"{request.reference} is not in its registry")
        for done in range(3):
            yield Progress("downloading", done, 2, "aaaaaaaaaaaa")
            yield Progress("downloading", done, 4, "bbbbbbbbbbbb")
        if request.reference == "stuck":
            await self.gate.wait()
        status = "current" if request.reference == "known" else "new"
        names = () if "@" in request.reference else (f"{request.reference}:latest", "other:1")
        yield ImageAnswer("sha256:1", names, DIGEST, status)
        if request.all_tags:
            yield ImageAnswer("sha256:2", (f"{request.reference}:2\x1b[2J",), DIGEST, "new")

    async def push(self, request: Any, _fds: list[int]) -> AsyncIterator[Any]:
        self.asked.append(("push", request))
        yield Progress("uploading", 3, 3, "aaaaaaaaaaaa")
        yield PushAnswer(request.destination or request.reference, DIGEST, 528)

    async def copy(self, request: Any, _fds: list[int]) -> AsyncIterator[Any]:
        self.asked.append(("copy", request))
        yield Progress("copying", 1, 2)
        yield CopyAnswer(DIGEST)


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    for name in ("ONGGI_ROOT", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "xdg"))
    monkeypatch.setattr(cli_rig, "FakeEngine", RegistryEngine)
    with rig(tmp_path / "r") as found:
        yield found


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Docker's file, with who we are to two registries."""
    path = tmp_path / ".docker/config.json"
    path.parent.mkdir()
    hub, mirror = auth("me", SECRET), auth("you", "m")
    auths = {"https://index.docker.io/v1/": {"auth": hub}, "mirror.io": {"auth": mirror}}
    path.write_text(json.dumps({"auths": auths}))
    return path


def auth(username: str, password: str) -> str:
    return base64.b64encode(f"{username}:{password}".encode()).decode()


def onggi(found: Rig, *argv: str) -> int:
    return main(["--root", found.root, *argv])


def asked(found: Rig, name: str) -> Any:
    return next(request for kind, request in reversed(found.engine.asked) if kind == name)


def who(logins: dict[str, Any]) -> dict[str, tuple[str, str, str]]:
    return {
        registry: (login.username, login.password, login.identity_token)
        for registry, login in logins.items()
    }


def test_pull_says_what_docker_says(running: Rig, capfd: Capture) -> None:
    assert onggi(running, "pull", "debian") == 0
    found = capfd.readouterr()
    assert found.out.splitlines() == [
        f"Digest: {DIGEST}",
        "Status: Downloaded newer image for debian:latest",
        "debian:latest",
    ]
    assert found.err.splitlines() == [
        "resolving", "aaaaaaaaaaaa: downloading", "bbbbbbbbbbbb: downloading",
    ]  # fmt: skip
    request = asked(running, "pull")
    assert (request.platform, request.every_platform, request.all_tags, request.unpack) == (
        "", False, False, True,
    )  # fmt: skip
    assert request.credentials == {}


def test_pull_of_what_is_here(running: Rig, capfd: Capture) -> None:
    assert onggi(running, "pull", "known") == 0
    assert "Status: Image is up to date for known:latest\n" in capfd.readouterr().out


def test_pull_quietly(running: Rig, capfd: Capture) -> None:
    assert onggi(running, "pull", "-q", "debian", "known", f"x@{DIGEST}") == 0
    assert capfd.readouterr() == ("debian:latest\nknown:latest\nsha256:1\n", "")


def test_options_of_pull(running: Rig, capfd: Capture) -> None:
    assert onggi(running, "pull", "--platform", "linux/arm64", "--no-unpack", "x") == 0
    request = asked(running, "pull")
    assert (request.platform, request.unpack) == ("linux/arm64", False)
    assert onggi(running, "pull", "-qa", "--all-platforms", "x") == 0
    request = asked(running, "pull")
    assert (request.every_platform, request.all_tags) == (True, True)
    assert "x:2\\x1b[2J\n" in capfd.readouterr().out
    assert onggi(running, "pull", "--platform", "linux/arm64", "--all-platforms", "x") == 125
    assert "contradict" in capfd.readouterr().err


def test_pull_tries_every_name(running: Rig, capfd: Capture) -> None:
    assert onggi(running, "pull", "-q", "missing", "debian") == 1
    found = capfd.readouterr()
    assert found.out == "debian:latest\n"
    assert found.err == "onggi: missing is not in its registry\n"


@pytest.mark.usefixtures("kept")
def test_pull_brings_the_credentials_of_registry_and_mirrors(running: Rig) -> None:
    assert onggi(running, "pull", "debian") == 0
    assert who(asked(running, "pull").credentials) == {
        "docker.io": ("me", SECRET, ""),
        "mirror.io": ("you", "m", ""),
    }
    assert onggi(running, "pull", "quay.example/x") == 0
    assert asked(running, "pull").credentials == {}


def test_a_broken_file_of_credentials_is_told(running: Rig, kept: Path, capfd: Capture) -> None:
    kept.write_text("{")
    assert onggi(running, "pull", "debian") == 1
    assert f"{kept}: line 1 column 2: not JSON" in capfd.readouterr().err


def test_a_broken_helper_is_a_warning(running: Rig, kept: Path, capfd: Capture) -> None:
    kept.write_text('{"credsStore": "nowhere"}')
    assert onggi(running, "pull", "-q", "a.example/x", "a.example/y") == 0
    found = capfd.readouterr()
    assert found.err.count("docker-credential-nowhere is not in PATH") == 1
    assert found.err.startswith("onggi: warning: ")


@pytest.mark.usefixtures("kept")
def test_push(running: Rig, capfd: Capture) -> None:
    assert onggi(running, "push", "me/app:1") == 0
    found = capfd.readouterr()
    assert found.out == f"me/app:1: digest: {DIGEST} size: 528\n"
    assert found.err == "aaaaaaaaaaaa: uploading\n"
    assert who(asked(running, "push").credentials)["docker.io"] == ("me", SECRET, "")
    assert onggi(running, "push", "-q", "me/app:1", "other.example/app:1") == 0
    assert capfd.readouterr() == ("other.example/app:1\n", "")
    request = asked(running, "push")
    assert (request.reference, request.destination) == ("me/app:1", "other.example/app:1")
    assert request.credentials == {}
    assert onggi(running, "push", "-aq", "--all-platforms", "me/app") == 0
    request = asked(running, "push")
    assert (request.all_tags, request.every_platform) == (True, True)
    assert onggi(running, "push", "-a", "me/app", "x.example/y") == 125


def login(found: Rig, *argv: str, typed: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "onggi", "--root", found.root, "login", *argv]
    return subprocess.run(command, input=typed, capture_output=True, timeout=20, check=False)


def test_login_checks_then_keeps(running: Rig, tmp_path: Path) -> None:
    done = login(running, "-u", "me", "--password-stdin", "a.io", typed=f"{SECRET}\n".encode())
    assert (done.returncode, done.stdout) == (0, b"Login Succeeded\n")
    path = tmp_path / ".docker/config.json"
    assert done.stderr.decode().startswith(
        f"onggi: warning: the password is stored unencrypted in {path}"
    )
    assert json.loads(path.read_text()) == {"auths": {"a.io": {"auth": auth("me", SECRET)}}}
    assert who({"": asked(running, "login").credentials})[""] == ("me", SECRET, "")
    assert SECRET.encode() not in done.stderr


def test_login_that_is_refused_keeps_nothing(running: Rig, tmp_path: Path) -> None:
    done = login(running, "-u", "me", "--password-stdin", "a.io", typed=b"wrong\n")
    assert (done.returncode, done.stdout) == (125, b"")
    assert done.stderr == b"onggi: a.io does not know this name and password\n"
    assert not (tmp_path / ".docker").exists()


def test_login_keeps_a_token_instead_of_the_password(running: Rig, tmp_path: Path) -> None:
    done = login(running, "-u", "me", "--password-stdin", "token.io", typed=SECRET.encode())
    assert done.returncode == 0
    found = json.loads((tmp_path / ".docker/config.json").read_text())
    assert found["auths"] == {"token.io": {"auth": auth("me", ""), "identitytoken": "tok"}}


def test_login_with_a_password_for_all_to_see(running: Rig) -> None:
    done = login(running, "-u", "me", "-p", SECRET, "https://a.io/v2/")
    assert done.returncode == 0
    assert b"use --password-stdin" in done.stderr
    assert asked(running, "login").registry == "a.io"


@pytest.mark.parametrize(
    ("argv", "typed", "said"),
    [
        ([], b"", "there is no terminal to ask"),
        (["-u", "me"], b"", "there is no terminal to ask"),
        (["--password-stdin"], b"x", "--password-stdin needs --username"),
        (["-u", "me", "--password-stdin", "-p", "s3"], b"x", "contradict each other"),
        (["-u", "me", "--password-stdin"], b"\n", "there is no password on stdin"),
        (["-u", "me", "--password-stdin"], b"s3\xff", "the password on stdin is not utf-8"),
        (["-u", "me", "--password-stdin"], b"s3" * 40000, "longer than 65536 bytes"),
        (["-u", "a:b", "-p", "s3"], b"", "a username with a colon"),
        (["-u", "me", "-p", b"s3\xff"], b"", "is not utf-8 text"),
        (["-u", "me", "-p", "s3", "https://"], b"", "'https://' names no registry"),
        (["-u", "me", "-p", "s3", "a b"], b"", "'a b' names no registry"),
    ],
)
def test_logins_that_cannot_be(running: Rig, argv: list[str], typed: bytes, said: str) -> None:
    done = login(running, *argv, typed=typed)
    assert done.returncode == 125
    assert said in done.stderr.decode().splitlines()[-1]
    assert b"s3" not in done.stderr
    assert not running.engine.asked


def test_logout(running: Rig, kept: Path, capfd: Capture) -> None:
    assert onggi(running, "logout") == 0
    assert capfd.readouterr().out == "Removing login credentials for docker.io\n"
    assert list(json.loads(kept.read_text())["auths"]) == ["mirror.io"]
    assert onggi(running, "logout", "index.docker.io") == 0
    assert capfd.readouterr().out == "Not logged in to docker.io\n"


@pytest.mark.usefixtures("kept")
def test_copy_makes_paths_absolute_and_brings_credentials(
    running: Rig, capfd: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = str(tmp_path)
    assert onggi(running, "image", "copy", "docker://debian", "oci:a/b:tag") == 0
    assert capfd.readouterr() == (f"{DIGEST}\n", "copying\n")
    request = asked(running, "copy")
    assert (request.source, request.destination) == ("docker://debian", f"oci:{here}/a/b:tag")
    assert list(request.credentials_source) == ["docker.io", "mirror.io"]
    assert request.credentials_destination == {}
    for given, sent in (
        ("oci-archive:x.tar", f"oci-archive:{here}/x.tar"),
        ("docker-archive:../x.tar:a:1", f"docker-archive:{here}/../x.tar:a:1"),
        ("dir:/abs", "dir:/abs"),
        ("store:app", "store:app"),
    ):
        assert onggi(running, "image", "copy", "-qa", given, "store:x") == 0
        assert asked(running, "copy").source == sent
        assert asked(running, "copy").every_platform
    assert onggi(running, "image", "copy", "dir:", "store:x") == 125


@pytest.mark.usefixtures("kept")
def test_credentials_of_a_copy(running: Rig, capfd: Capture) -> None:
    def copy(*argv: str) -> tuple[dict[str, Any], dict[str, Any]]:
        assert onggi(running, "image", "copy", "-q", *argv, "docker://a", "docker://b") == 0
        request = asked(running, "copy")
        return who(request.credentials_source), who(request.credentials_destination)

    both = {"docker.io": ("me", SECRET, ""), "mirror.io": ("you", "m", "")}
    assert copy() == (both, both)
    assert copy("--src-no-creds") == ({}, both)
    assert copy("--dest-no-creds") == (both, {})
    # A mirror is somebody else: it is not shown what was given for the registry.
    assert copy("--src-creds", "x:y:z") == ({"docker.io": ("x", "y:z", "")}, both)
    assert copy("--dest-creds=x:", "--src-no-creds") == ({}, {"docker.io": ("x", "", "")})
    capfd.readouterr()
    for argv, said in (
        (["--src-creds", "s3cret", "docker://a", "dir:/b"], "--src-creds is not USER:PASSWORD"),
        (["--dest-creds", "u:s3cret", "docker://a", "dir:/b"], "dir:/b is not in a registry"),
        (["--src-creds", "u:s3cret", "--src-no-creds", "docker://a", "dir:/b"], "contradict"),
        (["--all", "--platform", "linux/arm64", "docker://a", "dir:/b"], "contradict"),
    ):
        assert onggi(running, "image", "copy", *argv) == 125
        err = capfd.readouterr().err
        assert said in err
        assert "s3cret" not in err


class Terminal:
    """A command on a pty of its own."""

    def __init__(self, found: Rig, *argv: str, rows: int = 24, columns: int = 80) -> None:
        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.before = termios.tcgetattr(self.slave)
        self.seen = b""
        # setsid(1): a session of its own with this terminal, so that ^C is a signal.
        command = ["setsid", "-c", sys.executable, "-m", "onggi", "--root", found.root, *argv]
        slave = self.slave
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        os.close(self.master)
        os.close(self.slave)

    def expect(self, text: bytes) -> None:
        while text not in self.seen:
            self.seen += os.read(self.master, 4096)

    def hidden(self) -> None:
        deadline_s = time.monotonic() + 10
        while termios.tcgetattr(self.slave)[3] & termios.ECHO:
            assert time.monotonic() < deadline_s
            time.sleep(0.005)

    def type(self, text: bytes) -> None:
        os.write(self.master, text)

    def ended(self) -> int:
        code = self.process.wait(10)
        assert termios.tcgetattr(self.slave) == self.before
        return code


def test_login_asks_at_a_terminal_without_showing(running: Rig, tmp_path: Path) -> None:
    with Terminal(running, "login", "a.io") as terminal:
        terminal.expect(b"Username for a.io: ")
        terminal.type(b"me\n")
        terminal.expect(b"Password: ")
        terminal.hidden()
        terminal.type(f"{SECRET}\n".encode())
        terminal.expect(b"Login Succeeded")
        assert terminal.ended() == 0
        assert SECRET.encode() not in terminal.seen
    found = json.loads((tmp_path / ".docker/config.json").read_text())
    assert found["auths"]["a.io"] == {"auth": auth("me", SECRET)}


@pytest.mark.usefixtures("kept")
def test_login_offers_who_we_were(running: Rig) -> None:
    with Terminal(running, "login") as terminal:
        terminal.expect(b"Username for docker.io (me): ")
        terminal.type(b"\n")
        terminal.expect(b"Password: ")
        terminal.hidden()
        terminal.type(f"{SECRET}\n".encode())
        terminal.expect(b"Login Succeeded")
        assert terminal.ended() == 0
    assert asked(running, "login").credentials.username == "me"


@pytest.mark.parametrize(("key", "code"), [(b"\x03", 130), (b"\x04", 125), (b"\n", 125)])
def test_who_leaves_the_prompt_finds_the_terminal_as_it_was(
    running: Rig, key: bytes, code: int
) -> None:
    with Terminal(running, "login", "-u", "me", "a.io") as terminal:
        terminal.expect(b"Password: ")
        terminal.hidden()
        terminal.type(key)
        assert terminal.ended() == code
    assert not running.engine.asked


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_prompt_that_is_told_to_die_restores_the_terminal(
    running: Rig, number: signal.Signals
) -> None:
    with Terminal(running, "login", "-u", "me", "a.io") as terminal:
        terminal.expect(b"Password: ")
        terminal.hidden()
        terminal.process.send_signal(number)
        assert terminal.ended() == -number


def test_a_pull_that_is_interrupted_leaves_its_lines(running: Rig) -> None:
    with Terminal(running, "pull", "stuck", rows=10, columns=50) as terminal:
        terminal.expect(b"bbbbbbbbbbbb")
        terminal.expect(b"in all")
        terminal.type(b"\x03")
        assert terminal.ended() == 130
        terminal.expect(b"\x1b[J\r\n")
        assert b"Traceback" not in terminal.seen
    running.open_gate()


def test_bars_on_a_terminal(running: Rig) -> None:
    with Terminal(running, "pull", "debian") as terminal:
        terminal.expect(b"debian:latest\r\n")
        assert terminal.ended() == 0
        text = terminal.seen.decode()
    assert f"aaaaaaaaaaaa  downloading       {'█' * 24}  2B/2B" in text
    assert "in all  1/2  downloading 4B of 6B" in text
