"""What this host can do, as one frozen value: probed once, passed in everywhere.

Reading files under /proc and /sys and asking the process's own limits is all that a probe does: no
device is opened, nothing is booted, mounted or loaded. What follows from a fact is the planner's.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import resource

from msgspec import Struct

from onggi.kernel import namespaces
from onggi.kernel.capabilities import BITS, host_capabilities
from onggi.kernel.cgroups.layout import CgroupLayout
from onggi.runtime.own_ids import IdPool, OwnIds, own_ids, subid_ranges
from onggi.runtime.rlimits import NO_LIMIT, RLIMITS

#: Where ids for containers come from when /etc/subuid names nobody: the upper part of the range
#: that systemd.io/UIDS-GIDS sets aside for containers, away from what useradd(8) gives out.
DEFAULT_POOL_START = 0x20000000
DEFAULT_POOL_SIZE = 0x50000000
SUBID_OWNER = "onggi"

IDMAPPED_MOUNTS_SINCE = (5, 12)

CAP_SYS_RESOURCE = BITS["CAP_SYS_RESOURCE"]


class HostFacts(Struct, frozen=True):
    """The host and the engine's own standing on it.

    `kernel`: (major, minor). `machine` as uname(2) says. `capabilities`: the bit set that the
    engine can hand on. `rlimits`: the engine's (number, soft, hard); no limit is 2**64 - 1.
    `oom_score_adj`: the engine's. `unprivileged`: not root of the initial user namespace, so maps
    and mounts are what a user may have. `own_ids`: not root of any: an ordinary user of the host.
    `keyrings`: kernel keys are there.
    """

    kernel: tuple[int, int]
    machine: str
    page_size_bytes: int
    capabilities: int
    last_capability: int
    filesystems: frozenset[str]
    namespaces: frozenset[str]
    cgroups: CgroupLayout
    lsms: tuple[str, ...] = ()
    seccomp: bool = True
    idmapped_mounts: bool = True
    keyrings: bool = True
    rlimits: tuple[tuple[int, int, int], ...] = ()
    oom_score_adj: int = 0
    unprivileged: bool = False
    own_ids: OwnIds | None = None
    uid_pool: IdPool | None = IdPool(DEFAULT_POOL_START, DEFAULT_POOL_SIZE)
    gid_pool: IdPool | None = IdPool(DEFAULT_POOL_START, DEFAULT_POOL_SIZE)

    def holds(self, capability: int) -> bool:
        """Whether the engine has the capability with this number."""
        return bool(self.capabilities >> capability & 1)

    def hard_limit(self, number: int) -> int | None:
        """The engine's hard limit for a resource number; None: not known."""
        return next((hard for known, _, hard in self.rlimits if known == number), None)


def probe(pid: str = "self") -> HostFacts:
    """Look at this host once. A file that is not there means that the feature is not there.

    `pid`: the process that starts containers, where that is another one of our user.

    Raises:
        OSError: /proc is not mounted.
    """
    uname = os.uname()
    kernel = kernel_version(uname.release)
    uid_map, gid_map = _read("/proc/self/uid_map"), _read("/proc/self/gid_map")
    unprivileged = os.geteuid() != 0 or not is_initial_map(uid_map)
    return HostFacts(
        kernel=kernel,
        machine=uname.machine,
        page_size_bytes=resource.getpagesize(),
        capabilities=host_capabilities(pid),
        last_capability=int(_read("/proc/sys/kernel/cap_last_cap")),
        filesystems=parse_filesystems(_read("/proc/filesystems")),
        namespaces=_namespaces(),
        cgroups=CgroupLayout.probe(),
        lsms=parse_lsms(_read_or_empty("/sys/kernel/security/lsm")),
        seccomp=os.path.exists("/proc/sys/kernel/seccomp/actions_avail"),
        idmapped_mounts=kernel >= IDMAPPED_MOUNTS_SINCE,
        keyrings=os.path.exists("/proc/keys"),
        rlimits=_rlimits(0 if pid == "self" else int(pid)),
        oom_score_adj=int(_read(f"/proc/{pid}/oom_score_adj")),
        unprivileged=unprivileged,
        own_ids=own_ids(_read_or_empty),
        uid_pool=_id_pool("/etc/subuid", uid_map, unprivileged),
        gid_pool=_id_pool("/etc/subgid", gid_map, unprivileged),
    )


def kernel_version(release: str) -> tuple[int, int]:
    """(6, 18) for `6.18.44-generic`; (0, 0) for what no kernel is called."""
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def parse_filesystems(content: str) -> frozenset[str]:
    """The types in /proc/filesystems, those that need no device too."""
    return frozenset(line.split("\t")[-1].strip() for line in content.splitlines() if line)


def parse_lsms(content: str) -> tuple[str, ...]:
    """The active security modules, in the kernel's order."""
    return tuple(name for name in content.strip().split(",") if name)


def is_initial_map(content: str) -> bool:
    """Whether a uid_map maps every id to itself, as only the host's own does."""
    return content.split() == ["0", "0", "4294967295"]


def parse_subids(content: str, owners: frozenset[str]) -> IdPool | None:
    """The largest range that /etc/subuid or /etc/subgid gives to one of `owners`.

    Source: subuid(5).
    """
    pools = subid_ranges(content, owners)
    return max(pools, key=lambda pool: pool.size, default=None)


def inside_pool(map_content: str) -> IdPool | None:
    """The largest range of a uid_map above id 0: what an engine inside can hand on."""
    ranges = [tuple(map(int, line.split())) for line in map_content.splitlines()]
    pools = [IdPool(max(row[0], 1), row[0] + row[2] - max(row[0], 1)) for row in ranges]
    return max((pool for pool in pools if pool.size > 0), key=lambda pool: pool.size, default=None)


def _id_pool(path: str, id_map: str, unprivileged: bool) -> IdPool | None:
    owners = {SUBID_OWNER, str(os.geteuid())}
    with contextlib.suppress(KeyError):
        owners |= {pwd.getpwuid(os.geteuid()).pw_name} if unprivileged else set()
    named = parse_subids(_read_or_empty(path), frozenset(owners))
    if named is not None:
        return named
    if not unprivileged:
        return IdPool(DEFAULT_POOL_START, DEFAULT_POOL_SIZE)
    return None if is_initial_map(id_map) else inside_pool(id_map)


def _namespaces() -> frozenset[str]:
    kinds = set(namespaces.kinds())
    if _read_or_empty("/proc/sys/user/max_user_namespaces").strip() in ("", "0"):
        kinds.discard("user")
    return frozenset(kinds)


def _rlimits(pid: int) -> tuple[tuple[int, int, int], ...]:
    """Soft and hard of every resource that this kernel has; Python says -1 for no limit."""
    limits = []
    for number in RLIMITS.values():
        soft, hard = resource.prlimit(pid, number)
        limits.append((number, soft & NO_LIMIT, hard & NO_LIMIT))
    return tuple(limits)


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def _read_or_empty(path: str) -> str:
    try:
        return _read(path)
    except FileNotFoundError:
        return ""
