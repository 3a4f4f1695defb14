"""Facts about the engine and its host, and the engine's own end."""

from __future__ import annotations

import asyncio
import os

import onggi
from onggi.engine.api.answers import EngineStatus, SystemInfo
from onggi.engine.api.requests import Nothing
from onggi.engine.core import Core
from onggi.errors import ResourceExhausted
from onggi.image.snapshots import Snapshotter
from onggi.kernel.capabilities import names_of


class System:
    """`engine status`, `engine stop`, `info`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def status(self, _request: Nothing, _fds: list[int]) -> EngineStatus:
        """The resident process."""
        core = self._core
        return EngineStatus(
            pid=os.getpid(),
            version=onggi.__version__,
            root=core.layout.data,
            socket=core.layout.socket,
            started_ns=core.started_ns,
            containers_running=self._running(),
            containers=len(core.records.containers),
            images=len(core.images.list()),
            memory_bytes=resident_bytes(),
        )

    def _running(self) -> int:
        return sum(r.state == "running" for r in self._core.records.containers.values())

    async def stop(self, _request: Nothing, _fds: list[int]) -> Nothing:
        """End the resident process; containers run on."""
        self._core.stopping.set()
        return Nothing()

    async def info(self, _request: Nothing, _fds: list[int]) -> SystemInfo:
        """The host as the engine found it."""
        core, host = self._core, self._core.host
        controllers = {
            name: f"v{hierarchy.version} {hierarchy.mount_point}"
            for hierarchy in host.cgroups.hierarchies
            for name in hierarchy.controllers
        }
        return SystemInfo(
            version=onggi.__version__,
            root=core.layout.data,
            kernel=os.uname().release,
            machine=host.machine,
            cgroup_layout=host.cgroups.mode,
            controllers=controllers,
            capabilities=names_of(host.capabilities),
            filesystems=tuple(sorted(host.filesystems)),
            lsms=host.lsms,
            namespaces=tuple(sorted(host.namespaces)),
            seccomp=host.seccomp,
            cpus=os.cpu_count() or 1,
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            containers=len(core.records.containers),
            running=self._running(),
            images=len(core.images.list()),
            storage=await asyncio.to_thread(storage, core.images.snapshots),
        )


def storage(snapshots: Snapshotter) -> str:
    """How the root file systems of new images are made, and why not otherwise."""
    try:
        reason = snapshots.form_reason
    except ResourceExhausted as error:
        return f"overlay (over what, is not known: {error.message})"
    kind = "erofs" if snapshots.form == "erofs" else "directories"
    return f"overlay over {kind}" + (f" ({reason})" if reason else "")


def resident_bytes() -> int:
    """Resident memory of this process. Source: proc_pid_statm(5)."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
