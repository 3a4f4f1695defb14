"""CRIU, asked as a program: `criu swrk` carries out one request and ends.

Its command line would be simpler, but only this interface passes on the master of a terminal whose
other side it restores, and waits until the record is written before anything runs.
It does not know what is asked; `checkpointing` and `restoring` do.
Source: criu(8), https://criu.org/RPC.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress

from onggi.errors import EngineError, FailedPrecondition, Unavailable, Unsupported, from_os_error
from onggi.kernel.descriptors import Descriptor
from onggi.sandbox.keel import hold
from onggi.sandbox.oci.criu_messages import NOTIFY, Response, Value, answer, request

#: Descriptors of criu at its start: 0 to 2, its socket, then those that it is lent.
_SOCKET_FD = 3
FIRST_LENT_FD = 4
_PACKET_BYTES = 64 * 1024
_LOG_TAIL_BYTES = 256 * 1024
_TELLING_LINES = 3
_LINE_CHARACTERS = 300

#: Told at each stage: its name, a process id or 0, and a descriptor that comes along or -1, which
#: is the callee's.
Notified = Callable[[str, int, int], None]


def find(given: str = "") -> str:
    """The program: `given`, or what the PATH has.

    Raises:
        Unsupported: there is none.
    """
    path = shutil.which(given or "criu")
    if path is None:
        raise Unsupported(
            f"{given or 'criu'} is not there: checkpoint and restore are done by CRIU",
            hint="install the package criu",
        )
    return path


def works() -> bool:
    """Whether there is a CRIU that finds what it needs in this kernel."""
    try:
        return _check(find())
    except EngineError:
        return False


def require(program: str, feature: str, asked: str) -> None:
    """Raises: Unsupported: this kernel, or this CRIU, does not have what an option needs."""
    if not _check(program, "--feature", feature):
        raise Unsupported(
            f"{asked} needs {feature}, which criu does not find in this kernel",
            hint=f"`criu check --feature {feature}` says more",
        )


def _check(program: str, *words: str) -> bool:
    words = (program, "check", *words)
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError as error:
        raise _not_executed(program, error) from error
    return done.returncode == 0


def _not_executed(program: str, error: OSError) -> FailedPrecondition:
    reason = os.strerror(error.errno or 0).lower()
    return FailedPrecondition(f"{program} cannot be executed: {reason}")


class Place:
    """Where images, work files and the log of one request are. A context manager.

    `work` empty: beside the images.
    """

    def __init__(self, images: str, work: str, log_name: str, *, make: bool) -> None:
        """`make`: whether the images' directory may be made (0700: they are the memory).

        Raises:
            NotFound: there are no images. EngineError: a directory cannot be had.
        """
        self.log_name = log_name
        self._stack = ExitStack()
        try:
            self.images = self._open(images, "the images", make=make)
            self.work = self._open(work, "the work path", make=True) if work else self.images
        except BaseException:
            self._stack.close()
            raise
        self.log_path = f"{os.path.abspath(work or images)}/{log_name}"
        with suppress(FileNotFoundError):
            os.unlink(log_name, dir_fd=self.work)  # an older one would explain the wrong failure

    def _open(self, path: str, what: str, *, make: bool) -> int:
        if make:
            make_private(path)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise from_os_error(error, f"open the directory of {what} {path!r}") from error
        return self._stack.enter_context(Descriptor(fd))

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def make_private(path: str) -> None:
    """A directory that only we read, unless it is there. Raises: EngineError: it cannot be made."""
    try:
        os.makedirs(path, 0o700, exist_ok=True)
    except OSError as error:
        raise from_os_error(error, f"make the directory {path!r}") from error


class Criu:
    """One request's CRIU. A context manager: left early, it is killed, and undoes what it did."""

    def __init__(self, program: str, stdio: Sequence[int], lent: Sequence[int] = ()) -> None:
        """Start it; it waits for `ask`. `stdio`: what it has as 0 to 2; `lent`: as 4, 5, …

        Raises:
            FailedPrecondition: it cannot be executed.
        """
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, ExitStack() as stack:
            sources = (*stdio, theirs.fileno(), *lent)
            # above all that is placed: dup2 must not overwrite what is still to be placed
            held = [stack.enter_context(hold(fd)) for fd in sources]
            try:
                self.pid = os.posix_spawn(
                    program,
                    [program, "swrk", str(_SOCKET_FD)],
                    os.environ,
                    file_actions=[(os.POSIX_SPAWN_DUP2, fd, n) for n, fd in enumerate(held)],
                    setsigmask=(),
                    setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
                )
            except OSError as error:
                self._socket.close()
                raise _not_executed(program, error) from error

    def ask(
        self, kind: int, options: Mapping[str, Value], place: Place, notified: Notified
    ) -> None:
        """Have a request carried out; what `notified` raises ends it, and is raised here.

        Raises:
            Unavailable: CRIU cannot do it, with the telling lines of its log.
        """
        everything: dict[str, Value] = {
            "images_dir_fd": place.images,
            "work_dir_fd": place.work,
            "log_file": place.log_name,
            "log_level": 4,
            "notify_scripts": True,
            **options,
        }
        try:
            self._socket.send(request(kind, everything))
            while response := self._receive(notified):
                if not response.success:
                    raise _failed(place, response.message)
                if response.type == kind:
                    return
                self._socket.send(answer(success=True))
        except OSError:
            pass  # as no answer at all
        raise _failed(place, "it ended without an answer")

    def _receive(self, notified: Notified) -> Response | None:
        packet, fds, _, _ = socket.recv_fds(self._socket, _PACKET_BYTES, 4)
        try:
            response = Response(packet)
            if response.type == NOTIFY and response.success:
                notified(response.script, response.pid, fds.pop(0) if fds else -1)
        except Exception:
            self._refuse()
            raise
        finally:
            for fd in fds:
                os.close(fd)
        return response if packet else None

    def _refuse(self) -> None:
        """Have it undo everything, and wait until it has."""
        with suppress(OSError):
            self._socket.send(answer(success=False))
            while self._socket.recv(_PACKET_BYTES):
                self._socket.send(answer(success=False))

    def __enter__(self) -> Criu:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            os.kill(self.pid, signal.SIGKILL)  # it has answered, or nobody waits for it
        self._socket.close()
        os.waitpid(self.pid, 0)


def _failed(place: Place, message: str) -> Unavailable:
    lines = telling_lines(_tail(place)) or ([message] if message else [])
    why = "; ".join(lines) or "it does not say why"
    return Unavailable(f"criu failed: {why}", hint=f"its log is {place.log_path}")


def _tail(place: Place) -> str:
    try:
        fd = os.open(place.log_name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=place.work)
    except OSError:
        return ""
    with open(fd, "rb", buffering=0) as file:
        file.seek(max(0, os.fstat(fd).st_size - _LOG_TAIL_BYTES))
        return file.read(_LOG_TAIL_BYTES).decode("utf-8", "replace")


def telling_lines(log: str) -> list[str]:
    """The last errors of a log, without its times; names in it are a container's choice."""
    found = []
    for line in log.splitlines():
        _, mark, text = line.partition("Error (")
        if mark:
            text = "".join(c if c.isprintable() else "?" for c in text)
            found.append(f"({text}"[:_LINE_CHARACTERS].rstrip())
    return found[-_TELLING_LINES:]
