"""`python -m onggi.faces.oci.warm_process`: carries out commands of onggi-runtime, until idle.

A caller is served only if it stands where this process stands: same namespaces, same capabilities,
no filter. So nobody can do by it what he could not do himself. It leaves the cgroups of the command
that started it, which are its caller's to remove.
"""

from __future__ import annotations

import gc
import os
import select
from _socket import SO_PEERCRED, SOL_SOCKET, socket

from onggi.faces.cli import wire
from onggi.faces.oci import main, rehearsal
from onggi.faces.oci.warming import DIRECTORY_FD, LISTENER_FD, SOCKET_NAME
from onggi.faces.warm.child import answer
from onggi.faces.warm.descriptors import close_from
from onggi.faces.warm.request import OTHER_STANDING, RefusedError
from onggi.faces.warm.server import Server
from onggi.faces.warm.world import schedule
from onggi.sandbox.keel import Keel
from onggi.sandbox.oci import caller

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

IDLE_S = 30.0
_REHEARSALS = 12
#: An engine calls create, start and state right after each other.
_SPARES = 3
_SPAWN = ord("P")
_SO_PEERPIDFD = 77
#: Lines of /proc/PID/status that say what a process may do.
_STANDING = (b"CapPrm", b"CapEff", b"CapBnd", b"NoNewPrivs", b"Seccomp")


def standing(pid: int | str) -> tuple[object, ...]:
    """The namespaces and privileges of a process. Raises: OSError."""
    spaces = sorted(os.listdir("/proc/self/ns"))
    links = [os.readlink(f"/proc/{pid}/ns/{name}") for name in spaces]
    with open(f"/proc/{pid}/status", "rb", buffering=0) as file:
        lines = dict(line.partition(b":")[::2] for line in file.read(1 << 16).split(b"\n"))
    return (*links, *(lines.get(name) for name in _STANDING))


class Doorkeeper:
    """Admits callers, and makes them the parents of what is made for them."""

    def __init__(self, keel: Keel) -> None:
        self._keel = keel.fileno()
        self._own = standing("self")

    def admit(self, connection: socket) -> None:
        """Raises: RefusedError: the caller may less, or more, than this process."""
        pid = int.from_bytes(connection.getsockopt(SOL_SOCKET, SO_PEERCRED, 12)[:4], "little")
        try:
            pidfd = _peer_pidfd(connection, pid)
            try:
                same = standing(pid) == self._own
                poll = select.poll()
                poll.register(pidfd, select.POLLIN)
                ended = bool(poll.poll(0))  # asked last: until now the number was its own
            finally:
                os.close(pidfd)
        except OSError:
            raise RefusedError(OTHER_STANDING) from None
        if ended or not same:
            raise RefusedError(OTHER_STANDING)

        def spawn(fds: Sequence[int]) -> int:
            connection.sendmsg([answer(_SPAWN, len(fds))], wire.rights(fds))
            return 0

        caller.current = caller.Caller(str(pid), spawn, self._keel)


def _peer_pidfd(connection: socket, pid: int) -> int:
    try:
        return connection.getsockopt(SOL_SOCKET, _SO_PEERPIDFD)
    except OSError:  # before Linux 6.5
        return os.pidfd_open(pid)


def _leave_cgroups() -> bool:
    """Move to the root of every hierarchy. False: it is not to be had."""
    if _is_at_roots():
        return True
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        rows = [line.partition(" - ") for line in file]
    for before, _, after in rows:
        if after.split(" ", 1)[0] in ("cgroup", "cgroup2") and before.split(" ")[3] == "/":
            try:
                with open(f"{before.split(' ')[4]}/cgroup.procs", "w", encoding="ascii") as procs:
                    procs.write("0")
            except OSError:
                continue  # mounted read-only here, perhaps writable elsewhere
    return _is_at_roots()


def _is_at_roots() -> bool:
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        return all(line.rstrip("\n").split(":", 2)[2] == "/" for line in file)


def _run() -> None:
    close_from(DIRECTORY_FD + 1)
    for fd in (LISTENER_FD, DIRECTORY_FD):
        os.set_inheritable(fd, False)
    place = os.readlink(f"/proc/self/fd/{DIRECTORY_FD}")
    listener = socket(fileno=LISTENER_FD)
    listener.setblocking(False)
    try:
        if not _leave_cgroups():
            return
        os.chdir("/")
        with Keel() as keel:
            keeper = Doorkeeper(keel)
            main.load_all()
            for _ in range(_REHEARSALS):
                rehearsal.rehearse()
            schedule(os.SCHED_BATCH)
            gc.collect()
            gc.freeze()
            # nobody's lifeline: it ends when it is idle
            lifeline, _held = os.pipe2(os.O_CLOEXEC)
            Server(
                listener,
                lifeline,
                main.main,
                rehearsal.rehearse,
                admit=keeper.admit,
                idle_s=IDLE_S,
                spares=_SPARES,
            ).run()
    finally:
        # still locked: nobody has put another in its place
        os.unlink(f"{place}/{SOCKET_NAME}")
        os.rmdir(place)


if __name__ == "__main__":
    _run()
