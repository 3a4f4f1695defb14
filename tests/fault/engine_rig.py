"""Faults in an engine's own system calls, and the machine compared with its records afterwards.

A point is a call's name, its number, and who makes it: the engine, the monitor, init, `nft` …
(`injector.c`). ONGGI_FAULTS says how many faults of each operation are tried (`all`: every kind at
every point), ONGGI_SEED which (`tally.py`).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from acceptance import rig
from acceptance import wire_rig as wire
from acceptance.rig import Onggi, alive
from fault.injector import Fault, Injector, Point, points_of
from fault.tally import Struck
from onggi.errors import EngineError
from onggi.kernel.constants import PR_SET_CHILD_SUBREAPER
from onggi.kernel.syscalls import prctl

#: How long an engine may take until records and machine agree again.
RECOVERY_S = 5.0
_COMMAND_S = 30.0
#: Who is struck: the engine, its children before they execute anything, keel before it has a name
#: (that of its descriptor until then), and the rest by name. Not a container's own processes.
_ROLES = ("engine", "spawn", "keel", "keel:monitor", "keel:init", "nft", "guard", "onggi-guard")
_FRONT = str(Path(sys.executable).with_name("onggi"))
#: What a fault may leave without a parent, by name; `300` is keel before it has one.
_ORPHANS = ("300", "nft", "guard", "onggi-guard", "sleep", "true", "busybox")
#: Engines, warm processes, guards (`guard` where it could not give itself a name), and the tracer.
_OURS = ("python", "onggi", "guard", "injector")
Rows = dict[str, dict[str, Any]]


class Operation(NamedTuple):
    """Something a user does: what must be there before, the command, and what is true of the
    containers, by name, once it has answered that it succeeded. `fresh`: by an engine that has
    made no network yet."""

    name: str
    before: tuple[tuple[str, ...], ...]
    command: tuple[str, ...]
    holds: Callable[[Rows], bool]
    fresh: bool = False


def _is(state: str) -> Callable[[Rows], bool]:
    return lambda rows: rows["c"]["state"] == state


def _publishes(port: str) -> Callable[[Rows], bool]:
    return lambda rows: any(port in text for text in rows["c"]["ports"])


# The tests' network namespace is their own: nobody else has these ports.
_RUNNING = ("run", "-d", "--name", "c", "-p", "18200:80", "busybox", "sleep", "600")
_WITH_VOLUME = (*_RUNNING[:-3], "-v", "/data", *_RUNNING[-3:])
_NETWORK = (("network", "create", "n"), _RUNNING)
_CONNECT = ("network", "connect", "n", "c")
#: Faults that were not survived once, tried each time.
FOUND = {
    "create": ("engine ioctl 1 EMFILE", "engine mkdir 2 ENOMEM", "engine openat 1 EIO"),
    "run": ("keel:monitor epoll_ctl 1 ENOSPC",),
    "exec": (
        "engine sendmsg 1 ENOSPC",
        "engine ioctl 2 EINTR",
        "keel:monitor epoll_ctl 1 ENOSPC",
        "keel:monitor sendmsg 1 KILL",
    ),
    "run --rm": ("engine openat 9 EIO", "engine unlinkat 9 KILL"),
    "first run": ("guard prctl 1 EIO", "engine openat 10 EMFILE", "engine pidfd_open 1 EMFILE"),
    "start": ("keel:monitor sendmsg 2 EMFILE",),
    "stop": ("engine sendto 1 EIO",),
    "network connect": ("engine clone3 1 ENOMEM",),
}
OPERATIONS = (
    Operation("create", (), ("create", "--name", "c", "-v", "/data", "busybox", "true"),
              _is("created")),
    Operation("run", (), _WITH_VOLUME, _publishes("18200")),
    Operation("run --rm", (), ("run", "--rm", "busybox", "true"), lambda _: True),
    Operation("start", (("create", *_RUNNING[2:]),), ("start", "c"), _publishes("18200")),
    Operation("exec", (_RUNNING,), ("exec", "c", "true"), _is("running")),
    Operation("stop", (_RUNNING,), ("stop", "-t", "0", "c"), _is("exited")),
    Operation("rm", (_RUNNING,), ("rm", "-f", "c"), lambda rows: "c" not in rows),
    Operation("network connect", _NETWORK, _CONNECT, lambda rows: "n" in rows["c"]["networks"]),
    Operation("network disconnect", (*_NETWORK, _CONNECT), ("network", "disconnect", "n", "c"),
              lambda rows: "n" not in rows["c"]["networks"]),
    Operation("publish", (_RUNNING,), ("update", "--publish", "18201:81", "c"),
              _publishes("18201")),
    Operation("first run", (), _WITH_VOLUME, _publishes("18200"), fresh=True),
)  # fmt: skip


class Front(Onggi):
    """Commands by the installed program, which a warm process carries out: some milliseconds."""

    def words(self, *arguments: str) -> list[str]:
        return [_FRONT, "--root", str(self.root), *arguments]


class Scene:
    """One engine, and what it and the machine look like when nothing runs."""

    def __init__(self, root: Path, injector: Injector, operation: Operation) -> None:
        self.onggi = Front(root)
        self._injector = injector
        self._operation = operation
        self._calls = wire.client(self.onggi)
        self.onggi.run(*_WITH_VOLUME)  # afterwards everything is there that is made once
        self.clean()
        self._known = descendants().keys()
        self._files = _files(root)
        self._rules = _rules()
        self._descriptors = wire.settled_descriptors(self._pid())

    def points(self) -> list[Point]:
        """What the operation calls, with nothing failing."""
        self._prepare()
        with self._injector.counting([("engine", self._pid())]) as counts:
            self.onggi.run(*self._operation.command)
            self.settle()
        self.clean()
        return points_of(counts, _ROLES)

    def strike(self, fault: Fault) -> Struck:
        """Carry the operation out with one fault, and clean up.

        Raises:
            AssertionError: it was not survived, or the answer was not true.
        """
        self._prepare()
        with self._injector.striking([("engine", self._pid())], fault) as hit:
            done = self.onggi.run(*self._operation.command, check=False, timeout_s=_COMMAND_S)
            before = time.monotonic()
            self.settle()
        self.settle()  # the fault may have struck the answer to the last question
        recovery_s = time.monotonic() - before
        silent = hit[0] and done.returncode == 0 and fault.kind != "KILL"
        _assert_explained(done)
        # Whose monitor or first process was killed may have started, and ended.
        if done.returncode == 0 and not (fault.kind == "KILL" and "keel" in fault.point.role):
            rows = {row["name"]: row for row in self._list()}
            assert self._operation.holds(rows), f"it answered that it succeeded: {rows}"
        self.clean()
        pid = self._pid()  # asked once: the question is a descriptor of the engine's for a moment
        _none(lambda: self._left(pid))
        return Struck(hit[0], recovery_s, silent)

    def abandon(self) -> None:
        """After a fault that was not survived: end whatever runs, by force."""
        victims = [*wire.engines(self.onggi), *self._strangers()]
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(AssertionError, EngineError, subprocess.SubprocessError):
            self.clean()

    def _prepare(self) -> None:
        if self._operation.fresh:
            self.onggi.run("engine", "stop")
            self._list()
        for words in self._operation.before:
            self.onggi.run(*words)

    def settle(self) -> None:
        """Wait until what the engine says is what the kernel has; it is started if need be."""
        _none(self._differences)

    def clean(self) -> None:
        """Remove everything a user can remove; nothing may be left then."""
        for row in self._list():
            fields = {"target": row["id"], "force": True, "volumes": True}
            self._call("containers.remove", fields)
        for row in self._call("networks.list", {}):
            if row["name"] not in ("bridge", "host", "none"):
                self._call("networks.remove", {"name": row["name"]})
        for row in self._call("volumes.list", {}):
            self._call("volumes.remove", {"name": row["name"]})
        _none(lambda: rig.left_behind(self.onggi))

    def _call(self, name: str, fields: dict[str, Any]) -> Any:
        with self._calls.open(name, fields) as call:
            call.sock.settimeout(_COMMAND_S)
            return call.reply()

    def _list(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._call("containers.list", {"all": True})
        return rows

    def _pid(self) -> int:
        pid = wire.engine_pid(self.onggi)
        if pid is None:
            self._list()
            pid = wire.engine_pid(self.onggi)
        assert pid is not None, "an engine listens"
        return pid

    def _differences(self) -> list[str]:
        try:
            found = [
                f"volume {row['name']} of nobody"
                for row in self._call("volumes.list", {})
                if row["anonymous"] and not row.get("containers")
            ]
            states = {row["id"]: row["state"] for row in self._list()}
            monitors = list(self._strangers().values()).count("keel:monitor")
            return found + differences(self.onggi, states, monitors)
        except EngineError as error:
            return [str(error)]

    def _strangers(self) -> dict[int, str]:
        """Processes other than engines, warm processes, guards, and those there were before."""
        return {
            pid: name
            for pid, name in descendants().items()
            if pid not in self._known and not name.startswith(_OURS)
        }

    def _left(self, pid: int) -> list[str]:
        """What the engine and the machine have beside what they had before everything."""
        found = sorted(_files(self.onggi.root) - self._files)
        found += sorted(_rules() - self._rules)
        found += [f"zombie {child}" for child in children(pid) if not alive(child)]
        found += [f"process {name}" for name in self._strangers().values()]
        grown = wire.descriptors(pid) - self._descriptors
        return found + ([f"{grown} descriptors of the engine"] if grown > 0 else [])


def _none(look: Callable[[], list[str]]) -> None:
    """Wait until nothing is found. Raises: AssertionError with what was found last."""
    begun, pause_s, at_s = time.monotonic(), 0.005, 0.0
    while found := look():
        # Of the time that the look began: on a busy machine it takes a while itself.
        assert at_s < RECOVERY_S, f"{at_s:.1f} s later still: {'; '.join(found)}"
        time.sleep(pause_s)
        pause_s, at_s = min(2 * pause_s, 0.05), time.monotonic() - begun


def differences(onggi: Onggi, states: dict[str, str], monitors: int) -> list[str]:
    """What the kernel and the disk have beside what the records name, and the other way round."""
    running = {c for c, state in states.items() if state in ("running", "paused")}
    found = [f"{c} is {s}" for c, s in states.items() if s in ("starting", "removing")]
    cgroups = {Path(path).name for path in wire.cgroups(onggi)}
    tasks = {p.name for p in onggi.root.glob("run/tasks/*")}
    found += [f"cgroup of {c}" for c in cgroups ^ running]
    found += [f"task of {c}" for c in tasks ^ running]
    directories = {p.name for p in onggi.root.glob("data/containers/*")}
    found += [f"directory of {c}" for c in directories - states.keys()]
    veths = [name for name in rig.links(onggi) if name.startswith("ov")]
    known = {name[8:14] for name in veths}
    found += [f"link {n}" for n in veths if not any(c.startswith(n[8:14]) for c in running)]
    found += [f"no link of {c}" for c in running if c[:6] not in known]
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    found += [f"mount {line.split()[4]}" for line in lines if str(onggi.root) in line]
    if monitors > len(running):
        found.append(f"{monitors} monitors for {len(running)} containers")
    return found


@contextlib.contextmanager
def adopting() -> Iterator[None]:
    """Whose parents have ended become the test's children, so that nobody is lost from sight; and
    are collected, as the host's init would: a PID namespace ends with its last zombie."""
    ended = threading.Event()

    def collect() -> None:
        while not ended.wait(0.02):
            for pid in children(os.getpid()):
                with contextlib.suppress(OSError):
                    name = Path(f"/proc/{pid}/comm").read_text().strip()
                    # The others are commands and injectors, for which somebody waits.
                    if name.startswith("keel") or name in _ORPHANS:
                        os.waitpid(pid, os.WNOHANG)

    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    collector = threading.Thread(target=collect)
    collector.start()
    try:
        yield
    finally:
        ended.set()
        collector.join()
        prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def descendants() -> dict[int, str]:
    """Pid and name of every living process that the test has started, directly or not."""
    found, own = {}, children(os.getpid())
    rest = list(own)
    while rest:
        pid = rest.pop()
        with contextlib.suppress(OSError):
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            if alive(pid):
                rest += children(pid)
                found[pid] = name
            elif pid in own and name != "injector":  # an engine: no command runs now
                os.waitpid(pid, os.WNOHANG)
    return found


def children(pid: int) -> list[int]:
    """Zombies included."""
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended
            found += Path(f"/proc/{pid}/task/{task}/children").read_text().split()
    return [int(child) for child in found]


def _files(root: Path) -> set[str]:
    """Every path below the root, but those that come and go with an engine."""
    skipped = ("-wal", "-shm", ".sock", ".log", ".lock")
    found = set()
    for place, directories, files in os.walk(root):
        if place.endswith("image/layers"):
            directories.clear()  # no operation makes any
        found |= {f"{place}/{name}" for name in directories + files if not name.endswith(skipped)}
    return found


def _rules() -> set[str]:
    """Lines of every set and map of the test's network namespace."""
    words = ["nft", "-j", "list", "ruleset"]
    listed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    found = set()
    for item in json.loads(listed)["nftables"]:
        for kind in ("set", "map"):
            for element in item.get(kind, {}).get("elem", ()):
                found.add(f"{item[kind]['name']} has {json.dumps(element)}")
    return found


def _assert_explained(done: subprocess.CompletedProcess[str]) -> None:
    """A failure is told in one line, with a hint or without."""
    assert "Traceback" not in done.stderr, done.stderr
    assert not re.search(r"[A-Z]\w+Error\b", done.stderr), done.stderr
    assert done.returncode >= 0, f"killed by {-done.returncode}"
    if done.returncode:
        assert done.stderr.startswith("onggi: "), f"{done.returncode}: {done.stderr!r}"
