"""Kernel parameters: only those of a namespace that is the container's own may be set.

Source: runtime-spec config-linux.md#sysctl; ipc_namespaces(7), network_namespaces(7), sysctl(8).
"""

from __future__ import annotations

import re

from onggi.errors import SpecError
from onggi.runtime.namespaces import Namespaces
from onggi.runtime.steps import SetDomainname, Step, WriteSysctl

_IPC = frozenset(
    {
        "kernel.auto_msgmni",
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_next_id",
        "kernel.shm_rmid_forced",
    }
)
_DOMAINNAME = "kernel.domainname"
_SECTION = "config-linux.md#sysctl"


def plan_sysctls(sysctls: dict[str, str], namespaces: Namespaces) -> list[Step]:
    """One step for each parameter, in the configuration's order.

    Raises:
        SpecError: a parameter that is not namespaced, or whose namespace is not the container's.
    """
    steps: list[Step] = []
    for key, value in sysctls.items():
        name = dotted(key)
        path = f"$.linux.sysctl.{key}"
        kind = _namespace_of(name, path)
        if not namespaces.has(kind):
            raise SpecError(
                path, f"would change the host: it needs a {kind} namespace", section=_SECTION
            )
        steps.append(_step(name, value))
    return steps


def _step(name: str, value: str) -> Step:
    if name == _DOMAINNAME:  # its file is the host root's even inside, the call is not
        return SetDomainname(name=value)
    # keel takes a name with slashes as a path: only there a part can hold a dot.
    return WriteSysctl(key=_swapped(name) if "/" in name else name, value=value)


def dotted(key: str) -> str:
    """The name with dots between its parts; `/` inside a part stands for a dot (sysctl(8))."""
    first = next((character for character in key if character in "./"), ".")
    return _swapped(key) if first == "/" else key


def _swapped(name: str) -> str:
    return name.translate(str.maketrans("./", "/."))


def _namespace_of(name: str, path: str) -> str:
    if not all(re.split("[./]", name)):  # an empty part would be `.` or `..` once it is a path
        raise SpecError(path, "is not the name of a kernel parameter", section=_SECTION)
    if name in _IPC or name.startswith("fs.mqueue."):
        return "ipc"
    if name.startswith("net."):
        return "network"
    if name == _DOMAINNAME:
        return "uts"
    if name == "kernel.hostname":
        raise SpecError(path, "is set by $.hostname", section=_SECTION)
    raise SpecError(path, "is not namespaced: it would change the host", section=_SECTION)
