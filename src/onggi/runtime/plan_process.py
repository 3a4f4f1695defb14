"""From the credentials of `process` to its execve: the steps that end every plan.

Order: a filter needs CAP_SYS_ADMIN or no_new_privs to be loaded. With no_new_privs it is loaded
last, so that it need not allow what taking a user takes; without, while the privileges last.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from onggi.errors import SpecError, Unsupported
from onggi.kernel.capabilities import BITS, names_of
from onggi.runtime.host import CAP_SYS_RESOURCE, HostFacts
from onggi.runtime.namespaces import Namespaces, is_mapped
from onggi.runtime.plan_hooks import agent_document, split_at_pid
from onggi.runtime.plan_ids import denies_groups
from onggi.runtime.plan_seccomp import seccomp_step
from onggi.runtime.rlimits import RLIMITS, limit_text
from onggi.runtime.steps import (
    BecomeUser,
    ConnectAgent,
    Execute,
    SetLabel,
    SetNoNewPrivileges,
    SetOomScore,
    SetRlimit,
    SetUmask,
    Step,
)
from onggi.specs.runtime import Capabilities, Linux, Process

#: What execvp(3) searches when the environment says nothing; Docker's default.
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_UMASK = 0o022


class ProcessDraft:
    """One process on one host, with the warnings met. `path` is its JSON path, `$.process`.

    `called`: an engine or scheduler wrote the configuration, for every kernel and machine at once.
    """

    def __init__(
        self, process: Process, linux: Linux, host: HostFacts, path: str, *, called: bool
    ) -> None:
        self.process = process
        self.linux = linux
        self.host = host
        self.path = path
        self.called = called
        self.namespaces = Namespaces.of(linux)
        self.warnings: list[str] = []

    def warn(self, place: str, message: str) -> None:
        self.warnings.append(f"{self.path}.{place}: {message}")


def oom_steps(draft: ProcessDraft) -> tuple[list[SetOomScore], list[SetOomScore]]:
    """The child's oom_score_adj, as what is done before the clone and after it.

    An ordinary user may not reach into a child that is inside a container: it inherits the score.
    """
    steps = _score(draft)
    return (steps, []) if draft.host.own_ids else ([], steps)


def _score(draft: ProcessDraft) -> list[SetOomScore]:
    """What the host does not let us lower stays at the engine's."""
    value = draft.process.oom_score_adj
    host = draft.host
    if value is None:
        return []
    if value < host.oom_score_adj and not host.holds(CAP_SYS_RESOURCE):
        draft.warn(
            "oomScoreAdj",
            f"{value} is {host.oom_score_adj} instead: lowering it needs CAP_SYS_RESOURCE",
        )
        value = host.oom_score_adj
    return [SetOomScore(value=value)]


def rlimit_steps(draft: ProcessDraft) -> list[Step]:
    """The child's limits; a hard one above the engine's own becomes the engine's own."""
    steps: list[Step] = []
    for index, limit in enumerate(draft.process.rlimits):
        number = RLIMITS[limit.type]
        known = draft.host.hard_limit(number)
        hard = limit.hard
        if known is not None and hard > known and not draft.host.holds(CAP_SYS_RESOURCE):
            draft.warn(
                f"rlimits[{index}]",
                f"{limit.type} {limit_text(hard)} is {limit_text(known)} instead: "
                "raising the engine's own limit needs CAP_SYS_RESOURCE",
            )
            hard = known
        steps.append(SetRlimit(resource=number, soft=min(limit.soft, hard), hard=hard))
    return steps


def credential_steps(draft: ProcessDraft, agent: Agent | None = None) -> list[Step]:
    """Label, umask, no_new_privs, filter and user.

    Raises:
        SpecError: an id that the user namespace does not map, or a filter that cannot be built.
        Unsupported: this kernel has no seccomp, or not the security module.
    """
    process = draft.process
    umask = DEFAULT_UMASK if process.user.umask is None else process.user.umask
    steps: list[Step] = [*_label_steps(draft), SetUmask(mask=umask)]
    load = _filter_steps(draft, agent)
    if process.no_new_privileges:
        return [*steps, SetNoNewPrivileges(), become_user(draft), *load]
    return [*steps, *load, become_user(draft)]


def _label_steps(draft: ProcessDraft) -> list[Step]:
    """What the security module is told. A label that cannot be given is never left out silently.

    Source: apparmor(7) change_onexec; selinux(8) setexeccon(3).
    """
    steps: list[Step] = []
    for field, module, file, fallback, prefix in (
        ("apparmorProfile", "apparmor", "apparmor/exec", "exec", "exec "),
        ("selinuxLabel", "selinux", "exec", "", ""),
    ):
        is_apparmor = module == "apparmor"
        name = draft.process.apparmor_profile if is_apparmor else draft.process.selinux_label
        if not name:
            continue
        if module in draft.host.lsms:
            steps.append(SetLabel(file=file, fallback=fallback, label=prefix + name))
        elif name != "unconfined":
            raise Unsupported(
                f"{draft.path}.{field}: {name!r} cannot be applied, this host has no {module}",
                hint=f"start a kernel with {module}, or leave the field out",
            )
    return steps


def agent_of(draft: ProcessDraft, slots: Callable[[], int], state: dict[str, Any]) -> Agent | None:
    """The agent that the filter asks, with what it is told; None where no rule asks.

    `slots` gives a free slot at each call.
    """
    profile = draft.linux.seccomp
    if profile is None or not any(rule.action == "SCMP_ACT_NOTIFY" for rule in profile.syscalls):
        return None
    document = agent_document(profile, state)
    return Agent(slots(), slots(), profile.listener_path or "", split_at_pid(document))


class Agent(Struct, frozen=True):
    """A seccomp agent's socket, what it is told, and the two slots that these travel in."""

    slot: int
    state_slot: int
    path: str
    state: tuple[str, ...]

    def connect(self) -> ConnectAgent:
        """The step for the host's side, once the child exists."""
        return ConnectAgent(
            slot=self.slot, state_slot=self.state_slot, path=self.path, state=self.state
        )


def _filter_steps(draft: ProcessDraft, agent: Agent | None) -> list[Step]:
    profile = draft.linux.seccomp
    if profile is None:
        return []
    if not draft.host.seccomp:
        raise Unsupported(
            "this kernel has no system call filters, and the configuration asks for one",
            hint="use a kernel with CONFIG_SECCOMP_FILTER, or run with --security-opt "
            "seccomp=unconfined",
        )
    step, warnings = seccomp_step(profile, draft.host.machine)
    if not draft.called:
        draft.warnings += [f"$.linux.seccomp: {warning}" for warning in warnings]
    if agent is not None:
        step = replace(step, agent=agent.slot, state=agent.state_slot)
    return [step]


def become_user(draft: ProcessDraft) -> BecomeUser:
    """User, groups and the five capability sets, less what the host cannot grant.

    Raises:
        SpecError: an id that the user namespace does not map.
    """
    user = draft.process.user
    _require_mapped(draft)
    groups = user.additional_gids
    if groups and denies_groups(draft.linux, draft.namespaces, draft.host):
        draft.warn("user.additionalGids", "are left out: a user may not set groups")
        groups = ()
    masks = capability_masks(draft)
    return BecomeUser(
        uid=user.uid,
        gid=user.gid,
        groups=groups,
        bounding=masks["bounding"],
        effective=masks["effective"],
        permitted=masks["permitted"],
        inheritable=masks["inheritable"],
        ambient=masks["ambient"],
    )


def _require_mapped(draft: ProcessDraft) -> None:
    if "user" not in draft.namespaces.new:
        return
    user = draft.process.user
    ids = [("uid", user.uid, draft.linux.uid_mappings), ("gid", user.gid, draft.linux.gid_mappings)]
    ids += [
        (f"additionalGids[{index}]", gid, draft.linux.gid_mappings)
        for index, gid in enumerate(user.additional_gids)
    ]
    for name, number, mappings in ids:
        if not is_mapped(mappings, number):
            raise SpecError(
                f"{draft.path}.user.{name}",
                f"{number} is not mapped in the user namespace",
                section="config-linux.md#user-namespace-mappings",
            )


def capability_masks(draft: ProcessDraft) -> dict[str, int]:
    """The sets as bit sets that the kernel will take; what is left out becomes a warning.

    Source: runtime-spec config.md#linux-process (what cannot be granted must be a warning and
    should not fail), capabilities(7) "Transformation of capabilities", capset(2).
    """
    asked = draft.process.capabilities or Capabilities()
    masks = {
        name: _mask(draft, name, getattr(asked, name)) for name in Capabilities.__struct_fields__
    }
    grantable = (1 << (draft.host.last_capability + 1)) - 1
    if not draft.namespaces.own_users:  # a new user namespace has all of them, within itself
        grantable &= draft.host.capabilities
    lacking = 0
    for name, mask in masks.items():
        lacking |= mask & ~grantable
        masks[name] = mask & grantable
    if lacking:
        draft.warn("capabilities", f"this host cannot grant {' '.join(names_of(lacking))}")
    within = (
        ("effective", "permitted", masks["permitted"]),
        ("inheritable", "bounding", masks["bounding"]),
        ("ambient", "permitted", masks["permitted"]),
        ("ambient", "inheritable", masks["inheritable"] & masks["bounding"]),
    )
    for name, limiting, limit in within:
        beyond = masks[name] & ~limit
        masks[name] &= limit
        # engines write ambient sets without inheritable ones since CVE-2022-24769: no news
        if beyond and limiting != "inheritable":
            names = " ".join(names_of(beyond))
            draft.warn(f"capabilities.{name}", f"{names} left out: not in {limiting}")
    return masks


def _mask(draft: ProcessDraft, place: str, names: tuple[str, ...]) -> int:
    mask = 0
    for name in names:
        if name in BITS:
            mask |= 1 << BITS[name]
        else:
            draft.warn(f"capabilities.{place}", f"no capability is called {name!r}")
    return mask


def execute(process: Process, *, reap: bool) -> Execute:
    """The application and where to look for it, as execvp(3) would in the container."""
    return Execute(
        arguments=process.args,
        environment=process.env,
        candidates=candidates(process),
        reap=int(reap),
    )


def candidates(process: Process) -> tuple[str, ...]:
    """Absolute paths to try, in order. An empty part of PATH is the working directory."""
    name = process.args[0]
    if "/" in name:
        return (posixpath.join(process.cwd, name),)
    search = DEFAULT_PATH
    for entry in process.env:
        if entry.startswith("PATH="):
            search = entry[len("PATH=") :]
    directories = search.split(":") if search else DEFAULT_PATH.split(":")
    places = (posixpath.join(process.cwd, directory, name) for directory in directories)
    return tuple(dict.fromkeys(places))
