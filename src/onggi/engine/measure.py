"""What running containers use, sampled from their cgroups and interfaces.

Source: docker-stats(1): memory is usage without the page cache that can be dropped; CPU per cent of
one processor.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator

import msgspec

from onggi.engine.api.answers import Statistics
from onggi.engine.api.requests import StatsRequest
from onggi.engine.core import Core
from onggi.engine.records import ContainerRecord
from onggi.errors import EngineError
from onggi.kernel.cgroups.stats import CgroupStats, CpuStats, MemoryStats, PidsStats


class Measure:
    """Statistics of one engine's containers."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def stats(
        self, request: StatsRequest, _fds: list[int]
    ) -> AsyncIterator[tuple[Statistics, ...]]:
        """A sample of every container asked for; again and again with `stream`."""
        before: dict[str, Statistics] = self._sample_all(request)
        await asyncio.sleep(min(request.interval_s, 0.25))
        while True:
            now = self._sample_all(request)
            yield tuple(_with_rate(sample, before.get(key)) for key, sample in now.items())
            if not request.stream:
                return
            before = now
            await asyncio.sleep(max(request.interval_s, 0.1))

    def _sample_all(self, request: StatsRequest) -> dict[str, Statistics]:
        records = self._core.records
        chosen = (
            [records.find_container(target) for target in request.targets]
            if request.targets
            else [record for record in records.containers.values() if record.state == "running"]
        )
        return {record.id: self.sample(record) for record in chosen}

    async def rate(self, record: ContainerRecord) -> Statistics:
        """One reading with the CPU's use over the last tenth of a second."""
        before = self.sample(record)
        await asyncio.sleep(0.1)
        return _with_rate(self.sample(record), before)

    def sample(self, record: ContainerRecord) -> Statistics:
        """One reading, with `cpu_percent` 0; of a container that has ended, zeroes."""
        cgroup = self._core.cgroup(record.id)
        try:
            stats = cgroup.stats() if cgroup.exists else CgroupStats()
            oom = cgroup.oom() if cgroup.exists else None
            kills = oom.kills if oom else 0
        except EngineError:
            stats, kills = CgroupStats(), 0
        return as_statistics(record, stats, kills, self._host_memory(), network_bytes(record.pid))

    def _host_memory(self) -> int:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def as_statistics(
    record: ContainerRecord,
    stats: CgroupStats,
    kills: int,
    host_memory: int,
    network: tuple[int, int],
) -> Statistics:
    """The cgroup's figures under the names of `engine.api`."""
    cpu = stats.cpu or CpuStats(0, 0, 0)
    memory = stats.memory or MemoryStats(0, None, 0, 0, 0, 0, 0, 0)
    pids = stats.pids or PidsStats(0, None)
    io = stats.io or ()
    return Statistics(
        id=record.id,
        name=record.name,
        read_ns=time.time_ns(),
        cpu_usage_ns=cpu.usage_ns,
        cpu_percent=0.0,
        memory_usage_bytes=max(0, memory.usage_bytes - memory.inactive_file_bytes),
        memory_limit_bytes=memory.limit_bytes or host_memory,
        memory_peak_bytes=memory.peak_bytes or 0,
        pids=pids.current,
        pids_limit=pids.limit or 0,
        block_read_bytes=sum(device.read_bytes for device in io),
        block_write_bytes=sum(device.write_bytes for device in io),
        network_receive_bytes=network[0],
        network_transmit_bytes=network[1],
        cpu_throttled_ns=cpu.throttled_ns,
        oom_kills=kills,
    )


def _with_rate(now: Statistics, before: Statistics | None) -> Statistics:
    if before is None or now.read_ns <= before.read_ns:
        return now
    used = now.cpu_usage_ns - before.cpu_usage_ns
    percent = 100.0 * used / (now.read_ns - before.read_ns)
    return msgspec.structs.replace(now, cpu_percent=round(max(percent, 0.0), 2))


def network_bytes(pid: int) -> tuple[int, int]:
    """Bytes received and sent by the process's network namespace, without its loopback."""
    received = sent = 0
    try:
        with open(f"/proc/{pid}/net/dev", encoding="ascii") as file:
            lines = file.read().splitlines()[2:]
    except OSError:
        return 0, 0
    for line in lines:
        name, _, figures = line.partition(":")
        if name.strip() != "lo":
            words = figures.split()
            received += int(words[0])
            sent += int(words[8])
    return received, sent
