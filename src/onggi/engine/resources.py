"""From docker's limits to the runtime specification's resources: a pure function.

Source: docker-run(1), runtime-spec config-linux.md#control-groups.
"""

from __future__ import annotations

from onggi.engine import defaults
from onggi.engine.api.spec import ContainerSpec, ResourceSpec, Throttle
from onggi.errors import InvalidArgument
from onggi.specs.runtime import (
    BlockIO,
    Cpu,
    Device,
    DeviceRule,
    Memory,
    Pids,
    Resources,
    ThrottleDevice,
)

MINIMUM_MEMORY_BYTES = 6 * 1024 * 1024
CPU_PERIOD_US = 100_000
#: What the kernel takes. Source: Documentation/scheduler/sched-bwc.rst.
LEAST_US, MOST_US = 1_000, 1_000_000
NANO = 1_000_000_000


def compose_resources(
    spec: ContainerSpec,
    devices: tuple[Device, ...],
    numbers: dict[str, tuple[int, int]],
    access: dict[str, str],
) -> Resources:
    """Limits as the specification has them. `numbers`: device path → (major, minor); `access`:
    path in the container → what may be done with the device, `rwm` where nothing is said.

    Raises:
        InvalidArgument: a limit below what works, or limits that contradict each other.
    """
    limits = spec.resources
    rules = defaults.ALL_DEVICES if spec.privileged else _device_rules(devices, access)
    return Resources(
        devices=rules,
        memory=_memory(limits),
        cpu=_cpu(limits),
        pids=Pids(limit=limits.pids_limit or defaults.PIDS_LIMIT),
        block_io=_block_io(limits, numbers),
    )


def check_host(limits: ResourceSpec, cpus: str, nodes: str) -> None:
    """Whether the host has what is asked for. `cpus`, `nodes`: the lists of those that it has.

    Raises:
        InvalidArgument: more CPUs than that, or one that is not there; a list that is none.
    """
    count = sum(map(len, _ranges("cpus", cpus)))
    if limits.nano_cpus > count * NANO:
        raise InvalidArgument(
            f"--cpus {limits.nano_cpus / NANO:g} is more than this host has: {count}",
            hint="leave it out for no limit",
        )
    for option, wanted, there in (
        ("--cpuset-cpus", limits.cpuset_cpus, cpus),
        ("--cpuset-mems", limits.cpuset_mems, nodes),
    ):
        known = _ranges(option, there)
        for asked in _ranges(option, wanted):
            # Stops at the first that is not there, however long the range is said to be.
            missing = next((n for n in asked if not any(n in one for one in known)), None)
            if missing is not None:
                raise InvalidArgument(
                    f"{option} {wanted}: this host has no {missing}", hint=f"it has {there}"
                )


def _ranges(option: str, text: str) -> tuple[range, ...]:
    """`0-2,5` as ranges."""
    found = []
    for part in text.split(",") if text else ():
        low, dash, high = part.partition("-")
        if not (low.isascii() and low.isdigit()) or (dash and not high.isdigit()):
            raise InvalidArgument(f"{option} {text[:80]!r} is not a list such as 0-2,5")
        found.append(range(int(low), int(high or low) + 1))
    return tuple(found)


def _device_rules(devices: tuple[Device, ...], access: dict[str, str]) -> tuple[DeviceRule, ...]:
    extra = tuple(
        DeviceRule(
            allow=True,
            type=device.type,
            major=device.major,
            minor=device.minor,
            access=access.get(device.path, "rwm"),
        )
        for device in devices
    )
    return defaults.DEVICE_RULES + extra


def _memory(limits: ResourceSpec) -> Memory | None:
    limit, swap = limits.memory_bytes, limits.memory_swap_bytes
    if limit and limit < MINIMUM_MEMORY_BYTES:
        raise InvalidArgument(
            f"--memory {limit} is less than {MINIMUM_MEMORY_BYTES} bytes (6m)",
            hint="no process starts below that",
        )
    if swap and not limit:
        raise InvalidArgument("--memory-swap needs --memory", hint="set --memory too")
    if swap > 0 and swap < limit:
        raise InvalidArgument(
            f"--memory-swap {swap} is less than --memory {limit}",
            hint="--memory-swap is memory plus swap",
        )
    if limits.memory_reservation_bytes > limit > 0:
        raise InvalidArgument("--memory-reservation is more than --memory")
    if not (limit or limits.memory_reservation_bytes or limits.oom_kill_disable) and (
        limits.memory_swappiness is None
    ):
        return None
    return Memory(
        limit=limit or None,
        # docker's default: as much swap again as memory.
        swap=(swap or 2 * limit) if limit else None,
        reservation=limits.memory_reservation_bytes or None,
        swappiness=limits.memory_swappiness,
        disable_oom_killer=limits.oom_kill_disable,
    )


def _cpu(limits: ResourceSpec) -> Cpu | None:
    if limits.nano_cpus and (limits.cpu_quota_us or limits.cpu_period_us):
        raise InvalidArgument("--cpus and --cpu-quota/--cpu-period exclude each other")
    quota, period = limits.cpu_quota_us or None, limits.cpu_period_us or None
    if limits.nano_cpus:
        period = CPU_PERIOD_US
        quota = limits.nano_cpus * period // NANO
        if quota < 1000:
            raise InvalidArgument("--cpus is too small", hint="the smallest share is 0.01")
    if quota is not None and 0 <= quota < LEAST_US:
        raise InvalidArgument(
            f"--cpu-quota {quota} is below {LEAST_US}",
            hint="microseconds in each --cpu-period, 100000 of them unless it says otherwise",
        )
    if period is not None and not LEAST_US <= period <= MOST_US:
        raise InvalidArgument(f"--cpu-period {period} is not between {LEAST_US} and {MOST_US}")
    cpu = Cpu(
        shares=limits.cpu_shares or None,
        quota=quota,
        period=period,
        cpus=limits.cpuset_cpus or None,
        mems=limits.cpuset_mems or None,
    )
    return cpu if cpu != Cpu() else None


def _block_io(limits: ResourceSpec, numbers: dict[str, tuple[int, int]]) -> BlockIO | None:
    def throttles(entries: tuple[Throttle, ...]) -> tuple[ThrottleDevice, ...]:
        return tuple(
            ThrottleDevice(
                major=numbers[entry.path][0], minor=numbers[entry.path][1], rate=entry.rate
            )
            for entry in entries
        )

    if limits.blkio_weight and not 10 <= limits.blkio_weight <= 1000:
        raise InvalidArgument(f"--blkio-weight {limits.blkio_weight} is not between 10 and 1000")
    block_io = BlockIO(
        weight=limits.blkio_weight or None,
        throttle_read_bps_device=throttles(limits.device_read_bps),
        throttle_write_bps_device=throttles(limits.device_write_bps),
        throttle_read_iops_device=throttles(limits.device_read_iops),
        throttle_write_iops_device=throttles(limits.device_write_iops),
    )
    return block_io if block_io != BlockIO() else None
