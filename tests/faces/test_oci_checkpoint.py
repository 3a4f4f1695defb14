"""`checkpoint` and `restore` with the real CRIU: what runs goes on where it was."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from criu_rig import need_criu
from faces.oci_rig import NEEDS_ROOT_AND_BUSYBOX, Console, Runtime, eventually
from onggi.kernel.capabilities import BITS
from onggi.kernel.syscalls import capget

COUNT = "i=0; while :; do i=$((i+1)); echo $i >/tmp/n; sleep 0.05; done"


@pytest.fixture(scope="module", autouse=True)
def criu() -> None:
    need_criu()


pytestmark = NEEDS_ROOT_AND_BUSYBOX


class Stdio:
    """A container's stdio as a supervisor has it: /dev/null, and a pipe for what it prints."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self.options: dict[str, Any] = {"stdout": self.writer, "stderr": self.writer}

    def read(self) -> str:
        return os.read(self.reader, 4096).decode()

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    runtime = Runtime(tmp_path)
    yield runtime
    runtime.clean()
    assert runtime.leftovers() == []
    left = [line for line in Path("/proc/mounts").read_text().splitlines() if str(tmp_path) in line]
    assert left == []


@pytest.fixture
def stdio() -> Iterator[Stdio]:
    stdio = Stdio()
    yield stdio
    stdio.close()


def begin(runtime: Runtime, name: str, bundle: Path, stdio: Stdio, *words: str) -> str:
    container = runtime.name(name)
    runtime.call("create", "-b", str(bundle), *words, container, **stdio.options)
    runtime.call("start", container)
    return container


def number(runtime: Runtime) -> int:
    path = runtime.rootfs / "tmp/n"
    text = path.read_text() if path.exists() else ""
    return int(text) if text.strip() else 0  # between open and write it is empty


def images(runtime: Runtime) -> str:
    return str(runtime.place / "images")


def restore(runtime: Runtime, name: str, bundle: Path, stdio: Stdio, *words: str) -> str:
    container = runtime.name(name)
    runtime.call(
        "restore", "-d", "--image-path", images(runtime), "-b", str(bundle), *words, container,
        **stdio.options,
    )  # fmt: skip
    return container


def test_what_runs_goes_on_under_another_name(runtime: Runtime, stdio: Stdio) -> None:
    bundle = runtime.bundle("/bin/sh", "-c", f"echo began; {COUNT}")
    first = begin(runtime, "a", bundle, stdio)
    assert stdio.read() == "began\n"
    eventually(lambda: number(runtime) > 3)
    runtime.call("checkpoint", "--image-path", images(runtime), first)
    assert runtime.leftovers() == []
    kept = number(runtime)
    pid_file = runtime.place / "pid"
    second = restore(runtime, "b", bundle, stdio, "--pid-file", str(pid_file))
    state = runtime.state(second)
    assert (state["status"], state["pid"]) == ("running", int(pid_file.read_text()))
    eventually(lambda: number(runtime) > kept)
    assert runtime.call("exec", second, "/bin/readlink", "/proc/1/exe").stdout == "/bin/busybox\n"
    again = runtime.call("start", second, check=False)
    assert "cannot start an already running container" in again.stderr
    runtime.call("pause", second)
    assert runtime.state(second)["status"] == "paused"
    runtime.call("resume", second)
    runtime.call("kill", second, "KILL")
    assert runtime.wait(second, "stopped")["pid"] == 0
    runtime.call("delete", second)


def test_it_prints_into_the_new_callers_pipe(runtime: Runtime, stdio: Stdio) -> None:
    script = "trap 'echo told; exit 3' USR1; echo ready; while :; do sleep 0.05; done"
    bundle = runtime.bundle("/bin/sh", "-c", script)
    first = begin(runtime, "a", bundle, stdio)
    assert stdio.read() == "ready\n"
    runtime.call("checkpoint", "--image-path", images(runtime), first)
    words = [*runtime.words, "--root", str(runtime.root), "restore", "-b", str(bundle)]
    words += ["--image-path", images(runtime), second := runtime.name("b")]
    with subprocess.Popen(
        words,
        env=runtime.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        eventually(lambda: runtime.call("state", second, check=False).returncode == 0)
        runtime.wait(second, "running")
        runtime.call("kill", second, "USR1")
        assert process.communicate(timeout=20)[0] == "told\n"
        assert process.returncode == 3
    assert runtime.leftovers() == []


def test_left_running_it_goes_on_and_can_be_kept_again(runtime: Runtime, stdio: Stdio) -> None:
    bundle = runtime.bundle("/bin/sh", "-c", COUNT)
    container = begin(runtime, "a", bundle, stdio)
    pid = runtime.state(container)["pid"]
    runtime.call("checkpoint", "--leave-running", "--image-path", images(runtime), container)
    state = runtime.state(container)
    assert (state["status"], state["pid"]) == ("running", pid)
    now = number(runtime)
    eventually(lambda: number(runtime) > now)
    runtime.call("pause", container)
    other = str(runtime.place / "other")
    runtime.call("checkpoint", "--leave-running", "--image-path", other, container)
    assert runtime.state(container)["status"] == "paused"
    runtime.call("delete", "--force", container)
    again = restore(runtime, "b", bundle, stdio)
    assert runtime.state(again)["status"] == "running"


def test_a_dump_adds_to_a_pre_dump(runtime: Runtime, stdio: Stdio) -> None:
    bundle = runtime.bundle("/bin/sh", "-c", COUNT)
    container = begin(runtime, "a", bundle, stdio)
    before = runtime.place / "before"
    words = ("checkpoint", "--pre-dump", "--image-path", str(before), container)
    feature = ["criu", "check", "--feature", "mem_dirty_track"]
    if subprocess.run(feature, capture_output=True, check=False).returncode != 0:
        done = runtime.call(*words, check=False)
        assert done.stderr.startswith("--pre-dump needs mem_dirty_track, which criu does not find")
        assert runtime.state(container)["status"] == "running"
        return
    runtime.call(*words)
    assert runtime.state(container)["status"] == "running"
    kept = number(runtime)
    runtime.call("checkpoint", "--parent-path", "../before", "--image-path", images(runtime),
                 container)  # fmt: skip
    assert (runtime.place / "images/parent").is_symlink()
    restore(runtime, "b", bundle, stdio)
    eventually(lambda: number(runtime) > kept)


def test_mounts_of_the_host_and_its_cgroup_come_back(runtime: Runtime, stdio: Stdio) -> None:
    shared, read_only = runtime.place / "shared", runtime.place / "read-only"
    for place in (shared, read_only):
        place.mkdir()
        (place / "file").write_text(place.name)

    def change(config: dict[str, Any]) -> None:
        config["mounts"] += [
            bind(shared, "/shared", "rbind"),
            bind(read_only, "/read-only", "rbind", "ro"),
            bind(shared / "file", "/etc/file", "bind", "rslave"),
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm"},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue"},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["ro"]},
        ]  # fmt: skip
        config["linux"]["maskedPaths"] = ["/proc/timer_list", "/sys/firmware", "/proc/keys"]
        config["linux"]["namespaces"].append({"type": "cgroup"})
        config["linux"]["resources"] = {"pids": {"limit": 64}}

    bundle = runtime.bundle("/bin/sh", "-c", f"echo kept >/dev/shm/x; {COUNT}", change=change)
    first = begin(runtime, "a", bundle, stdio)
    eventually(lambda: number(runtime) > 3)
    seen = runtime.call("exec", first, "/bin/mount").stdout
    runtime.call("checkpoint", "--image-path", images(runtime), first)
    (read_only / "file").write_text("changed")
    second = restore(runtime, "b", bundle, stdio)
    look = "cat /dev/shm/x /read-only/file /etc/file; echo >/read-only/x || echo refused"
    said = runtime.call("exec", second, "/bin/sh", "-c", look).stdout
    assert said == "kept\nchangedsharedrefused\n"
    now = runtime.call("exec", second, "/bin/mount").stdout
    assert sorted(now.splitlines()) == sorted(seen.splitlines())


def test_what_confines_it_comes_back(runtime: Runtime, stdio: Stdio) -> None:
    # prlimit(2): other users' limits can only be read with it
    user = 1000 if capget()[0] >> BITS["CAP_SYS_RESOURCE"] & 1 else 0

    def confine(config: dict[str, Any]) -> None:
        config["process"] |= {
            "user": {"uid": user, "gid": user, "additionalGids": [7]},
            "rlimits": [{"type": "RLIMIT_CORE", "hard": 4096, "soft": 4096}],
        }
        config["linux"]["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
        }

    bundle = runtime.bundle("/bin/sh", "-c", "while :; do sleep 0.05; done", change=confine)
    first = begin(runtime, "a", bundle, stdio)
    before = confinement(runtime.wait(first, "running")["pid"])
    runtime.call("checkpoint", "--image-path", images(runtime), first)
    second = restore(runtime, "b", bundle, stdio)
    assert confinement(runtime.state(second)["pid"]) == before
    assert "Seccomp:\t2" in before


def confinement(pid: int) -> list[str]:
    """Who a process is and what it may do, as the kernel says."""
    names = ("Uid", "Gid", "Groups", "Cap", "NoNewPrivs", "Seccomp")
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return [line for line in lines if line.startswith(names)] + limits


def bind(source: Path, destination: str, *options: str) -> dict[str, Any]:
    return {
        "destination": destination,
        "type": "bind",
        "source": str(source),
        "options": list(options),
    }


def test_a_terminal_goes_to_the_new_callers_console_socket(runtime: Runtime, stdio: Stdio) -> None:
    def terminal(config: dict[str, Any]) -> None:
        config["process"]["terminal"] = True

    script = "echo ready; while read line; do echo got $line; done"
    bundle = runtime.bundle("/bin/sh", "-c", script, change=terminal)
    console = Console(runtime.place / "c1")
    first = begin(runtime, "a", bundle, stdio, "--console-socket", console.path)
    master = console.take()
    console.close()
    assert b"ready" in os.read(master, 4096)
    runtime.call("checkpoint", "--image-path", images(runtime), first)
    os.close(master)
    console = Console(runtime.place / "c2")
    restore(runtime, "b", bundle, stdio, "--console-socket", console.path)
    master = console.take()
    console.close()
    os.write(master, b"more\n")
    said = b""
    while b"got more" not in said:
        said += os.read(master, 4096)
    os.close(master)


def test_a_network_namespace_of_others_is_joined_again(runtime: Runtime, stdio: Stdio) -> None:
    holder = subprocess.Popen(["unshare", "-n", "sleep", "1000"])
    try:
        own = os.readlink("/proc/self/ns/net")
        path = f"/proc/{holder.pid}/ns/net"
        eventually(lambda: os.readlink(path) != own)

        def change(config: dict[str, Any]) -> None:
            for namespace in config["linux"]["namespaces"]:
                if namespace["type"] == "network":
                    namespace["path"] = path

        bundle = runtime.bundle("/bin/sh", "-c", COUNT, change=change)
        first = begin(runtime, "a", bundle, stdio)
        runtime.call("checkpoint", "--image-path", images(runtime), first)
        second = restore(runtime, "b", bundle, stdio)
        pid = runtime.state(second)["pid"]
        assert os.readlink(f"/proc/{pid}/ns/net") == os.readlink(path)
    finally:
        holder.kill()
        holder.wait()


def test_a_user_namespace_and_a_limit_come_back(runtime: Runtime, stdio: Stdio) -> None:
    for path in (runtime.rootfs, *runtime.rootfs.rglob("*")):
        os.chown(path, 100000, 100000, follow_symlinks=False)
    for parent in (runtime.place, *runtime.place.parents[:3]):
        parent.chmod(parent.stat().st_mode | 0o011)

    def change(config: dict[str, Any]) -> None:
        config["linux"]["namespaces"].append({"type": "user"})
        ranges = [{"containerID": 0, "hostID": 100000, "size": 65536}]
        config["linux"] |= {"uidMappings": ranges, "gidMappings": ranges}

    bundle = runtime.bundle("/bin/sh", "-c", COUNT, change=change)
    first = begin(runtime, "a", bundle, stdio)
    eventually(lambda: number(runtime) > 3)
    runtime.call("checkpoint", "--image-path", images(runtime), first)
    kept = number(runtime)
    second = restore(runtime, "b", bundle, stdio)
    eventually(lambda: number(runtime) > kept)
    pid = runtime.state(second)["pid"]
    assert Path(f"/proc/{pid}/uid_map").read_text().split() == ["0", "100000", "65536"]


def test_a_refusal_of_criu_leaves_the_container_running(runtime: Runtime, stdio: Stdio) -> None:
    """A device that CRIU knows no state of."""
    bundle = runtime.bundle("/bin/sh", "-c", f"exec 9<>/dev/fuse; {COUNT}", change=with_fuse)
    container = begin(runtime, "a", bundle, stdio)
    eventually(lambda: number(runtime) > 3)
    done = runtime.call("checkpoint", "--image-path", images(runtime), container, check=False)
    assert done.returncode == 1
    assert "criu failed: " in done.stderr
    assert f"{images(runtime)}/dump.log" in done.stderr
    assert runtime.state(container)["status"] == "running"
    now = number(runtime)
    eventually(lambda: number(runtime) > now)


def with_fuse(config: dict[str, Any]) -> None:
    if not Path("/dev/fuse").exists():
        pytest.skip("host feature missing: /dev/fuse")
    config["linux"]["devices"] = [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}]
    config["linux"]["resources"] = {
        "devices": [{"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rwm"}]
    }


def test_a_damaged_checkpoint_is_refused_and_nothing_is_left(
    runtime: Runtime, stdio: Stdio
) -> None:
    bundle = runtime.bundle("/bin/sh", "-c", COUNT)
    first = begin(runtime, "a", bundle, stdio)
    runtime.call("checkpoint", "--image-path", images(runtime), first)
    (core,) = (runtime.place / "images").glob("core-1.img")
    core.write_bytes(core.read_bytes()[:50])
    done = runtime.call("restore", "-d", "--image-path", images(runtime), "-b", str(bundle),
                        runtime.name("b"), check=False)  # fmt: skip
    assert done.returncode == 1
    assert "criu failed: " in done.stderr
    assert json.loads(runtime.call("list", "--format", "json").stdout) is None
    assert runtime.leftovers() == []
