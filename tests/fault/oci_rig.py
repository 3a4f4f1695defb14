"""Faults in onggi-runtime's own system calls, and the machine compared with what was there before.

Two ways to carry out a command: `plain`, the command line as a process of its own; and `warm`, the
front, which hands it to a child of the warm process and starts keel for it. What comes before and
after the fault goes the warm way in both.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from acceptance.rig import alive
from acceptance.wire_rig import descriptors, settled_descriptors
from faces.oci_rig import Runtime
from faces.oci_warm_rig import Warm
from fault.engine_rig import children, descendants
from fault.injector import Fault, Injector, Point, Roots, points_of
from fault.tally import Struck

#: How long what was struck may take until nothing is left of it.
RECOVERY_S = 5.0
_COMMAND_S = 20.0
_SPARES, _LULL_S = 3, 0.01
#: Who is struck: the front, the warm process and the child of it that carries the command out; the
#: plain command line; their children before they execute anything; keel, first without a name.
_ROLES = (
    "onggi-runtime", "warm", "child", "runtime", "spawn", "keel", "keel:create", "keel:init",
)  # fmt: skip
_PYTHON = ("runtime", "child")
_ZYGOTE = Path(__file__).with_name("oci_zygote.py")


class Operation(NamedTuple):
    """A command on the container `c`: which commands come before, and the status that is true
    once it has answered that it succeeded; empty: there is no container."""

    name: str
    before: tuple[str, ...]
    words: tuple[str, ...]
    status: str


_CREATED, _RUNNING = ("create",), ("create", "start")
OPERATIONS = (
    Operation("create", (), ("create", "--pid-file", "PIDFILE", "-b", "BUNDLE", "c"), "created"),
    Operation("run -d", (), ("run", "-d", "-b", "BUNDLE", "c"), "running"),
    Operation("start", _CREATED, ("start", "c"), "running"),
    Operation("exec", _RUNNING, ("exec", "c", "/bin/true"), "running"),
    Operation("exec -d", _RUNNING, ("exec", "-d", "c", "/bin/sleep", "999"), "running"),
    Operation("kill", _RUNNING, ("kill", "c", "KILL"), "stopped"),
    Operation("delete", _CREATED, ("delete", "c"), ""),
    Operation("delete --force", _RUNNING, ("delete", "--force", "c"), ""),
)


class Zygote:
    """The plain command line, without Python's start. A context manager."""

    def __init__(self) -> None:
        words = [sys.executable, "-P", str(_ZYGOTE)]
        environment = {**os.environ, "ONGGI_NO_WARM": "1"}
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def prepare(self, out: Path, words: list[str]) -> int:
        """The pid of the process that will carry this out at `go`."""
        self._say(json.dumps([str(out), *words]))
        return int(self._hear(_COMMAND_S))

    def go(self, pid: int) -> int:
        """How it ended. Raises: TimeoutExpired: it did not, and was killed."""
        self._say("go")
        try:
            return int(self._hear(_COMMAND_S))
        except subprocess.TimeoutExpired:
            os.kill(pid, signal.SIGKILL)
            self._hear(_COMMAND_S)
            raise

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def _hear(self, timeout_s: float) -> str:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], (), (), timeout_s)[0]:
            raise subprocess.TimeoutExpired("onggi-runtime", timeout_s)
        return self._process.stdout.readline()

    def __enter__(self) -> Zygote:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process as process:
            process.kill()


class Scene:
    """One state root, a front with its warm process, and what the machine had before."""

    def __init__(self, place: Path, warm: Warm, zygote: Zygote | None, injector: Injector,
                 operation: Operation) -> None:  # fmt: skip
        self._warm, self._zygote, self._injector = warm, zygote, injector
        self._operation = operation
        self._runtime = Runtime(place, [str(warm.front)])
        del self._runtime.environment["ONGGI_NO_WARM"]
        kinds = ("createRuntime", "poststart", "poststop")
        hooks = {kind: [{"path": "/bin/true"}] for kind in kinds}
        self._bundle = self._runtime.bundle(
            "/bin/sleep", "1000", change=lambda config: config.update(hooks=hooks)
        )
        self._id = self._runtime.name("c")
        self._out = place / "struck.out"
        self._server = self._serving()
        self._known = descendants().keys()
        self._descriptors = settled_descriptors(self._server)

    def points(self) -> list[Point]:
        """What the operation calls, with nothing failing."""
        self._prepare()
        with self._held() as (roots, go), self._injector.counting(roots) as counts:
            assert go() == 0, self._out.read_text()
        self._clean()
        return points_of(counts, _ROLES)

    def strike(self, fault: Fault) -> Struck:
        """As tally.Scene."""
        self._prepare()
        with self._held() as (roots, go), self._injector.striking(roots, fault) as hit:
            code = go()
        began = time.monotonic()
        self._check_answer(fault, code)
        self._clean()
        return Struck(hit[0], time.monotonic() - began, hit[0] and code == 0)

    def abandon(self) -> None:
        """As tally.Scene."""
        for pid in self._strangers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._warm.end()
        self._runtime.environment["ONGGI_NO_WARM"] = "1"
        self._runtime.clean()

    def close(self) -> None:
        """Leave no container, whatever became of the faults."""
        self._runtime.clean()

    def _prepare(self) -> None:
        server = self._serving()
        if server != self._server:
            self._server, self._descriptors = server, settled_descriptors(server)
        for verb in self._operation.before:
            words = ("create", "-b", str(self._bundle)) if verb == "create" else (verb,)
            self._call(*words)
        _none(self._missing_spares)

    def _call(self, *words: str) -> None:
        """A command that nothing is wrong with. Its output is a file's: a container has it too."""
        with open(self._runtime.place / "calls.out", "w") as out:
            self._runtime.call(*words, self._id, stdout=out, stderr=out)

    @contextlib.contextmanager
    def _held(self) -> Iterator[tuple[Roots, Callable[[], int]]]:
        """Whom to follow, and what lets the command begin and answers its exit code."""
        self._out.write_text("")
        places = {"c": self._id, "BUNDLE": str(self._bundle), "PIDFILE": f"{self._out}.pid"}
        words = [places.get(word, word) for word in self._operation.words]
        words = ["--root", str(self._runtime.root), *words]
        if self._zygote is not None:
            pid = self._zygote.prepare(self._out, words)
            yield [("runtime", pid)], lambda: self._zygote.go(pid)  # type: ignore[union-attr]
            return
        script = 'read -r _ && exec "$@" </dev/null'
        with open(self._out, "a") as out, subprocess.Popen(
            ["sh", "-c", script, "sh", str(self._warm.front), *words], stdin=subprocess.PIPE,
            stdout=out, stderr=out, text=True, env=self._runtime.environment,
        ) as front:  # fmt: skip
            roots = [("", front.pid), ("warm", self._server)]
            roots += [("child", pid) for pid in children(self._server)]
            try:
                yield roots, lambda: _let(front)
            finally:
                front.kill()

    def _check_answer(self, fault: Fault, code: int) -> None:
        """Success is true, and a failure is told in one line."""
        said = self._out.read_text()
        assert "Traceback" not in said, said
        assert not re.search(r"[A-Z]\w+Error\b", said), said
        if code and self._operation.name.startswith("exec") and fault.point.role.startswith("keel"):
            _none(self._executed)
        if fault.kind == "KILL":
            return  # who was killed says nothing, and others may not know how far it came
        if code == 0:
            _none(self._untrue)
            return
        assert code > 0, f"killed by {-code}"
        lines = [line for line in said.splitlines() if "level=warning" not in line]
        unheard = fault.point.call == "write" and fault.point.role in _PYTHON
        assert len(lines) == 1 or (unheard and not lines), f"{code}: {said!r}"

    def _untrue(self) -> list[str]:
        done = self._runtime.call("state", self._id, check=False)
        status = json.loads(done.stdout)["status"] if done.returncode == 0 else ""
        wanted = self._operation.status
        return [f"it answered that it succeeded: {status}"] if status != wanted else []

    def _executed(self) -> list[str]:
        """What an exec that answered that it failed has left, before the container ends."""
        sleepers = [pid for pid, name in self._strangers().items() if name == "sleep"]
        return [f"process {pid} of the exec" for pid in sleepers[1:]]

    def _clean(self) -> None:
        self._call("delete", "--force")
        _none(self._left)

    def _left(self) -> list[str]:
        """What there is beside what there was before everything."""
        found = self._runtime.leftovers()
        found += [f"mount {row}" for row in _mounts(self._runtime.place)]
        found += [f"process {pid} {name}" for pid, name in self._strangers().items()]
        if alive(self._server):
            grown = descriptors(self._server) - self._descriptors
            found += [f"{grown} descriptors of the warm process"] if grown > 0 else []
            found += [f"zombie {pid}" for pid in children(self._server) if not alive(pid)]
        return found

    def _strangers(self) -> dict[int, str]:
        """Processes other than warm ones and those that there were before."""
        return {
            pid: name
            for pid, name in descendants().items()
            if pid not in self._known and not name.startswith(("python", "injector"))
        }

    def _serving(self) -> int:
        """The warm process; one is started if there is none."""
        if not alive(self._server_or_none()):
            self._runtime.call("list")
            _none(lambda: [] if self._warm.pid() else ["no warm process"])
            self._server = self._warm.pid()
            _none(self._missing_spares)
        return self._server

    def _server_or_none(self) -> int:
        return getattr(self, "_server", 0)

    def _missing_spares(self) -> list[str]:
        """Nothing: there are spares, and nobody else who is about to end."""
        before = children(self._server) if alive(self._server) else []
        time.sleep(_LULL_S)
        lasting = [pid for pid in before if alive(pid)]
        return [] if len(lasting) == len(before) == _SPARES else [f"{len(lasting)} spares"]


def _let(front: subprocess.Popen[str]) -> int:
    assert front.stdin is not None
    front.stdin.write("\n")
    front.stdin.close()
    return front.wait(_COMMAND_S)


def _mounts(place: Path) -> list[str]:
    """Mounts of the test's namespace in this directory: there is none before either."""
    rows = Path("/proc/self/mountinfo").read_text().splitlines()
    return [row for row in rows if str(place) in row]


def _none(look: Callable[[], list[Any]]) -> None:
    """Wait until nothing is found. Raises: AssertionError with what was found last."""
    deadline = time.monotonic() + RECOVERY_S
    while found := look():
        assert time.monotonic() < deadline, f"{RECOVERY_S} s later still: {found}"
        time.sleep(0.01)
