"""More processes in running containers: `onggi exec`.

An exec is a task of its own with its own monitor; it has no record, since it cannot outlive the
container whose namespaces it enters. Source: docker-exec(1).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
from collections.abc import AsyncIterator

import msgspec

from onggi.engine.api.answers import ExitStatus, Session
from onggi.engine.api.requests import ExecRequest
from onggi.engine.cleanup import remove_task_directory
from onggi.engine.compose import capabilities
from onggi.engine.core import Core
from onggi.engine.ends import describe_end
from onggi.engine.names import new_id
from onggi.engine.prepare import find_user, layers_of, seccomp_profile, with_seccomp
from onggi.engine.records import ContainerRecord
from onggi.engine.tasks import Task
from onggi.errors import EngineError, FailedPrecondition, InvalidArgument, NotFound
from onggi.kernel.cgroups.driver import Cgroup
from onggi.kernel.processes import read_stat
from onggi.runtime.failure import explain_failure, explain_warning
from onggi.runtime.plan import plan_exec
from onggi.runtime.request import ExecRequest as ExecPlan
from onggi.runtime.request import Supervision
from onggi.runtime.steps import Plan
from onggi.sandbox.messages import Failed
from onggi.sandbox.monitor import Monitor
from onggi.specs.runtime import Config, ConsoleSize, Process, User, parse_config

#: Descriptors lent to keel: the container's first process, then its v2 cgroup.
_CGROUP_SLOT = 1
_END_S = 0.2
_ROUNDS = 16
Item = Session | ExitStatus | tuple[Session, int]


class Execs:
    """Execs of one engine."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def exec(self, request: ExecRequest, _fds: list[int]) -> AsyncIterator[Item]:
        """Run a command in a running container.

        Raises:
            FailedPrecondition: it does not run. StartFailed: the command cannot be executed.
        """
        core = self._core
        record = core.records.find_container(request.target)
        main = core.running(record.id)
        if main is None or main.pidfd < 0:  # closed a moment before its end is noted
            raise FailedPrecondition(
                f"container {record.name} does not run",
                hint=f"start it with onggi start {record.name}",
            )
        if record.state == "paused":
            raise FailedPrecondition(
                f"container {record.name} is paused",
                hint=f"onggi unpause {record.name} lets it go on",
            )
        if not request.command or not request.command[0]:
            raise InvalidArgument("nothing to execute", hint="write onggi exec CONTAINER COMMAND")
        session = new_id()
        ours, theirs = (None, None) if request.detach else socket.socketpair()
        try:
            task, warnings = await self._start(request, record, main, session, theirs)
        except BaseException:
            if ours is not None:
                ours.close()
            raise
        finally:
            if theirs is not None:
                theirs.close()
        item = Session(
            id=record.id, name=record.name, session=session, pid=task.pid, warnings=warnings
        )
        if ours is None:
            yield item
            return
        yield item, ours.detach()
        event = await asyncio.shield(task.exited)
        yield describe_end(event, None, "")

    async def begin(self, request: ExecRequest, stream: socket.socket) -> Task:
        """Start a command whose output goes to `stream`, and tell nobody.

        Raises: as `exec`.
        """
        record = self._core.records.find_container(request.target)
        main = self._core.running(record.id)
        if main is None or main.pidfd < 0:
            raise FailedPrecondition(f"container {record.name} does not run")
        task, _ = await self._start(request, record, main, new_id(), stream, told=False)
        return task

    async def _start(
        self,
        request: ExecRequest,
        record: ContainerRecord,
        main: Task,
        session: str,
        stream: socket.socket | None,
        *,
        told: bool = True,
    ) -> tuple[Task, tuple[str, ...]]:
        core = self._core
        run_dir = f"{core.places.task(record.id)}/exec-{session[:16]}"
        config = parse_config(record.config)
        process = self._process(request, record, config)
        full = with_seccomp(
            config, None if request.privileged else seccomp_profile(core, record.spec, config)
        )
        cgroup = core.cgroup(record.id)
        with contextlib.ExitStack() as stack:
            v2 = cgroup.open_v2()
            if v2 is not None:
                stack.callback(os.close, v2)
            plan = plan_exec(
                process,
                full,
                core.host,
                ExecPlan(
                    supervision=Supervision(
                        run_dir=run_dir,
                        record_name="",
                        stdin=request.stdin_open,
                        rows=request.size.rows,
                        columns=request.size.columns,
                    ),
                    cgroup_files=cgroup.task_paths(),
                    cgroup_slot=_CGROUP_SLOT if v2 is not None else -1,
                    keyring=record.id[:12],
                ),
            )
            os.mkdir(run_dir, 0o700)
            task: Task | None = None
            try:
                borrowed = (main.pidfd,) if v2 is None else (main.pidfd, v2)
                task = Task(Monitor.spawn(core.keel, plan, borrowed), core.loop)
                if stream is not None:
                    task.monitor.attach(
                        stream.fileno(), stdin=request.stdin_open, stdout=True, stderr=True
                    )
                task.monitor.go()
                outcome = await task.started
                if isinstance(outcome, Failed):
                    raise await _failure(record, main, outcome, plan)
            except BaseException:
                if task is not None:
                    task.abandon()
                remove_task_directory(run_dir)
                raise
        core.tasks[session] = task
        task.exited.add_done_callback(lambda _: self._ended(session, run_dir))
        if told:
            core.tell(record, "exec_start", command=request.command[0])
        return task, plan.warnings + tuple(explain_warning(w, plan) for w in task.warnings)

    def _ended(self, session: str, run_dir: str) -> None:
        self._core.tasks.pop(session, None)
        remove_task_directory(run_dir)

    def _process(self, request: ExecRequest, record: ContainerRecord, config: Config) -> Process:
        """The container's process with what this command changes."""
        base = config.process or Process(cwd="/")
        user, home = base.user, ""
        if request.user:
            found, groups = find_user(request.user, layers_of(self._core, record), ())
            user, home = User(uid=found.uid, gid=found.gid, additional_gids=groups), found.home
        env = {e.partition("=")[0]: e for e in base.env}
        if home:
            env["HOME"] = f"HOME={home}"
        if request.tty:
            env.setdefault("TERM", "TERM=xterm")
        env.update({e.partition("=")[0]: e for e in request.env if "=" in e})
        privileged = request.privileged or record.spec.privileged
        return msgspec.structs.replace(
            base,
            args=request.command,
            env=tuple(env.values()),
            cwd=request.workdir or base.cwd,
            terminal=request.tty,
            console_size=ConsoleSize(height=0, width=0) if request.tty else None,
            user=user,
            capabilities=capabilities(
                record.spec.cap_add, record.spec.cap_drop, privileged=privileged, uid=user.uid
            ),
            oom_score_adj=None,
        )


async def _failure(record: ContainerRecord, main: Task, outcome: Failed, plan: Plan) -> EngineError:
    """Why it did not start. A PID namespace whose first process is about to end answers ENOMEM."""
    if outcome.errno in (errno.ENOMEM, errno.ESRCH):
        await asyncio.wait((main.exited,), timeout=_END_S)
        if main.exited.done():
            return FailedPrecondition(
                f"container {record.name} ended before the command started",
                hint=f"start it with onggi start {record.name}",
            )
    return explain_failure(outcome, plan)


def end_session(cgroup: Cgroup, leader: int) -> None:
    """Kill an exec's first process and all that is in its session. For a thread: it reads /proc."""
    for _ in range(_ROUNDS):
        members = [pid for pid in cgroup.processes() if _session_of(pid) == leader]
        if not members:
            return
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                pidfd = os.pidfd_open(pid)
                try:
                    # The number may have been given to another process meanwhile.
                    if _session_of(pid) == leader:
                        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                finally:
                    os.close(pidfd)


def _session_of(pid: int) -> int:
    """The session of a process; 0 for one that has ended."""
    try:
        stat = read_stat(pid)
    except NotFound:
        return 0
    return 0 if stat.state in ("Z", "X") else stat.session
