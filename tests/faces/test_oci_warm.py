"""onggi-runtime through its front and a warm process: the same, without Python's start."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from faces.front_rig import children_of
from faces.oci_rig import NEEDS_ROOT_AND_BUSYBOX, Console, Runtime, eventually, read_all
from faces.oci_warm_rig import Warm

pytestmark = NEEDS_ROOT_AND_BUSYBOX


@pytest.fixture
def warm(tmp_path: Path) -> Iterator[Warm]:
    warm = Warm(tmp_path / "bin")
    yield warm
    warm.end()


@pytest.fixture
def runtime(tmp_path: Path, warm: Warm) -> Iterator[Runtime]:
    runtime = Runtime(tmp_path, [str(warm.front)])
    del runtime.environment["ONGGI_NO_WARM"]
    runtime.call("list")
    eventually(lambda: (warm.place / "warm.sock").exists() and warm.pid())
    eventually(lambda: children_of(warm.pid()))
    assert warm.plain_runs == 1
    yield runtime
    runtime.clean()
    assert runtime.leftovers() == []


def test_a_whole_life_without_the_plain_command_line(runtime: Runtime, warm: Warm) -> None:
    container = runtime.create("a", runtime.bundle("/bin/sleep", "1000"))
    runtime.call("start", container)
    done = runtime.call("exec", container, "/bin/sh", "-c", "echo inside; exit 4", check=False)
    assert (done.stdout, done.returncode) == ("inside\n", 4)
    runtime.call("kill", container, "KILL")
    runtime.wait(container, "stopped")
    runtime.call("delete", container)
    for script, code in (("exit 7", 7), ("echo out", 0)):
        bundle = runtime.bundle("/bin/sh", "-c", script)
        done = runtime.call("run", "-b", str(bundle), runtime.name("r"), check=False)
        assert done.returncode == code, done.stderr
    assert done.stdout == "out\n"
    missing = runtime.call(
        "create", "-b", str(runtime.bundle("/bin/nope")), runtime.name("n"), check=False
    )
    assert (missing.returncode, "not found in $PATH" in missing.stderr) == (1, True)
    assert warm.plain_runs == 1


def test_the_container_is_the_callers_not_the_warm_processs(runtime: Runtime, warm: Warm) -> None:
    container = runtime.create("a", runtime.bundle("/bin/sleep", "1000"))
    pid = runtime.state(container)["pid"]
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    assert int(fields[1]) != warm.pid()
    assert pid not in children_of(warm.pid())
    limits = Path(f"/proc/{pid}/limits").read_text()
    runtime.call("delete", "--force", container)
    # limits are those of who called, as for any program
    words = ["/bin/sh", "-c", 'ulimit -n 1000; exec "$@"', "sh", *runtime.words, "--root"]
    words += [str(runtime.root), "run", "-b"]
    bundle = runtime.bundle("/bin/cat", "/proc/self/limits")
    done = subprocess.run(
        [*words, str(bundle), runtime.name("l")], env=runtime.environment, check=True,
        capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    (line,) = [x for x in done.stdout.splitlines() if x.startswith("Max open files")]
    assert line.split()[3:5] == ["1000", "1000"]
    assert "1000 " not in next(x for x in limits.splitlines() if x.startswith("Max open files"))
    assert warm.plain_runs == 1


def test_terminals_and_signals_pass_through(runtime: Runtime, warm: Warm) -> None:
    console = Console(runtime.place / "console.sock")

    def terminal(config: dict[str, object]) -> None:
        config["process"]["terminal"] = True  # type: ignore[index]

    bundle = runtime.bundle("/bin/tty", change=terminal)
    container = runtime.create("t", bundle, "--console-socket", console.path)
    master = console.take()
    runtime.call("start", container)
    assert read_all(master) == "/dev/pts/0\r\n"
    os.close(master)
    console.close()
    script = "trap 'exit 5' USR1; echo ready; while :; do sleep 0.05; done"
    words = [*runtime.words, "--root", str(runtime.root), "run", "-b"]
    words += [str(runtime.bundle("/bin/sh", "-c", script)), runtime.name("s")]
    with subprocess.Popen(
        words, env=runtime.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGUSR1)
        assert process.wait(20) == 5
    assert warm.plain_runs == 1


def test_a_killed_front_leaves_nothing_that_is_not_on_record(runtime: Runtime) -> None:
    bundle = runtime.bundle("/bin/sleep", "1000")
    container = runtime.name("k")
    words = [*runtime.words, "--root", str(runtime.root), "create", "-b", str(bundle), container]
    for delay_ms in range(12):
        with subprocess.Popen(
            words, env=runtime.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            time.sleep(delay_ms / 1000)
            process.kill()
        runtime.call("delete", "--force", container)
        eventually(lambda: runtime.leftovers() == [])


def test_descriptors_to_keep_are_the_plain_command_lines_matter(
    runtime: Runtime, warm: Warm
) -> None:
    before = warm.plain_runs
    runtime.call("run", "--preserve-fds", "0", "-b", str(runtime.bundle()), runtime.name("p"))
    assert warm.plain_runs == before + 1
    container = runtime.create("a", runtime.bundle("/bin/sleep", "1000"))
    runtime.call("start", container)
    process = json.dumps({"cwd": "/", "args": ["/bin/echo", "from a pipe"]})
    words = ("exec", "--process", "/dev/stdin", container)
    done = runtime.call(*words, input=process)
    assert done.stdout == "from a pipe\n"


@pytest.mark.parametrize(
    "prefix",
    [
        pytest.param(["setpriv", "--bounding-set", "-sys_boot"], id="fewer capabilities"),
        pytest.param(["setpriv", "--no-new-privs"], id="no_new_privs"),
        pytest.param(["unshare", "--net"], id="another network"),
        pytest.param(["unshare", "--mount"], id="other mounts"),
    ],
)
def test_who_stands_elsewhere_is_not_served(
    runtime: Runtime, warm: Warm, prefix: list[str]
) -> None:
    """Nobody may do through the warm process what he could not do himself."""
    if shutil.which(prefix[0]) is None:
        pytest.skip(f"host feature missing: {prefix[0]}")
    before = warm.plain_runs
    words = [*prefix, *runtime.words, "--root", str(runtime.root), "list", "-f", "json"]
    done = subprocess.run(
        words, env=runtime.environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "null\n"
    assert warm.plain_runs == before + 1


def test_the_warm_process_holds_nothing_of_the_command_that_started_it(
    runtime: Runtime, warm: Warm
) -> None:
    pid = warm.pid()
    open_files = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
    assert not [name for name in open_files if str(runtime.place) in name]
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    cgroups = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    assert all(line.endswith(":/") for line in cgroups)
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert [
        e for e in environment if e and not e.startswith((b"PYTHONPATH=", b"ONGGI_KEEL="))
    ] == []
    assert json.loads(runtime.call("list", "-f", "json").stdout) is None
