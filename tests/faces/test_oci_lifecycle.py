"""The life of a container by onggi-runtime's command line, seen from both sides."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faces.oci_rig import (
    NEEDS_ROOT_AND_BUSYBOX,
    Console,
    Runtime,
    cgroup,
    eventually,
    read_all,
)
from onggi.kernel.cgroups.layout import CgroupLayout

pytestmark = NEEDS_ROOT_AND_BUSYBOX


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    runtime = Runtime(tmp_path)
    yield runtime
    runtime.clean()
    assert runtime.leftovers() == []


def test_the_states_from_create_to_delete(runtime: Runtime) -> None:
    bundle = runtime.bundle("/bin/sleep", "1000")
    pid_file = runtime.place / "pid"
    container = runtime.create("a", bundle, "--pid-file", str(pid_file))
    state = runtime.state(container)
    assert state["ociVersion"] == "1.3.0"
    assert (state["id"], state["status"], state["bundle"]) == (container, "created", str(bundle))
    assert state["pid"] == int(pid_file.read_text())
    assert Path(f"/proc/{state['pid']}/comm").read_text() == "keel:init\n"
    runtime.call("start", container)
    running = runtime.state(container)
    assert (running["status"], running["pid"]) == ("running", state["pid"])
    assert Path(f"/proc/{state['pid']}/comm").read_text() == "sleep\n"
    runtime.call("pause", container)
    assert runtime.state(container)["status"] == "paused"
    runtime.call("resume", container)
    assert runtime.state(container)["status"] == "running"
    runtime.call("kill", container, "KILL")
    assert runtime.wait(container, "stopped")["pid"] == 0
    runtime.call("delete", container)
    gone = runtime.call("state", container, check=False)
    assert gone.returncode == 1
    assert "container does not exist" in gone.stderr


def test_the_container_is_an_offspring_of_the_caller_and_nothing_else_stays(
    runtime: Runtime,
) -> None:
    """As conmon and the shim rely on: a subreaper that waits for init itself."""
    bundle = runtime.bundle("/bin/sh", "-c", "exit 23")
    script = (
        "import ctypes, os, subprocess, sys\n"
        "ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n"  # PR_SET_CHILD_SUBREAPER
        "subprocess.run(sys.argv[1:-1] + ['create', '-b', sys.argv[-1], '--pid-file', 'p', 'x'],\n"
        "               check=True, stdout=subprocess.DEVNULL)\n"
        "pid = int(open('p').read())\n"
        "children = open(f'/proc/{os.getpid()}/task/{os.getpid()}/children').read().split()\n"
        "assert children == [str(pid)], children\n"
        "subprocess.run(sys.argv[1:-1] + ['start', 'x'], check=True)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
        "subprocess.run(sys.argv[1:-1] + ['delete', 'x'], check=True)\n"
    )
    words = [*runtime.words, "--root", str(runtime.root)]
    done = subprocess.run(
        [sys.executable, "-c", script, *words, str(bundle)],
        cwd=runtime.place,
        env=runtime.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("23\n", 0), done.stderr


def test_run_answers_with_the_applications_exit_code(runtime: Runtime) -> None:
    for script, code in (("exit 7", 7), ("true; exit 9", 9), ("echo out; echo err >&2", 0)):
        done = runtime.call(
            "run", "-b", str(runtime.bundle("/bin/sh", "-c", script)), runtime.name("r"),
            check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_run_tells_of_the_signal_that_ended_it(runtime: Runtime) -> None:
    container = runtime.name("r")
    words = [*runtime.words, "--root", str(runtime.root), "run", "-b"]
    words += [str(runtime.bundle("/bin/sleep", "1000")), container]
    with subprocess.Popen(words, env=runtime.environment, stdin=subprocess.DEVNULL) as process:
        eventually(lambda: runtime.call("state", container, check=False).returncode == 0)
        runtime.wait(container, "running")
        runtime.call("kill", container, "9")
        assert process.wait(20) == 128 + 9
    assert runtime.leftovers() == []


def test_run_forwards_signals(runtime: Runtime) -> None:
    container = runtime.name("r")
    script = "trap 'echo told; exit 5' USR1; echo ready; while :; do sleep 0.05; done"
    words = [*runtime.words, "--root", str(runtime.root), "run", "-b"]
    words += [str(runtime.bundle("/bin/sh", "-c", script)), container]
    with subprocess.Popen(
        words, env=runtime.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGUSR1)
        assert process.wait(20) == 5
        assert process.stdout.read() == "told\n"


def test_run_gives_a_terminal_and_passes_its_size_and_input_on(runtime: Runtime) -> None:
    def terminal(config: dict[str, Any]) -> None:
        config["process"]["terminal"] = True

    script = "stty size; read line; echo got $line; tty"
    bundle = runtime.bundle("/bin/sh", "-c", script, change=terminal)
    words = [*runtime.words, "--root", str(runtime.root), "run", "-b", str(bundle)]
    pid, master = os.forkpty()
    if pid == 0:
        os.execvpe(words[0], [*words, runtime.name("t")], runtime.environment)
    import fcntl
    import struct
    import termios

    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
    os.write(master, b"hello\n")
    shown = read_all(master)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, shown
    os.close(master)
    assert "got hello" in shown
    assert "/dev/pts/0" in shown


def test_create_hands_the_terminal_to_the_console_socket(runtime: Runtime) -> None:
    def terminal(config: dict[str, Any]) -> None:
        config["process"]["terminal"] = True
        config["process"]["consoleSize"] = {"height": 12, "width": 34}

    console = Console(runtime.place / "console.sock")
    bundle = runtime.bundle("/bin/sh", "-c", "tty; stty size", change=terminal)
    container = runtime.create("t", bundle, "--console-socket", console.path)
    master = console.take()
    runtime.call("start", container)
    assert read_all(master).replace("\r", "") == "/dev/pts/0\n12 34\n"
    os.close(master)
    runtime.wait(container, "stopped")
    console.close()


def test_a_terminal_that_nobody_takes_is_refused(runtime: Runtime) -> None:
    def terminal(config: dict[str, Any]) -> None:
        config["process"]["terminal"] = True

    bundle = runtime.bundle(change=terminal)
    done = runtime.call("create", "-b", str(bundle), runtime.name("t"), check=False)
    assert done.returncode == 1
    assert "cannot allocate tty" in done.stderr


def test_what_is_not_there_is_told_by_create_and_nothing_is_left(runtime: Runtime) -> None:
    for name in ("/bin/nope", "nope"):
        done = runtime.call(
            "create", "-b", str(runtime.bundle(name)), runtime.name("n"), check=False
        )
        assert done.returncode == 1
        assert "executable file not found in $PATH" in done.stderr
        assert runtime.leftovers() == []


def test_a_program_that_cannot_be_executed_is_told_by_start(runtime: Runtime) -> None:
    (runtime.rootfs / "bin/script").write_text("#!/no/such/interpreter\n")
    (runtime.rootfs / "bin/script").chmod(0o755)
    container = runtime.create("s", runtime.bundle("/bin/script"))
    done = runtime.call("start", container, check=False)
    assert done.returncode == 1
    assert "/no/such/interpreter" in done.stderr
    assert runtime.wait(container, "stopped")["pid"] == 0


def test_an_id_is_taken_once(runtime: Runtime) -> None:
    bundle = runtime.bundle("/bin/sleep", "1000")
    container = runtime.create("a", bundle)
    again = runtime.call("create", "-b", str(bundle), container, check=False)
    assert again.returncode == 1
    assert "exists" in again.stderr
    assert runtime.state(container)["status"] == "created"


@pytest.mark.parametrize("name", ["..", ".", "a/b", "", "a b", "a\nb"])
def test_what_is_no_id_is_refused(runtime: Runtime, name: str) -> None:
    done = runtime.call("create", "-b", str(runtime.bundle()), name, check=False)
    assert done.returncode == 1
    assert "invalid id" in done.stderr


def test_start_twice_delete_running_kill_stopped_are_refused(runtime: Runtime) -> None:
    container = runtime.create("a", runtime.bundle("/bin/sleep", "1000"))
    runtime.call("start", container)
    refused = runtime.call("delete", container, check=False)
    assert "that is not stopped" in refused.stderr
    assert "already running" in runtime.call("start", container, check=False).stderr
    runtime.call("kill", container, "SIGKILL")
    runtime.wait(container, "stopped")
    assert "container not running" in runtime.call("kill", container, check=False).stderr
    assert "stopped" in runtime.call("start", container, check=False).stderr


def test_what_was_never_started_is_deleted_without_force(runtime: Runtime) -> None:
    container = runtime.create("a", runtime.bundle("/bin/sleep", "1000"))
    pid = runtime.state(container)["pid"]
    pidfd = os.pidfd_open(pid)
    runtime.call("delete", container)
    assert select.select([pidfd], [], [], 0)[0]  # it has ended
    os.close(pidfd)
    assert "does not exist" in runtime.call("state", container, check=False).stderr


def test_delete_and_kill_by_expression(runtime: Runtime) -> None:
    bundle = runtime.bundle("/bin/sleep", "1000")
    kept, *gone = [runtime.create(name, bundle) for name in ("keep", "one1", "one2")]
    assert runtime.call("delete", "-f", "--regex", "(", check=False).returncode == 1
    runtime.call("delete", "-f", "--regex", "one[0-9]$")
    assert runtime.state(kept)["status"] == "created"
    for container in gone:
        assert runtime.call("state", container, check=False).returncode == 1


def test_options_may_follow_the_id(runtime: Runtime) -> None:
    container = runtime.create("a", runtime.bundle("/bin/sleep", "1000"))
    runtime.call("delete", container, "--force")
    assert runtime.call("state", container, check=False).returncode == 1


def test_what_a_terminal_prints_into_a_pipe_has_no_carriage_returns(runtime: Runtime) -> None:
    def on_a_terminal(config: dict[str, Any]) -> None:
        config["process"]["terminal"] = True

    bundle = runtime.bundle("/bin/sh", "-c", "[ -t 1 ] && echo one", change=on_a_terminal)
    done = runtime.call("run", "-b", str(bundle), runtime.name("a"))
    assert done.stdout == "one\n"


def test_exec_replaces_a_variable(runtime: Runtime) -> None:
    container = runtime.create("a", runtime.bundle("/bin/sleep", "1000"))
    runtime.call("start", container)
    script = "echo $PATH; cat /proc/self/environ"
    done = runtime.call("exec", "-e", "PATH=/bin", container, "/bin/sh", "-c", script)
    assert done.stdout.count("PATH=") == 1


@pytest.mark.skipif(CgroupLayout.probe().mode == "v2", reason="needs cgroup v1")
def test_a_container_is_in_every_hierarchy(runtime: Runtime) -> None:
    container = runtime.create("a", runtime.bundle("/bin/sleep", "1000"))
    runtime.call("start", container)
    lines = runtime.call("exec", container, "/bin/cat", "/proc/self/cgroup").stdout.splitlines()
    mounted = {name for h in CgroupLayout.probe().every for name in h.controllers}
    own = [line for line in lines if mounted & set(line.split(":")[1].split(","))]
    assert len(own) >= 4
    assert [line for line in own if not line.endswith(f"/{container}")] == []


@pytest.mark.skipif(
    CgroupLayout.probe().hierarchy("freezer", "") is None, reason="needs cgroup v1's freezer"
)
def test_who_was_frozen_by_another_is_deleted(runtime: Runtime) -> None:
    container = runtime.create("a", runtime.bundle("/bin/sleep", "1000"))
    runtime.call("start", container)
    freezer = CgroupLayout.probe().hierarchy("freezer", "")
    assert freezer is not None
    state = Path(f"{freezer.mount_point}/{cgroup(container).path}/freezer.state")
    state.write_text("FROZEN")
    eventually(lambda: state.read_text() == "FROZEN\n")
    runtime.call("delete", "--force", container)


def test_anothers_cgroup_is_refused_and_left_alone(runtime: Runtime) -> None:
    path = f"/{runtime.name('shared')}"
    bundle = runtime.bundle(
        "/bin/sleep", "1000", change=lambda config: config["linux"].update(cgroupsPath=path)
    )
    first = runtime.create("a", bundle)
    runtime.call("start", first)
    second = runtime.call("create", "-b", str(bundle), runtime.name("b"), check=False)
    assert "has processes" in second.stderr
    assert runtime.state(first)["status"] == "running"
    runtime.call("delete", "--force", first)
    left = cgroup(path.lstrip("/"))
    left.create()
    left.freeze()
    for name in ("c", "d"):
        done = runtime.call("create", "-b", str(bundle), runtime.name(name), check=False)
        assert "unexpectedly frozen" in done.stderr
    assert left.remove()


@pytest.mark.skipif(CgroupLayout.probe().mode == "v2", reason="needs cgroup v1")
def test_exec_joins_cgroups_below_the_container_s(runtime: Runtime) -> None:
    container = runtime.create("a", runtime.bundle("/bin/sleep", "1000"))
    runtime.call("start", container)
    own = cgroup(container).path
    (memory,) = (h for h in CgroupLayout.probe().hierarchies if "memory" in h.controllers)
    os.mkdir(f"{memory.mount_point}/{own}/below")
    script = ("/bin/cat", "/proc/self/cgroup")
    lines = runtime.call("exec", "--cgroup", "memory:below", container, *script).stdout.splitlines()
    below = [line.rpartition(":")[2] for line in lines if line.endswith("/below")]
    assert below == [f"/{own}/below"]
    refused = {"..": "not a sub cgroup path", "absent": "no such file", "x:/": "unknown controller"}
    for word, why in refused.items():
        done = runtime.call("exec", "--cgroup", word, container, *script, check=False)
        assert done.returncode == 255
        assert why in done.stderr


def test_closed_descriptors_are_not_handed_down(runtime: Runtime) -> None:
    bundle = runtime.bundle("/bin/ls", "/proc/self/fd")
    done = runtime.call("run", "--preserve-fds", "5", "-b", str(bundle), runtime.name("a"))
    assert set(done.stdout.split()) <= {"0", "1", "2", "3"}  # 3: the directory that ls reads


def test_exec_enters_the_container(runtime: Runtime) -> None:
    container = runtime.create("a", runtime.bundle("/bin/sleep", "1000"))
    runtime.call("start", container)
    pid = runtime.state(container)["pid"]
    script = (
        "readlink /proc/self/ns/pid; readlink /proc/self/ns/mnt; id; pwd; echo $X $HOME; exit 3"
    )
    done = runtime.call(
        "exec", "-e", "X=y", "--cwd", "/tmp", "-u", "1000:1000", container, "/bin/sh", "-c", script,
        check=False,
    )  # fmt: skip
    spaces = [os.readlink(f"/proc/{pid}/ns/{name}") for name in ("pid", "mnt")]
    expected = [*spaces, "uid=1000(u) gid=1000", "/tmp", "y /home/u"]
    assert (done.returncode, done.stdout.splitlines()) == (3, expected), done.stderr
    missing = runtime.call("exec", container, "nope", check=False)
    assert missing.returncode == 255
    assert "executable file not found" in missing.stderr


def test_exec_takes_a_process_from_a_file_and_leaves_it_to_its_caller(runtime: Runtime) -> None:
    container = runtime.create("a", runtime.bundle("/bin/sleep", "1000"))
    runtime.call("start", container)
    process = runtime.place / "process.json"
    process.write_text(json.dumps({"args": ["/bin/sleep", "99"], "cwd": "/"}))
    pid_file = runtime.place / "pid"
    runtime.call(
        "exec", "-d", "-p", str(process), "--pid-file", str(pid_file), container,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    pid = int(pid_file.read_text())
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"/bin/sleep\x0099\0"
    assert pid in cgroup(container).processes()
    assert pid in json.loads(runtime.call("ps", "-f", "json", container).stdout)


def test_exec_with_a_terminal_on_the_console_socket(runtime: Runtime) -> None:
    container = runtime.create("a", runtime.bundle("/bin/sleep", "1000"))
    runtime.call("start", container)
    console = Console(runtime.place / "console.sock")
    runtime.call(
        "exec", "-d", "-t", "--console-socket", console.path, container, "/bin/tty",
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    master = console.take()
    assert read_all(master) == "/dev/pts/0\r\n"
    os.close(master)
    console.close()


def test_exec_is_refused_where_nothing_runs(runtime: Runtime) -> None:
    container = runtime.create("a", runtime.bundle("/bin/sleep", "1000"))
    runtime.call("start", container)
    runtime.call("pause", container)
    paused = runtime.call("exec", container, "/bin/true", check=False)
    assert (paused.returncode, "paused container" in paused.stderr) == (255, True)
    runtime.call("resume", container)
    runtime.call("kill", container, "KILL")
    runtime.wait(container, "stopped")
    stopped = runtime.call("exec", container, "/bin/true", check=False)
    assert (stopped.returncode, "not running" in stopped.stderr) == (255, True)


def call_with(runtime: Runtime, redirections: str, *words: str) -> str:
    """A command line that its caller gives more descriptors than three; its output."""
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {redirections}', "sh", *runtime.words, "--root",
         str(runtime.root), *words],
        env=runtime.environment,
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_preserved_descriptors_and_no_others_reach_the_application(runtime: Runtime) -> None:
    through = runtime.place / "through"
    bundle = runtime.bundle("/bin/sh", "-c", "ls /proc/self/fd; echo through >&3")
    words = ("--preserve-fds", "1", "-b", str(bundle), runtime.name("p"))
    out = call_with(runtime, f"3>{through} 9</etc", "run", *words)
    assert out.split() == ["0", "1", "2", "3", "4"]  # 4 is the directory that ls reads
    assert through.read_text() == "through\n"


def test_preserved_descriptors_reach_an_exec(runtime: Runtime) -> None:
    container = runtime.create("a", runtime.bundle("/bin/sleep", "1000"))
    runtime.call("start", container)
    words = ("--preserve-fds", "2", container, "/bin/sh", "-c", "ls /proc/self/fd; cat <&4")
    out = call_with(runtime, "3</dev/null 4</proc/version 8</etc", "exec", *words)
    assert out.splitlines()[:6] == ["0", "1", "2", "3", "4", "5"]
    assert out.splitlines()[6] == Path("/proc/version").read_text().strip()


def test_listen_fds_are_told(runtime: Runtime) -> None:
    bundle = runtime.bundle("/bin/sh", "-c", "echo $LISTEN_FDS $LISTEN_PID $$")
    runtime.environment["LISTEN_FDS"] = "1"
    words = ("-b", str(bundle), runtime.name("l"))
    assert call_with(runtime, "3</dev/null", "run", *words) == "1 1 1\n"


def test_limits_are_in_force_and_can_be_changed(runtime: Runtime) -> None:
    def limited(config: dict[str, Any]) -> None:
        config["linux"]["resources"] = {"pids": {"limit": 33}}
        config["linux"]["cgroupsPath"] = f"/{runtime.name('l')}"

    container = runtime.create("l", runtime.bundle("/bin/sleep", "1000", change=limited))
    own = cgroup(container)
    stats = own.stats().pids
    assert stats is not None
    assert stats.limit == 33
    runtime.call("update", "--pids-limit", "44", container)
    assert (own.stats().pids or stats).limit == 44
    runtime.call("update", "-r", "-", container, stdin=None, input='{"pids": {"limit": 55}}')
    assert (own.stats().pids or stats).limit == 55
    event = json.loads(runtime.call("events", "--stats", container).stdout)
    assert (event["type"], event["id"]) == ("stats", container)
    assert event["data"]["pids"] == {"current": 1, "limit": 55}
    refused = runtime.call("update", "-r", "-", container, check=False, stdin=None, input="[]")
    assert refused.returncode == 1


def test_devices_are_denied_unless_they_are_asked_for(runtime: Runtime) -> None:
    def block(config: dict[str, Any]) -> None:
        for name in ("bounding", "effective", "permitted"):
            config["process"]["capabilities"][name] = ["CAP_MKNOD"]

    (runtime.rootfs / "bin/mknod").symlink_to("busybox")
    script = "mknod /tmp/kmsg c 1 11; head -c1 /tmp/kmsg; echo $?; head -c1 /dev/zero | wc -c"
    bundle = runtime.bundle("/bin/sh", "-c", script, change=block)
    done = runtime.call("run", "-b", str(bundle), runtime.name("d"))
    assert done.stdout.split() == ["1", "1"]
    assert "Operation not permitted" in done.stderr


def test_hooks_run_at_their_moment_with_the_state(runtime: Runtime) -> None:
    told = runtime.place / "told"

    def hooks(config: dict[str, Any]) -> None:
        script = f"echo $1 >> {told}; cat >> {told}; echo >> {told}"
        config["hooks"] = {
            kind: [{"path": "/bin/sh", "args": ["sh", "-c", script, "sh", kind]}]
            for kind in ("createRuntime", "poststart", "poststop")
        }
        config["annotations"] = {"a": "b"}

    container = runtime.create("h", runtime.bundle("/bin/sleep", "1000", change=hooks))
    pid = runtime.state(container)["pid"]
    assert told.read_text().splitlines()[0] == "createRuntime"
    runtime.call("start", container)
    runtime.call("delete", "--force", container)
    lines = told.read_text().splitlines()
    assert lines[::2] == ["createRuntime", "poststart", "poststop"]
    states = [json.loads(line) for line in lines[1::2]]
    assert [s["status"] for s in states] == ["creating", "running", "stopped"]
    assert [s["pid"] for s in states] == [pid, pid, 0]
    assert all(s["id"] == container and s["annotations"] == {"a": "b"} for s in states)


def test_a_hook_after_the_start_that_fails_is_told_and_changes_nothing(runtime: Runtime) -> None:
    def hooks(config: dict[str, Any]) -> None:
        config["hooks"] = {
            "poststart": [
                {"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1},
                {"path": "/no/such/hook"},
                {"path": "/bin/false"},
            ]
        }

    container = runtime.create("h", runtime.bundle("/bin/sleep", "1000", change=hooks))
    done = runtime.call("start", container)
    assert "did not end within 1 s" in done.stderr
    assert "/no/such/hook cannot be executed" in done.stderr
    assert "answered 1" in done.stderr
    assert runtime.state(container)["status"] == "running"


def test_the_log_is_what_containerd_reads(runtime: Runtime) -> None:
    log = runtime.place / "log.json"
    options = ("--log", str(log), "--log-format", "json")
    runtime.call("state", "nobody", globals_=options, check=False)
    (line,) = log.read_text().splitlines()
    entry = json.loads(line)
    assert set(entry) == {"level", "msg", "time"}
    assert entry["level"] == "error"
    assert "does not exist" in entry["msg"]
    time.strptime(entry["time"], "%Y-%m-%dT%H:%M:%SZ")
    runtime.call("state", "nobody", globals_=("--log", str(log)), check=False)
    assert 'level=error msg="container' in log.read_text().splitlines()[1]


def test_list_and_ps_show_what_there_is(runtime: Runtime) -> None:
    assert runtime.call("list", "-f", "json").stdout == "null\n"
    container = runtime.create("a", runtime.bundle("/bin/sleep", "1000"))
    runtime.call("start", container)
    (row,) = json.loads(runtime.call("list", "-f", "json").stdout)
    assert (row["id"], row["status"], row["owner"]) == (container, "running", "root")
    assert runtime.call("list", "-q").stdout == f"{container}\n"
    header, line = runtime.call("list").stdout.splitlines()
    assert header.split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert line.split()[0] == container
    pid = runtime.state(container)["pid"]
    assert json.loads(runtime.call("ps", "-f", "json", container).stdout) == [pid]


@pytest.mark.skipif(
    subprocess.run(["ps", "-ef"], capture_output=True, check=False).returncode != 0,
    reason="host feature missing: a ps that works on this kernel",
)
def test_ps_prints_the_hosts_table(runtime: Runtime) -> None:
    container = runtime.create("a", runtime.bundle("/bin/sleep", "1000"))
    runtime.call("start", container)
    assert "/bin/sleep 1000" in runtime.call("ps", container).stdout


def test_kill_all_reaches_what_a_shared_pid_namespace_keeps(runtime: Runtime) -> None:
    def shared(config: dict[str, Any]) -> None:
        spaces = config["linux"]["namespaces"]
        config["linux"]["namespaces"] = [n for n in spaces if n["type"] != "pid"]

    script = "sleep 1000 & exit 0"
    container = runtime.create("k", runtime.bundle("/bin/sh", "-c", script, change=shared))
    runtime.call("start", container)
    runtime.wait(container, "stopped")
    assert len(cgroup(container).processes()) == 1
    runtime.call("kill", "--all", container, "KILL")
    eventually(lambda: not cgroup(container).processes())
    runtime.call("delete", container)


def test_no_network_user_or_cgroup_namespace_of_its_own(runtime: Runtime) -> None:
    def bare(config: dict[str, Any]) -> None:
        config["linux"]["namespaces"] = [{"type": "mount"}]
        del config["hostname"]

    script = "readlink /proc/self/ns/net; readlink /proc/self/ns/pid"
    bundle = runtime.bundle("/bin/sh", "-c", script, change=bare)
    done = runtime.call("run", "-b", str(bundle), runtime.name("b"))
    assert done.stdout.split() == [os.readlink(f"/proc/self/ns/{n}") for n in ("net", "pid")]


def test_what_the_host_does_not_hold_is_left_out_with_a_warning(runtime: Runtime) -> None:
    def much(config: dict[str, Any]) -> None:
        for name in ("bounding", "effective", "permitted"):
            config["process"]["capabilities"][name] = ["CAP_SYS_RESOURCE", "CAP_KILL"]
        config["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 1 << 30, "hard": 1 << 30}]

    from onggi.kernel.capabilities import BITS, host_capabilities

    if host_capabilities() >> BITS["CAP_SYS_RESOURCE"] & 1:
        pytest.skip("host feature missing: a root without CAP_SYS_RESOURCE")
    bundle = runtime.bundle("/bin/grep", "CapEff", "/proc/self/status", change=much)
    done = runtime.call("run", "-b", str(bundle), runtime.name("c"))
    assert int(done.stdout.split()[1], 16) == 1 << BITS["CAP_KILL"]
    assert "CAP_SYS_RESOURCE" in done.stderr
    assert "RLIMIT_NOFILE" in done.stderr


@pytest.mark.skipif(shutil.which("unshare") is None, reason="host feature missing: unshare")
def test_inside_a_user_namespace_of_the_callers_own(runtime: Runtime) -> None:
    """As podman calls it for an ordinary user: no device can be made, not everything mounted."""
    bundle = runtime.bundle("/bin/sh", "-c", "cat /proc/self/uid_map; echo x >/dev/null; id -u")
    words = ["unshare", "--user", "--map-root-user", "--mount", *runtime.words]
    words += ["--root", str(runtime.root), "run", "-b", str(bundle), runtime.name("u")]
    done = subprocess.run(
        words, env=runtime.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0", "0", "1", "0"]


def test_spec_writes_a_configuration_that_runs(runtime: Runtime) -> None:
    bundle = runtime.place / "bundle-spec"
    bundle.mkdir()
    runtime.call("spec", "-b", str(bundle))
    again = runtime.call("spec", "-b", str(bundle), check=False)
    assert (again.returncode, "exists" in again.stderr) == (1, True)
    config = json.loads((bundle / "config.json").read_text())
    config["process"]["terminal"] = False
    config["process"]["args"] = ["/bin/echo", "spec"]
    config["root"]["path"] = str(runtime.rootfs)
    (bundle / "config.json").write_text(json.dumps(config))
    assert runtime.call("run", "-b", str(bundle), runtime.name("s")).stdout == "spec\n"


def test_a_foreground_run_that_is_killed_leaves_a_container_that_can_be_deleted(
    runtime: Runtime,
) -> None:
    container = runtime.name("f")
    words = [*runtime.words, "--root", str(runtime.root), "run", "-b"]
    words += [str(runtime.bundle("/bin/sleep", "1000")), container]
    with subprocess.Popen(words, env=runtime.environment, stdin=subprocess.DEVNULL) as process:
        eventually(lambda: runtime.call("state", container, check=False).returncode == 0)
        runtime.wait(container, "running")
        process.kill()
    assert runtime.state(container)["status"] == "running"
    runtime.call("delete", "--force", container)
    eventually(lambda: runtime.leftovers() == [])


def test_output_that_nobody_reads_does_not_hold_create_up(runtime: Runtime) -> None:
    """The container has its caller's pipe itself: nobody stands in between."""
    container = runtime.name("o")
    words = [*runtime.words, "--root", str(runtime.root)]
    with subprocess.Popen(
        [*words, "create", "-b", str(runtime.bundle("/bin/echo", "direct")), container],
        env=runtime.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.wait(20) == 0
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 0)[0] == []
        runtime.call("start", container)
        assert process.stdout.read() == b"direct\n"


def test_a_cgroup_that_others_live_in_is_refused_and_they_live_on(runtime: Runtime) -> None:
    first = runtime.create("a", runtime.bundle("/bin/sleep", "1000"))
    place = next(
        line.split(":", 2)[2]
        for line in Path(f"/proc/{runtime.state(first)['pid']}/cgroup").read_text().splitlines()
        if line.endswith(first)
    )

    def same(config: dict[str, Any]) -> None:
        config["linux"]["cgroupsPath"] = place

    bundle = runtime.bundle("/bin/sleep", "1000", change=same)
    done = runtime.call("create", "-b", str(bundle), runtime.name("b"), check=False)
    assert "exists and has processes" in done.stderr
    runtime.call("delete", "--force", runtime.name("b"))
    assert runtime.state(first)["status"] == "created"


def test_a_device_in_a_user_namespace_that_the_host_has_no_node_of(runtime: Runtime) -> None:
    def change(config: dict[str, Any]) -> None:
        maps = [{"containerID": 0, "hostID": 100000, "size": 65536}]
        config["linux"] |= {"uidMappings": maps, "gidMappings": maps}
        config["linux"]["namespaces"].append({"type": "user"})
        null = {"path": "/dev/one/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o602}
        disk = {"path": "/dev/disk", "type": "b", "major": 7, "minor": 200, "fileMode": 0o666}
        config["linux"]["devices"] = [null | {"uid": 10, "gid": 11}, disk]
        config["linux"]["resources"] = {
            "devices": [{"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rw"}]
        }

    for directory in (runtime.place, *runtime.place.parents[:2]):
        directory.chmod(0o711)  # root inside is to reach the root file system
    words = "ls -ln /dev/one/null; echo x >/dev/one/null && echo written; head -c 1 /dev/disk 2>&1"
    bundle = runtime.bundle("sh", "-c", words, change=change)
    done = runtime.call("run", "-b", str(bundle), runtime.name("a"), check=False)
    listed, written, denied = done.stdout.splitlines()
    assert listed.split()[:4] == ["crw-----w-", "1", "10", "11"]
    assert written == "written"
    assert denied.endswith("Operation not permitted")  # the cgroup's answer
    rows = [row.split() for row in Path("/proc/self/mountinfo").read_text().splitlines()]
    assert [row for row in rows if row[3] == "/node"] == []  # the host has no part of it
    assert len([row for row in rows if row[4] == "/"]) == 1
