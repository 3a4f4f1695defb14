"""From a configuration to a plan: pure functions, the one place that knows the order.

`plan` starts a container, `plan_exec` adds a process to one. Neither looks at the host: what it can
do comes as HostFacts, what the engine decided as a request. The rooms `plan_*` each know one part.

Why this order. Trees of the host are taken before the clone, while the monitor is all that sees the
host's paths. The maps are written first, since before that init has no ids; cgroups are joined
before anything is allocated, so that all is charged to the container. Mounts happen before
pivot_root, because proc and sysfs may be mounted in a user namespace only while the host's are in
sight (kernel fs/namespace.c mount_too_revealing). Paths are masked after all mounts, and the
working directory is entered after that, so that it cannot lie under a mask.
Source: runtime-spec runtime.md#lifecycle; runc libcontainer/nsenter/nsexec.c.
"""

from __future__ import annotations

from itertools import count

from onggi.errors import Unsupported
from onggi.kernel.mounts import MS_PRIVATE, MS_REC, MS_SLAVE, PROPAGATIONS
from onggi.runtime.draft import Draft
from onggi.runtime.host import HostFacts
from onggi.runtime.namespaces import (
    Namespaces,
    clone_step,
    require_kinds,
    time_steps,
)
from onggi.runtime.plan_devices import plan_devices, plan_terminal
from onggi.runtime.plan_hooks import (
    creating_steps,
    starting_state,
    starting_steps,
    state_document,
)
from onggi.runtime.plan_ids import map_steps, require_standing
from onggi.runtime.plan_mounts import plan_mounts, plan_root, plan_shared_memory
from onggi.runtime.plan_process import (
    Agent,
    ProcessDraft,
    agent_of,
    credential_steps,
    execute,
    oom_steps,
    rlimit_steps,
)
from onggi.runtime.plan_schedule import affinity_steps, schedule_steps
from onggi.runtime.plan_sysctls import plan_sysctls
from onggi.runtime.request import Caller, ExecRequest, LinkSetup, StartRequest, Supervision
from onggi.runtime.steps import (
    BindSockets,
    ChangeDirectory,
    CloneInto,
    ConfigureNetwork,
    HandOver,
    Hold,
    JoinCgroups,
    JoinKeyring,
    LoadSeccomp,
    MaskPath,
    OpenTerminal,
    PivotRoot,
    Plan,
    RaiseLoopback,
    SendNetlink,
    SetDomainname,
    SetHostname,
    SetPathReadonly,
    SetRootPropagation,
    SetRootReadonly,
    Step,
    Supervise,
    UnshareCgroup,
)
from onggi.runtime.validate import validate, validate_process
from onggi.runtime.validate_linux import validate_linux
from onggi.specs.runtime import Config, Linux, Process


def plan(config: Config, host: HostFacts, request: StartRequest) -> Plan:
    """All that is done to start the container, in order.

    Raises:
        SpecError: the configuration violates the specification, or asks for what cannot be had.
        Unsupported: the host lacks what the configuration asks for.
    """
    validate(config)
    assert config.process is not None  # validate() has seen to it
    draft = Draft(config, host, request)
    require_kinds(draft.namespaces, host)
    require_standing(draft.namespaces, host)
    if draft.linux.intel_rdt is not None:
        raise Unsupported(
            "$.linux.intelRdt: this version does not use resctrl",
            hint="leave it out, and put the container's process into a resctrl group afterwards",
        )
    called = isinstance(request.supervision, Caller)
    process = ProcessDraft(config.process, draft.linux, host, "$.process", called=called)
    _plan_names(draft)
    if draft.namespaces.joins("mount"):
        _warn_of_joined_tree(draft)
    else:
        _plan_tree(draft)
    draft.inside += plan_sysctls(draft.linux.sysctl, draft.namespaces)
    if not draft.namespaces.joins("mount"):
        draft.inside += [SetPathReadonly(path=path) for path in draft.linux.readonly_paths]
        draft.inside += [MaskPath(path=path) for path in draft.linux.masked_paths]
    agent = agent_of(process, lambda: draft.slot("$.linux.seccomp"), starting_state(draft))
    steps = [
        *_outside(draft, process, agent),
        *draft.inside,
        *_last_steps(draft, process, agent),
        *starting_steps(draft),
        execute(config.process, reap=request.reap),
    ]
    return Plan(tuple(steps), (*draft.warnings, *process.warnings))


def plan_exec(process: Process, config: Config, host: HostFacts, request: ExecRequest) -> Plan:
    """All that is done to execute one more process in the container that `config` describes.

    Raises:
        SpecError: the process violates the specification; paths start at the process (`$.args`).
        Unsupported: the host lacks what the configuration asks for.
    """
    validate_process(process)
    linux = config.linux or Linux()
    validate_linux(linux)
    called = isinstance(request.supervision, Caller)
    draft = ProcessDraft(process, linux, host, "$", called=called)
    clone = CloneInto(
        flags=0,
        pidfd_joins=(request.pidfd_slot, Namespaces.of(linux).flags),
        cgroup_slot=request.cgroup_slot,
    )
    first_cpus, last_cpus = affinity_steps(draft)
    steps: list[Step] = [_first_step(request.supervision, process), *first_cpus]
    if request.cgroup_files:
        steps.append(JoinCgroups(paths=request.cgroup_files))
    early_score, late_score = oom_steps(draft)
    steps += [*early_score, clone, *last_cpus, *late_score]
    agent = _exec_agent(draft, config, request)
    steps += [agent.connect()] if agent else []
    if request.keyring and host.keyrings:
        steps.append(JoinKeyring(name=request.keyring))
    if process.terminal:
        rows, columns = _terminal_size(request.supervision, process)
        steps.append(OpenTerminal(rows=rows, columns=columns, bind_console=0, existing=1))
    steps.append(ChangeDirectory(path=process.cwd))
    steps += schedule_steps(draft)
    steps += rlimit_steps(draft)
    steps += credential_steps(draft, agent)
    steps.append(execute(process, reap=False))
    return Plan(tuple(steps), tuple(draft.warnings))


def _exec_agent(draft: ProcessDraft, config: Config, request: ExecRequest) -> Agent | None:
    slots = count(max(request.pidfd_slot, request.cgroup_slot) + 1)
    state = state_document(
        config, request.container_id, request.bundle, "running", request.container_pid
    )
    return agent_of(draft, slots.__next__, state)


def _first_step(supervision: Supervision | Caller, process: Process) -> Step:
    if isinstance(supervision, Caller):
        return HandOver(
            terminal=int(process.terminal),
            waits=int(supervision.waits),
            preserved=supervision.preserved,
        )
    return Supervise(
        run_dir=supervision.run_dir,
        log_dir=supervision.log_dir,
        log_name=supervision.log_name,
        record_name=supervision.record_name,
        terminal=int(process.terminal),
        stdin=int(supervision.stdin),
        log_max_bytes=supervision.log_max_bytes,
        log_max_files=supervision.log_max_files,
        die_with_engine=int(supervision.die_with_engine),
        journal_socket=supervision.journal_socket,
        journal_fields=supervision.journal_fields,
    )


def _outside(draft: Draft, process: ProcessDraft, agent: Agent | None) -> list[Step]:
    """The monitor's steps up to where init takes over."""
    request = draft.request
    steps: list[Step] = [_first_step(request.supervision, process.process), *draft.trees]
    steps += time_steps(draft.linux, draft.namespaces)
    if request.cgroup_files:
        steps.append(JoinCgroups(paths=request.cgroup_files))
    early_score, late_score = oom_steps(process)
    steps += [*early_score, clone_step(draft.namespaces, request.cgroup_slot)]
    steps += map_steps(draft.linux, draft.namespaces, draft.host)
    steps += _link_steps(draft)
    steps += [*draft.idmaps, *late_score]
    steps += [agent.connect()] if agent else []
    return [*steps, *draft.taken]


def _plan_names(draft: Draft) -> None:
    """What init gets before it has a tree: cut-off mounts, keys, cgroup root, link, names."""
    namespaces, config, request = draft.namespaces, draft.config, draft.request
    if "mount" in namespaces.new:
        # Not private: a mount that the host undoes must not be held by a starting container.
        draft.inside.append(SetRootPropagation(flags=MS_SLAVE | MS_REC))
    if request.keyring and draft.host.keyrings:
        draft.inside.append(JoinKeyring(name=request.keyring))
    if "cgroup" in namespaces.new:
        draft.inside.append(UnshareCgroup())
    if "network" in namespaces.new:
        draft.inside.append(RaiseLoopback())
    if _connects(draft):
        draft.inside += _network_steps(request.links)
    elif request.links is not None:
        draft.warn(
            "$.linux.namespaces", "the network is not the container's own: it stays as it is"
        )
    # A joined uts namespace belongs to another, who may not let us: its name is good enough then.
    joined = namespaces.joins("uts")
    if config.hostname:
        draft.inside.append(SetHostname(name=config.hostname, optional=joined))
    if config.domainname:
        draft.inside.append(SetDomainname(name=config.domainname, optional=joined))


def _connects(draft: Draft) -> bool:
    """Whether links lead into the network namespace: the container's, or one named for that."""
    joined = draft.namespaces.joins("network") and bool(draft.linux.net_devices)
    return "network" in draft.namespaces.new or joined


def _link_steps(draft: Draft) -> list[Step]:
    """The host's part of the links: as soon as the namespace that they lead to exists."""
    links = draft.request.links
    if links is None or not _connects(draft) or not links.host_messages:
        return []
    of_links, _ = _divide(links.lines)
    return [
        SendNetlink(messages=links.host_messages, pid_offsets=links.pid_offsets, lines=of_links)
    ]


def _network_steps(links: LinkSetup | None) -> list[Step]:
    """The inner part of the links, and the sockets of the engine."""
    steps: list[Step] = []
    if links is None:
        return steps
    if links.inside_messages:
        _, inside = _divide(links.lines)
        steps.append(
            ConfigureNetwork(
                messages=links.inside_messages, settings=links.inside_settings, lines=inside
            )
        )
    if links.sockets:
        steps.append(BindSockets(sockets=links.sockets))
    return steps


def _divide(lines: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The first line of each interface, which is about its link; and the others."""
    firsts: dict[str, str] = {}
    for line in lines:
        firsts.setdefault(line.partition(":")[0], line)
    of_links = tuple(firsts.values())
    return of_links, tuple(line for line in lines if line not in of_links)


def _plan_tree(draft: Draft) -> None:
    """Root, mounts, devices, terminal, and leaving the host's tree behind."""
    if draft.linux.mount_label and "selinux" not in draft.host.lsms:
        draft.warn("$.linux.mountLabel", "is not applied: this host has no selinux")
    plan_root(draft)
    plan_mounts(draft)
    plan_shared_memory(draft)
    plan_devices(draft)
    plan_terminal(draft)
    draft.inside += creating_steps(draft)
    draft.inside += draft.late
    views = draft.request.views if draft.request.no_pivot else ()
    draft.inside.append(PivotRoot(how=int(draft.request.no_pivot), views=views))
    flags = PROPAGATIONS[draft.linux.rootfs_propagation or "private"]
    if not flags & (MS_PRIVATE | MS_SLAVE):
        # Only now: pivot_root(2) refuses a shared root. The others are what the root has already.
        draft.inside.append(SetRootPropagation(flags=flags))


def _warn_of_joined_tree(draft: Draft) -> None:
    """A tree that is joined is another container's: it is used, never rebuilt."""
    draft.warn("$.root", "is that of the mount namespace that is joined")
    for name, value in (
        ("$.mounts", draft.config.mounts),
        ("$.linux.devices", draft.linux.devices),
        ("$.linux.readonlyPaths", draft.linux.readonly_paths),
        ("$.linux.maskedPaths", draft.linux.masked_paths),
    ):
        if value:
            draft.warn(name, "are those of the mount namespace that is joined")
    process = draft.config.process
    if process is not None and process.terminal:
        rows, columns = _terminal_size(draft.request.supervision, process)
        draft.inside.append(OpenTerminal(rows=rows, columns=columns, bind_console=0, existing=1))
    draft.inside += creating_steps(draft)


def _last_steps(draft: Draft, process: ProcessDraft, agent: Agent | None) -> list[Step]:
    """Limits and credentials of the application, once everything is set up.

    The working directory is made before the root becomes read-only. Limits come after both: low
    ones (open files, file size) would fail the steps before.
    """
    steps: list[Step] = [ChangeDirectory(path=process.process.cwd, create=1)]
    if draft.config.root and draft.config.root.readonly and "mount" in draft.namespaces.new:
        steps.append(SetRootReadonly())
    steps += schedule_steps(process)
    steps += rlimit_steps(process)
    return [*steps, *_held(credential_steps(process, agent), draft.request.supervision)]


def _held(credentials: list[Step], supervision: Supervision | Caller) -> list[Step]:
    """The steps with the wait for `start` in between: before a filter that might forbid it."""
    if not isinstance(supervision, Caller) or supervision.hold_slot < 0:
        return credentials
    load = (i for i, step in enumerate(credentials) if isinstance(step, LoadSeccomp))
    place = next(load, len(credentials))
    return [*credentials[:place], Hold(slot=supervision.hold_slot), *credentials[place:]]


def _terminal_size(supervision: Supervision | Caller, process: Process) -> tuple[int, int]:
    if process.console_size and not (supervision.rows or supervision.columns):
        return process.console_size.height, process.console_size.width
    return supervision.rows, supervision.columns
