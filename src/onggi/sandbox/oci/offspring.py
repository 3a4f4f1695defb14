"""keel in its second role: it makes a process and lets go of it, so that the caller is its parent.

Descriptors 0 to 2 are inherited. It does not know records; who calls `recorded` has written them.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from onggi.errors import Internal, ResourceExhausted, SyscallError
from onggi.kernel.syscalls import pidfd_send_signal, sealed_memfd
from onggi.runtime.failure import explain_failure, explain_warning
from onggi.runtime.steps import Plan
from onggi.sandbox import messages
from onggi.sandbox.keel import Keel, spawn
from onggi.sandbox.messages import Cloned, Exited, Failed, MonitorEvent, Started, Warned
from onggi.sandbox.monitor import passed, socket_pair
from onggi.sandbox.oci import caller
from onggi.sandbox.oci.ending import SIGKILL, wait_for_end

_DESCRIPTORS = socket.CMSG_SPACE(4 * messages.MAX_DESCRIPTORS)


class Offspring:
    """A process that keel makes. A context manager: left early, the process is killed."""

    def __init__(self, plan: Plan, borrowed: Sequence[int], warn: Callable[[str], None]) -> None:
        """Spawn keel with this plan; `borrowed` become slots 0, 1, …

        Raises:
            ResourceExhausted: no descriptors, memory or processes left.
        """
        self._plan = plan
        self._warn = warn
        self._pidfd = -1
        with ExitStack() as stack:
            memfd = stack.enter_context(sealed_memfd("plan", plan.encode()))
            self._control, theirs = socket_pair()
            stack.enter_context(theirs)
            try:
                self._keel_pid = _spawn([memfd, theirs.fileno(), *borrowed])
            except BaseException:
                self._control.close()
                raise

    def started(self) -> Started:
        """Wait until it runs, or is held; the caller owns the descriptors.

        Raises:
            StartFailed, StepError: it does not, and nothing is left of it.
        """
        while True:
            event = self._receive()
            if isinstance(event, Warned):
                self._warn(explain_warning(event, self._plan))
            elif isinstance(event, Failed):
                raise explain_failure(event, self._plan)
            elif isinstance(event, Cloned | Started):
                if event.pidfd is None:
                    raise ResourceExhausted("no descriptor is left for the process that was made")
                if isinstance(event, Started):
                    return event
                self._pidfd = event.pidfd
            else:
                self._end_process()
                raise Internal("keel ended without a word", hint="was it killed?")

    def recorded(self) -> None:
        """Who runs is on record: keel may let go. Not called, it kills the process."""
        self._control.send(messages.go())

    def exited(self) -> Exited | None:
        """How it ended, for a plan that waits; None: keel was killed, and nobody knows.

        Waits: `fileno` is readable when there is something to tell.
        """
        event = self._receive()
        return event if isinstance(event, Exited) else None

    def fileno(self) -> int:
        return self._control.fileno()

    def _end_process(self) -> None:
        """End what a killed keel may have left. It is the caller's child: who collects it, is."""
        if self._pidfd < 0:
            return
        try:
            pidfd_send_signal(self._pidfd, SIGKILL)
        except SyscallError:
            return  # it has ended, and was collected
        wait_for_end(self._pidfd)

    def close(self) -> None:
        """Let go, and collect keel."""
        self._control.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        if self._keel_pid:
            os.waitpid(self._keel_pid, 0)
            self._keel_pid = 0

    def __enter__(self) -> Offspring:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _receive(self) -> MonitorEvent | Cloned | None:
        while True:
            try:
                packet, control, _, _ = self._control.recvmsg(
                    messages.MAX_PACKET_BYTES, _DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
                )
            except ConnectionResetError:
                continue  # it was killed with a message unread; what it told before comes now
            fds = passed(control)
            if not packet:
                return None
            return messages.decode(packet, fds[0] if fds else None, tuple(fds[1:]))


def _spawn(sources: Sequence[int]) -> int:
    if caller.current.spawn is not None:
        return caller.current.spawn([caller.current.keel, *sources])
    with Keel() as keel:
        return spawn(keel, "create", sources, ())
