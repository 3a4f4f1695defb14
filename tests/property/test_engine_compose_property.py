"""Whatever a client asks for: a configuration that the planner takes, or an error for people."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import event, given, settings
from hypothesis import strategies as st

from onggi.engine.api.spec import (
    ContainerSpec,
    DeviceSpec,
    MountSpec,
    ResourceSpec,
    Throttle,
    UlimitSpec,
)
from onggi.engine.compose import Hardware, Resolved, compose
from onggi.errors import EngineError
from onggi.runtime.plan import plan
from onggi.specs.image import ContainerConfig
from onggi.specs.runtime import Device, User, encode_config, parse_config
from unit.plan_cases import HOST, OVERLAY

ID = "ab" * 32
WORD = st.text(max_size=12)
PLAIN = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)
TARGET = (
    st.sampled_from(["/data", "/data/", "/etc/hosts", "/dev/shm", "/a/b", "/", "/a/../b"]) | WORD
)
SIZE = st.sampled_from([0, -1, 1, 6 << 20, 64 << 20, 2**63]) | st.integers(-(2**63), 2**64 - 1)


def several(element: st.SearchStrategy[Any], most: int = 3) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(element, max_size=most).map(tuple)


MOUNT = st.builds(
    MountSpec,
    kind=st.sampled_from(["bind", "volume", "tmpfs"]),
    target=TARGET,
    source=st.just("v"),
    read_only=st.booleans(),
    propagation=st.sampled_from(["", "", "rshared", "slave", "sideways"]),
    recursive=st.booleans(),
    tmpfs_size_bytes=st.none() | SIZE,
    tmpfs_mode=st.none() | st.integers(-1, 0o10000),
    options=several(st.sampled_from(["ro", "noexec", "exec", "size=1m", "mode=0755"]) | WORD, 2),
)
THROTTLE = several(st.builds(Throttle, path=st.just("/dev/vda"), rate=SIZE), 1)
RESOURCES = st.builds(
    ResourceSpec,
    memory_bytes=SIZE,
    memory_swap_bytes=SIZE,
    memory_reservation_bytes=SIZE,
    memory_swappiness=st.none() | st.integers(-1, 101),
    nano_cpus=SIZE,
    cpu_shares=SIZE,
    cpu_quota_us=SIZE,
    cpuset_cpus=st.sampled_from(["", "0", "0-1"]) | WORD,
    pids_limit=st.none() | SIZE,
    blkio_weight=st.integers(-1, 1001),
    device_read_bps=THROTTLE,
    device_write_iops=THROTTLE,
)
CAPABILITY = st.sampled_from(["ALL", "all", "net_admin", "CAP_SYS_ADMIN", "nonsense"])
CHANGES: dict[str, st.SearchStrategy[Any]] = {
    "command": several(WORD | PLAIN),
    "entrypoint": st.none() | several(WORD),
    "env": several(st.sampled_from(["A=1", "PATH=", "A", "=x", "B=é"]) | WORD),
    "workdir": TARGET,
    "hostname": WORD,
    "domainname": WORD,
    "labels": st.dictionaries(WORD, WORD, max_size=2),
    "tty": st.booleans(),
    "read_only": st.booleans(),
    "init": st.booleans(),
    "privileged": st.booleans(),
    "mounts": several(MOUNT),
    "network": st.sampled_from(["none", "host", "bridge"]) | WORD,
    "ipc": st.sampled_from(["private", "host", "none", "shareable"]) | WORD,
    "pid": st.sampled_from(["", "host"]) | WORD,
    "uts": st.sampled_from(["", "host"]) | WORD,
    "cgroupns": st.sampled_from(["private", "host"]) | WORD,
    "resources": RESOURCES,
    "devices": several(st.builds(DeviceSpec, WORD, TARGET, st.sampled_from(["r", "rwm", "x"])), 1),
    "cap_add": several(CAPABILITY),
    "cap_drop": several(CAPABILITY),
    "security_opt": several(
        st.sampled_from(["no-new-privileges", "seccomp=unconfined", "systempaths=unconfined", "x"])
    ),
    "ulimits": several(
        st.builds(UlimitSpec, st.sampled_from(["nofile", "core", "x"]), SIZE, SIZE), 2
    ),
    "sysctls": st.dictionaries(
        st.sampled_from(["net.ipv4.ip_forward", "kernel.sem", "vm.x", "kernel/../x"]) | WORD, WORD,
        max_size=2,
    ),
    "shm_size_bytes": SIZE,
    "oom_score_adj": st.none() | st.integers(-1001, 1001),
    "group_add": several(WORD, 1),
}  # fmt: skip
ANY_IMAGE = st.builds(
    ContainerConfig,
    env=st.none() | several(st.sampled_from(["PATH=/bin", "A", "="]) | WORD),
    entrypoint=st.none() | several(WORD, 1),
    cmd=st.none() | st.just(("sh",)) | several(WORD),
    working_dir=st.sampled_from(["", "/w"]) | WORD,
)
GOOD_IMAGE = st.just(ContainerConfig(env=("PATH=/bin",), cmd=("sh",), working_dir="/w"))
IMAGE = st.one_of(GOOD_IMAGE, GOOD_IMAGE, ANY_IMAGE)
FOUND = st.builds(
    Resolved,
    user=st.builds(User, uid=st.integers(0, 65535), gid=st.sampled_from([0, 5, 70000])),
    home=st.just("/root"),
    id_base=st.none() | st.just(131072),
    joins=st.sampled_from([{}, {}, {"network": "/proc/7/fd/3", "user": "/proc/7/fd/4"}]),
    files=st.just((("/etc/hosts", "/data/hosts"), ("/etc/hostname", "/data/hostname"))),
    volumes=st.just({"v": "/volumes/v/_data"}),
    hardware=st.builds(
        Hardware,
        devices=several(st.builds(Device, *map(st.just, ("/dev/x", "c", 1, 3))), 1),
        env=several(st.just("GPU=0"), 1),
        groups=several(st.just(44), 1),
    ),
    throttle_devices=st.just({"/dev/vda": (254, 0)}),
    cgroups_path=st.just("/onggi/c"),
)


@st.composite
def specs(draw: st.DrawFn) -> ContainerSpec:
    """Mostly as it is by default, with a few parts that are anything."""
    chosen = draw(st.lists(st.sampled_from(sorted(CHANGES)), max_size=3, unique=True))
    return ContainerSpec(image="busybox", **{name: draw(CHANGES[name]) for name in chosen})


@given(specs(), IMAGE, FOUND)
@settings(max_examples=400, deadline=None)
def test_a_plan_or_an_error_for_people(
    spec: ContainerSpec, image: ContainerConfig, found: Resolved
) -> None:
    try:
        config = compose(spec, image, found, ID)
        made = plan(config, HOST, OVERLAY)
    except EngineError as error:
        event("refused")
        assert error.kind != "Internal"
        assert str(error)
        assert "\n" not in str(error)
        return
    event("planned")
    assert parse_config(encode_config(config)) == config
    assert made.encode()
    assert compose(spec, image, found, ID) == config


@given(specs())
@settings(max_examples=100, deadline=None)
def test_a_specification_survives_the_wire_and_the_records(spec: ContainerSpec) -> None:
    assert msgspec.json.decode(msgspec.json.encode(spec), type=ContainerSpec) == spec
