"""The host's side of a container, read from the kernel's own files and from nothing of Onggi's."""

from __future__ import annotations

import os
import re
from pathlib import Path

#: How /proc/PID/ns names what `view` calls otherwise.
NAMESPACES = {
    "mount": "mnt", "network": "net", "ipc": "ipc", "pid": "pid", "uts": "uts", "user": "user",
    "cgroup": "cgroup", "time": "time",
}  # fmt: skip


def namespace(pid: int | str, kind: str) -> int:
    """The inode that is a process's namespace."""
    found = re.search(r"\[(\d+)\]", os.readlink(f"/proc/{pid}/ns/{NAMESPACES[kind]}"))
    assert found
    return int(found[1])


def status(pid: int, field: str) -> str:
    """One line of /proc/PID/status."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return value.strip()
    raise AssertionError(f"/proc/{pid}/status has no {field}")


def uid_range(pid: int) -> range:
    """The host's uids that a process's user namespace has, from its one-line map."""
    inside, outside, size = Path(f"/proc/{pid}/uid_map").read_text().split()
    assert inside == "0"
    return range(int(outside), int(outside) + int(size))


def _mounts(fstype: str) -> list[tuple[str, set[str]]]:
    rows = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [(row[1], set(row[3].split(","))) for row in rows if row[2] == fstype]


def cgroup_file(pid: int, controller: str, v1_name: str, v2_name: str) -> Path:
    """A controller's file of the cgroup that a process is in, whichever version the host has."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            for place, options in _mounts("cgroup"):
                if controller in options:
                    return Path(place + path) / v1_name
    unified = Path(f"/proc/{pid}/cgroup").read_text().rpartition("0::")[2].splitlines()[0]
    return Path(_mounts("cgroup2")[0][0] + unified) / v2_name


def number(text: str) -> int:
    """`max` and v1's largest are no limit: -1."""
    return -1 if text.strip() in ("max", "9223372036854771712") else int(text)


def _keyed(path: Path, key: str) -> int:
    for line in path.read_text().splitlines():
        words = line.split()
        if words[0] == key:
            return int(words[1])
    raise AssertionError(f"{path} has no {key}")


def cpu_usage_ns(pid: int) -> int:
    """Processor time that the cgroup has used."""
    path = cgroup_file(pid, "cpuacct", "cpuacct.usage", "cpu.stat")
    if path.name == "cpu.stat":
        return 1000 * _keyed(path, "usage_usec")
    return int(path.read_text())


def cpu_periods(pid: int) -> tuple[int, int]:
    """(periods, periods in which the cgroup was held back)."""
    path = cgroup_file(pid, "cpu", "cpu.stat", "cpu.stat")
    return _keyed(path, "nr_periods"), _keyed(path, "nr_throttled")


def memory_limit(pid: int) -> int:
    """Bytes, -1 unlimited."""
    path = cgroup_file(pid, "memory", "memory.limit_in_bytes", "memory.max")
    return number(path.read_text())


def memory_usage(pid: int) -> int:
    """Bytes in use without the page cache that can be dropped."""
    used = cgroup_file(pid, "memory", "memory.usage_in_bytes", "memory.current")
    stat = used.with_name("memory.stat")
    cache = "inactive_file" if used.name == "memory.current" else "total_inactive_file"
    return int(used.read_text()) - _keyed(stat, cache)


def pids(pid: int, name: str) -> int:
    """`current` or `max` of the pids controller."""
    return number(cgroup_file(pid, "pids", f"pids.{name}", f"pids.{name}").read_text())


def refused_forks(pid: int) -> int:
    """How often a fork ran into the pids limit."""
    return _keyed(cgroup_file(pid, "pids", "pids.events", "pids.events"), "max")


def disk_of(path: Path) -> str | None:
    """The whole disk (`/dev/…`) that a path's file system is on; None: on no block device."""
    device = path.stat().st_dev
    place = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    if not place.exists():
        return None
    place = place.resolve()
    if (place / "partition").exists():
        place = place.parent
    node = Path("/dev") / place.name.replace("!", "/")
    return str(node) if node.is_block_device() else None
