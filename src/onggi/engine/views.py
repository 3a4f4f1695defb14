"""What a container is, seen from both sides: `view`. And what a start would do: `explain`.

`view` only reads /proc and the container's cgroup from the host; nothing enters the container.
"""

from __future__ import annotations

import os
import socket
from typing import Any

import msgspec

from onggi.engine.api.answers import (
    Explanation,
    InterfaceView,
    MountView,
    NamespaceView,
    PlanRow,
    ProcessView,
    View,
)
from onggi.engine.api.requests import Target
from onggi.engine.api.spec import ContainerSpec
from onggi.engine.core import Core
from onggi.engine.listing import command_line
from onggi.engine.measure import Measure
from onggi.engine.prepare import joined_container, own_id_range, plan_only
from onggi.engine.records import ContainerRecord
from onggi.errors import FailedPrecondition, NotFound
from onggi.kernel import namespaces, processes
from onggi.kernel.capabilities import names_of
from onggi.kernel.mounts import MountInfo, read_mountinfo
from onggi.kernel.procfs import read_process_file
from onggi.runtime.explain import explain
from onggi.sandbox.records import read_state
from onggi.specs.runtime import parse_config

_SECCOMP = {"0": "none", "1": "strict", "2": "filter"}


class Views:
    """Both views of one engine's containers."""

    def __init__(self, core: Core, measure: Measure) -> None:
        self._core = core
        self._measure = measure

    async def explain(self, spec: ContainerSpec, _fds: list[int]) -> Explanation:
        """Plan a start and tell every step; nothing is made."""
        core = self._core
        image = core.images.resolve(spec.image)
        own = own_id_range(spec, joined_container(core, spec))
        record = ContainerRecord(
            id="0" * 64,
            name=spec.name or "example",
            spec=spec,
            image_id=image.id,
            chain_ids=image.chain_ids,
            created_ns=0,
            id_base=core.ranges.start if own else None,
        )
        made = plan_only(core, record, image)
        return Explanation(
            rows=tuple(
                msgspec.convert(msgspec.to_builtins(r), PlanRow) for r in explain(made.plan)
            ),
            warnings=made.warnings,
            config=msgspec.to_builtins(made.config),
            plan=tuple(step.to_builtins() for step in made.plan.steps),
        )

    async def view(self, request: Target, _fds: list[int]) -> View:
        """Both sides of a running container.

        Raises:
            FailedPrecondition: it does not run.
        """
        core = self._core
        record = core.records.find_container(request.target)
        task = core.running(record.id)
        if task is None:
            raise FailedPrecondition(
                f"container {record.name} does not run, so there is nothing to view",
                hint=f"start it with onggi start {record.name}",
            )
        pid = task.pid
        status = read_process_file(pid, "status").decode("utf-8", "replace")
        uid_map, _ = namespaces.read_id_maps(pid)
        config = parse_config(record.config)
        monitor = self._monitor_pid(record)
        return View(
            id=record.id,
            name=record.name,
            image=record.spec.image,
            state=record.state,
            host_hostname=socket.gethostname(),
            inner_hostname=config.hostname or socket.gethostname(),
            host_kernel=os.uname().release,
            processes=self._processes(record, uid_map),
            namespaces=self._namespaces(pid),
            cgroups=tuple(p.rsplit("/", 1)[0] for p in core.cgroup(record.id).procs_paths()),
            uid_map="; ".join(f"{r.inside} → {r.outside} (+{r.size})" for r in uid_map),
            host_root=f"{core.images.snapshots.upper_path(record.id)}/fs",
            host_mounts=self._host_mounts(record),
            inner_mounts=tuple(map(_mount_view, read_mountinfo(pid))),
            host_interfaces=interfaces("self"),
            inner_interfaces=interfaces(str(pid)),
            capabilities=names_of(int(_field(status, "CapEff"), 16)),
            seccomp=_SECCOMP.get(_field(status, "Seccomp"), "unknown"),
            limits=_limits(record),
            usage=await self._measure.rate(record),
            monitor_pid=monitor,
            monitor_private_bytes=private_bytes(monitor),
        )

    def _processes(
        self, record: ContainerRecord, uid_map: tuple[namespaces.IdRange, ...]
    ) -> tuple[ProcessView, ...]:
        rows = []
        for pid in self._core.cgroup(record.id).processes():
            try:
                seen = processes.view(pid)
            except NotFound:
                continue
            uid = seen.status.uids[1]
            inner = namespaces.to_inside(uid_map, uid)
            rows.append(
                ProcessView(
                    host_pid=pid,
                    inner_pid=seen.status.pids[-1],
                    host_uid=uid,
                    inner_uid=65534 if inner is None else inner,
                    command=" ".join(seen.arguments) or command_line(record),
                )
            )
        return tuple(rows)

    def _namespaces(self, pid: int) -> tuple[NamespaceView, ...]:
        ours, theirs = namespaces.namespace_ids(), namespaces.namespace_ids(pid)
        others = {
            record.name: namespaces.namespace_ids(record.pid)
            for record in self._core.records.containers.values()
            if record.state == "running" and record.pid != pid
        }
        return tuple(
            NamespaceView(
                kind=kind,
                inode=inode,
                host_inode=ours[kind],
                shared_with=(("host",) if inode == ours[kind] else ())
                + tuple(name for name, ids in others.items() if ids[kind] == inode),
            )
            for kind, inode in theirs.items()
        )

    def _host_mounts(self, record: ContainerRecord) -> tuple[MountView, ...]:
        """Mounts of the container that the host's own table shows: none, as a rule."""
        return tuple(
            _mount_view(mount)
            for mount in read_mountinfo("self")
            if record.id in mount.mount_point or record.id in mount.source
        )

    def _monitor_pid(self, record: ContainerRecord) -> int:
        directory = os.open(self._core.places.task(record.id), os.O_PATH | os.O_DIRECTORY)
        try:
            state = read_state(directory)
        finally:
            os.close(directory)
        return state.monitor_pid if state else 0


def _field(status: str, name: str) -> str:
    start = status.index(f"\n{name}:") + len(name) + 2
    return status[start : status.index("\n", start)].strip()


def _mount_view(mount: MountInfo) -> MountView:
    return MountView(
        target=mount.mount_point,
        fstype=mount.fstype,
        source=mount.source,
        options=",".join(mount.options),
    )


def private_bytes(pid: int) -> int:
    """Memory that only this process has; 0 when it cannot be read. Source: proc_pid_smaps(5)."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            rows = [line.split() for line in file]
    except OSError:
        return 0
    return 1024 * sum(int(row[1]) for row in rows if row[0].startswith("Private_"))


def interfaces(pid: str) -> tuple[InterfaceView, ...]:
    """Interfaces of a process's network namespace with their addresses, read from its procfs."""
    try:
        with open(f"/proc/{pid}/net/dev", encoding="ascii") as file:
            names = [line.partition(":")[0].strip() for line in file.readlines()[2:]]
    except OSError:
        return ()
    six: dict[str, list[str]] = {}
    for row in _rows(f"/proc/{pid}/net/if_inet6"):
        address = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(row[0]))
        six.setdefault(row[5], []).append(f"{address}/{int(row[2], 16)}")
    four = _ipv4_by_interface(pid)
    return tuple(
        InterfaceView(
            name=name,
            addresses=tuple(four.get(name, [])) + tuple(six.get(name, [])),
            state="up" if name in four or name in six else "down",
        )
        for name in names
    )


def _ipv4_by_interface(pid: str) -> dict[str, list[str]]:
    """Local addresses joined with the routes that lead to their networks (proc_pid_net(5))."""
    routes = [
        (row[0], int.from_bytes(bytes.fromhex(row[1]), "little"),
         int.from_bytes(bytes.fromhex(row[7]), "little"))
        for row in _rows(f"/proc/{pid}/net/route")[1:]
        if row[7] != "00000000"
    ]  # fmt: skip
    found: dict[str, list[str]] = {}
    for text in _local_addresses(pid):
        value = int.from_bytes(socket.inet_aton(text), "big")
        name = next((n for n, net, mask in routes if value & mask == net), None)
        if text.startswith("127."):
            found.setdefault("lo", []).append(f"{text}/8")
        elif name is not None:
            found.setdefault(name, []).append(text)
    return found


def _local_addresses(pid: str) -> list[str]:
    """Addresses marked `host LOCAL` in the routing trie, each once."""
    found: dict[str, None] = {}
    previous = ""
    for row in _rows(f"/proc/{pid}/net/fib_trie"):
        if "/32" in row and "LOCAL" in row and previous:
            found[previous] = None
        previous = row[1] if row and row[0] == "|--" else previous
    return list(found)


def _rows(path: str) -> list[list[str]]:
    try:
        with open(path, encoding="ascii") as file:
            return [line.split() for line in file]
    except OSError:
        return []


def _limits(record: ContainerRecord) -> dict[str, str]:
    """The limits that are set, under their flags' names."""
    limits: dict[str, Any] = msgspec.to_builtins(record.spec.resources)
    return {
        name: str(value) for name, value in limits.items() if isinstance(value, int | str) and value
    }
