"""What a container gets when nobody says otherwise: data only.

Source: runtime-spec config-linux.md#default-filesystems, #masked-paths; the lists agree with
those that docker and podman use, so that applications meet what they know.
"""

from __future__ import annotations

from onggi.kernel.cgroups.devices import ALWAYS_ALLOWED
from onggi.specs.runtime import DeviceRule, Mount

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PIDS_LIMIT = 2048

PROC = Mount(destination="/proc", type="proc", source="proc", options=("nosuid", "noexec", "nodev"))
DEV = Mount(
    destination="/dev",
    type="tmpfs",
    source="tmpfs",
    options=("nosuid", "noexec", "strictatime", "mode=755", "size=65536k"),
)
DEVPTS = Mount(
    destination="/dev/pts",
    type="devpts",
    source="devpts",
    options=("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
)
SYSFS = Mount(
    destination="/sys", type="sysfs", source="sysfs", options=("nosuid", "noexec", "nodev", "ro")
)
CGROUP = Mount(
    destination="/sys/fs/cgroup",
    type="cgroup",
    source="cgroup",
    options=("nosuid", "noexec", "nodev", "relatime", "ro"),
)
MQUEUE = Mount(
    destination="/dev/mqueue",
    type="mqueue",
    source="mqueue",
    options=("nosuid", "noexec", "nodev"),
)
SHM_PLACE = "/dev/shm"  # noqa: S108 - the container's own
#: Shared memory is files to POSIX: who shares the host's ipc namespace shares them (shm_open(3)).
HOST_SHM = Mount(
    destination=SHM_PLACE,
    type="bind",
    source=SHM_PLACE,
    options=("rbind", "rprivate", "nosuid", "noexec", "nodev"),
)

NETWORK_SYSCTLS = {
    "net.ipv4.ip_unprivileged_port_start": "0",
    "net.ipv4.ping_group_range": "0 65535",
}

MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READONLY_PATHS = (
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
)

DEVICE_RULES = (DeviceRule(allow=False), *ALWAYS_ALLOWED)
ALL_DEVICES = (DeviceRule(allow=True, access="rwm"),)
