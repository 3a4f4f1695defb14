"""`podman --runtime onggi-runtime`: conmon calls us, holds the streams and reaps init."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance import callers_rig as callers
from criu_rig import need_criu
from registry_rig import need

IDS = 4242


@pytest.fixture(scope="module")
def podman() -> Iterator[callers.Caller]:
    """podman with a store of its own and our runtime."""
    need("podman", "podman")
    with callers.place() as name:
        place = Path(name)
        words = ["podman", "--root", f"{place}/data", "--runroot", f"{place}/run"]
        systemd = Path("/run/systemd/system").is_dir()
        manager = "systemd" if systemd else "cgroupfs"
        words += [f"--cgroup-manager={manager}", f"--network-config-dir={place}/networks"]
        words += ["--runtime", str(callers.RUNTIME)]
        words += ["--storage-driver=vfs"] if systemd else []  # a guest has no overlay on its disk
        caller = callers.Caller(words)
        caller.run("import", "-q", str(callers.image_tar(place)), callers.IMAGE)
        yield caller
        caller.run("pod", "rm", "-fa", check=False)
        caller.run("rm", "-fa", "-t", "0")
        caller.run("rmi", "-fa")


def run(podman: callers.Caller, *words: str, check: bool = True) -> str:
    """`podman run --rm` without a network; what it prints."""
    done = podman.run("run", "--rm", "--network", "none", *words, check=check)
    return done.stdout


def test_run_and_its_exit_codes(podman: callers.Caller) -> None:
    assert run(podman, callers.IMAGE, "echo", "hi") == "hi\n"
    codes = {("sh", "-c", "exit 7"): 7, ("absent",): 127, ("/etc",): 126}
    for command, code in codes.items():
        words = ("run", "--rm", "--network", "none", callers.IMAGE, *command)
        assert podman.run(*words, check=False).returncode == code, command


def test_streams_and_a_terminal(podman: callers.Caller) -> None:
    words = ("run", "--rm", "--network", "none", "-i", callers.IMAGE, "cat")
    assert podman.run(*words, stdin="typed").stdout == "typed"
    assert "tty" in run(podman, "-t", callers.IMAGE, "sh", "-c", "[ -t 0 ] && echo tty")


def test_the_life_of_a_container(podman: callers.Caller) -> None:
    name = podman.out("run", "-d", "--network", "none", "-m", "64m", callers.IMAGE, "sleep", "1000")
    assert podman.out("exec", name, "id", "-u") == "0"
    assert podman.run("exec", name, "sh", "-c", "exit 3", check=False).returncode == 3
    stats = json.loads(podman.out("stats", "--no-stream", "--format", "json", name))
    assert stats[0]["pids"] == "1"
    assert "67.11MB" in stats[0]["mem_usage"]
    assert "sleep 1000" in podman.out("top", name)
    podman.run("pause", name)
    assert _status(podman, name) == "paused"
    podman.run("unpause", name)
    pid = int(podman.out("inspect", "-f", "{{.State.Pid}}", name))
    podman.run("stop", "-t", "0", name)
    assert _status(podman, name) == "exited"
    assert not Path(f"/proc/{pid}").exists()
    podman.run("start", name)
    podman.run("restart", "-t", "0", name)
    assert _status(podman, name) == "running"
    podman.run("kill", name)
    assert podman.out("wait", name) == "137"
    podman.run("rm", name)


def _status(podman: callers.Caller, name: str) -> str:
    return podman.out("inspect", "-f", "{{.State.Status}}", name)


def test_checkpoint_and_restore_also_elsewhere(podman: callers.Caller, tmp_path: Path) -> None:
    need_criu()
    script = "i=0; while :; do i=$((i+1)); echo $i >/tmp/n; echo $i; sleep 0.1; done"
    options = ("--network", "none", "-m", "64m", "--tmpfs", "/scratch", "-v", f"{tmp_path}:/mnt:ro")
    name = podman.out("run", "-d", *options, callers.IMAGE, "sh", "-c", script)

    def number(container: str) -> int:
        return int(podman.out("exec", container, "cat", "/tmp/n") or 0)

    callers.until(lambda: number(name) > 3, "it counts")
    podman.run("container", "checkpoint", name)
    assert _status(podman, name) == "exited"
    podman.run("container", "restore", name)
    kept = number(name)
    assert kept > 3
    callers.until(lambda: number(name) > kept, "it goes on")
    archive = f"{tmp_path}/kept.tar.gz"
    podman.run("container", "checkpoint", "--leave-running", "--export", archive, name)
    assert _status(podman, name) == "running"
    podman.run("rm", "-f", "-t", "0", name)
    podman.run("container", "restore", "--import", archive, "--name", "other")
    assert number("other") > kept
    callers.until(lambda: len(podman.out("logs", "other").split()) > 1, "it prints")
    podman.run("stop", "-t", "0", "other")
    assert podman.out("inspect", "-f", "{{.State.ExitCode}}", "other") == "137"
    podman.run("rm", "other")


def test_privileged_where_the_host_holds_less(podman: callers.Caller) -> None:
    """Rlimits and capabilities that the host does not have are taken as far as they go."""
    assert run(podman, "--privileged", callers.IMAGE, "id", "-u") == "0\n"


def test_user_namespaces_and_mounts(podman: callers.Caller, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host")
    tmp_path.chmod(0o755)
    options = ("--uidmap", "0:100000:65536", "-v", f"{tmp_path}:/mnt:ro", "--read-only")
    script = "cat /mnt/file /proc/self/uid_map; touch /mnt/x || touch /x || echo refused"
    said = run(podman, *options, callers.IMAGE, "sh", "-c", script)
    assert said.startswith("from the host")
    assert said.split()[3:] == ["0", "100000", "65536", "refused"]


def test_a_pod_shares_namespaces(podman: callers.Caller) -> None:
    # podman's own pause image would be pulled: any image does.
    infra = ("--infra-image", callers.IMAGE, "--infra-command", "/bin/sleep 1000")
    pod = podman.out("pod", "create", "--network", "none", *infra)
    one, two = (
        podman.out("run", "-d", "--pod", pod, callers.IMAGE, "sleep", "1000") for _ in range(2)
    )
    kinds = {
        kind: {podman.out("exec", name, "readlink", f"/proc/self/ns/{kind}") for name in (one, two)}
        for kind in ("ipc", "net", "uts", "mnt")
    }
    assert {kind: len(seen) for kind, seen in kinds.items()} == {
        "ipc": 1,
        "net": 1,
        "uts": 1,
        "mnt": 2,
    }
    podman.run("pod", "stop", "-t", "0", pod)
    podman.run("pod", "rm", pod)
