"""`docker run --runtime onggi`: dockerd, its containerd and the shim call us."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance import callers_rig as callers
from registry_rig import need


@pytest.fixture(scope="module")
def docker() -> Iterator[callers.Caller]:
    """A dockerd of the tests' own that knows our runtime, and touches no network of the host."""
    need("dockerd", "docker.io")
    need("docker", "docker.io")
    with callers.place() as name:
        place = Path(name)
        socket = f"unix://{place}/sock"
        caller = callers.Caller(["docker"], {"DOCKER_HOST": socket})
        command = ["dockerd", "--iptables=false", "--ip6tables=false", "--bridge=none"]
        command += [f"--data-root={place}/data", f"--exec-root={place}/exec"]
        command += [f"--pidfile={place}/pid", "--host", socket]
        command += ["--add-runtime", f"onggi={callers.RUNTIME}", "--default-runtime", "onggi"]
        with callers.daemon(
            command, place, lambda: caller.run("version", check=False).returncode == 0
        ):
            caller.run("import", str(callers.image_tar(place)), callers.IMAGE)
            yield caller
            names = caller.out("ps", "-aq").split()
            if names:
                caller.run("rm", "-f", *names)


def run(docker: callers.Caller, *words: str) -> str:
    """`docker run --rm` without a network; what it prints."""
    return docker.out("run", "--rm", "--runtime", "onggi", "--network", "none", *words)


def test_run_and_its_exit_codes(docker: callers.Caller) -> None:
    assert run(docker, callers.IMAGE, "echo", "hi") == "hi"
    codes = {("sh", "-c", "exit 7"): 7, ("absent",): 127, ("/etc",): 126}
    for command, code in codes.items():
        words = ("run", "--rm", "--network", "none", callers.IMAGE, *command)
        assert docker.run(*words, check=False).returncode == code, command


def test_streams_and_a_terminal(docker: callers.Caller) -> None:
    words = ("run", "--rm", "--network", "none", "-i", callers.IMAGE, "cat")
    assert docker.run(*words, stdin="typed").stdout == "typed"
    assert "tty" in run(docker, "-t", callers.IMAGE, "sh", "-c", "[ -t 0 ] && echo tty")


def test_the_life_of_a_container(docker: callers.Caller) -> None:
    options = ("--network", "none", "-m", "64m", "--cpus", "0.5")
    name = docker.out("run", "-d", *options, callers.IMAGE, "sleep", "1000")
    assert docker.out("exec", name, "id", "-u") == "0"
    assert docker.run("exec", name, "sh", "-c", "exit 4", check=False).returncode == 4
    assert "sleep 1000" in docker.out("top", name)
    docker.run("pause", name)
    assert _status(docker, name) == "paused"
    docker.run("unpause", name)
    docker.run("update", "-m", "128m", "--memory-swap", "256m", name)
    docker.run("stop", "-t", "0", name)
    assert _status(docker, name) == "exited"
    docker.run("start", name)
    docker.run("restart", "-t", "0", name)
    pid = int(docker.out("inspect", "-f", "{{.State.Pid}}", name))
    docker.run("kill", name)
    assert docker.out("wait", name) == "137"
    docker.run("rm", name)
    assert not Path(f"/proc/{pid}").exists()


def _status(docker: callers.Caller, name: str) -> str:
    return docker.out("inspect", "-f", "{{.State.Status}}", name)


def test_options_that_reach_the_runtime(docker: callers.Caller, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host")
    tmp_path.chmod(0o755)
    options = ("-v", f"{tmp_path}:/mnt:ro", "--read-only", "--tmpfs", "/tmp", "--user", "7:8")
    script = "cat /mnt/file; id -u; id -g; touch /x || echo refused"
    said = run(docker, *options, callers.IMAGE, "sh", "-c", script)
    assert said.split() == ["from", "the", "host7", "8", "refused"]
    assert run(docker, "--privileged", "--init", callers.IMAGE, "id", "-u") == "0"
