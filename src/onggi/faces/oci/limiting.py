"""`update` and `events`: limits of what runs, and what it has used."""

from __future__ import annotations

import time

from onggi.errors import FailedPrecondition, InvalidArgument, NotFound, SpecError
from onggi.faces.oci.arguments import SWITCH, VALUE, one_id
from onggi.faces.oci.looking import say
from onggi.kernel.cgroups.driver import Cgroup
from onggi.sandbox.oci.ending import cgroup_of
from onggi.sandbox.oci.records import Record, Store, status_of
from onggi.specs import jsontext
from onggi.specs.runtime import BlockIO, Cpu, Memory, Pids, Resources, parse_resources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from onggi.faces.oci.arguments import Arguments
    from onggi.faces.oci.main import Context

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_DURATIONS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_MAX_RESOURCES_BYTES = 1 << 20


def update(context: Context, arguments: Arguments) -> None:
    """Change limits; when one is refused, those before it are put back."""
    record = Store(context.root).read(one_id(arguments))
    if status_of(record) in ("stopped", "creating"):
        raise FailedPrecondition("cannot update a container that is not running")
    for name in ("l3-cache-schema", "mem-bw-schema"):
        if arguments.text(name):
            raise FailedPrecondition(f"--{name}: this version does not use resctrl")
    if path := arguments.text("resources"):
        resources = parse_resources(_read(path))
    else:
        resources = resources_of(arguments)
    cgroup = _own_cgroup(record)
    if record.systemd:
        from onggi.sandbox.oci.systemd import place  # noqa: PLC0415 - for its containers alone

        warnings = place.update(record, cgroup, resources)
    else:
        warnings, _ = cgroup.update(resources)
    for warning in warnings:
        context.log.warn(warning)


def resources_of(arguments: Arguments) -> Resources:
    """The resources that flags ask for.

    Raises:
        InvalidArgument: a value that cannot be read.
    """

    def number(name: str) -> int | None:
        return arguments.number(name) if arguments.text(name) else None

    def size(name: str) -> int | None:
        return size_bytes(name, arguments.text(name)) if arguments.text(name) else None

    return Resources(
        memory=Memory(
            limit=size("memory"),
            reservation=size("memory-reservation"),
            swap=size("memory-swap"),
        ),
        cpu=Cpu(
            shares=number("cpu-share"),
            quota=number("cpu-quota"),
            burst=number("cpu-burst"),
            period=number("cpu-period"),
            realtime_runtime=number("cpu-rt-runtime"),
            realtime_period=number("cpu-rt-period"),
            cpus=arguments.text("cpuset-cpus") or None,
            mems=arguments.text("cpuset-mems") or None,
            idle=number("cpu-idle"),
        ),
        pids=Pids(limit=number("pids-limit")) if arguments.text("pids-limit") else None,
        block_io=BlockIO(weight=number("blkio-weight")),
    )


def size_bytes(name: str, text: str) -> int:
    """`512m`, `1g`, `-1` as bytes.

    Raises:
        InvalidArgument: not a size.
    """
    digits = text.lower().removesuffix("ib").removesuffix("b") or text
    unit = digits[-1] if digits[-1:].isalpha() else ""
    try:
        value = float(digits.removesuffix(unit))
        return int(value * _UNITS[unit]) if value >= 0 else -1
    except (ValueError, KeyError, OverflowError):
        raise InvalidArgument(f"invalid value for {name}: {text!r}", hint="512m, 1g, -1") from None


def _read(path: str) -> bytes:
    with open(0 if path == "-" else path, "rb") as file:
        data = file.read(_MAX_RESOURCES_BYTES + 1)
    if len(data) > _MAX_RESOURCES_BYTES:
        raise SpecError("$", f"resources are longer than {_MAX_RESOURCES_BYTES} bytes")
    return data


def _own_cgroup(record: Record) -> Cgroup:
    if not record.cgroup:
        raise FailedPrecondition(f"container {record.id} has no cgroup")
    return cgroup_of(record)


def events(context: Context, arguments: Arguments) -> None:
    """Print what the container has used: once, or again and again until it has ended."""
    record = Store(context.root).read(one_id(arguments))
    if status_of(record) == "stopped":
        raise FailedPrecondition(f"container with id {record.id} is not running")
    cgroup = _own_cgroup(record)
    interval_s = seconds(arguments.text("interval", "5s"))
    if arguments.on("stats"):
        say(jsontext.text(event_of(record.id, cgroup)))
        return
    kills = _kills(cgroup)
    while status_of(record) != "stopped":
        try:
            say(jsontext.text(event_of(record.id, cgroup)))
            if _kills(cgroup) > kills:
                kills = _kills(cgroup)
                say(jsontext.text({"type": "oom", "id": record.id}))
        except NotFound:
            return  # it has ended, and its caller has deleted it
        time.sleep(interval_s)


def seconds(text: str) -> float:
    """`5s`, `500ms`, `1m` as seconds.

    Raises:
        InvalidArgument: not a duration above 0.
    """
    unit = next((unit for unit in _DURATIONS if text.endswith(unit)), "s")
    try:
        value = float(text.removesuffix(unit)) * _DURATIONS[unit]
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise InvalidArgument(f"{text!r} is not a duration", hint="write 5s, 500ms or 1m")
    return value


def _kills(cgroup: Cgroup) -> int:
    oom = cgroup.oom()
    return oom.kills if oom else 0


def event_of(container_id: str, cgroup: Cgroup) -> dict[str, Any]:
    """One reading in the form of runc's `events`."""
    stats = cgroup.stats()
    data: dict[str, Any] = {}
    if stats.cpu:
        data["cpu"] = {
            "usage": {
                "total": stats.cpu.usage_ns,
                "kernel": stats.cpu.system_ns,
                "user": stats.cpu.user_ns,
            },
            "throttling": {
                "periods": stats.cpu.periods,
                "throttledPeriods": stats.cpu.throttled_periods,
                "throttledTime": stats.cpu.throttled_ns,
            },
        }
    if stats.memory:
        usage = {"usage": stats.memory.usage_bytes, "failcnt": stats.memory.limit_hits}
        if stats.memory.limit_bytes is not None:
            usage["limit"] = stats.memory.limit_bytes
        if stats.memory.peak_bytes is not None:
            usage["max"] = stats.memory.peak_bytes
        data["memory"] = {
            "cache": stats.memory.cache_bytes,
            "usage": usage,
            "raw": {
                "rss": stats.memory.anon_bytes,
                "cache": stats.memory.cache_bytes,
                "inactive_file": stats.memory.inactive_file_bytes,
                "swap": stats.memory.swap_bytes,
            },
        }
    if stats.pids:
        data["pids"] = {"current": stats.pids.current, "limit": stats.pids.limit or 0}
    data["blkio"] = _blkio(stats.io or ())
    data["hugetlb"] = {
        h.page_size: {"usage": h.usage_bytes, "max": h.peak_bytes or 0, "failcnt": h.limit_hits}
        for h in stats.hugetlb
    }
    return {"type": "stats", "id": container_id, "data": data}


def _blkio(devices: Any) -> dict[str, Any]:
    rows: dict[str, list[dict[str, Any]]] = {
        "ioServiceBytesRecursive": [],
        "ioServicedRecursive": [],
    }
    for device in devices:
        for name, kind in (("ioServiceBytesRecursive", "bytes"), ("ioServicedRecursive", "ops")):
            rows[name] += [
                {
                    "major": device.major,
                    "minor": device.minor,
                    "op": op.capitalize(),
                    "value": getattr(device, f"{op}_{kind}"),
                }
                for op in ("read", "write")
            ]
    return rows


_LIMITS = (
    "blkio-weight", "cpu-period", "cpu-quota", "cpu-burst", "cpu-rt-period", "cpu-rt-runtime",
    "cpu-share", "cpuset-cpus", "cpuset-mems", "kernel-memory", "kernel-memory-tcp", "memory",
    "memory-reservation", "memory-swap", "pids-limit", "l3-cache-schema", "mem-bw-schema",
    "cpu-idle",
)  # fmt: skip

VERBS = {
    "update": ({"r resources": VALUE, **dict.fromkeys(_LIMITS, VALUE)}, update),
    "events": ({"interval": VALUE, "stats": SWITCH}, events),
}
