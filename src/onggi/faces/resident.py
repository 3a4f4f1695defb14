"""The resident process: one engine of one root, listening on the native wire until told to stop.

It may be killed at any instant; a successor takes over. Knows nothing about what calls do.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Protocol

# ssl costs 3 MB that only a pull needs: asyncio does without when the import fails.
_had_ssl = "ssl" in sys.modules
if not _had_ssl:
    sys.modules["ssl"] = None  # type: ignore[assignment]
import asyncio  # noqa: E402

if not _had_ssl:
    del sys.modules["ssl"]

from onggi import errors  # noqa: E402
from onggi.engine.layout import Layout, layout_for  # noqa: E402
from onggi.faces.cli.place import SocketAddress  # noqa: E402
from onggi.faces.cli.server import Handler, serve  # noqa: E402
from onggi.faces.cli.spawn import BUSY, READY  # noqa: E402
from onggi.faces.engine_loop import EngineLoop  # noqa: E402
from onggi.faces.warm.descriptors import close_from  # noqa: E402
from onggi.kernel import abi  # noqa: E402

GROUP = "onggi"
_LOG_BYTES = 10_000_000


class Resident(Protocol):
    """What this room needs of an engine."""

    def handlers(self) -> Mapping[str, Handler]:
        """As `server.Handlers`."""

    @property
    def stopping(self) -> asyncio.Event:
        """Set when somebody asked the engine to end."""

    async def close(self) -> None:
        """Let go of everything; containers run on."""


def open_directory(path: str, mode: int) -> None:
    """Make `path` (and its parents) with `mode`, or check that it is safely ours.

    Raises: FailedPrecondition when it belongs to somebody else or others may write to it.
    """
    parent = os.path.dirname(path)
    if parent and not os.path.isdir(parent):
        os.makedirs(parent, mode=0o755, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, mode)
    found = os.stat(path, follow_symlinks=False)
    if found.st_uid != os.geteuid():
        raise errors.FailedPrecondition(
            f"{path} belongs to uid {found.st_uid}, the engine runs as uid {os.geteuid()}",
            hint="give it to the engine's user, or name another --root",
        )
    if found.st_mode & 0o022 and found.st_mode & 0o170000 == 0o040000:
        raise errors.FailedPrecondition(
            f"{path} can be written by others (mode {found.st_mode & 0o777:o})",
            hint=f"chmod go-w {path}",
        )
    if found.st_mode & 0o170000 != 0o040000:
        raise errors.FailedPrecondition(
            f"{path} is not a directory", hint="move it, or name another --root"
        )
    os.chmod(path, mode)


def take_lock(path: str) -> int | None:
    """The lock's descriptor, held until it is closed; None when another engine has it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def bind_socket(path: str) -> socket.socket:
    """A socket listening at `path`, 0660, for the group `onggi` where the host has one.

    It appears under its name only when it listens. Needs the lock: what is there is replaced.
    """
    fresh = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fresh)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o117)
    try:
        with SocketAddress(fresh) as address:
            sock.bind(address)
    finally:
        os.umask(mask)
    _give_to_group(fresh)
    sock.listen(512)
    os.rename(fresh, path)
    return sock


def _give_to_group(path: str) -> None:
    if os.geteuid() != 0:
        return
    import grp  # noqa: PLC0415 - root's engine only

    with contextlib.suppress(KeyError):
        os.chown(path, -1, grp.getgrnam(GROUP).gr_gid)


def open_log(path: str) -> int:
    """The log's descriptor, for appending; a log beyond 10 MB is put aside first."""
    with contextlib.suppress(FileNotFoundError):
        if os.stat(path).st_size > _LOG_BYTES:
            os.rename(path, f"{path}.1")
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(path, flags, 0o600)


async def reside(
    engine: Resident, sock: socket.socket, path: str, ready: Callable[[], None]
) -> None:
    """Serve `engine` on `sock` (bound at `path`) until a signal or a client ends it; then let go.

    Calls `ready` once clients are accepted. SIGTERM, SIGINT and `engine.stop` end it.
    """
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, engine.stopping.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)
    server = await serve(engine, sock, path)
    gc.collect()
    gc.freeze()
    ready()
    try:
        await engine.stopping.wait()
    finally:
        await server.close()
        await engine.close()


async def _main(layout: Layout, root: str | None, ready: Callable[[], None]) -> None:
    from onggi.engine.engine import Engine  # noqa: PLC0415 - after the lock has been taken
    from onggi.faces.guard import Guard  # noqa: PLC0415
    from onggi.faces.warm.keeper import SOCKET_NAME, keep_warm  # noqa: PLC0415

    engine = await Engine.open(layout)
    sock = bind_socket(layout.socket)
    guard = Guard(layout, root)
    warm_path = f"{layout.run}/{SOCKET_NAME}"
    warm: list[asyncio.Task[None]] = []

    def listening() -> None:
        # The warm process inherits stderr: it must be the log by now.
        ready()
        if not os.environ.get("ONGGI_NO_WARM"):
            warm.append(asyncio.create_task(keep_warm(lambda: bind_socket(warm_path))))
        if not os.environ.get("ONGGI_NO_GUARD"):
            engine.watch_need(guard.need)

    try:
        await reside(engine, sock, layout.socket, listening)
        await guard.close()
    finally:
        for task in warm:
            task.cancel()
        for path in (layout.socket, warm_path):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def _announcer(layout: Layout) -> Callable[[], None]:
    """A function that says `ready` to whoever spawned this process, and moves stderr to the log."""
    fd = int(os.environ.pop("ONGGI_READY_FD", "-1"))

    def ready() -> None:
        if fd < 0:
            print(f"listening on {layout.socket}", file=sys.stderr, flush=True)
            return
        os.write(fd, READY)
        os.close(fd)
        log = open_log(layout.log)
        os.dup2(log, 2)
        os.close(log)

    if fd >= 0:
        close_from(fd + 1)
        os.set_inheritable(fd, False)
    return ready


def main(argv: list[str] | None = None) -> int:
    """Run an engine; `--root DIR` as for every command. 0 also when another engine has the root."""
    arguments = sys.argv[1:] if argv is None else argv
    root = os.environ.get("ONGGI_ROOT") or None
    if arguments[:1] == ["--root"] and len(arguments) == 2:
        root = arguments[1]
    elif arguments:
        print("usage: python -m onggi.faces.resident [--root DIR]", file=sys.stderr)
        return 125
    layout = layout_for(root, os.geteuid(), dict(os.environ))
    os.umask(0o022)
    ready = _announcer(layout)
    try:
        for path in (layout.data, layout.run):
            open_directory(path, 0o711)
        lock = take_lock(layout.lock)
        if lock is None:
            os.write(2, BUSY)
            return 0
        os.chdir("/")
        abi.load()  # the first start need not
        with asyncio.Runner(loop_factory=EngineLoop) as runner:
            runner.run(_main(layout, root, ready))
    except (errors.EngineError, OSError, ImportError) as error:
        print(f"onggi: {error}", file=sys.stderr, flush=True)
        return 125
    return 0


if __name__ == "__main__":
    sys.exit(main())
