"""`spec` and `features`."""

from __future__ import annotations

import os

from onggi.errors import AlreadyExists
from onggi.faces.oci.arguments import SWITCH, VALUE
from onggi.specs import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from onggi.faces.oci.arguments import Arguments
    from onggi.faces.oci.main import Context

_SPEC_VERSION = "1.3.0"
_CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
_SHM = "/dev/shm"  # noqa: S108 - the container's
_NO_EXEC = ["nosuid", "noexec", "nodev"]


def show_spec(context: Context, arguments: Arguments) -> None:
    """Write a configuration to start from into `config.json` of the bundle."""
    path = os.path.join(arguments.text("bundle") or ".", "config.json")
    text = jsontext.pretty(example(rootless=arguments.on("rootless")), 2) + "\n"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        raise AlreadyExists(f"file {path} exists. Remove it first") from None
    with open(fd, "wb", buffering=0) as file:
        file.write(text.encode())


def example(*, rootless: bool) -> dict[str, Any]:
    """A configuration that runs a shell with little more than nothing."""
    kinds = ["pid", "network", "ipc", "uts", "mount"]
    if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        kinds.append("cgroup")  # on v1, where what is inside may expect the host's paths, as runc
    linux: dict[str, Any] = {
        "resources": {"devices": [{"allow": False, "access": "rwm"}]},
        "namespaces": [{"type": kind} for kind in kinds],
        "maskedPaths": [
            "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
            "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug",
            "/sys/firmware", "/sys/devices/virtual/powercap", "/proc/scsi",
        ],
        "readonlyPaths": [
            "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
        ],
    }  # fmt: skip
    if rootless:
        linux["namespaces"] = [{"type": k} for k in (*kinds, "user") if k != "network"]
        linux["uidMappings"] = [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
        linux["gidMappings"] = [{"containerID": 0, "hostID": os.getegid(), "size": 1}]
        del linux["resources"]
    return {
        "ociVersion": _SPEC_VERSION,
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "TERM=xterm",
            ],
            "cwd": "/",
            "capabilities": {
                name: list(_CAPABILITIES) for name in ("bounding", "effective", "permitted")
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "onggi",
        "mounts": _mounts(rootless=rootless),
        "linux": linux,
    }


def _mounts(*, rootless: bool) -> list[dict[str, Any]]:
    def mount(place: str, kind: str, source: str, *options: str) -> dict[str, Any]:
        return {"destination": place, "type": kind, "source": source, "options": list(options)}

    group = [] if rootless else ["gid=5"]
    sys = mount("/sys", "sysfs", "sysfs", *_NO_EXEC, "ro")
    if rootless:
        sys = {**mount("/sys", "none", "/sys", "rbind", *_NO_EXEC, "ro")}
    return [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666",
              "mode=0620", *group),
        mount(_SHM, "tmpfs", "shm", *_NO_EXEC, "mode=1777", "size=65536k"),
        mount("/dev/mqueue", "mqueue", "mqueue", *_NO_EXEC),
        sys,
        mount("/sys/fs/cgroup", "cgroup", "cgroup", *_NO_EXEC, "relatime", "ro"),
    ]  # fmt: skip


def show_features(context: Context, arguments: Arguments) -> None:
    """Print what this version can do on this host."""
    from onggi.faces.oci.looking import say  # noqa: PLC0415
    from onggi.runtime.features import features  # noqa: PLC0415
    from onggi.runtime.host import probe  # noqa: PLC0415
    from onggi.sandbox.oci import criu  # noqa: PLC0415

    # sd_booted(3)
    systemd = os.path.isdir("/run/systemd/system")
    say(jsontext.pretty(features(probe(), systemd=systemd, checkpoint=criu.works()), 2))


VERBS = {
    "features": ({}, show_features),
    "spec": ({"b bundle": VALUE, "rootless": SWITCH}, show_spec),
}
