"""What this version, on this host, can do of the runtime specification: `features` as a document.

Every list is taken from the table that does the work, so that it cannot say more than is true.
Source: runtime-spec features.md, features-linux.md.
"""

from __future__ import annotations

from typing import Any

from onggi.kernel.capabilities import NAMES
from onggi.kernel.mounts import ATTRIBUTE_NEGATIONS, ATTRIBUTES, PROPAGATIONS, WITHOUT_EFFECT
from onggi.kernel.seccomp.actions import ACTIONS, FLAGS
from onggi.kernel.seccomp.architectures import MACHINES
from onggi.kernel.seccomp.conditions import OPERATORS
from onggi.runtime.host import HostFacts
from onggi.runtime.plan_schedule import MEMORY_FLAGS, MEMORY_MODES
from onggi.specs.runtime import SPEC_VERSION, Hooks

#: What a superblock takes by name, whatever its file system (fsconfig(2)).
_OF_SUPERBLOCKS = frozenset(
    {"async", "dirsync", "lazytime", "mand", "nolazytime", "nomand", "sync"}
)
CHECKPOINT = "org.opencontainers.runc.checkpoint.enabled"
_SWITCHES = frozenset({"bind", "idmap", "rbind", "remount", "ridmap", "tmpcopyup"})


def features(host: HostFacts, *, systemd: bool = False, checkpoint: bool = False) -> dict[str, Any]:
    """The document.

    `systemd`: whether cgroups can be made by asking systemd. `checkpoint`: whether there is a CRIU
    that works; callers look for it under the name that runc has given it.
    """
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPEC_VERSION,
        "hooks": list(Hooks.__struct_encode_fields__),
        "mountOptions": mount_options(),
        "linux": {
            "namespaces": sorted(host.namespaces),
            "capabilities": list(NAMES[: host.last_capability + 1]),
            "cgroup": {
                "v1": True,
                "v2": True,
                "systemd": systemd,
                "systemdUser": systemd,
                "rdma": True,
            },
            "seccomp": _seccomp(host),
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": False},
            "memoryPolicy": {"modes": list(MEMORY_MODES), "flags": list(MEMORY_FLAGS)},
            "mountExtensions": {"idmap": {"enabled": host.idmapped_mounts}},
            "netDevices": {"enabled": True},
        },
        "annotations": {CHECKPOINT: "true" if checkpoint else "false"},
    }


def mount_options() -> list[str]:
    """Every option that is understood here, and not by the file system."""
    own = {*ATTRIBUTES, *ATTRIBUTE_NEGATIONS}
    below = {f"r{name}" for name in own}
    return sorted(own | below | _SWITCHES | _OF_SUPERBLOCKS | PROPAGATIONS.keys() | WITHOUT_EFFECT)


def _seccomp(host: HostFacts) -> dict[str, Any]:
    architectures = MACHINES.get(host.machine, ())
    if not host.seccomp or not architectures:
        return {"enabled": False}
    return {
        "enabled": True,
        "actions": list(ACTIONS),
        "operators": list(OPERATORS),
        "archs": list(architectures),
        "knownFlags": list(FLAGS),
        "supportedFlags": list(FLAGS),
    }
