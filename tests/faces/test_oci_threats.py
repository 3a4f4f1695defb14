"""Attacks on onggi-runtime's start, its records and its callers: each is tried, and fails."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faces.oci_rig import NEEDS_ROOT_AND_BUSYBOX, Runtime
from onggi.sandbox.keel import keel_path

pytestmark = NEEDS_ROOT_AND_BUSYBOX


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    runtime = Runtime(tmp_path)
    yield runtime
    runtime.clean()
    assert runtime.leftovers() == []


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("verb", ["create", "exec"])
def test_the_runtimes_program_cannot_be_overwritten(runtime: Runtime, verb: str) -> None:
    """CVE-2019-5736: the application is /proc/self/exe, so what it opens is the runtime itself.

    keel runs from a sealed memfd, and has execve'd the application when it could be opened; the
    interpreter never enters the container.
    """
    programs = [
        keel_path(),
        Path("/proc/self/exe").resolve(),
        Path(shutil.which("sh") or "/bin/sh"),
    ]
    before = [digest(path) for path in programs]
    attack = (
        "for p in /proc/[0-9]*; do"
        " for t in exe fd/0 fd/1 fd/2 fd/3 fd/4 fd/5; do"
        "  (echo overwritten > $p/$t) 2>/dev/null; done; done; echo done"
    )

    def root(config: dict[str, Any]) -> None:
        spaces = config["linux"]["namespaces"]
        config["linux"]["namespaces"] = [n for n in spaces if n["type"] != "pid"]
        config["process"]["user"] = {"uid": 0, "gid": 0}

    if verb == "exec":
        container = runtime.create("a", runtime.bundle("/bin/sleep", "1000"))
        runtime.call("start", container)
        # the host's pid namespace would show every process of this machine: not with exec
        done = runtime.call("exec", container, "/bin/sh", "-c", attack)
        assert "done" in done.stdout
        first = runtime.call("exec", container, "/proc/self/exe", check=False)
    else:
        bundle = runtime.bundle("/bin/sh", "-c", attack)
        assert "done" in runtime.call("run", "-b", str(bundle), runtime.name("o")).stdout
        bundle = runtime.bundle("/proc/self/exe", "monitor", "0")
        first = runtime.call("run", "-b", str(bundle), runtime.name("e"), check=False)
    # what is executed there is the copy in memory, which cannot be written to
    assert first.returncode in (1, 2, 126, 127, 255)
    assert [digest(path) for path in programs] == before
    held = runtime.create("h", runtime.bundle("/bin/true"))
    pid = runtime.state(held)["pid"]
    assert os.readlink(f"/proc/{pid}/exe").startswith("/memfd:keel")
    with pytest.raises(OSError, match="Text file busy|Operation not permitted|Permission denied"):
        os.close(os.open(f"/proc/{pid}/exe", os.O_WRONLY))


@pytest.mark.parametrize("where", ["run", "exec", "symlink"])
def test_a_working_directory_outside_is_refused(runtime: Runtime, where: str) -> None:
    """CVE-2024-21626: cwd through /proc/self/fd/N reached a directory of the host."""
    if where == "symlink":
        for number in range(3, 24):
            (runtime.rootfs / f"out{number}").symlink_to(f"/proc/self/fd/{number}")
        places = [f"/out{number}" for number in range(3, 24)]
    else:
        places = [f"/proc/self/fd/{number}" for number in (*range(3, 24), 100, 299, 300, 301, 1023)]
    container = runtime.create("a", runtime.bundle("/bin/sleep", "1000"))
    runtime.call("start", container)
    for place in places:
        if where == "exec":
            done = runtime.call("exec", "--cwd", place, container, "/bin/ls", check=False)
        else:

            def moved(config: dict[str, Any], place: str = place) -> None:
                config["process"]["cwd"] = place

            bundle = runtime.bundle("/bin/ls", change=moved)
            done = runtime.call("run", "-b", str(bundle), runtime.name("c"), check=False)
            shutil.rmtree(bundle)
        assert done.returncode != 0, place
        assert done.stdout == "", place


def test_no_descriptor_of_the_host_is_open_in_a_container(runtime: Runtime) -> None:
    """CVE-2024-21626: neither in what waits to be started, nor in what was."""
    script = "ls -l /proc/self/fd; ls /proc/1/fd | wc -l"
    done = runtime.call(
        "run", "-b", str(runtime.bundle("/bin/sh", "-c", script)), runtime.name("f")
    )
    targets = [line.split(" -> ")[1] for line in done.stdout.splitlines() if " -> " in line]
    assert all(t == "/dev/null" or t.startswith(("pipe:", "/proc/")) for t in targets), targets


def test_no_inheritable_capability_is_left(runtime: Runtime) -> None:
    """CVE-2022-29162: neither by exec --cap, nor from who calls."""
    container = runtime.create("a", runtime.bundle("/bin/sleep", "1000"))
    runtime.call("start", container)
    words = ("exec", "--cap", "CAP_NET_RAW", container, "/bin/grep", "Cap", "/proc/self/status")
    done = runtime.call(*words)
    sets = dict(line.split() for line in done.stdout.splitlines())
    assert int(sets["CapInh:"], 16) == 0
    assert int(sets["CapEff:"], 16) >> 13 & 1


def test_a_reused_process_id_is_neither_shown_nor_killed(runtime: Runtime) -> None:
    """Between `state` and `kill` the container ends and its number becomes another's."""
    container = runtime.create("a", runtime.bundle("/bin/sleep", "1000"))
    runtime.call("start", container)
    path = runtime.root / container / "state.json"
    record = json.loads(path.read_text())
    os.kill(record["pid"], signal.SIGKILL)
    runtime.wait(container, "stopped")
    with subprocess.Popen(["/bin/sleep", "1000"]) as stranger:
        try:
            path.write_text(json.dumps({**record, "pid": stranger.pid}))
            assert runtime.state(container)["status"] == "stopped"
            for words in (("kill", container, "KILL"), ("exec", container, "/bin/true")):
                assert runtime.call(*words, check=False).returncode != 0
            runtime.call("delete", "--force", container)
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_a_record_of_another_boot_names_nobody(runtime: Runtime) -> None:
    container = runtime.create("a", runtime.bundle("/bin/sleep", "1000"))
    path = runtime.root / container / "state.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "running_boot": "0" * 36}))
    assert runtime.state(container)["status"] == "stopped"
    assert runtime.call("kill", container, "KILL", check=False).returncode == 1
    path.write_text(json.dumps(record))


@pytest.mark.parametrize("kind", ["fifo", "sparse", "link", "device", "directory"])
def test_a_passwd_that_is_a_trap_is_not_read(runtime: Runtime, kind: str) -> None:
    """CVE-2024-9676: a FIFO holds the runtime up, 10 GB fill its memory, a link leads outside."""
    passwd = runtime.rootfs / "etc/passwd"
    passwd.unlink()
    if kind == "fifo":
        os.mkfifo(passwd)
    elif kind == "sparse":
        with passwd.open("w") as file:
            file.truncate(10 << 30)
    elif kind == "link":
        outside = runtime.place / "outside"
        outside.write_text("root:x:0:0::/outside:/bin/sh\n")
        passwd.symlink_to(f"../../../../../../../..{outside}")
    elif kind == "device":
        os.mknod(passwd, 0o20666, os.makedev(1, 5))
    else:
        passwd.mkdir()
    bundle = runtime.bundle("/bin/sh", "-c", "echo $HOME")
    began = time.monotonic()
    assert runtime.call("run", "-b", str(bundle), runtime.name("p")).stdout == "/\n"
    container = runtime.create("a", runtime.bundle("/bin/sleep", "1000"))
    runtime.call("start", container)
    assert runtime.call("exec", container, "/bin/sh", "-c", "echo $HOME").stdout == "/\n"
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(
    "user", ["root", "2147483648x", "-1", "4294967295", "4294967296", "0x0", "１"]
)
def test_a_user_that_is_no_id_is_refused(runtime: Runtime, user: str) -> None:
    """CVE-2024-40635: a number that wraps round, or a name that looks like one, became root."""
    container = runtime.create("a", runtime.bundle("/bin/sleep", "1000"))
    runtime.call("start", container)
    done = runtime.call("exec", "--user", user, container, "/bin/id", check=False)
    assert (done.returncode, done.stdout) == (255, "")
    big = runtime.call("exec", "--user", "2147483648", container, "/bin/id", "-u")
    assert big.stdout == "2147483648\n"


def test_a_configuration_that_is_a_trap_is_refused_at_once(runtime: Runtime) -> None:
    """A FIFO in its place, a huge one, one nested too deep: refused without a traceback."""
    bundle = runtime.bundle()
    for content in (b"[" * 100_000, b'{"ociVersion": ' + b"[" * 50_000, b"\0" * 100, b""):
        (bundle / "config.json").write_bytes(content)
        done = runtime.call("create", "-b", str(bundle), runtime.name("c"), check=False)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
    with (bundle / "config.json").open("w") as file:
        file.truncate(10 << 30)
    done = runtime.call("create", "-b", str(bundle), runtime.name("c"), check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    (bundle / "config.json").unlink()
    os.mkfifo(bundle / "config.json")
    done = runtime.call("create", "-b", str(bundle), runtime.name("c"), check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)


def test_whoever_connects_to_a_waiting_container_without_a_word_does_not_start_it(
    runtime: Runtime,
) -> None:
    import socket

    container = runtime.create("a", runtime.bundle("/bin/sleep", "1000"))
    directory = os.open(runtime.root / container, os.O_RDONLY)
    try:
        for message in (None, b"", b"\1", b"\2\0\0\0", b"\1\0\0\0more"):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as visitor:
                visitor.connect(f"/proc/self/fd/{directory}/start.sock")
                if message:
                    visitor.send(message[:4] if message != b"\1\0\0\0more" else b"\3\0\0\0")
            assert runtime.state(container)["status"] == "created"
    finally:
        os.close(directory)
    runtime.call("start", container)
    assert runtime.state(container)["status"] == "running"


def test_strangers_cannot_reach_the_records(runtime: Runtime) -> None:
    container = runtime.create("a", runtime.bundle("/bin/sleep", "1000"))
    assert runtime.root.stat().st_mode & 0o777 == 0o700
    for path in (runtime.root / container).iterdir():
        if path.name != "start.sock":
            assert path.stat().st_mode & 0o077 == 0, path
    listing = ["setpriv", "--reuid", "65534", "--clear-groups", "ls", str(runtime.root)]
    if shutil.which("setpriv"):
        assert subprocess.run(listing, capture_output=True, check=False).returncode != 0


def test_a_container_does_not_learn_the_callers_environment(runtime: Runtime) -> None:
    runtime.environment["SECRET"] = "of the caller"
    done = runtime.call("run", "-b", str(runtime.bundle("/bin/env")), runtime.name("e"))
    assert done.stdout.split() == ["PATH=/bin", "HOME=/root"]
    container = runtime.create("a", runtime.bundle("/bin/sleep", "1000"))
    pid = runtime.state(container)["pid"]
    assert Path(f"/proc/{pid}/environ").read_bytes() == b""


def test_what_waits_to_be_started_holds_nothing_of_the_host_and_shows_nothing(
    runtime: Runtime,
) -> None:
    """Nobody knows for how long it waits: no tree, no cgroup is open, and it is not dumpable."""
    container = runtime.create("a", runtime.bundle("/bin/sleep", "1000"))
    pid = runtime.state(container)["pid"]
    assert Path(f"/proc/{pid}/comm").read_text() == "keel:init\n"
    targets = {path.name: os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
    others = [target for name, target in targets.items() if int(name) > 2]
    # by a signalfd it hears that it is to end
    kinds = {target.partition(":")[0] for target in others if target != "anon_inode:[signalfd]"}
    assert kinds == {"socket"}, targets
    assert len(others) == 2
    if shutil.which("setpriv") is None:
        pytest.skip("host feature missing: setpriv")
    words = ["setpriv", "--bounding-set", "-sys_ptrace", "readlink", f"/proc/{pid}/fd/0"]
    assert subprocess.run(words, capture_output=True, check=False).returncode != 0


def test_a_cgroup_that_another_container_lives_in_is_left_alone(runtime: Runtime) -> None:
    def shared(config: dict[str, Any]) -> None:
        config["linux"]["cgroupsPath"] = f"/{runtime.name('shared')}"

    first = runtime.create("a", runtime.bundle("/bin/sleep", "1000", change=shared))
    runtime.call("start", first)
    runtime.wait(first, "running")
    words = ("-b", str(runtime.bundle("/bin/true", change=shared)), runtime.name("b"))
    done = runtime.call("create", *words, check=False)
    assert "exists and has processes" in done.stderr
    assert runtime.state(first)["status"] == "running"
