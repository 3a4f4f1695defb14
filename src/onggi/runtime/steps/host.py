"""The monitor's steps: what is done on the host, for or to the child, from outside.

`CloneInto` divides a plan: before it there is no child. Who decides on values is the planner.
"""

from __future__ import annotations

from onggi.runtime.rlimits import NAMES, limit_text
from onggi.runtime.steps.base import Step, namespace_names


class Supervise(Step, frozen=True, kw_only=True):
    """Hold stdio, the log and the exit record. Always the first step."""

    opcode = 1
    signature = "ssssuuuuusl"
    actor = "monitor"
    concerns = "stdio"
    section = "runtime-spec runtime.md#lifecycle"

    run_dir: str
    log_dir: str = ""
    log_name: str = ""
    record_name: str = ""
    terminal: int = 0
    stdin: int = 0
    log_max_bytes: int = 20_000_000
    log_max_files: int = 5
    die_with_engine: int = 0
    journal_socket: str = ""
    journal_fields: tuple[str, ...] = ()

    def describe(self) -> str:
        log = "no log"
        if self.log_name:
            log = f"log {self.log_name} ({self.log_max_bytes} B × {self.log_max_files})"
        elif self.journal_socket:
            log = f"log to the journal at {self.journal_socket}"
        return f"supervise with {'a terminal' if self.terminal else 'pipes'}, {log}"


class HandOver(Step, frozen=True, kw_only=True):
    """Leave the container to its caller: stdio is inherited. The first step, in place of Supervise.

    `terminal`: OpenTerminal will make fds 0-2, its master goes to the spawner. `waits`: keel stays
    as the parent, and tells how it ended. `preserved`: slots whose descriptors the application gets
    as 3, 4, …
    """

    opcode = 15
    signature = "uun"
    actor = "monitor"
    concerns = "stdio"
    section = "runtime-spec runtime.md#lifecycle"

    terminal: int = 0
    waits: int = 0
    preserved: tuple[int, ...] = ()

    def describe(self) -> str:
        stdio = "a terminal" if self.terminal else "its caller's stdio"
        more = f" and {len(self.preserved)} more descriptors" if self.preserved else ""
        return f"leave it to its caller, with {stdio}{more}"


class OpenTree(Step, frozen=True, kw_only=True):
    """Take a detached copy of a host mount into a slot. `source`: what a `path` that names a
    descriptor stands for; empty: the path itself."""

    opcode = 2
    signature = "usu"
    actor = "monitor"
    concerns = "mount"
    section = "open_tree(2)"
    protects = "paths that change between check and use"

    slot: int
    path: str
    recursive: int = 0
    source: str = ""

    def describe(self) -> str:
        below = " recursively" if self.recursive else ""
        return f"open tree {self.source or self.path}{below} → slot {self.slot}"


class TakeTree(Step, frozen=True, kw_only=True):
    """As OpenTree, by init in the mount namespace that it was born in: an ordinary user may copy
    mounts only there. It comes before what init does as root of its user namespace."""

    opcode = 49
    signature = "usu"
    concerns = "mount"
    section = "open_tree(2), user_namespaces(7)"
    protects = "paths that change between check and use"

    slot: int
    path: str
    recursive: int = 0

    def describe(self) -> str:
        below = " recursively" if self.recursive else ""
        return f"take tree {self.path}{below} → slot {self.slot}"


class MakeNode(Step, frozen=True, kw_only=True):
    """Make a device node on the host's side and take its mount into a slot: root of a user
    namespace makes none. `kind`: of ord("b") or ord("c"). `uid` and `gid` are the host's."""

    opcode = 65
    signature = "uuuuuuu"
    actor = "monitor"
    concerns = "mount"
    section = "runtime-spec config-linux.md#devices"

    slot: int
    kind: int
    major: int
    minor: int
    mode: int
    uid: int
    gid: int

    def describe(self) -> str:
        device = f"{chr(self.kind)} {self.major}:{self.minor}"
        return f"make device {device} {self.mode:04o} of {self.uid}:{self.gid} → slot {self.slot}"


class OpenPeerTree(Step, frozen=True, kw_only=True):
    """Take a detached copy of a mount of another container into a slot."""

    opcode = 11
    signature = "uss"
    actor = "monitor"
    concerns = "mount"
    section = "open_tree(2), setns(2)"

    slot: int
    namespace: str
    path: str

    def describe(self) -> str:
        return f"open tree {self.path} of mount namespace {self.namespace} → slot {self.slot}"


class SetTimeOffsets(Step, frozen=True, kw_only=True):
    """Make a time namespace with these offsets for the child."""

    opcode = 3
    signature = "s"
    actor = "monitor"
    concerns = "time"
    section = "runtime-spec config-linux.md#offset-for-time-namespace"

    offsets: str

    def describe(self) -> str:
        return f"set time offsets {self.offsets.strip()!r}"


class CloneInto(Step, frozen=True, kw_only=True):
    """Clone init into new namespaces and into those it joins."""

    opcode = 4
    signature = "ulni"
    actor = "monitor"
    concerns = "namespaces"
    section = "runtime-spec config-linux.md#namespaces"
    protects = "processes, mounts, names, links and ids of the host and of other containers"

    flags: int
    joins: tuple[str, ...] = ()
    pidfd_joins: tuple[int, ...] = ()
    cgroup_slot: int = -1

    def describe(self) -> str:
        parts = [f"clone into new namespaces: {namespace_names(self.flags)}"]
        if self.joins:
            parts.append(f"join {' '.join(self.joins)}")
        for slot, mask in zip(self.pidfd_joins[::2], self.pidfd_joins[1::2], strict=True):
            parts.append(f"join those of the process in slot {slot}: {namespace_names(mask)}")
        return "; ".join(parts)


class WriteIdMaps(Step, frozen=True, kw_only=True):
    """Give the new user namespace its range of ids.

    `uid_helper`, `gid_helper`: the program that writes the map, newuidmap and newgidmap; empty: it
    is written directly. `uid_grants`, `gid_grants`: the lines that /etc/subuid and /etc/subgid
    would need and do not have.
    """

    opcode = 5
    signature = "sssss"
    actor = "monitor"
    concerns = "user"
    section = "runtime-spec config-linux.md#user-namespace-mappings"
    protects = "root inside being root outside"

    uid_map: str
    gid_map: str
    setgroups: str = ""
    uid_helper: str = ""
    gid_helper: str = ""
    uid_grants: tuple[str, ...] = ()
    gid_grants: tuple[str, ...] = ()

    def describe(self) -> str:
        users = f"map user ids {self.uid_map.strip()!r}{_by(self.uid_helper)}"
        return f"{users}, group ids {self.gid_map.strip()!r}{_by(self.gid_helper)}"


def _by(helper: str) -> str:
    return f" by {helper}" if helper else ""


class JoinCgroups(Step, frozen=True, kw_only=True):
    """Open the files by which init, born next, puts itself under its limits."""

    opcode = 6
    signature = "l"
    actor = "monitor"
    concerns = "cgroup"
    section = "runtime-spec config-linux.md#control-groups"
    protects = "the host's CPU, memory, process table and disks"

    paths: tuple[str, ...]

    def describe(self) -> str:
        return f"let init join {len(self.paths)} cgroups: {' '.join(self.paths)}"


class IdmapTree(Step, frozen=True, kw_only=True):
    """Show the tree in a slot with other owners: those of the container's user namespace.

    Or, with maps, those of a user namespace that exists for this mount only.
    """

    opcode = 7
    signature = "uuss"
    actor = "monitor"
    concerns = "user"
    section = "mount_setattr(2) ID-mapped mounts"
    protects = "owners on disk: they stay unshifted and shared"

    slot: int
    recursive: int = 0
    uid_map: str = ""
    gid_map: str = ""

    def describe(self) -> str:
        own = f" by {self.uid_map.strip()!r}, {self.gid_map.strip()!r}" if self.uid_map else ""
        return f"map the owners of slot {self.slot}{own}"


class SetOomScore(Step, frozen=True, kw_only=True):
    """Set the child's preference for the out-of-memory killer."""

    opcode = 8
    signature = "i"
    actor = "monitor"
    concerns = "memory"
    section = "runtime-spec config.md#linux-process"

    value: int

    def describe(self) -> str:
        return f"set oom_score_adj {self.value}"


class SetRlimit(Step, frozen=True, kw_only=True):
    """Set one resource limit of the child."""

    opcode = 9
    signature = "uuu"
    actor = "monitor"
    concerns = "process"
    section = "runtime-spec config.md#posix-process"

    resource: int
    soft: int
    hard: int

    def describe(self) -> str:
        name = NAMES.get(self.resource, f"limit {self.resource}")
        return f"set {name} soft {limit_text(self.soft)} hard {limit_text(self.hard)}"


class ConnectAgent(Step, frozen=True, kw_only=True):
    """Connect to the agent that will answer for calls that the filter notifies of.

    What to tell it is put into `state_slot`: the pieces of `state`, the child's id in between.
    """

    opcode = 12
    signature = "uusl"
    actor = "monitor"
    concerns = "seccomp"
    section = "runtime-spec config-linux.md#seccomp listenerPath"

    slot: int
    state_slot: int
    path: str
    state: tuple[str, ...]

    def describe(self) -> str:
        return f"connect to the seccomp agent at {self.path} → slot {self.slot}"
