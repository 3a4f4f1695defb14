"""sd_notify(3) of a container: that it is ready is told to who waits for its caller, and no more.

The container gets a socket of its own, in a directory that is mounted where the caller's socket is
on the host, as crun has it. systemd would not listen to a process that is not of the caller's unit,
and what else can be told (another main process, descriptors to keep) is not a container's to tell.
Source: sd_notify(3), sd_notify_barrier(3); runc notify_socket.go, crun(1).
"""

from __future__ import annotations

import os
import select
import socket
from contextlib import ExitStack

from msgspec import structs

from onggi.errors import FailedPrecondition, from_os_error
from onggi.sandbox.oci.ending import open_process
from onggi.sandbox.oci.records import NOTIFY_NAME, Directory, Record
from onggi.specs.runtime import Config, Mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

VARIABLE = "NOTIFY_SOCKET"
_SOCKET_NAME = "notify"
_READY = b"READY=1"
_BARRIER = b"BARRIER=1"
_BARRIER_S = 5.0
_MAX_BYTES = 4096
_ELSEWHERE = "/run/notify"
_OPTIONS = ("bind", "nosuid", "noexec", "nodev", "ro")


def place_of(asked: str) -> str:
    """Where a container sees its socket's directory, for what its caller was given; "": nothing."""
    return asked if asked.startswith("/") or not asked else _ELSEWHERE


def with_socket(config: Config, directory: Directory, place: str) -> Config:
    """The configuration with a directory for the socket, and the variable that names it."""
    if config.process is None:
        return config
    source = f"{directory.path}/{NOTIFY_NAME}"
    mount = Mount(destination=place, type="bind", source=source, options=_OPTIONS)
    env = [entry for entry in config.process.env if not entry.startswith(f"{VARIABLE}=")]
    process = structs.replace(config.process, env=(*env, f"{VARIABLE}={place}/{_SOCKET_NAME}"))
    return structs.replace(config, process=process, mounts=(*config.mounts, mount))


def make_directory(directory: Directory) -> None:
    """The directory that the container sees; nothing is in it before `start`."""
    os.mkdir(NOTIFY_NAME, 0o755, dir_fd=directory.fd)


class Readiness:
    """What a container tells, until it is ready. A context manager that owns its socket."""

    def __init__(self, directory: Directory, record: Record, warn: Callable[[str], None]) -> None:
        """Listen, before the container runs. Raises: EngineError: the host refuses."""
        self._record = record
        self._host = os.environ[VARIABLE]
        self._warn = warn
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        before = os.umask(0)  # anybody inside may tell, and a mode that is set later may miss
        try:
            self._socket.bind(f"/proc/self/fd/{directory.fd}/{NOTIFY_NAME}/{_SOCKET_NAME}")
        except OSError as error:
            self._socket.close()
            raise from_os_error(error, "make the container's notify socket") from error
        finally:
            os.umask(before)
        self.done = False

    def __enter__(self) -> Readiness:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def wait(self) -> None:
        """Until it is ready, or has ended."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        with ExitStack() as stack:
            patience_ms = None
            try:
                poll.register(stack.enter_context(open_process(self._record)), select.POLLIN)
            except FailedPrecondition:
                patience_ms = 0  # it has ended already: what it has told is there
            while not self.done:
                if self.fileno() not in dict(poll.poll(patience_ms)):
                    return
                self.serve()

    def serve(self) -> None:
        """Take what has been told; descriptors that come along are closed by the kernel."""
        if _READY in self._socket.recv(_MAX_BYTES).split(b"\n"):
            self.done = True
            try:
                self._tell()
            except OSError as error:
                self._warn(f"{VARIABLE}={self._host}: {error.strerror or error}")

    def _tell(self) -> None:
        address = f"\0{self._host[1:]}" if self._host.startswith("@") else self._host
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as host:
            host.connect(address)
            host.send(_READY)
            host.send(f"MAINPID={self._record.pid}".encode())
            ours, theirs = os.pipe2(os.O_CLOEXEC)
            try:
                # before systemd has seen it, a sender that ends is nobody of its unit
                socket.send_fds(host, [_BARRIER], [theirs])
            finally:
                os.close(theirs)
        poll = select.poll()
        poll.register(ours, select.POLLIN)
        poll.poll(_BARRIER_S * 1000)
        os.close(ours)
