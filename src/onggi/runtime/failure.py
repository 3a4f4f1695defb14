"""From keel's report of a failed step to the error that a person reads. Pure.

The step's words come from the plan, the hint from the step, the call and errno; what is said of the
application's file is `failure_execute`'s.
"""

from __future__ import annotations

import errno as e
import os
from collections.abc import Callable, Mapping
from typing import Protocol

from onggi.errors import EngineError, FailedPrecondition, Internal, StartFailed, SyscallError
from onggi.kernel.hints import hint_for
from onggi.runtime import steps as s
from onggi.runtime.explain import describe_step
from onggi.runtime.failure_execute import NOT_EXECUTABLE, explain_execute
from onggi.runtime.printable import printable


class Report(Protocol):
    """A FAILED or WARNED message (keel/README.md). `facts`: for EXECUTE only, else empty."""

    @property
    def step_index(self) -> int: ...
    @property
    def opcode(self) -> int: ...
    @property
    def errno(self) -> int: ...
    @property
    def call(self) -> str: ...
    @property
    def detail(self) -> str: ...
    @property
    def facts(self) -> Mapping[str, str]: ...


class StepError(SyscallError):
    """A step of a plan failed: `number` in the plan, `description` of what it was to do."""

    def __init__(
        self, number: int, description: str, report: Report, *, hint: str | None = None
    ) -> None:
        super().__init__(report.call, printable(report.detail), report.errno, hint=hint)
        self.number = number
        self.description = description
        self.message = f"cannot {description}: {self.message}"


def _bounding(plan: s.Plan) -> int:
    return next((step.bounding for step in plan.steps if isinstance(step, s.BecomeUser)), 0)


def explain_failure(
    report: Report, plan: s.Plan, platform: object = None, machine: str | None = None
) -> EngineError:
    """The error for a FAILED report: a StartFailed if it is about the application, or a StepError.

    `platform`: the image's, for what was built for another CPU; `machine`: this host's, as
    uname(2) says (default: the one this runs on).
    """
    if report.opcode == 0 or not 0 <= report.step_index < len(plan.steps):
        return Internal(
            f"keel could not read the plan: {printable(report.detail)} ({report.call})",
            hint="this is a defect of onggi: keel and the engine may be of different versions",
        )
    step = plan.steps[report.step_index]
    if report.errno == e.ECHILD:
        return _ended_early(report, plan)
    last = plan.steps[-1]
    if isinstance(last, s.Execute) and report.call == "execve":
        return explain_execute(
            last,
            report.errno,
            report.facts,
            machine or os.uname().machine,
            "" if platform is None else str(platform),
            _bounding(plan),
        )
    if report.call in ("hook", "idmap") and report.errno in (e.ECANCELED, e.ETIMEDOUT):
        return _ended_badly(step, report)
    if isinstance(step, s.ChangeDirectory):
        return _no_working_directory(step, report)
    return StepError(
        report.step_index, describe_step(plan, report.step_index), report, hint=_hint(step, report)
    )


def explain_warning(report: Report, plan: s.Plan) -> str:
    """One line for an optional step that failed: what is not done, and why."""
    reason = f"{report.call}: {os.strerror(report.errno)}".lower()
    if not 0 <= report.step_index < len(plan.steps):
        return printable(f"step {report.step_index}: {reason}")
    hint = _hint(plan.steps[report.step_index], report)
    text = f"could not {describe_step(plan, report.step_index)}: {reason}"
    return printable(f"{text} — {hint}" if hint else text)


def _ended_early(report: Report, plan: s.Plan) -> EngineError:
    return FailedPrecondition(
        f"the container ended before the application ran, at: "
        f"{describe_step(plan, report.step_index)} ({printable(report.detail)})",
        hint="a signal 9 is mostly the memory limit: raise it (--memory)",
    )


def _ended_badly(step: s.Step, report: Report) -> FailedPrecondition:
    """A program that the start needs, and what it said last."""
    said = printable(report.detail.strip())
    if report.call == "idmap":
        return FailedPrecondition(said, hint=_hint(step, report))
    return FailedPrecondition(f"the {said}", hint="the configuration names it: $.hooks")


def _no_working_directory(step: s.ChangeDirectory, report: Report) -> StartFailed:
    reasons = {
        e.ENOENT: "does not exist in the container",
        e.ENOTDIR: "is not a directory",
        e.EACCES: "may not be searched",
        e.EXDEV: "lies outside the container's root",
        e.ELOOP: "has too many symbolic links",
        e.EROFS: "does not exist, and the file system is read-only",
    }
    reason = reasons.get(report.errno, os.strerror(report.errno).lower())
    return StartFailed(
        f"the working directory {printable(step.path)} {reason}",
        exit_code=NOT_EXECUTABLE,
        hint="name another with --workdir",
    )


def _hint(step: s.Step, report: Report) -> str | None:
    own = _HINTS.get(type(step))
    hint = own(step, report) if own else None
    return (
        hint
        or hint_for(report.call, _arguments(step, report), report.errno)
        or _GENERAL.get(report.errno)
    )


def _arguments(step: s.Step, report: Report) -> str:
    """The call's arguments in the words that kernel.hints looks for."""
    words = [report.detail]
    if isinstance(step, s.CloneInto):
        words += [f"CLONE_NEW{name.upper()}" for name in s.namespace_names(step.flags).split()]
    if isinstance(step, s.IdmapTree):
        words.append("MOUNT_ATTR_IDMAP")
    return " ".join(words)


_GENERAL: dict[int, str] = {
    e.ENOSPC: "no space is left: free some on the disk, or raise the limit that `df -i` or "
    "`sysctl user` shows",
    e.EDQUOT: "the disk quota is used up",
    e.ENOMEM: "not enough memory: raise the container's memory limit",
    e.EROFS: "the file system is read-only: make the place before it is mounted, or mount it rw",
}


def _of_errno(**hints: str) -> Callable[[s.Step, Report], str | None]:
    """Hints by the name of errno."""
    table = {getattr(e, name): text for name, text in hints.items()}
    return lambda _, report: table.get(report.errno)


def _open_tree(step: s.Step, report: Report) -> str | None:
    if report.errno == e.ENOENT and isinstance(step, s.OpenTree | s.TakeTree):
        source = step.source if isinstance(step, s.OpenTree) else ""
        return f"{printable(source or step.path)} is not there on the host: make it first"
    if report.errno == e.EINVAL and isinstance(step, s.TakeTree):
        return "a user may bind a directory with mounts below it only together with them: rbind"
    if report.errno == e.EACCES:
        return "this user may not pass through one of its directories"
    return None


_OF_MAPS: dict[int, str] = {
    e.EPERM: "the engine may not hand out these ids: run it as root, or map your own id only",
    e.EINVAL: "the kernel takes neither overlapping nor unmapped ranges",
}


def _id_maps(step: s.Step, report: Report) -> str | None:
    """newuidmap's refusals by the very line that is missing; the order is that of the calls."""
    if not isinstance(step, s.WriteIdMaps) or report.call not in ("idmap", "confirm"):
        return _OF_MAPS.get(report.errno)
    of_groups = bool(step.gid_helper) and report.detail.startswith(step.gid_helper)
    grants = step.gid_grants if of_groups else step.uid_grants
    file = "/etc/subgid" if of_groups else "/etc/subuid"
    if grants and report.errno == e.ECANCELED:
        return f"root grants these ids to a user by a line of {file}: {' and '.join(grants)}"
    return f"is it setuid root, and may this process gain privileges? look into {file} too"


def _hook(step: s.Step, report: Report) -> str | None:
    if report.errno in (e.ENOENT, e.EACCES) and report.call == "hook":
        where = "on the host" if isinstance(step, s.RunHostHook) else "as the container sees it"
        return f"its path must name a program {where}"
    return None


def _filesystem(step: s.Step, report: Report) -> str | None:
    if not isinstance(step, s.MountFilesystem):
        return None
    if step.fstype in ("proc", "sysfs") and report.errno == e.EPERM:
        place = "/proc" if step.fstype == "proc" else "/sys"
        return (
            f"the kernel lets a user namespace mount {step.fstype} only where the host's {place} "
            "is whole: nothing may be mounted over parts of it, as in a nested container"
        )
    if report.call == "fsconfig" and report.errno == e.EINVAL:
        return f"{step.fstype} does not know one of the options, or not that value"
    if report.errno == e.ENOTDIR:
        return "a component of the path is a file in the image"
    return None


def _netlink(step: s.Step, report: Report) -> str | None:
    """By the kind of message, since errno alone says little; `netlink RTM_NEWLINK` is the call."""
    table = _NETLINK.get(report.call.rpartition(" ")[2], {})
    return table.get(report.errno) or _NETLINK_ANY.get(report.errno)


_NO_LINK = "the interface was not made: the host's part of the start is missing"
_NETLINK: dict[str, dict[int, str]] = {
    "RTM_NEWLINK": {
        e.EEXIST: "a link of this name is on the host already; remove it with `ip link delete`, "
        "if no container has it",
        e.EINVAL: "the bridge of the network is gone, or it takes no such link: disconnect the "
        "container and connect it again",
        e.ENODEV: "the bridge of the network or the interface is gone: start the container again",
        e.EXFULL: "a bridge takes 1,023 ports: put some containers into another network",
        e.ENFILE: "there are too many links of this kind on the host",
        e.ENOSPC: "there are too many links on the host: remove containers or networks",
        e.EOPNOTSUPP: "this kernel lacks such links: try `modprobe veth bridge`",
        e.ESRCH: "the container's process was killed while it started",
    },
    "RTM_SETLINK": {
        e.ENODEV: "the bridge of the network or the interface is gone: start the container again",
        e.EXFULL: "a bridge takes 1,023 ports: put some containers into another network",
    },
    "RTM_NEWADDR": {
        e.EEXIST: "the container has this address already: by another network, or given twice",
        e.EACCES: "IPv6 is disabled for the container: by `sysctl net.ipv6.conf`, or by the host",
        e.EAFNOSUPPORT: "the kernel has no IPv6: remove ipv6.disable=1 from its command line",
    },
    "RTM_NEWROUTE": {
        e.ENETUNREACH: "the gateway lies in no subnet of the interface",
        e.EHOSTUNREACH: "the gateway lies in no subnet of the interface",
        e.EINVAL: "the gateway lies in no subnet of the interface, or is an address of its own",
        e.EEXIST: "two networks of the container have a route to the same place",
    },
}
_NETLINK_ANY: dict[int, str] = {
    e.EPERM: "it needs CAP_NET_ADMIN: run the engine as root",
    e.ENODEV: _NO_LINK,
    e.ENOBUFS: "the kernel has no memory for it now: try again",
    e.EMFILE: "the limit on open files leaves no room",
}


ENOENT_SYSCTL = "this kernel has no such parameter: check its name, or load its module"

_HINTS: dict[type[s.Step], Callable[[s.Step, Report], str | None]] = {
    s.OpenTree: _open_tree,
    s.TakeTree: _open_tree,
    s.MountFilesystem: _filesystem,
    s.OpenPeerTree: _of_errno(
        ENOENT="that container has none: was it started with --ipc none, or did it unmount it?",
        EPERM="it needs CAP_SYS_ADMIN and CAP_SYS_CHROOT: run the engine as root",
    ),
    s.SetTimeOffsets: _of_errno(
        EPERM="time namespaces need CAP_SYS_TIME and CAP_SYS_ADMIN on the host",
        ERANGE="the offset would make the clock negative or run over",
    ),
    s.WriteIdMaps: _id_maps,
    s.JoinCgroups: _of_errno(
        ENOENT="the cgroup is gone: something removed it while the container started",
        EBUSY="the cgroup has controllers for its children: processes must be in a leaf",
        EOPNOTSUPP="the cgroup is of type threaded or invalid: give the container another parent",
        ENOSPC="its cpuset has no cpus or no memory nodes: write cpuset.cpus and cpuset.mems",
        EAGAIN="the limit on processes is reached: raise --pids-limit",
        EINVAL="the cgroup cannot take this process: a realtime process, or cpu without runtime",
        EACCES="the cgroup is not the engine's to write to",
        EPERM="the cgroup is not the engine's to write to",
    ),
    s.CloneInto: _of_errno(
        EACCES="the cgroup above both the caller's and the container's is not this user's: call "
        "from a cgroup of his own, systemd-run --user --scope",
    ),
    s.IdmapTree: _of_errno(
        EPERM="the mount has an id mapping already, or the file system is not the host's own",
    ),
    s.RunHostHook: _hook,
    s.RunHook: _hook,
    s.ConnectAgent: _of_errno(
        ENOENT="nobody listens there: start the agent first",
        ECONNREFUSED="nobody listens there: start the agent first",
        ENAMETOOLONG="the path of a socket has at most 107 bytes",
    ),
    s.SetScheduler: _of_errno(
        EPERM="real-time policies and lower nice values need CAP_SYS_NICE on the host, and where "
        "cgroups share out real time (CONFIG_RT_GROUP_SCHED) $.linux.resources.cpu.realtimeRuntime",
        EINVAL="this kernel does not take that policy with these values",
        EBUSY="SCHED_DEADLINE has no time left to give on this machine",
    ),
    s.SetIoPriority: _of_errno(EPERM="the class IOPRIO_CLASS_RT needs CAP_SYS_NICE on the host"),
    s.SetCpuAffinity: _of_errno(EINVAL="none of these CPUs is there for the container's cpuset"),
    s.SetMemoryPolicy: _of_errno(
        ENOSYS="this kernel knows no memory policies (CONFIG_NUMA)",
        EINVAL="the mode and the flags do not fit, or a node is not there",
    ),
    s.SetLabel: _of_errno(
        ENOENT="the security module has no such profile, or /proc has no place for it",
        EINVAL="the security module does not take this label",
        EXDEV="/proc is covered by something else: nothing may be mounted on it but a procfs",
        ELOOP="/proc is a link in the image: mount a procfs there",
    ),
    s.SetOomScore: _of_errno(EACCES="lowering it needs CAP_SYS_RESOURCE"),
    s.SetRlimit: _of_errno(
        EPERM="above the engine's own hard limit: raising it needs CAP_SYS_RESOURCE",
        EINVAL="the soft limit is above the hard one, or the kernel has no such limit",
    ),
    s.MountOverlay: _of_errno(
        ENODEV="this kernel has no overlay: load it with `modprobe overlay`",
        EBUSY="the upper directory is in use by another overlay: does the container run already?",
        EOVERFLOW="the work directory's owner is not mapped in the user namespace",
        EPERM="overlay in a user namespace needs linux 5.11 or newer",
        ESTALE="the upper directory was used with other layers",
    ),
    s.AttachRoot: _of_errno(
        EACCES="the container's root may not search the way to it: its directories need mode 0711",
    ),
    s.BindTree: _of_errno(
        ENOTDIR="a file cannot be mounted on a directory, nor a directory on a file",
        EROFS="the mount point is missing and the file system there is read-only",
    ),
    s.MakeNode: _of_errno(EPERM="making device nodes needs CAP_MKNOD on the host"),
    s.MakeDevice: _of_errno(
        EPERM="making device nodes needs CAP_MKNOD on the host: bind them instead",
        EEXIST="the image has another file in its place",
    ),
    s.OpenTerminal: _of_errno(
        ENOENT="the container has no devpts on /dev/pts",
        ENODEV="/dev/pts/ptmx is not of a devpts: the image or a mount covers it",
    ),
    s.WriteSysctl: _of_errno(
        ENOENT=ENOENT_SYSCTL,
        EACCES="the namespace that it belongs to is not the container's own",
        EPERM="the namespace that it belongs to is not the container's own",
        EINVAL="the kernel does not take this value",
        EXDEV="/proc is not the container's own procfs",
    ),
    s.LoadSeccomp: _of_errno(
        EINVAL="this kernel does not know one of the filter's flags or actions",
        EACCES="it needs no_new_privs or CAP_SYS_ADMIN",
        EFAULT="the filter is damaged",
    ),
    s.BecomeUser: _of_errno(
        EINVAL="the user or one of its groups is not mapped in the user namespace",
        EPERM="the engine lacks a capability that the container was to have",
        EAGAIN="its user has too many processes: raise --ulimit nproc",
    ),
    s.SendNetlink: _netlink,
    s.ConfigureNetwork: _netlink,
    s.BindSockets: _of_errno(
        EADDRINUSE="the address is taken in the container's network: is it asked for twice?",
        EADDRNOTAVAIL="it is no address of the container",
        EACCES="a port below `sysctl net.ipv4.ip_unprivileged_port_start` needs root inside",
        EAFNOSUPPORT="the kernel has no IPv6: remove ipv6.disable=1 from its command line",
    ),
    s.SetHostname: _of_errno(EPERM="the uts namespace is not the container's own"),
    s.SetDomainname: _of_errno(EPERM="the uts namespace is not the container's own"),
    s.JoinKeyring: _of_errno(EDQUOT="too many keys: raise `sysctl kernel.keys.maxkeys`"),
}
