"""Hosts, requests and configurations that the planner's tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from onggi.kernel.capabilities import ALL, DEFAULT, NAMES
from onggi.kernel.cgroups.layout import CgroupLayout, Hierarchy
from onggi.runtime.host import HostFacts
from onggi.runtime.own_ids import IdPool, OwnIds
from onggi.runtime.request import ExecRequest, LinkSetup, Overlay, StartRequest, Supervision
from onggi.specs.runtime import (
    Capabilities,
    Config,
    IdMapping,
    Linux,
    Mount,
    Namespace,
    Process,
    Root,
    Seccomp,
    SeccompRule,
    parse_config,
)

GOLDEN = Path(__file__).parent / "golden"
ALL_NAMESPACES = ("cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts")

HYBRID = CgroupLayout(
    (
        Hierarchy(1, "/sys/fs/cgroup/cpu,cpuacct", ("cpu", "cpuacct")),
        Hierarchy(1, "/sys/fs/cgroup/memory", ("memory",)),
        Hierarchy(2, "/sys/fs/cgroup/unified", ("hugetlb",)),
    ),
    kernel=(6, 18),
)
UNIFIED = CgroupLayout(
    (Hierarchy(2, "/sys/fs/cgroup", ("cpu", "io", "memory", "pids")),), kernel=(6, 18)
)

HOST = HostFacts(
    kernel=(6, 18),
    machine="x86_64",
    page_size_bytes=4096,
    capabilities=ALL & ~(1 << NAMES.index("CAP_SYS_RESOURCE")),
    last_capability=40,
    filesystems=frozenset({"overlay", "proc", "tmpfs"}),
    namespaces=frozenset(ALL_NAMESPACES),
    cgroups=UNIFIED,
    rlimits=((7, 1024, 20000), (6, 4096, 4096)),
)

VISITOR = OwnIds(
    4242,
    4242,
    "visitor",
    "/usr/bin/newuidmap",
    "/usr/bin/newgidmap",
    (IdPool(300000, 65536),),
    (IdPool(300000, 65536), IdPool(400000, 10)),
)

MAPPING = (IdMapping(container_id=0, host_id=100000, size=65536),)
FILTER = Seccomp(
    default_action="SCMP_ACT_ERRNO",
    architectures=("SCMP_ARCH_X86_64",),
    syscalls=(
        SeccompRule(names=("read", "write", "execve", "exit_group"), action="SCMP_ACT_ALLOW"),
    ),
)

MOUNTS = (
    Mount("/proc", "proc", "proc", ("nosuid", "noexec", "nodev")),
    Mount("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    Mount(
        "/dev/pts",
        "devpts",
        "devpts",
        ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
    ),
    Mount("/sys", "sysfs", "sysfs", ("nosuid", "noexec", "nodev", "ro")),
    Mount("/sys/fs/cgroup", "cgroup", "cgroup", ("nosuid", "noexec", "nodev", "relatime", "ro")),
    Mount("/dev/mqueue", "mqueue", "mqueue", ("nosuid", "noexec", "nodev")),
    Mount("/dev/shm", "shm", "tmpfs", ("nosuid", "noexec", "nodev", "mode=1777", "size=64m")),
    Mount("/etc/hosts", "/data/hosts", "bind", ("bind", "rprivate")),
    Mount("/data", "/srv/data", "bind", ("rbind", "rprivate", "rro")),
)


def namespaces(*kinds: str, **joined: str) -> tuple[Namespace, ...]:
    """New namespaces by type, joined ones by type and path."""
    return tuple(Namespace(type=kind) for kind in kinds) + tuple(
        Namespace(type=kind, path=path) for kind, path in joined.items()
    )


def capabilities(*names: str) -> Capabilities:
    return Capabilities(bounding=names, effective=names, permitted=names)


def process(**more: Any) -> Process:
    """A process with the defaults of `onggi run`."""
    fields: dict[str, Any] = {
        "cwd": "/",
        "args": ("sh", "-c", "echo hi"),
        "env": ("PATH=/usr/bin:/bin", "HOME=/root"),
        "capabilities": capabilities(*DEFAULT),
    }
    return Process(**{**fields, **more})


def default_config(**linux: Any) -> Config:
    """What `onggi run` composes by default; keywords replace fields of `linux`."""
    fields: dict[str, Any] = {
        "namespaces": namespaces("mount", "network", "ipc", "pid", "uts", "user", "cgroup"),
        "uid_mappings": MAPPING,
        "gid_mappings": MAPPING,
        "masked_paths": ("/proc/kcore", "/sys/firmware"),
        "readonly_paths": ("/proc/bus", "/proc/sys"),
        "seccomp": FILTER,
    }
    return Config(
        oci_version="1.2.0",
        root=Root(path="rootfs"),
        hostname="box",
        process=process(),
        mounts=MOUNTS,
        linux=Linux(**{**fields, **linux}),
    )


def with_process(config: Config, **changes: Any) -> Config:
    assert config.process is not None
    changed = msgspec.structs.replace(config.process, **changes)
    return msgspec.structs.replace(config, process=changed)


def spec_example() -> Config:
    """The specification's own example (runtime-spec schema/test/config/good/spec-example.json)."""
    return parse_config((GOLDEN / "spec-example.json").read_bytes())


OVERLAY = StartRequest(
    supervision=Supervision(run_dir="/run/c1", log_dir="/var/c1", log_name="c1.log"),
    root_mountpoint="/run/root",
    overlay=Overlay(lowers=("/layers/2", "/layers/1"), upper="/snapshots/c1"),
    cgroup_files=("/sys/fs/cgroup/onggi/c1/cgroup.procs",),
    keyring="c1",
)
LINKS = LinkSetup(
    host_messages=b"host....host....",
    pid_offsets=(12,),
    inside_messages=b"inside..",
    lines=(
        "eth0: ov1 on bridge og1, MAC 02:00:00:00:00:02, MTU 1500",
        "eth0: address 10.89.0.2/24, everything else through 10.89.0.1",
        "eth1: ov2 on bridge og2, MAC 02:00:00:00:00:03, MTU 1500",
        "eth1: address 10.90.0.2/24, no way out",
    ),
    sockets=("udp:127.0.0.11:53", "tcp:127.0.0.11:53"),
)
BUNDLE = StartRequest(
    supervision=Supervision(run_dir="/run/c1"), root_mountpoint="/run/root", bundle="/bundle"
)
EXEC = ExecRequest(
    supervision=Supervision(run_dir="/run/c1/e1", record_name="", rows=24, columns=80),
    cgroup_files=("/sys/fs/cgroup/onggi/c1/cgroup.procs",),
)
