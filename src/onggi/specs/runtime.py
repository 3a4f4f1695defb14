"""The OCI runtime configuration as frozen types, and its parser.

Source: runtime-spec v1.3 config.md, config-linux.md. Unknown fields are ignored, as the
specification says (config.md#extensibility). Nothing here knows what a field does.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import Struct, field

from onggi.errors import SpecError

MAX_CONFIG_BYTES = 16 * 1024 * 1024


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


class Config(_Spec, frozen=True):
    """A bundle's `config.json` (config.md)."""

    oci_version: str = field(name="ociVersion")
    root: Root | None = None
    process: Process | None = None
    hostname: str | None = None
    domainname: str | None = None
    mounts: tuple[Mount, ...] = ()
    linux: Linux | None = None
    annotations: dict[str, str] = {}


_DECODER = msgspec.json.Decoder(Config)
_LOCATION = re.compile(r"^(?P<what>.*) - at `(?P<path>[^`]*)`$", re.DOTALL)


def parse_config(data: bytes) -> Config:
    """Read a `config.json`.

    Raises:
        SpecError: not JSON, wrong types, deeper or larger than any configuration is; with the path.
    Source: runtime-spec config.md.
    """
    if len(data) > MAX_CONFIG_BYTES:
        raise SpecError("$", f"configuration is {len(data)} bytes, more than {MAX_CONFIG_BYTES}")
    try:
        return _DECODER.decode(data)
    except msgspec.ValidationError as error:
        raise located(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SpecError("$", f"not valid JSON: {str(error).rstrip('.')}") from None
    except RecursionError:
        raise SpecError("$", "nested deeper than any configuration is") from None


def located(error: msgspec.ValidationError, section: str = "config.md") -> SpecError:
    """Turn msgspec's message into an error with the JSON path in its own field."""
    match = _LOCATION.match(str(error))
    path, what = (match["path"], match["what"]) if match else ("$", str(error))
    return SpecError(path, what[:1].lower() + what[1:], section=section)


def encode_config(config: Config) -> bytes:
    """The configuration as JSON; `parse_config` gives the same value back."""
    return msgspec.json.encode(config)


def as_builtins(value: Any) -> Any:
    """Any specification value as plain dicts and lists."""
    return msgspec.to_builtins(value)
