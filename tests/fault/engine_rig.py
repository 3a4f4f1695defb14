"""Faults in an engine's own system calls, and the machine compared with its records afterwards.

strace is attached to a running engine, follows what that spawns (monitors, init), and lets one call
fail, or kills whoever enters it. A point is a call's name and its number: of each traced process
the one with that number is hit. ONGGI_FAULTS says how many points of each operation are tried
(`all`: every one), ONGGI_SEED which.
"""

from __future__ import annotations

import collections
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from acceptance import rig
from acceptance.rig import Onggi, alive, until

#: Calls that change something, or without which nothing can be changed.
CALLS = (
    "openat openat2 write writev pwrite64 mkdir mkdirat rename renameat renameat2 unlink unlinkat"
    " rmdir ftruncate fsync fdatasync fchmod fchown chmod chown symlinkat linkat"
    " clone clone3 vfork fork execve memfd_create pidfd_open pidfd_send_signal kill"
    " socket socketpair bind listen connect sendto sendmsg sendmmsg setsockopt accept4"
    " setns unshare fsopen fsconfig fsmount open_tree move_mount mount_setattr mount umount2"
    " pivot_root fcntl dup3 pipe2"
).split()
ERRORS = ("EIO", "ENOSPC", "ENOMEM", "EMFILE", "EINTR")
KINDS = ("KILL", *ERRORS)
#: How long an engine may take until records and machine agree again.
RECOVERY_S = 5.0


class Operation(NamedTuple):
    """Something a user does: what must be there before, and the command."""

    name: str
    before: tuple[tuple[str, ...], ...]
    command: tuple[str, ...]


_RUNNING = ("run", "-d", "--name", "c", "-p", "18200:80", "busybox", "sleep", "600")
OPERATIONS = (
    Operation("create", (), ("create", "--name", "c", "-v", "/data", "busybox", "true")),
    Operation("run", (), (*_RUNNING[:-3], "-v", "/data", *_RUNNING[-3:])),
    Operation("run --rm", (), ("run", "--rm", "busybox", "true")),
    Operation("start", (("create", *_RUNNING[2:]),), ("start", "c")),
    Operation("exec", (_RUNNING,), ("exec", "c", "true")),
    Operation("stop", (_RUNNING,), ("stop", "-t", "0", "c")),
    Operation("rm", (_RUNNING,), ("rm", "-f", "c")),
    Operation("network connect", (("network", "create", "n"), _RUNNING),
              ("network", "connect", "n", "c")),
    Operation("network disconnect", (("network", "create", "n"), _RUNNING,
              ("network", "connect", "n", "c")), ("network", "disconnect", "n", "c")),
    Operation("publish", (_RUNNING,), ("update", "--publish", "18201:81", "c")),
)  # fmt: skip


class Fault(NamedTuple):
    """`kind`: KILL, or the errno that the call answers."""

    call: str
    number: int
    kind: str

    @property
    def injection(self) -> str:
        """As strace takes it."""
        what = "signal=KILL" if self.kind == "KILL" else f"error={self.kind}"
        return f"inject={self.call}:{what}:when={self.number}"


def need_strace() -> None:
    """Skip where calls cannot be traced."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    if subprocess.run(["strace", "-o", os.devnull, "true"], check=False).returncode:
        pytest.skip("this host lets nobody trace (ptrace)")


@contextlib.contextmanager
def strace(pid: int, *words: str) -> Iterator[None]:
    """Trace a process and what it spawns from here on; detached at the end."""
    tracer = subprocess.Popen(
        ["strace", "-f", *words, "-p", str(pid)], stderr=subprocess.PIPE, text=True
    )
    assert tracer.stderr is not None
    try:
        while "attached" not in (line := tracer.stderr.readline()):
            assert line, "strace ended before it was attached"
        yield
    finally:
        tracer.send_signal(signal.SIGINT)
        try:
            tracer.wait(1)
        except subprocess.TimeoutExpired:
            tracer.kill()  # it waits for a process that its own injection has killed
            tracer.wait()
        tracer.stderr.close()


def points_of(onggi: Onggi, operation: Operation, trace: Path) -> dict[str, int]:
    """How often each call is made by the process that makes it most often; nothing fails."""
    prepare(onggi, operation)
    with strace(onggi.engine_pid(), "-o", str(trace), "-e", f"trace={','.join(CALLS)}"):
        onggi.run(*operation.command)
        settle(onggi)
    clean(onggi)
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    for line in trace.read_text(errors="replace").splitlines():
        found = re.match(r"(\d+)\s+(\w+)\(", line)
        if found:
            counts[found[1], found[2]] += 1
    most: dict[str, int] = {}
    for (_, call), count in counts.items():
        most[call] = max(most.get(call, 0), count)
    return most


def faults(points: dict[str, int], wanted: str, dice: random.Random) -> list[Fault]:
    """All faults at all points, or as many as are wanted, every kind alike."""
    every = [
        Fault(call, number, kind)
        for call, count in sorted(points.items())
        for number in range(1, count + 1)
        for kind in KINDS
    ]
    if wanted == "all":
        return every
    return dice.sample(every, min(int(wanted), len(every)))


def prepare(onggi: Onggi, operation: Operation) -> None:
    for words in operation.before:
        onggi.run(*words)


def strike(onggi: Onggi, operation: Operation, fault: Fault) -> float:
    """Carry the operation out with one fault; seconds until records and machine agreed again."""
    prepare(onggi, operation)
    with strace(
        onggi.engine_pid(), "-o", os.devnull, "-e", f"trace={fault.call}", "-e", fault.injection
    ):
        onggi.run(*operation.command, check=False, timeout_s=30)
    before = time.monotonic()
    settle(onggi)
    return time.monotonic() - before


def settle(onggi: Onggi) -> None:
    """Wait until what the engine says is what the kernel has; the engine is started if need be."""
    until(lambda: not differences(onggi), lambda: "; ".join(differences(onggi)), RECOVERY_S)


def differences(onggi: Onggi) -> list[str]:
    """What the kernel and the disk have beside what the records name, and the other way round."""
    states = dict(
        line.split() for line in
        onggi.out("ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.State}}").splitlines()
    )  # fmt: skip
    running = {c for c, state in states.items() if state in ("running", "paused")}
    found = [f"{c} is {s}" for c, s in states.items() if s in ("starting", "removing")]
    cgroups = {p.name for p in cgroups_of(onggi)}
    tasks = {p.name for p in onggi.root.glob("run/tasks/*")}
    found += [f"cgroup of {c}" for c in cgroups ^ running]
    found += [f"task of {c}" for c in tasks ^ running]
    directories = {p.name for p in onggi.root.glob("data/containers/*")}
    found += [f"directory of {c}" for c in directories - states.keys()]
    veths = [name for name in rig.links(onggi) if name.startswith("ov")]
    known = {name[8:14] for name in veths}
    found += [f"link {n}" for n in veths if not any(c.startswith(n[8:14]) for c in running)]
    found += [f"no link of {c}" for c in running if c[:6] not in known]
    found += [f"mount {line}" for line in mounts_of(onggi)]
    monitors = keels_of(onggi)
    if len(monitors) > len(running):
        found.append(f"{len(monitors)} monitors for {len(running)} containers")
    return found


def cgroups_of(onggi: Onggi) -> list[Path]:
    name = rig.instance(onggi)
    places = [
        *Path("/sys/fs/cgroup").glob(f"*/{name}/*"),
        *Path("/sys/fs/cgroup").glob(f"{name}/*"),
    ]
    return [place for place in places if place.is_dir()]


def mounts_of(onggi: Onggi) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split()[4] for line in lines if str(onggi.root) in line]


def keels_of(onggi: Onggi) -> list[int]:
    """Monitors whose directory is in this root."""
    found = []
    for comm in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if not comm.read_text().startswith("keel:monitor"):
                continue
            files = [os.readlink(fd) for fd in comm.with_name("fd").iterdir()]
            if any(str(onggi.root) in file for file in files) and alive(int(comm.parent.name)):
                found.append(int(comm.parent.name))
    return found


def clean(onggi: Onggi) -> None:
    """Remove everything a user can remove; nothing may be left then."""
    ids = onggi.out("ps", "-aq", "--no-trunc").split()
    if ids:
        onggi.run("rm", "-f", "-v", *ids)
    for name in onggi.out("network", "ls", "--format", "{{.Name}}").split():
        if name not in ("bridge", "host", "none"):
            onggi.run("network", "rm", name)
    for name in onggi.out("volume", "ls", "-q").split():
        onggi.run("volume", "rm", name)
    until(lambda: not rig.left_behind(onggi), lambda: "; ".join(rig.left_behind(onggi)), RECOVERY_S)


def abandon(onggi: Onggi) -> None:
    """After a fault that was not survived: end whatever runs for this root, by force."""
    with contextlib.suppress(AssertionError, subprocess.TimeoutExpired, ProcessLookupError):
        os.kill(onggi.engine_pid(), signal.SIGKILL)
    with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
        clean(onggi)
