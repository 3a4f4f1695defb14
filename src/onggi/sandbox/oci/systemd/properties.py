"""`linux.resources` as properties of a unit, so that systemd has the limits that it puts in force.

Pure. What systemd has no property for is left out: it is written into the cgroup itself, as all the
rest is once more, exactly. Values are runc's.
Source: systemd.resource-control(5), org.freedesktop.systemd1(5); opencontainers/cgroups systemd/.
"""

from __future__ import annotations

from onggi.errors import InvalidArgument
from onggi.kernel.cgroups.cpu import weight_of_shares
from onggi.kernel.cgroups.devices import allowed
from onggi.kernel.cgroups.io import io_weight
from onggi.kernel.cgroups.memory import swap_alone
from onggi.specs.runtime import BlockIO, Cpu, DeviceRule, Memory, Resources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    #: Name → (D-Bus signature, value).
    Properties = dict[str, tuple[str, Any]]

INFINITY = (1 << 64) - 1
_SECOND_US = 1_000_000
_PERIOD_US = 100_000
#: systemd keeps the quota in percent of a CPU; rounded up, so that cgroups below may have theirs.
_PERCENT_US = 10_000
_MAX_CPU = 1 << 16
_IDLE_SINCE = 252


def scope_properties(description: str, slice_: str, pid: int, *, unified: bool) -> Properties:
    """What makes a scope a container's: delegated, counted, and with `pid` in it.

    It goes when it is empty, however that came about, and waits for nothing at shutdown.
    """
    io = "IOAccounting" if unified else "BlockIOAccounting"
    return {
        "Description": ("s", description),
        "Slice": ("s", slice_),
        "Delegate": ("b", True),
        "DefaultDependencies": ("b", False),
        "CollectMode": ("s", "inactive-or-failed"),
        "PIDs": ("au", [pid]),
        **dict.fromkeys(("MemoryAccounting", "CPUAccounting", "TasksAccounting", io), ("b", True)),
    }


def limits_of(resources: Resources, *, unified: bool, version: int) -> Properties:
    """The limits that systemd knows. `unified`: on cgroup v2; `version`: systemd's.

    Raises:
        InvalidArgument: a value that cannot be read.
    """
    found = dict(_v2(resources, version) if unified else _v1(resources))
    cpu = resources.cpu or Cpu()
    found |= _quota(cpu.quota or 0, cpu.period or 0)
    if resources.pids is not None and resources.pids.limit is not None:
        found["TasksMax"] = ("t", _maximum(resources.pids.limit or 1))
    if unified:
        found |= _of_files(resources.unified, version)
    return found


def _v1(resources: Resources) -> Iterator[tuple[str, tuple[str, Any]]]:
    memory, cpu = resources.memory or Memory(), resources.cpu or Cpu()
    io = resources.block_io or BlockIO()
    for name, value in (
        ("MemoryLimit", memory.limit),
        ("CPUShares", cpu.shares),
        ("BlockIOWeight", io.weight),
    ):
        if value:
            yield name, ("t", _maximum(value))


def _v2(resources: Resources, version: int) -> Iterator[tuple[str, tuple[str, Any]]]:
    memory, cpu = resources.memory or Memory(), resources.cpu or Cpu()
    swap = swap_alone(memory)
    for name, value in (("MemoryMax", memory.limit), ("MemoryLow", memory.reservation)):
        if value:
            yield name, ("t", _maximum(value))
    if swap is not None:
        yield "MemorySwapMax", ("t", _maximum(swap))
    if cpu.idle == 1 and version >= _IDLE_SINCE:
        yield "CPUWeight", ("t", 0)  # which is how systemd spells cpu.idle
    elif cpu.shares:
        yield "CPUWeight", ("t", weight_of_shares(cpu.shares))
    if resources.block_io and resources.block_io.weight:
        yield "IOWeight", ("t", io_weight(resources.block_io.weight))
    for name, text in (("AllowedCPUs", cpu.cpus), ("AllowedMemoryNodes", cpu.mems)):
        if text:
            yield name, ("ay", bits_of(text))


def devices_of(rules: tuple[DeviceRule, ...], names: dict[tuple[str, int], str]) -> Properties:
    """Which devices systemd allows when it puts its own list in force again, on cgroup v1.

    `names`: (type, major) → the name that `/proc/devices` has. A rule that systemd has no words
    for is left out: less is allowed then.
    """
    found = allowed(rules)
    if found is None:
        return {}
    entries = []
    for type_, major, minor, access in found:
        kind = {"b": "block", "c": "char"}[type_]
        if major is None and minor is None:
            entries.append((f"{kind}-*", access))
        elif minor is not None and major is not None:
            entries.append((f"/dev/{kind}/{major}:{minor}", access))
        elif major is not None and (type_, major) in names:
            entries.append((f"{kind}-{names[type_, major]}", access))
    return {"DevicePolicy": ("s", "strict"), "DeviceAllow": ("a(ss)", entries)}


def device_names(text: str) -> dict[tuple[str, int], str]:
    """`/proc/devices` as (type, major) → name. Source: proc_devices(5)."""
    names, type_ = {}, ""
    for line in text.splitlines():
        words = line.split()
        if line.endswith(":"):
            type_ = line[0].lower()
        elif len(words) == 2:
            names[type_, int(words[0])] = words[1]
    return names


def _quota(quota: int, period: int) -> Properties:
    """The quota as CPU time for each second; a negative one is none."""
    found: Properties = {}
    if period:
        found["CPUQuotaPeriodUSec"] = ("t", period)
    if quota or period:
        per_second = quota * _SECOND_US // (period or _PERIOD_US)
        rounded = -(-per_second // _PERCENT_US) * _PERCENT_US
        found["CPUQuotaPerSecUSec"] = ("t", rounded if quota > 0 else INFINITY)
    return found


def bits_of(text: str) -> bytes:
    """`0-3,8` as a bit mask, the lowest byte first.

    Raises:
        InvalidArgument: not a list.
    """
    mask = 0
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        try:
            low, high = int(first), int(last if dash else first)
        except ValueError:
            low, high = 0, -1
        if not 0 <= low <= high < _MAX_CPU:
            raise InvalidArgument(f"{text[:80]!r} is not a list of cpus or nodes", hint="0-3,8")
        mask |= (1 << (high + 1)) - (1 << low)
    return mask.to_bytes((mask.bit_length() + 7) // 8, "little")


def _of_files(files: dict[str, str], version: int) -> Properties:
    """`linux.resources.unified`: those files that systemd would write again with what it knows."""
    found: Properties = {}
    for file, text in files.items():
        words = text.split() or [""]
        if file in _LIMITS:
            found[_LIMITS[file]] = ("t", _number(file, words[0]))
        elif file in _LISTS and text.strip():
            found[_LISTS[file]] = ("ay", bits_of(text))
        elif file == "cpu.max":
            quota = -1 if words[0] == "max" else _number(file, words[0])
            found |= _quota(quota, _number(file, words[1]) if len(words) > 1 else _PERIOD_US)
        elif file == "cpu.weight" and files.get("cpu.idle", "").strip() != "1":
            found["CPUWeight"] = ("t", _number(file, words[0]))
        elif file == "cpu.idle" and words[0] == "1" and version >= _IDLE_SINCE:
            found["CPUWeight"] = ("t", 0)
    return found


_LIMITS = {
    "memory.high": "MemoryHigh",
    "memory.low": "MemoryLow",
    "memory.max": "MemoryMax",
    "memory.min": "MemoryMin",
    "memory.swap.max": "MemorySwapMax",
    "pids.max": "TasksMax",
}
_LISTS = {"cpuset.cpus": "AllowedCPUs", "cpuset.mems": "AllowedMemoryNodes"}


def _number(file: str, text: str) -> int:
    if text == "max":
        return INFINITY
    if not (text.isascii() and text.isdecimal()) or int(text) > INFINITY:
        raise InvalidArgument(f"unified resource {file!r}: {text[:80]!r} is not a number")
    return int(text)


def _maximum(value: int) -> int:
    return INFINITY if value < 0 else value
