"""Run a plan with the real keel and gather everything it answers; a root file system of busybox."""

from __future__ import annotations

import os
import select
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import pytest

from onggi.runtime.steps import (
    AttachRoot,
    BecomeUser,
    CloneInto,
    Execute,
    IdmapTree,
    MountFilesystem,
    MountOverlay,
    OpenTree,
    PivotRoot,
    Plan,
    SetRootPropagation,
    Step,
    Supervise,
    WriteIdMaps,
)
from onggi.sandbox.keel import Keel
from onggi.sandbox.messages import Closed, Exited, Failed, MonitorEvent, Started, Warned
from onggi.sandbox.monitor import Monitor
from onggi.sandbox.stream import Stream, StreamDecoder

NEW_USER, NEW_NS, NEW_PID, NEW_NET = 0x10000000, 0x00020000, 0x20000000, 0x40000000
NEW_UTS, NEW_IPC, NEW_CGROUP, NEW_TIME = 0x04000000, 0x08000000, 0x02000000, 0x80
MS_REC, MS_PRIVATE, MS_SLAVE = 0x4000, 1 << 18, 1 << 19
RDONLY, NOSUID, NODEV, NOEXEC = 1, 2, 4, 8
ALL_NEW = NEW_USER | NEW_NS | NEW_PID | NEW_NET | NEW_UTS | NEW_IPC
FIRST_ID, ID_COUNT = 1_000_000, 65_536
ALL_CAPABILITIES = (1 << 41) - 1
TIMEOUT_S = 20.0
BUSYBOX = Path("/bin/busybox")

NEEDS_ROOT_AND_BUSYBOX = pytest.mark.skipif(
    os.geteuid() != 0 or not BUSYBOX.is_file(), reason="host feature missing: root, static busybox"
)


class Outcome:
    """What a monitor told from GO to its end, and what the application wrote."""

    def __init__(self) -> None:
        self.events: list[MonitorEvent] = []
        self.output: dict[Stream, bytes] = {Stream.STDOUT: b"", Stream.STDERR: b""}

    @property
    def failed(self) -> Failed:
        """The one failure."""
        (event,) = [event for event in self.events if isinstance(event, Failed)]
        return event

    @property
    def warned(self) -> list[Warned]:
        return [event for event in self.events if isinstance(event, Warned)]

    @property
    def exited(self) -> Exited:
        exits = [event for event in self.events if isinstance(event, Exited)]
        assert len(exits) == 1, f"no exit in {self.events}, output {self.output}"
        return exits[0]

    @property
    def out(self) -> str:
        return self.output[Stream.STDOUT].decode(errors="replace")

    @property
    def err(self) -> str:
        return self.output[Stream.STDERR].decode(errors="replace")

    def succeed(self) -> str:
        """Standard output of an application that exited with 0."""
        assert self.exited.code == 0, (self.events, self.output)
        return self.out


class Task:
    """A started monitor, its attach socket and its events; a context manager, leaves nothing."""

    def __init__(self, keel: Keel, plan: Plan, borrowed: Sequence[int] = ()) -> None:
        self.outcome = Outcome()
        self._decoder = StreamDecoder()
        self.monitor = Monitor.spawn(keel, plan, borrowed)
        self.spawned_pid = self.monitor.pid
        self.attached, theirs = socket.socketpair()
        with theirs:
            self.monitor.attach(theirs.fileno(), stdin=True, stdout=True, stderr=True)
        self.monitor.go()

    def __enter__(self) -> Task:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
        if kind is None:
            self.finish()
        self.monitor.close()
        self.attached.close()
        for event in self.outcome.events:
            if isinstance(event, Started) and event.pidfd is not None:
                os.close(event.pidfd)

    @property
    def started(self) -> Started | None:
        return next((e for e in self.outcome.events if isinstance(e, Started)), None)

    def kill(self) -> None:
        """End the application if it runs."""
        if self.started is not None:
            try:
                os.kill(self.started.pid, 9)
            except ProcessLookupError:
                return

    def until(self, done: Callable[[], bool]) -> None:
        """Take in events and output until `done`."""
        deadline = time.monotonic() + TIMEOUT_S
        watched = {self.monitor.fileno(), self.attached.fileno()}
        while not done():
            left = deadline - time.monotonic()
            assert left > 0, f"no answer: {self.outcome.events}, {self.outcome.output}"
            for fd in select.select(sorted(watched), [], [], left)[0]:
                if fd == self.monitor.fileno():
                    while (event := self.monitor.receive()) is not None:
                        self.outcome.events.append(event)
                        if isinstance(event, Closed):
                            watched.discard(fd)
                            break
                elif not self._take_output():
                    watched.discard(fd)

    def until_started(self) -> Started:
        self.until(lambda: self.started is not None or self._closed())
        assert self.started is not None, self.outcome.events
        return self.started

    def finish(self) -> Outcome:
        """Wait until the monitor has told everything and is gone."""
        self.until(self._closed)
        while self._take_output():
            pass
        deadline = time.monotonic() + TIMEOUT_S
        while not self.monitor.reap():
            assert time.monotonic() < deadline, "the monitor does not end"
            time.sleep(0.001)
        return self.outcome

    def _closed(self) -> bool:
        return any(isinstance(event, Closed) for event in self.outcome.events)

    def _take_output(self) -> bool:
        try:
            data = self.attached.recv(65536)
        except ConnectionError:
            return False
        for piece in self._decoder.feed(data):
            self.outcome.output[piece.stream] += piece.data
        return bool(data)


def run(keel: Keel, plan: Plan, borrowed: Sequence[int] = ()) -> Outcome:
    """Carry out the plan to the application's end."""
    with Task(keel, plan, borrowed) as task:
        return task.finish()


APPLETS = ("sh", "true", "cat", "id", "ls", "mount", "stat", "touch", "echo", "sleep", "hostname")


class Box:
    """A busybox image layer with a writable overlay, and plans that run in it.

    Steps come in the order of a real start: `before` the clone, `after` it on the host's side,
    `inside` before the pivot, `late` after it.
    """

    def __init__(self, directory: Path) -> None:
        self.layer = directory / "layer"
        self.snapshot = directory / "snapshot"
        self.run_dir = directory / "run"
        self.place = directory / "place"
        for path in (self.layer / "bin", self.snapshot / "fs", self.snapshot / "work"):
            path.mkdir(parents=True)
        for name in ("proc", "sys", "dev", "tmp", "etc"):
            (self.layer / name).mkdir()
        self.run_dir.mkdir()
        self.place.mkdir()
        for path in (self.layer, self.snapshot / "fs", self.layer / "bin"):
            path.chmod(0o755)
        shutil.copy(BUSYBOX, self.layer / "bin/busybox")
        for applet in APPLETS:
            (self.layer / "bin" / applet).symlink_to("busybox")

    @property
    def upper(self) -> Path:
        return self.snapshot / "fs"

    def root_steps(self, *, user: bool = True) -> tuple[tuple[Step, ...], ...]:
        """(before, after, inside): the overlay's trees and the root."""
        opened = (
            OpenTree(slot=100, path=str(self.layer)),
            OpenTree(slot=101, path=str(self.snapshot)),
        )
        mapped: tuple[Step, ...] = ()
        if user:
            id_map = f"0 {FIRST_ID} {ID_COUNT}\n"
            mapped = (
                WriteIdMaps(uid_map=id_map, gid_map=id_map),
                IdmapTree(slot=100),
                IdmapTree(slot=101),
            )
        inside = (
            SetRootPropagation(flags=MS_REC | MS_PRIVATE),
            MountOverlay(slot=102, lowers=(100,), upper=101, work=101, options=("userxattr",)),
            AttachRoot(slot=102, path=str(self.place)),
        )
        return opened, mapped, inside

    def plan(
        self,
        *argv: str,
        flags: int = ALL_NEW,
        before: Sequence[Step] = (),
        after: Sequence[Step] = (),
        inside: Sequence[Step] = (),
        late: Sequence[Step] = (),
        terminal: int = 0,
        stdin: int = 0,
        reap: int = 0,
        record_name: str = "",
        environment: tuple[str, ...] = ("PATH=/bin",),
        candidates: tuple[str, ...] = (),
    ) -> Plan:
        """A start with an overlay root, procfs, and argv."""
        opened, mapped, root = self.root_steps(user=bool(flags & NEW_USER))
        return Plan(
            (
                Supervise(
                    run_dir=str(self.run_dir),
                    terminal=terminal,
                    stdin=stdin,
                    record_name=record_name,
                ),
                *opened,
                *before,
                CloneInto(flags=flags),
                *mapped,
                *after,
                *root,
                MountFilesystem(fstype="proc", source="proc", target="/proc"),
                *inside,
                PivotRoot(),
                *late,
                Execute(
                    arguments=argv,
                    environment=environment,
                    candidates=candidates or (f"/bin/{argv[0]}",),
                    reap=reap,
                ),
            )
        )


def become(
    uid: int = 0,
    gid: int = 0,
    capabilities: int = 0,
    *,
    effective: int | None = None,
) -> BecomeUser:
    """A user with the same capabilities bounding, permitted and (unless given) effective."""
    return BecomeUser(
        uid=uid,
        gid=gid,
        bounding=capabilities,
        permitted=capabilities,
        effective=capabilities if effective is None else effective,
    )
