"""Engines in production call onggi-runtime in place of runc: podman, containerd, Docker."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from faces.oci_rig import NEEDS_ROOT_AND_BUSYBOX, PLAIN, eventually, make_rootfs

pytestmark = [NEEDS_ROOT_AND_BUSYBOX, pytest.mark.timeout(300)]


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [name for name in programs if shutil.which(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"host feature missing: {' '.join(missing)}")


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """The command, as a caller finds it: it also notes which verbs it was called with."""
    program = tmp_path / "onggi-runtime"
    calls = tmp_path / "calls"
    program.write_text(
        f'#!/bin/sh\necho "$@" >>"{calls}"\nONGGI_NO_WARM=1 exec {" ".join(PLAIN)} "$@"\n'
    )
    program.chmod(0o755)
    return program


def verbs(runtime: Path) -> set[str]:
    words = (runtime.parent / "calls").read_text().split()
    return set(words)


class Engine:
    """One engine's command line. `words` come before every call."""

    def __init__(self, *words: str) -> None:
        self.words = words

    def __call__(self, *words: str, code: int = 0, stdin: bytes = b"") -> str:
        done = subprocess.run(
            [*self.words, *words], input=stdin, capture_output=True, timeout=120, check=False
        )
        out = done.stdout.decode()
        assert done.returncode == code, (words, done.returncode, out, done.stderr.decode())
        return out + done.stderr.decode() * bool(code)


def layer(place: Path) -> bytes:
    make_rootfs(place)
    return subprocess.run(
        ["tar", "-C", str(place), "-c", "."], capture_output=True, check=True
    ).stdout


@pytest.fixture
def podman(tmp_path: Path, runtime: Path) -> Iterator[Engine]:
    # podman takes no more than 50 characters here
    short = Path(tempfile.mkdtemp(prefix="onggi-podman-"))
    engine = Engine(
        "podman", "--root", str(short / "root"), "--runroot", str(short / "run"),
        "--runtime", str(runtime), "--cgroup-manager=cgroupfs", "--events-backend=file",
        "--tmpdir", str(short / "tmp"),
    )  # fmt: skip
    engine("import", "-", "box", stdin=layer(tmp_path / "rootfs"))
    yield engine
    engine("rm", "-af")
    engine("pod", "rm", "-af")
    subprocess.run(["umount", str(short / "root/overlay")], capture_output=True, check=False)
    shutil.rmtree(short)


@needs("podman", "conmon")
def test_podman_runs_executes_pauses_updates_stops_and_removes(
    podman: Engine, runtime: Path
) -> None:
    run = ("run", "--rm", "--network", "none", "box")
    assert podman(*run, "/bin/sh", "-c", "echo hello; id -u") == "hello\n0\n"
    podman(*run, "/bin/sh", "-c", "exit 9", code=9)
    assert "not found" in podman(*run, "/bin/nope", code=127)
    podman(
        "run", "-d", "--name", "cc", "--network", "none", "-m", "64m", "box", "/bin/sleep", "1000"
    )
    assert podman("exec", "cc", "/bin/sh", "-c", "echo in; exit 0") == "in\n"
    podman("exec", "cc", "/bin/false", code=1)
    podman("exec", "cc", "/bin/nope", code=127)
    podman("pause", "cc")
    assert podman("inspect", "-f", "{{.State.Status}}", "cc") == "paused\n"
    podman("unpause", "cc")
    assert json.loads(podman("stats", "--no-stream", "--format", "json"))[0]["pids"] == "1"
    assert "/bin/sleep 1000" in podman("top", "cc")
    podman("kill", "cc")
    assert podman("wait", "cc") == "137\n"
    podman("start", "cc")
    podman("stop", "-t", "1", "cc")
    podman("rm", "cc")
    assert {"create", "start", "exec", "kill", "delete", "pause", "resume"} <= verbs(runtime)


@needs("podman", "conmon")
def test_podman_privileged_users_and_pods(podman: Engine) -> None:
    """Privileged too, where the host lacks a capability: runc fails there."""
    script = "grep CapEff /proc/self/status"
    assert "CapEff" in podman(
        "run", "--rm", "--privileged", "--network", "none", "box", "/bin/sh", "-c", script
    )
    out = podman(
        "run", "--rm", "--read-only", "--user", "1000", "--network", "none", "box",
        "/bin/sh", "-c", "id -u; echo again >/dev/stdout",
    )  # fmt: skip
    assert out == "1000\nagain\n"
    podman("pod", "create", "--name", "p", "--infra=false")
    assert podman("run", "--rm", "--pod", "p", "box", "/bin/echo", "podded") == "podded\n"


@pytest.fixture
def containerd(tmp_path: Path) -> Iterator[Engine]:
    socket = tmp_path / "c.sock"
    config = tmp_path / "config.toml"
    config.write_text(
        f'version = 2\nroot = "{tmp_path}/root"\nstate = "{tmp_path}/state"\n'
        f'[grpc]\n  address = "{socket}"\n'
    )
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(["containerd", "-c", str(config)], stdout=log, stderr=log)
    engine = Engine("ctr", "-a", str(socket))
    try:
        eventually(socket.exists)
        yield engine
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@needs("containerd", "ctr", "umoci")
def test_containerd_runs_and_executes(tmp_path: Path, containerd: Engine, runtime: Path) -> None:
    make_rootfs(tmp_path / "rootfs")
    image = tmp_path / "image"
    for words in (
        ("init", "--layout", str(image)),
        ("new", "--image", f"{image}:box"),
        ("insert", "--image", f"{image}:box", str(tmp_path / "rootfs"), "/"),
    ):
        subprocess.run(["umoci", *words], check=True, capture_output=True)
    tar = tmp_path / "image.tar"
    subprocess.run(["tar", "-C", str(image), "-cf", str(tar), "."], check=True)
    containerd("images", "import", "--index-name", "box:latest", str(tar))
    name = containerd("images", "ls", "-q").split()[0]
    run = ("run", "--runc-binary", str(runtime))
    assert containerd(*run, "--rm", name, "a", "/bin/echo", "hello") == "hello\n"
    containerd(*run, "--rm", name, "b", "/bin/sh", "-c", "exit 6", code=6)
    assert "not found in $PATH" in containerd(*run, "--rm", name, "c", "/bin/nope", code=1)
    containerd(*run, "-d", name, "d", "/bin/sleep", "1000")
    assert containerd("tasks", "exec", "--exec-id", "e", "d", "/bin/echo", "in") == "in\n"
    containerd("tasks", "pause", "d")
    assert "PAUSED" in containerd("tasks", "ls")
    containerd("tasks", "resume", "d")
    containerd("tasks", "kill", "-s", "SIGKILL", "d")
    eventually(lambda: "STOPPED" in containerd("tasks", "ls"))
    containerd("tasks", "rm", "d")
    containerd("containers", "rm", "d")


@pytest.fixture
def docker(tmp_path: Path, runtime: Path) -> Iterator[Engine]:
    socket = tmp_path / "d.sock"
    words = [
        "dockerd", "--data-root", str(tmp_path / "data"), "--exec-root", str(tmp_path / "exec"),
        "-H", f"unix://{socket}", "-p", str(tmp_path / "pid"), "--iptables=false",
        "--ip6tables=false", "--bridge=none", "--storage-driver", "vfs",
        "--add-runtime", f"onggi={runtime}",
    ]  # fmt: skip
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)
    engine = Engine("docker", "-H", f"unix://{socket}")
    try:
        eventually(lambda: socket.exists() and subprocess.run(
            [*engine.words, "info"], capture_output=True, check=False
        ).returncode == 0)  # fmt: skip
        engine("import", "-", "box", stdin=layer(tmp_path / "rootfs"))
        yield engine
        for name in engine("ps", "-aq").split():
            engine("rm", "-f", name)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@needs("docker", "dockerd")
def test_docker_runs_executes_pauses_updates_and_stops(docker: Engine, runtime: Path) -> None:
    run = ("run", "--runtime", "onggi", "--network", "none")
    assert docker(*run, "--rm", "box", "/bin/echo", "hello") == "hello\n"
    docker(*run, "--rm", "box", "/bin/sh", "-c", "exit 9", code=9)
    assert "not found in $PATH" in docker(*run, "--rm", "box", "/bin/nope", code=127)
    docker(*run, "-d", "--name", "cc", "-m", "64m", "box", "/bin/sleep", "1000")
    assert docker("exec", "cc", "/bin/echo", "in") == "in\n"
    docker("exec", "cc", "/bin/false", code=1)
    docker("pause", "cc")
    assert docker("inspect", "-f", "{{.State.Status}}", "cc") == "paused\n"
    docker("unpause", "cc")
    docker("update", "--memory", "32m", "--memory-swap", "64m", "cc")
    assert "/bin/sleep 1000" in docker("top", "cc")
    docker("stop", "-t", "1", "cc")
    docker("rm", "cc")
    assert {"create", "start", "exec", "kill", "delete", "pause", "resume", "update"} <= verbs(
        runtime
    )
