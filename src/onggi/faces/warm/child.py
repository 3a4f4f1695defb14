"""One forked child: waits for a connection, becomes the command that it brings, and ends.

A child serves one command of our own user. It knows its parent only by a channel: a byte and the
connection go there when a command has come, and the end of the channel is the parent's end.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` costs 3 ms for enums
import atexit
import os
import select
import sys
from _socket import socket

from onggi.faces.cli import wire
from onggi.faces.warm import request as requests
from onggi.faces.warm.request import OTHER_ROOT, RefusedError
from onggi.faces.warm.world import FRONT_LOST, enter, schedule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    Command = Callable[[list[str]], int]
    #: Looks at who is at the other end of a connection. Raises: RefusedError.
    Admit = Callable[[socket], None]
    Identity = tuple[int, int, bytes]

TAKEN = b"t"
EXITED, KILLED, STOPPED, _ACCEPTED, _REFUSED = b"EKSTN"
#: Within this time a front has sent its request; one that has not must not hold up the others.
_PROMPT_MS = 20
_LOST = 129
_INTERRUPTED = 130
_FLUSH_FAILED = 120


def answer(kind: int, value: int) -> bytes:
    """One answer to the front."""
    return kind.to_bytes(4, sys.byteorder) + value.to_bytes(4, sys.byteorder, signed=True)


def serve_one(
    listener: socket,
    channel: socket,
    root: Identity,
    rehearse: Callable[[], None] | None,
    command: Command,
    admit: Admit | None = None,
) -> NoReturn:
    """Wait for a command, carry it out, and end this process."""
    code = 1
    try:
        _signal.set_wakeup_fd(-1)
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        # A group of its own in the parent's session: not orphaned, so ctrl-z can stop it.
        os.setpgid(0, 0)
        if rehearse is not None:
            rehearse()
        schedule(os.SCHED_OTHER)
        connection = _next_connection(listener, channel)
        if connection is not None:
            listener.close()
            code = _carry_out(connection, channel, root, command, admit)
    except BaseException:  # noqa: BLE001 - nothing may go up into the parent's frames
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code & 0xFF)


def _next_connection(listener: socket, channel: socket) -> socket | None:
    """A connection of our own user; None when the parent has ended."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    poll.register(channel, select.POLLIN)
    while True:
        ready = dict(poll.poll())
        if channel.fileno() in ready:
            return None
        try:
            fd, _ = listener._accept()  # type: ignore[attr-defined]
        except (BlockingIOError, ConnectionAbortedError):
            continue
        connection = socket(fileno=fd)
        try:
            requests.check_peer(connection)
        except RefusedError as refused:
            _refuse(connection, refused)
            continue
        return connection


def _announce(channel: socket, connection: socket) -> None:
    """Tell the parent, once, that it needs another spare, and whose end it is to watch.

    As late as can be: the parent's work should not come between a user and his command.
    """
    if channel.fileno() < 0:
        return
    try:
        channel.sendmsg([TAKEN], wire.rights([connection.fileno()]))
    except OSError:
        return  # it has ended, or hears from the channel's end that this spare is one no more
    finally:
        channel.close()


def _refuse(connection: socket, refused: RefusedError) -> None:
    connection.setblocking(False)
    try:
        connection.send(answer(_REFUSED, refused.reason))
    except OSError:
        return  # gone already
    finally:
        connection.close()


def _carry_out(
    connection: socket, channel: socket, root: Identity, command: Command, admit: Admit | None
) -> int:
    """Run the command that `connection` brings, and say there how it ended; its exit code."""
    try:
        if not _readable(connection):
            _announce(channel, connection)
        request = requests.receive(connection)
        if requests.directory_identity(request.fds[4]) != root:
            raise RefusedError(OTHER_ROOT)
        if admit is not None:
            admit(connection)
        words = enter(request)
    except RefusedError as refused:
        _announce(channel, connection)
        _refuse(connection, refused)
        return 0
    except OSError:
        _announce(channel, connection)
        return 0  # the front went away, or carries it out itself: it has not been told T
    _signal.signal(FRONT_LOST, _front_lost)
    code = _run(connection, channel, words, command)
    _signal.signal(FRONT_LOST, _signal.SIG_IGN)
    # The terminal is the next program's from here on.
    _leave_streams()
    try:
        connection.send(answer(EXITED, code))
    except OSError:
        return code  # nobody waits for it
    return code


def _readable(connection: socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(_PROMPT_MS))


def _run(connection: socket, channel: socket, words: list[str], command: Command) -> int:
    try:
        begin = _say_taken(connection) and _told_to_begin(connection)
        _announce(channel, connection)
        return _flushed(command(words)) if begin else 0
    except SystemExit as ended:
        return _code_of(ended)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BaseException:  # noqa: BLE001 - as an interpreter ends: the traceback, and 1
        sys.excepthook(*sys.exc_info())
        return 1


def _say_taken(connection: socket) -> bool:
    """Whether the front has been told who carries its command out."""
    try:
        pidfd = os.pidfd_open(os.getpid())
    except OSError:
        return False
    try:
        connection.sendmsg([answer(_ACCEPTED, os.getpid())], wire.rights([pidfd]))
    except OSError:
        return False
    finally:
        os.close(pidfd)
    return True


def _told_to_begin(connection: socket) -> bool:
    """Until this byte has come, the front may still change its mind and run the command itself."""
    try:
        return connection.recv(1) == b"G"
    except OSError:
        return False


def _front_lost(_number: int, _frame: object) -> None:
    raise SystemExit(_LOST)


def _code_of(ended: SystemExit) -> int:
    if ended.code is None:
        return _flushed(0)
    if isinstance(ended.code, int):
        return _flushed(ended.code & 0xFF)
    print(ended.code, file=sys.stderr)
    return _flushed(1)


def _flushed(code: int) -> int:
    """`code`, or 120 when what was printed could not be written, as an interpreter answers."""
    try:
        atexit._run_exitfuncs()
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        return _FLUSH_FAILED
    return code


def _leave_streams() -> None:
    try:
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        for number in range(3):
            os.dup2(null, number)
    except OSError:
        os.closerange(0, 3)
