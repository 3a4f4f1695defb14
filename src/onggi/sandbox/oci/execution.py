"""`exec`: one more process in a running container.

It enters the namespaces of the container's first process by pidfd, so it lands in this container or
fails, whoever has the number later. It has no record: it is its caller's alone.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from onggi.errors import FailedPrecondition
from onggi.runtime.host import probe
from onggi.runtime.plan import plan_exec
from onggi.runtime.request import Caller, ExecRequest
from onggi.sandbox.oci import caller
from onggi.sandbox.oci.consoles import (
    check_terminal,
    connect_console,
    send_terminal,
    settle_terminal,
)
from onggi.sandbox.oci.creation import (
    Slots,
    with_listen_fds,
)
from onggi.sandbox.oci.ending import cgroup_of, open_process
from onggi.sandbox.oci.home import with_home
from onggi.sandbox.oci.joining import Places, places
from onggi.sandbox.oci.offspring import Offspring
from onggi.sandbox.oci.records import CONFIG_NAME, Directory, Record, status_of, write_whole
from onggi.specs.runtime import Config, Process, parse_config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class ExecOrder:
    """What `exec` is told beside the process. As creation.Order; `cgroups`: ones below the own."""

    __slots__ = (
        "cgroups",
        "console_socket",
        "detached",
        "ignore_paused",
        "pid_file",
        "preserved",
        "warn",
    )

    def __init__(
        self,
        warn: Callable[[str], None],
        *,
        console_socket: str = "",
        pid_file: str = "",
        preserved: int = 0,
        detached: bool = False,
        ignore_paused: bool = False,
        cgroups: tuple[str, ...] = (),
    ) -> None:
        self.warn = warn
        self.console_socket = console_socket
        self.pid_file = pid_file
        self.preserved = preserved
        self.detached = detached
        self.ignore_paused = ignore_paused
        self.cgroups = cgroups


class Running:
    """A process that has been made. `terminal`: its master, owned by the caller; or -1."""

    __slots__ = ("offspring", "pidfd", "terminal")

    def __init__(self, offspring: Offspring, pidfd: int, terminal: int) -> None:
        self.offspring = offspring
        self.pidfd = pidfd
        self.terminal = terminal


def execute(directory: Directory, make: Callable[[Config], Process], order: ExecOrder) -> Running:
    """Run the process that `make` derives from the container's configuration.

    Raises:
        FailedPrecondition: the container does not run. SpecError: the process is wrong.
        StartFailed: it cannot be executed.
    """
    record = directory.read()
    check_status(record, ignore_paused=order.ignore_paused)
    config = parse_config(directory.read_file(CONFIG_NAME))
    process = make(config)
    check_terminal(process.terminal, order.console_socket, detached=order.detached)
    with ExitStack() as stack:
        console = stack.enter_context(connect_console(order.console_socket))
        slots = Slots(stack)
        pidfd = open_process(record)
        slots.add(stack.enter_context(pidfd))
        process = with_listen_fds(with_home(process, f"/proc/{record.pid}/root"))
        joined = places(cgroup_of(record), order.cgroups) if record.cgroup else Places((), "")
        cgroup_slot = slots.add_directory(joined.v2) if joined.v2 else -1
        preserved = slots.add_preserved(order.preserved)
        request = ExecRequest(
            supervision=Caller(waits=not order.detached, preserved=preserved),
            pidfd_slot=0,
            cgroup_files=joined.tasks,
            cgroup_slot=cgroup_slot,
            keyring=f"_ses.{record.id}",
            container_id=record.id,
            bundle=record.bundle,
            container_pid=record.pid,
        )
        plan = plan_exec(process, config, probe(caller.current.pid), request)
        for warning in plan.warnings:
            order.warn(warning)
        offspring = Offspring(plan, slots.fds, order.warn)
        try:
            started = offspring.started()
            terminal = started.sockets[0] if started.sockets else -1
            if order.console_socket:
                send_terminal(console, terminal)
                os.close(terminal)
                terminal = -1
            elif terminal >= 0:
                settle_terminal(terminal)
            if order.pid_file:
                write_whole(None, order.pid_file, str(started.pid).encode(), 0o644)
            offspring.recorded()
        except BaseException:
            offspring.close()
            raise
    assert started.pidfd is not None
    return Running(offspring, started.pidfd, terminal)


def check_status(record: Record, *, ignore_paused: bool) -> None:
    """Raises: FailedPrecondition: the container does not run."""
    status = status_of(record)
    if status == "stopped":
        raise FailedPrecondition("cannot exec in a stopped container: container not running")
    if status == "creating":
        raise FailedPrecondition("cannot exec in a container that is being created")
    if status == "created" and os.geteuid() != 0:
        # what waits is not inspectable, and only who may inspect it may join it
        raise FailedPrecondition(
            "cannot exec in a container that waits to be started, as an ordinary user",
            hint="start it first",
        )
    if status == "paused" and not ignore_paused:
        raise FailedPrecondition(
            "cannot exec in a paused container (use --ignore-paused to override)"
        )
