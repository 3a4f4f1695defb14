"""Block devices: weight, and limits of bytes and operations per second (blkio on v1, io on v2).

OCI weights are 10…1000. bfq takes them as they are (1…1000) on both versions; v2's own io.weight is
1…10000. A rate of 0 lifts a limit.
Source: Documentation/admin-guide/cgroup-v1/blkio-controller.rst, cgroup-v2.rst#io,
Documentation/block/bfq-iosched.rst, runtime-spec config-linux.md#block-io.
"""

from __future__ import annotations

from onggi.kernel.cgroups.rule import Change, Files, Lacking, Write
from onggi.kernel.cgroups.stats import IoStats
from onggi.specs.runtime import BlockIO, Resources, ThrottleDevice

_LEAF_WEIGHT = "a block io leaf weight is ignored: it went with the CFQ scheduler in Linux 5.0"


def v1(resources: Resources, files: Files) -> tuple[Change, ...]:
    """bfq's weight files unless this is a kernel old enough to have CFQ's."""
    io = resources.block_io
    if io is None:
        return ()
    prefix = "blkio" if files.read("blkio.weight") is not None else "blkio.bfq"
    changes: list[Change] = []
    if io.weight:
        changes.append(Write(f"{prefix}.weight", str(io.weight)))
    changes += [
        Write(f"{prefix}.weight_device", f"{device.major}:{device.minor} {device.weight}")
        for device in io.weight_device
        if device.weight
    ]
    for kind, devices in _throttles(io):
        file = f"blkio.throttle.{_V1_FILES[kind]}"
        changes += [Write(file, f"{d.major}:{d.minor} {d.rate}") for d in devices]
    return (*changes, *_leaf_weight(io))


def v2(resources: Resources, files: Files) -> tuple[Change, ...]:
    """`io.bfq.weight` when the kernel has it, else `io.weight`; `io.max`."""
    io = resources.block_io
    if io is None:
        return ()
    bfq = files.read("io.bfq.weight") is not None
    file = "io.bfq.weight" if bfq else "io.weight"
    changes: list[Change] = []
    if io.weight:
        changes.append(Write(file, str(io.weight if bfq else io_weight(io.weight))))
    changes += [
        Write(
            file,
            f"{device.major}:{device.minor} {device.weight if bfq else io_weight(device.weight)}",
        )
        for device in io.weight_device
        if device.weight
    ]
    for kind, devices in _throttles(io):
        changes += [
            Write("io.max", f"{device.major}:{device.minor} {kind}={device.rate or 'max'}")
            for device in devices
        ]
    return (*changes, *_leaf_weight(io))


def io_weight(weight: int) -> int:
    """OCI's 10…1000 on io.weight's 1…10000, linearly.

    Source: runc, crun (crun.1.md "cgroup v2 io controller").
    """
    return 1 + (max(weight, 10) - 10) * 9999 // 990


def stats_v1(files: Files) -> tuple[IoStats, ...] | None:
    """The throttle layer's counters, which do not depend on the device's scheduler.

    Since Linux 6.9 it sleeps, for each disk, until any cgroup has set a rate for that disk: before,
    nothing is counted and the disk is missing here.
    """
    moved = files.read("blkio.throttle.io_service_bytes_recursive")
    if moved is None:
        return None
    table: dict[str, dict[str, int]] = {}
    for text, suffix in (
        (moved, "bytes"),
        (files.read("blkio.throttle.io_serviced_recursive"), "ops"),
    ):
        for line in (text or "").splitlines():
            fields = line.split()
            if len(fields) == 3 and fields[1] in ("Read", "Write"):
                name = f"{fields[1].lower()}_{suffix}"
                table.setdefault(fields[0], {})[name] = int(fields[2])
    return tuple(_device(device, counters) for device, counters in table.items())


def stats_v2(files: Files) -> tuple[IoStats, ...] | None:
    text = files.read("io.stat")
    if text is None:
        return None
    rows = []
    for line in text.splitlines():
        device, *pairs = line.split()
        values = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        names = {_V2_COUNTERS[key]: int(v) for key, v in values.items() if key in _V2_COUNTERS}
        if names:
            rows.append(_device(device, names))
    return tuple(rows)


_V1_FILES = {
    "rbps": "read_bps_device",
    "wbps": "write_bps_device",
    "riops": "read_iops_device",
    "wiops": "write_iops_device",
}
_V2_COUNTERS = {
    "rbytes": "read_bytes",
    "wbytes": "write_bytes",
    "rios": "read_ops",
    "wios": "write_ops",
}


def _throttles(io: BlockIO) -> tuple[tuple[str, tuple[ThrottleDevice, ...]], ...]:
    return (
        ("rbps", io.throttle_read_bps_device),
        ("wbps", io.throttle_write_bps_device),
        ("riops", io.throttle_read_iops_device),
        ("wiops", io.throttle_write_iops_device),
    )


def _leaf_weight(io: BlockIO) -> tuple[Change, ...]:
    asked = io.leaf_weight or any(device.leaf_weight for device in io.weight_device)
    return (Lacking(_LEAF_WEIGHT),) if asked else ()


def _device(device: str, counters: dict[str, int]) -> IoStats:
    major, _, minor = device.partition(":")
    return IoStats(int(major), int(minor), **counters)
