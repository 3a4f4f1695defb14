"""onggi-runtime and keel killed at each call that changes something: `delete --force` cleans up.

strace kills at the entry of the n-th call of a kind, counted for each process by itself: of the
command line, of keel or of init. The plain command line is what is killed: a warm process does the
same in other processes, and its front's death is tests/faces/test_oci_warm.py's.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from faces.front_rig import state_of
from faces.oci_rig import NEEDS_ROOT_AND_BUSYBOX, Runtime, eventually

pytestmark = [
    NEEDS_ROOT_AND_BUSYBOX,
    pytest.mark.skipif(shutil.which("strace") is None, reason="host feature missing: strace"),
    pytest.mark.timeout(1800),
]
#: What changes something outside of the process that calls.
EFFECTFUL = (
    "mkdir", "mkdirat", "rmdir", "unlink", "unlinkat", "rename", "renameat", "symlinkat",
    "mknodat", "bind", "listen", "connect", "sendmsg", "sendto", "clone", "clone3", "vfork",
    "fork", "execve", "setns", "unshare", "mount", "move_mount", "open_tree", "fsmount",
    "fsconfig", "mount_setattr", "pivot_root", "umount2", "setresuid", "capset",
    "pidfd_send_signal", "kill",
)  # fmt: skip
#: How many points of one verb a run tries, evenly spread; ONGGI_ALL_POINTS=1 tries them all.
POINTS = 10


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    runtime = Runtime(tmp_path)
    yield runtime
    runtime.clean()
    assert runtime.leftovers() == []


def traced(runtime: Runtime, inject: list[str], *words: str, name: str) -> Path:
    """One command line under strace, until it has ended; where its calls are written."""
    log, pid_file = runtime.place / f"{name}.strace", runtime.place / f"{name}.pid"
    pid_file.unlink(missing_ok=True)
    command = ["strace", "-f", "-I1", "-qq", "-o", str(log), "-e", f"trace={','.join(EFFECTFUL)}"]
    command += [*inject, "sh", "-c", f'echo $$ >{pid_file}; exec "$@"', "sh"]
    command += [*runtime.words, "--root", str(runtime.root), *words]
    with open(runtime.place / f"{name}.out", "w") as out:
        process = subprocess.Popen(
            command, env=runtime.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
        # strace stays as long as what it follows: the command line's own end is what counts
        eventually(lambda: process.poll() is not None or has_ended(pid_file))
        if process.poll() is None:
            process.terminate()  # detaches
            process.wait(20)
    return log


def has_ended(pid_file: Path) -> bool:
    """Whether the process that wrote its number there is gone."""
    text = pid_file.read_text() if pid_file.exists() else ""
    return text.endswith("\n") and state_of(int(text)) in ("", "Z", "X")


def counts(log: Path) -> dict[str, int]:
    """How often each call was made, by the process that made it most often."""
    by_process: dict[tuple[str, str], int] = {}
    for line in log.read_text(errors="replace").splitlines():
        match = re.match(r"(\d+) +(\w+)\(", line)
        if match and match[2] in EFFECTFUL:
            key = match[2], match[1]
            by_process[key] = by_process.get(key, 0) + 1
    found: dict[str, int] = {}
    for (call, _), times in by_process.items():
        found[call] = max(times, found.get(call, 0))
    return found


def points(log: Path) -> list[tuple[str, int]]:
    """(call, n): every point, or some of them."""
    found = [(call, n) for call, times in counts(log).items() for n in range(1, times + 1)]
    if os.environ.get("ONGGI_ALL_POINTS"):
        return found
    step = max(1, len(found) // POINTS)
    return found[::step]


@pytest.mark.parametrize("verb", ["create", "start", "exec", "delete"])
def test_killed_anywhere_delete_force_cleans_up(runtime: Runtime, verb: str) -> None:
    bundle = runtime.bundle("/bin/sleep", "1000")
    container = runtime.name("k")
    words = {
        "create": ("create", "-b", str(bundle), container),
        "start": ("start", container),
        "exec": ("exec", "-d", container, "/bin/sleep", "999"),
        "delete": ("delete", "--force", container),
    }[verb]

    def prepare() -> None:
        if verb != "create":
            runtime.create("k", bundle)
        if verb in ("exec", "delete"):
            runtime.call("start", container)

    prepare()
    tried = points(traced(runtime, [], *words, name="count"))
    assert len(tried) >= 4
    runtime.call("delete", "--force", container)
    for call, number in tried:
        prepare()
        inject = ["-e", f"inject={call}:signal=KILL:when={number}"]
        traced(runtime, inject, *words, name="kill")
        runtime.call("delete", "--force", container)
        began = time.monotonic()
        while left := runtime.leftovers():
            # what was killed in the middle of its end needs a moment, not a hand
            assert time.monotonic() - began < 20, (verb, call, number, left)
            time.sleep(0.02)
