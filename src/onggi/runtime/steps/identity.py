"""Init's steps that give the container its own names, links, keys and kernel parameters."""

from __future__ import annotations

from onggi.runtime.steps.base import Step


class JoinKeyring(Step, frozen=True, kw_only=True):
    """Start a session keyring of its own."""

    opcode = 17
    signature = "s"
    concerns = "keyring"
    section = "keyctl(2) KEYCTL_JOIN_SESSION_KEYRING"
    protects = "the host's kernel keys"

    name: str

    def describe(self) -> str:
        return f"join session keyring {self.name}"


class UnshareCgroup(Step, frozen=True, kw_only=True):
    """Make the container's cgroup the root that it sees."""

    opcode = 18
    concerns = "cgroup"
    section = "cgroup_namespaces(7)"
    protects = "the host's cgroup paths"

    def describe(self) -> str:
        return "unshare the cgroup namespace"


class RaiseLoopback(Step, frozen=True, kw_only=True):
    """Bring `lo` up."""

    opcode = 19
    concerns = "network"
    section = "netdevice(7) SIOCSIFFLAGS"

    def describe(self) -> str:
        return "raise the loopback interface"


class SetHostname(Step, frozen=True, kw_only=True):
    """Name the container's machine."""

    opcode = 20
    signature = "s"
    concerns = "uts"
    section = "runtime-spec config.md#hostname"

    name: str

    def describe(self) -> str:
        return f"set hostname {self.name}"


class SetDomainname(Step, frozen=True, kw_only=True):
    """Name the container's NIS domain."""

    opcode = 21
    signature = "s"
    concerns = "uts"
    section = "runtime-spec config.md#domainname"

    name: str

    def describe(self) -> str:
        return f"set domainname {self.name}"


class WriteSysctl(Step, frozen=True, kw_only=True):
    """Set one namespaced kernel parameter through a verified procfs."""

    opcode = 31
    signature = "ss"
    concerns = "sysctl"
    section = "runtime-spec config-linux.md#sysctl"

    key: str
    value: str

    def describe(self) -> str:
        return f"set sysctl {self.key} = {self.value}"
