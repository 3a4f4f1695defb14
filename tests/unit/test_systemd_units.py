"""What a configuration says → a unit's name, its cgroup, its properties. Values are runc's."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onggi.errors import InvalidArgument, SpecError
from onggi.kernel.cgroups.devices import ALWAYS_ALLOWED
from onggi.kernel.cgroups.making import checked_path
from onggi.sandbox.oci.systemd.annotations import ALLOWED, properties_of
from onggi.sandbox.oci.systemd.properties import (
    INFINITY,
    bits_of,
    device_names,
    devices_of,
    limits_of,
    scope_properties,
)
from onggi.sandbox.oci.systemd.units import named, slices_to, unit_of
from onggi.specs.runtime import BlockIO, Cpu, DeviceRule, Memory, Pids, Resources


@pytest.mark.parametrize(
    ("path", "user", "name", "cgroup"),
    [
        # podman's, docker's, the kubelet's, with and without parts, a user's
        (
            "machine.slice:libpod:4f2a",
            False,
            "libpod-4f2a.scope",
            "machine.slice/libpod-4f2a.scope",
        ),
        ("system.slice:docker:4f2a", False, "docker-4f2a.scope", "system.slice/docker-4f2a.scope"),
        (
            "kubepods-burstable-pod1.slice:cri-containerd:4f2a",
            False,
            "cri-containerd-4f2a.scope",
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice"
            "/cri-containerd-4f2a.scope",
        ),
        (":docker:4f2a", False, "docker-4f2a.scope", "system.slice/docker-4f2a.scope"),
        (":libpod:4f2a", True, "libpod-4f2a.scope", "user.slice/libpod-4f2a.scope"),
        ("a.slice::4f2a", False, "-4f2a.scope", "a.slice/-4f2a.scope"),
        ("-.slice:a:b", False, "a-b.scope", "a-b.scope"),
        ("", False, "onggi-the+id.scope".replace("+", "\\x2b"), None),
        (None, True, "onggi-the\\x2bid.scope", "user.slice/onggi-the\\x2bid.scope"),
        # systemd's cg_escape
        ("cpu.slice:_a:b", False, "_a-b.scope", "_cpu.slice/__a-b.scope"),
        ("a.slice:cgroup.a:b", False, "cgroup.a-b.scope", "a.slice/_cgroup.a-b.scope"),
    ],
)
def test_a_path_is_a_scope_in_its_slices(
    path: str | None, user: bool, name: str, cgroup: str | None
) -> None:
    unit = unit_of(path, "the+id", user=user)
    assert unit.name == name
    assert cgroup is None or unit.path == cgroup
    again = named(str(unit))
    assert (again.name, again.user) == (unit.name, user)


@pytest.mark.parametrize(
    "path",
    [
        "/a/b", "a.slice", "a.slice:b", "a.slice:b:c:d", "a.slice:b:", "a:b:c", "a.scope:b:c",
        ".slice:b:c", "a--b.slice:c:d", "-a.slice:b:c", "a-.slice:b:c", "a/b.slice:c:d",
        "../a.slice:b:c", "a.slice:b:../../c", "a.slice:b/c:d", "a.slice:b:c d", "a.slice:b:c\n",
        "a.slice:b:c\0", "a.slice:b:ä", "a.slice:b:c@d", "a.slice:b:%i", "a.slice:b:c.slice",
        "a.slice:b:" + "c" * 250, "a" * 250 + ".slice:b:c", "a.slice:b:$c",
    ],
)  # fmt: skip
def test_what_is_no_plain_unit_name_is_refused(path: str) -> None:
    with pytest.raises(SpecError, match=r"\$\.linux\.cgroupsPath"):
        unit_of(path, "id", user=False)


@given(st.text(), st.booleans())
def test_whatever_the_path_says_the_cgroup_stays_below(path: str, user: bool) -> None:
    try:
        unit = unit_of(path, "id", user=user)
    except SpecError as error:
        assert str(error).isprintable()
        return
    assert checked_path(unit.path).isprintable()
    assert unit.name.endswith(".scope")


def test_slices_are_in_one_another() -> None:
    assert slices_to("test-a-b.slice") == ("test.slice", "test-a.slice", "test-a-b.slice")
    assert slices_to("-.slice") == ()


def test_the_properties_of_a_scope() -> None:
    found = scope_properties("what it is", "a.slice", 42, unified=True)
    assert found == {
        "Description": ("s", "what it is"),
        "Slice": ("s", "a.slice"),
        "Delegate": ("b", True),
        "DefaultDependencies": ("b", False),
        "CollectMode": ("s", "inactive-or-failed"),
        "PIDs": ("au", [42]),
        "MemoryAccounting": ("b", True),
        "CPUAccounting": ("b", True),
        "TasksAccounting": ("b", True),
        "IOAccounting": ("b", True),
    }
    assert "BlockIOAccounting" in scope_properties("", "a.slice", 42, unified=False)


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        (Resources(), {}),
        (Resources(memory=Memory(limit=1 << 26)), {"MemoryMax": 1 << 26}),
        (Resources(memory=Memory(limit=-1)), {"MemoryMax": INFINITY, "MemorySwapMax": INFINITY}),
        (Resources(memory=Memory(reservation=4096)), {"MemoryLow": 4096}),
        (
            Resources(memory=Memory(limit=1 << 26, swap=1 << 27)),
            {"MemoryMax": 1 << 26, "MemorySwapMax": 1 << 26},
        ),
        (
            Resources(memory=Memory(limit=1 << 26, swap=-1)),
            {"MemoryMax": 1 << 26, "MemorySwapMax": INFINITY},
        ),
        (Resources(cpu=Cpu(shares=1024)), {"CPUWeight": 100}),
        (Resources(cpu=Cpu(shares=2)), {"CPUWeight": 1}),
        (Resources(cpu=Cpu(shares=262_144)), {"CPUWeight": 10_000}),
        (Resources(cpu=Cpu(idle=1, shares=1024)), {"CPUWeight": 0}),
        (Resources(cpu=Cpu(idle=0)), {}),
        # a second of a CPU, in steps of 10 ms, upwards
        (
            Resources(cpu=Cpu(quota=200_000, period=100_000)),
            {"CPUQuotaPeriodUSec": 100_000, "CPUQuotaPerSecUSec": 2_000_000},
        ),
        (
            Resources(cpu=Cpu(quota=8_888, period=80_000)),
            {"CPUQuotaPeriodUSec": 80_000, "CPUQuotaPerSecUSec": 120_000},
        ),
        (Resources(cpu=Cpu(quota=25_000)), {"CPUQuotaPerSecUSec": 250_000}),
        (
            Resources(cpu=Cpu(quota=-1, period=100_000)),
            {"CPUQuotaPeriodUSec": 100_000, "CPUQuotaPerSecUSec": INFINITY},
        ),
        (
            Resources(cpu=Cpu(period=1000)),
            {"CPUQuotaPeriodUSec": 1000, "CPUQuotaPerSecUSec": INFINITY},
        ),
        (Resources(pids=Pids(limit=64)), {"TasksMax": 64}),
        (Resources(pids=Pids(limit=-1)), {"TasksMax": INFINITY}),
        (Resources(cpu=Cpu(cpus="0-3,8", mems="0")), {"AllowedCPUs": b"\x0f\x01",
                                                     "AllowedMemoryNodes": b"\x01"}),
        (Resources(block_io=BlockIO(weight=10)), {"IOWeight": 1}),
        (Resources(block_io=BlockIO(weight=1000)), {"IOWeight": 10_000}),
        (
            Resources(
                unified={
                    "memory.high": "1048576", "memory.max": "max", "memory.min": "1",
                    "memory.low": "2", "memory.swap.max": "0", "pids.max": "7",
                    "cpuset.cpus": "1", "cpu.weight": "500", "io.max": "8:0 rbps=1",
                }
            ),
            {
                "MemoryHigh": 1_048_576, "MemoryMax": INFINITY, "MemoryMin": 1, "MemoryLow": 2,
                "MemorySwapMax": 0, "TasksMax": 7, "AllowedCPUs": b"\x02", "CPUWeight": 500,
            },
        ),
        (
            Resources(unified={"cpu.max": "200000 50000"}),
            {"CPUQuotaPeriodUSec": 50_000, "CPUQuotaPerSecUSec": 4_000_000},
        ),
        (
            Resources(unified={"cpu.max": "max"}),
            {"CPUQuotaPeriodUSec": 100_000, "CPUQuotaPerSecUSec": INFINITY},
        ),
        (Resources(unified={"cpu.idle": "1", "cpu.weight": "100"}), {"CPUWeight": 0}),
    ],
)  # fmt: skip
def test_limits_on_cgroup_v2(resources: Resources, expected: dict[str, Any]) -> None:
    found = limits_of(resources, unified=True, version=252)
    assert {name: value for name, (_, value) in found.items()} == expected
    assert all(signature == ("ay" if "Allowed" in name else "t")
               for name, (signature, _) in found.items())  # fmt: skip


def test_a_systemd_that_does_not_know_idle_is_told_of_the_weight() -> None:
    found = limits_of(Resources(cpu=Cpu(idle=1, shares=1024)), unified=True, version=251)
    assert found == {"CPUWeight": ("t", 100)}


def test_devices_on_cgroup_v1() -> None:
    names = device_names(
        "Character devices:\n  1 mem\n136 pts\n\nBlock devices:\n  8 sd\n259 blkext\n"
    )
    rules = (
        DeviceRule(allow=False),
        DeviceRule(allow=True, type="c", major=10, minor=200, access="rw"),
        DeviceRule(allow=True, type="b", major=8, access="r"),
        DeviceRule(allow=True, type="c", minor=7, access="r"),  # systemd has no words for it
        DeviceRule(allow=True, type="c", major=77, access="r"),  # nor for a driver without a name
        *ALWAYS_ALLOWED,
    )
    found = devices_of(rules, names)
    assert found["DevicePolicy"] == ("s", "strict")
    assert found["DeviceAllow"] == (
        "a(ss)",
        [
            ("/dev/char/10:200", "rw"),
            ("block-sd", "r"),
            ("char-*", "m"),
            ("block-*", "m"),
            *((f"/dev/char/{number}", "rwm") for number in
              ("1:3", "1:5", "1:7", "1:8", "1:9", "5:0", "5:2")),
            ("char-pts", "rwm"),
        ],
    )  # fmt: skip
    assert devices_of((DeviceRule(allow=True),), names) == {}


def test_limits_on_cgroup_v1() -> None:
    resources = Resources(
        memory=Memory(limit=1 << 26, swap=1 << 27, reservation=4096),
        cpu=Cpu(shares=512, quota=50_000, period=100_000, cpus="0"),
        pids=Pids(limit=0),
        block_io=BlockIO(weight=500),
        unified={"memory.high": "1"},
    )
    found = limits_of(resources, unified=False, version=252)
    assert found == {
        "MemoryLimit": ("t", 1 << 26),
        "CPUShares": ("t", 512),
        "BlockIOWeight": ("t", 500),
        "CPUQuotaPeriodUSec": ("t", 100_000),
        "CPUQuotaPerSecUSec": ("t", 500_000),
        "TasksMax": ("t", 1),
    }


@pytest.mark.parametrize(
    ("text", "mask"),
    # opencontainers/cgroups systemd/cpuset_test.go
    [
        ("4,5", b"\x30"), ("0-7", b"\xff"), ("4-7", b"\xf0"), ("0-15", b"\xff\xff"),
        ("16", b"\x00\x00\x01"), ("0,2,4,6,8", b"\x55\x01"), ("4, 5", b"\x30"),
    ],
)  # fmt: skip
def test_lists_of_cpus_are_masks(text: str, mask: bytes) -> None:
    assert bits_of(text) == mask


@pytest.mark.parametrize("text", ["", "-", "a", "1-", "3-1", "-1", "0-99999999999999", "1,,2"])
def test_what_is_no_list_of_cpus(text: str) -> None:
    with pytest.raises(InvalidArgument):
        bits_of(text)


@pytest.mark.parametrize("text", ["-1", "x", "1e3", "99999999999999999999", "²"])
def test_a_limit_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        limits_of(Resources(unified={"memory.high": text}), unified=True, version=252)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("TimeoutStopUSec", "uint64 123456", {"TimeoutStopUSec": ("t", 123_456)}),
        ("TimeoutStopSec", "1.5", {"TimeoutStopUSec": ("t", 1_500_000)}),
        ("TimeoutStopSec", "uint64 2", {"TimeoutStopUSec": ("t", 2_000_000)}),
        ("CollectMode", "'inactive'", {"CollectMode": ("s", "inactive")}),
        ("DefaultDependencies", "true", {"DefaultDependencies": ("b", True)}),
        (
            "After",
            "['crio.service', 'b.service']",
            {"After": ("as", ["crio.service", "b.service"])},
        ),
        ("After", "@as []", {"After": ("as", [])}),
        ("KillSignal", "int32 37", {"KillSignal": ("i", 37)}),
    ],
)
def test_annotations_are_properties(name: str, text: str, expected: dict[str, Any]) -> None:
    found = properties_of({"other": "x", f"org.systemd.property.{name}": text})
    assert found == expected


@pytest.mark.parametrize(
    "name",
    [
        "", "Slice", "PIDs", "Delegate", "Requires", "Wants", "BindsTo", "Conflicts", "OnFailure",
        "SuccessAction", "FailureAction", "DeviceAllow", "DevicePolicy", "BPFProgram", "Controller",
        "JoinsNamespaceOf", "PropagatesStopTo", "Upholds", "MemoryMax", "Description",
        "timeoutstop",
        "After ", "User", "ExecStop",
    ],
)  # fmt: skip
def test_annotations_reach_no_foreign_unit_and_not_the_host(name: str) -> None:
    with pytest.raises(SpecError, match="may not be set"):
        properties_of({f"org.systemd.property.{name}": "'reboot-force'"})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("TimeoutStopUSec", "-1"), ("TimeoutStopUSec", "'x'"), ("TimeoutStopUSec", "true"),
        ("TimeoutStopUSec", "18446744073709551616"), ("TimeoutStopSec", "1e300"),
        ("CollectMode", "inactive"), ("CollectMode", "__import__('os')"), ("CollectMode", "'a\\n'"),
        ("After", "'a'"), ("After", "[1]"), ("DefaultDependencies", "1"), ("KillSignal", "0"),
        ("KillSignal", "9999"), ("CollectMode", "(" * 5000), ("CollectMode", ""),
    ],
)  # fmt: skip
def test_annotations_of_another_type_are_refused(name: str, text: str) -> None:
    with pytest.raises(SpecError, match="no value of type"):
        properties_of({f"org.systemd.property.{name}": text})


@given(st.sampled_from(sorted(ALLOWED)), st.text())
def test_whatever_an_annotation_says_it_is_refused_or_of_its_type(name: str, text: str) -> None:
    try:
        ((_, (signature, value)),) = properties_of({f"org.systemd.property.{name}": text}).items()
    except SpecError as error:
        assert str(error).isprintable()
        return
    kinds = {"s": str, "as": list, "b": bool, "i": int, "t": int}
    assert type(value) is kinds[signature]
