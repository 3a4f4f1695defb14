"""The OCI runtime configuration as frozen types, and its parser.

Source: runtime-spec v1.3 config.md, config-linux.md. Unknown fields are ignored, as the
specification says (config.md#extensibility). Nothing here knows what a field does.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec
from msgspec import Struct, field

from onggi.errors import SpecError

MAX_CONFIG_BYTES = 16 * 1024 * 1024
#: The version of the specification that this follows, as states and features say it.
SPEC_VERSION = "1.3.0"


class _Spec(Struct, frozen=True, rename="camel", omit_defaults=True):
    """Base of every specification type."""


class User(_Spec, frozen=True):
    uid: int = 0
    gid: int = 0
    umask: int | None = None
    additional_gids: tuple[int, ...] = ()
    username: str | None = None


class ConsoleSize(_Spec, frozen=True):
    height: int
    width: int


class Capabilities(_Spec, frozen=True):
    bounding: tuple[str, ...] = ()
    effective: tuple[str, ...] = ()
    inheritable: tuple[str, ...] = ()
    permitted: tuple[str, ...] = ()
    ambient: tuple[str, ...] = ()


class Rlimit(_Spec, frozen=True):
    type: str
    soft: int
    hard: int


class Scheduler(_Spec, frozen=True):
    """runtime, deadline and period in nanoseconds (config.md#linux-process)."""

    policy: str
    nice: int = 0
    priority: int = 0
    flags: tuple[str, ...] = ()
    runtime: int = 0
    deadline: int = 0
    period: int = 0


class IoPriority(_Spec, frozen=True):
    class_: str = field(name="class")
    priority: int = 0


class CpuAffinity(_Spec, frozen=True):
    """Lists of CPUs as the kernel writes them, `0-3,7`."""

    initial: str = ""
    final: str = ""


class Process(_Spec, frozen=True):
    cwd: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    terminal: bool = False
    console_size: ConsoleSize | None = None
    user: User = User()
    capabilities: Capabilities | None = None
    rlimits: tuple[Rlimit, ...] = ()
    no_new_privileges: bool = False
    oom_score_adj: int | None = None
    apparmor_profile: str | None = None
    selinux_label: str | None = None
    scheduler: Scheduler | None = None
    io_priority: IoPriority | None = None
    exec_cpu_affinity: CpuAffinity | None = field(name="execCPUAffinity", default=None)


class Root(_Spec, frozen=True):
    path: str
    readonly: bool = False


class IdMapping(_Spec, frozen=True):
    container_id: int = field(name="containerID")
    host_id: int = field(name="hostID")
    size: int


class Mount(_Spec, frozen=True):
    destination: str
    source: str | None = None
    type: str | None = None
    options: tuple[str, ...] = ()
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()


class Namespace(_Spec, frozen=True):
    type: str
    path: str | None = None


class TimeOffset(_Spec, frozen=True):
    secs: int = 0
    nanosecs: int = 0


class Device(_Spec, frozen=True):
    path: str
    type: str
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    uid: int | None = None
    gid: int | None = None


class DeviceRule(_Spec, frozen=True):
    """One entry of `linux.resources.devices`; a missing number is a wildcard."""

    allow: bool
    type: str = "a"
    major: int | None = None
    minor: int | None = None
    access: str = "rwm"


class Memory(_Spec, frozen=True):
    """Bytes; -1 is unlimited (config-linux.md#memory)."""

    limit: int | None = None
    reservation: int | None = None
    swap: int | None = None
    kernel: int | None = None
    kernel_tcp: int | None = field(name="kernelTCP", default=None)
    swappiness: int | None = None
    disable_oom_killer: bool = field(name="disableOOMKiller", default=False)
    use_hierarchy: bool | None = None
    check_before_update: bool = False


class Cpu(_Spec, frozen=True):
    """quota, period, burst in microseconds (config-linux.md#cpu)."""

    shares: int | None = None
    quota: int | None = None
    burst: int | None = None
    period: int | None = None
    realtime_runtime: int | None = None
    realtime_period: int | None = None
    cpus: str | None = None
    mems: str | None = None
    idle: int | None = None


class Pids(_Spec, frozen=True):
    limit: int | None = None


class WeightDevice(_Spec, frozen=True):
    major: int
    minor: int
    weight: int | None = None
    leaf_weight: int | None = None


class ThrottleDevice(_Spec, frozen=True):
    """rate in bytes or operations per second."""

    major: int
    minor: int
    rate: int


class BlockIO(_Spec, frozen=True):
    weight: int | None = None
    leaf_weight: int | None = None
    weight_device: tuple[WeightDevice, ...] = ()
    throttle_read_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_write_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_read_iops_device: tuple[ThrottleDevice, ...] = field(
        name="throttleReadIOPSDevice", default=()
    )
    throttle_write_iops_device: tuple[ThrottleDevice, ...] = field(
        name="throttleWriteIOPSDevice", default=()
    )


class HugepageLimit(_Spec, frozen=True):
    page_size: str
    limit: int


class InterfacePriority(_Spec, frozen=True):
    name: str
    priority: int


class NetworkResources(_Spec, frozen=True):
    class_id: int | None = field(name="classID", default=None)
    priorities: tuple[InterfacePriority, ...] = ()


class RdmaLimit(_Spec, frozen=True):
    hca_handles: int | None = None
    hca_objects: int | None = None


class Resources(_Spec, frozen=True):
    devices: tuple[DeviceRule, ...] = ()
    memory: Memory | None = None
    cpu: Cpu | None = None
    pids: Pids | None = None
    block_io: BlockIO | None = field(name="blockIO", default=None)
    hugepage_limits: tuple[HugepageLimit, ...] = ()
    network: NetworkResources | None = None
    rdma: dict[str, RdmaLimit] = {}
    unified: dict[str, str] = {}


class SeccompArg(_Spec, frozen=True):
    index: int
    value: int
    op: str
    value_two: int = 0


class SeccompRule(_Spec, frozen=True):
    names: tuple[str, ...]
    action: str
    errno_ret: int | None = None
    args: tuple[SeccompArg, ...] = ()


class Seccomp(_Spec, frozen=True):
    """config-linux.md#seccomp."""

    default_action: str
    default_errno_ret: int | None = None
    architectures: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    listener_path: str | None = None
    listener_metadata: str | None = None
    syscalls: tuple[SeccompRule, ...] = ()


class Personality(_Spec, frozen=True):
    domain: str
    flags: tuple[str, ...] = ()


class IntelRdt(_Spec, frozen=True):
    clos_id: str | None = field(name="closID", default=None)
    schemata: tuple[str, ...] = ()
    l3_cache_schema: str | None = None
    mem_bw_schema: str | None = None
    enable_monitoring: bool = False


class MemoryPolicy(_Spec, frozen=True):
    """nodes: a list of memory nodes as the kernel writes it, `0-1`."""

    mode: str
    nodes: str = ""
    flags: tuple[str, ...] = ()


class NetDevice(_Spec, frozen=True):
    """name: what the device is called inside; none: as outside."""

    name: str | None = None


class Linux(_Spec, frozen=True):
    namespaces: tuple[Namespace, ...] = ()
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()
    time_offsets: dict[str, TimeOffset] = {}
    devices: tuple[Device, ...] = ()
    cgroups_path: str | None = None
    resources: Resources | None = None
    rootfs_propagation: str | None = None
    seccomp: Seccomp | None = None
    sysctl: dict[str, str] = {}
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    mount_label: str | None = None
    personality: Personality | None = None
    intel_rdt: IntelRdt | None = None
    memory_policy: MemoryPolicy | None = None
    net_devices: dict[str, NetDevice] = {}


class Hook(_Spec, frozen=True):
    """timeout in seconds."""

    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None


class Hooks(_Spec, frozen=True):
    """config.md#posix-platform-hooks."""

    prestart: tuple[Hook, ...] = ()
    create_runtime: tuple[Hook, ...] = ()
    create_container: tuple[Hook, ...] = ()
    start_container: tuple[Hook, ...] = ()
    poststart: tuple[Hook, ...] = ()
    poststop: tuple[Hook, ...] = ()


class Config(_Spec, frozen=True):
    """A bundle's `config.json` (config.md)."""

    oci_version: str = field(name="ociVersion")
    root: Root | None = None
    process: Process | None = None
    hostname: str | None = None
    domainname: str | None = None
    mounts: tuple[Mount, ...] = ()
    linux: Linux | None = None
    hooks: Hooks | None = None
    annotations: dict[str, str] = {}


_Part = TypeVar("_Part", Process, Resources)
_DECODER = msgspec.json.Decoder(Config)
_LOCATION = re.compile(r"^(?P<what>.*) - at `(?P<path>[^`]*)`$", re.DOTALL)
#: Where the specification speaks of a part; the longest beginning of a path counts.
_SECTIONS: dict[str, str] = {
    "$": "config.md",
    "$.ociVersion": "config.md#specification-version",
    "$.root": "config.md#root",
    "$.mounts": "config.md#mounts",
    "$.process": "config.md#process",
    "$.hooks": "config.md#posix-platform-hooks",
    "$.annotations": "config.md#annotations",
    "$.linux": "config-linux.md",
    "$.linux.namespaces": "config-linux.md#namespaces",
    "$.linux.devices": "config-linux.md#devices",
    "$.linux.resources": "config-linux.md#control-groups",
    "$.linux.seccomp": "config-linux.md#seccomp",
    "$.linux.sysctl": "config-linux.md#sysctl",
}


def parse_config(data: bytes) -> Config:
    """Read a `config.json`. A value that is null is as one that is absent.

    Raises:
        SpecError: not JSON, wrong types, deeper or larger than any configuration is; with the path.
    Source: runtime-spec config.md.
    """
    if len(data) > MAX_CONFIG_BYTES:
        raise SpecError("$", f"configuration is {len(data)} bytes, more than {MAX_CONFIG_BYTES}")
    try:
        try:
            return _DECODER.decode(data)
        except msgspec.ValidationError:
            if b"null" not in data:
                raise
            # Go writes null for lists and maps that are not there, and takes it for any value.
            return msgspec.convert(_without_nulls(msgspec.json.decode(data)), Config)
    except msgspec.ValidationError as error:
        raise located(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SpecError("$", f"not valid JSON: {str(error).rstrip('.')}") from None
    except RecursionError:
        raise SpecError("$", "nested deeper than any configuration is") from None


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def located(error: msgspec.ValidationError, section: str = "") -> SpecError:
    """Turn msgspec's message into an error with the JSON path in its own field.

    `section`: of the specification; empty: the one of config.json that the path leads to.
    """
    match = _LOCATION.match(str(error))
    path, what = (match["path"], match["what"]) if match else ("$", str(error))
    return SpecError(path, what[:1].lower() + what[1:], section=section or section_of(path))


def section_of(path: str) -> str:
    """The specification's section about a JSON path of config.json."""
    parts = path.partition("[")[0].split(".")
    while ".".join(parts) not in _SECTIONS and len(parts) > 1:
        parts.pop()
    return _SECTIONS.get(".".join(parts), "config.md")


def parse_process(data: bytes) -> Process:
    """Read a `process` on its own, as `exec` is given one.

    Raises:
        SpecError: as `parse_config`; paths start at the process.
    Source: runtime-spec config.md#process.
    """
    return _parse_part(data, Process, "config.md#process")


def parse_resources(data: bytes) -> Resources:
    """Read `resources` on their own, as `update` is given them.

    Raises:
        SpecError: as `parse_config`; paths start at the resources.
    Source: runtime-spec config-linux.md#control-groups.
    """
    return _parse_part(data, Resources, "config-linux.md#control-groups")


def _parse_part(data: bytes, kind: type[_Part], section: str) -> _Part:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise located(error, section) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SpecError("$", f"not valid JSON: {str(error).rstrip('.')}") from None
    except RecursionError:
        raise SpecError("$", "nested deeper than any configuration is") from None


def encode_config(config: Config) -> bytes:
    """The configuration as JSON; `parse_config` gives the same value back."""
    return msgspec.json.encode(config)


def as_builtins(value: Any) -> Any:
    """Any specification value as plain dicts and lists."""
    return msgspec.to_builtins(value)
