"""From docker's limits to the specification's."""

from __future__ import annotations

from typing import Any

import pytest

from onggi.engine.api.spec import ContainerSpec, ResourceSpec, Throttle
from onggi.engine.defaults import PIDS_LIMIT
from onggi.engine.resources import check_host, compose_resources
from onggi.errors import InvalidArgument
from onggi.specs.runtime import Cpu, Memory, Resources

MIB = 1 << 20


def limits(**fields: Any) -> Resources:
    spec = ContainerSpec(image="i", resources=ResourceSpec(**fields))
    return compose_resources(spec, (), {"/dev/vda": (254, 0)}, {})


def test_without_limits_only_processes_and_devices_are_limited() -> None:
    plain = limits()
    assert (plain.memory, plain.cpu, plain.block_io) == (None, None, None)
    assert plain.pids is not None
    assert plain.pids.limit == PIDS_LIMIT
    assert plain.devices[0].allow is False
    assert plain.devices[0].access == "rwm"


@pytest.mark.parametrize(("asked", "expected"), [
    ({"memory_bytes": 64 * MIB}, Memory(limit=64 * MIB, swap=128 * MIB)),
    ({"memory_bytes": 64 * MIB, "memory_swap_bytes": 64 * MIB},
     Memory(limit=64 * MIB, swap=64 * MIB)),
    ({"memory_bytes": 64 * MIB, "memory_swap_bytes": -1}, Memory(limit=64 * MIB, swap=-1)),
    ({"memory_reservation_bytes": MIB}, Memory(reservation=MIB)),
    ({"memory_swappiness": 0}, Memory(swappiness=0)),
])  # fmt: skip
def test_memory(asked: dict[str, Any], expected: Memory) -> None:
    memory = limits(**asked).memory
    assert memory is not None
    for field in ("limit", "swap", "reservation", "swappiness"):
        assert getattr(memory, field) == getattr(expected, field)


@pytest.mark.parametrize(("asked", "expected"), [
    ({"nano_cpus": 1_500_000_000}, Cpu(quota=150_000, period=100_000)),
    ({"nano_cpus": 10_000_000}, Cpu(quota=1_000, period=100_000)),
    ({"cpu_quota_us": 5000, "cpu_period_us": 20_000}, Cpu(quota=5000, period=20_000)),
    ({"cpu_shares": 512}, Cpu(shares=512)),
    ({"cpuset_cpus": "0-1", "cpuset_mems": "0"}, Cpu(cpus="0-1", mems="0")),
])  # fmt: skip
def test_cpu(asked: dict[str, Any], expected: Cpu) -> None:
    assert limits(**asked).cpu == expected


def test_disks() -> None:
    asked = {"device_read_bps": (Throttle("/dev/vda", MIB),), "blkio_weight": 300}
    block_io = limits(**asked).block_io
    assert block_io is not None
    assert block_io.weight == 300
    (throttle,) = block_io.throttle_read_bps_device
    assert (throttle.major, throttle.minor, throttle.rate) == (254, 0, MIB)


@pytest.mark.parametrize(
    ("pids", "expected"), [(None, PIDS_LIMIT), (0, PIDS_LIMIT), (5, 5), (-1, -1)]
)
def test_processes(pids: int | None, expected: int) -> None:
    found = limits(pids_limit=pids).pids
    assert found is not None
    assert found.limit == expected


@pytest.mark.parametrize(("asked", "said"), [
    ({"memory_bytes": MIB}, "--memory 1048576 is less than 6291456 bytes"),
    ({"memory_swap_bytes": MIB}, "--memory-swap needs --memory"),
    ({"memory_bytes": 64 * MIB, "memory_swap_bytes": MIB}, "--memory-swap is memory plus swap"),
    ({"memory_bytes": 64 * MIB, "memory_reservation_bytes": 65 * MIB}, "--memory-reservation"),
    ({"nano_cpus": 10**9, "cpu_quota_us": 1000}, "exclude each other"),
    ({"nano_cpus": 9_999_999}, "--cpus is too small"),
    ({"blkio_weight": 5}, "--blkio-weight 5 is not between 10 and 1000"),
])  # fmt: skip
def test_what_cannot_be(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        limits(**asked)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"cpu_quota_us": 500}, "--cpu-quota 500 is below 1000 — microseconds in each"),
        ({"cpu_quota_us": 5000, "cpu_period_us": 999}, "--cpu-period 999 is not between"),
        ({"cpu_period_us": 1_000_001}, "--cpu-period 1000001 is not between"),
    ],
)
def test_shares_that_the_kernel_does_not_take(asked: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidArgument) as found:
        limits(**asked)
    assert why in str(found.value)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"nano_cpus": 4_000_000_001}, "--cpus 4 is more than this host has: 4"),
        ({"nano_cpus": 1000 * 10**9}, "--cpus 1000 is more than this host has: 4"),
        ({"cpuset_cpus": "0-4"}, "--cpuset-cpus 0-4: this host has no 3 — it has 0-2,6"),
        ({"cpuset_cpus": "2,99999999999-999999999999"}, "has no 99999999999"),
        ({"cpuset_cpus": "zero"}, "--cpuset-cpus 'zero' is not a list"),
        ({"cpuset_mems": "1"}, "--cpuset-mems 1: this host has no 1 — it has 0"),
    ],
)
def test_what_the_host_does_not_have(asked: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidArgument) as found:
        check_host(ResourceSpec(**asked), "0-2,6", "0")
    assert why in str(found.value)


@pytest.mark.parametrize(
    "asked", [{}, {"nano_cpus": 4 * 10**9}, {"cpuset_cpus": "0-2,6", "cpuset_mems": "0"}]
)
def test_what_the_host_has(asked: dict[str, Any]) -> None:
    check_host(ResourceSpec(**asked), "0-2,6", "0")
