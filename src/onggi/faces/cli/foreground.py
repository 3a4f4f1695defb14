"""What `run`, `start`, `exec` and `attach` share: a call whose process the user watches."""

from __future__ import annotations

from onggi.errors import Internal, NotFound
from onggi.faces.cli.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from onggi.faces.cli.client import Call
    from onggi.faces.cli.session import Streams
    from onggi.faces.cli.verb import Context

_UNKNOWN = 125


def first_session(call: Call, context: Context) -> tuple[dict[str, Any], int]:
    """The Session's fields and its attach socket (-1: none); shows the engine's warnings.

    Raises: the engine's error.
    """
    for item in call.items():
        if item.type == "Session":
            context.warn(item.value.get("warnings", ()))
            return item.value, item.fd
    raise Internal("the engine started nothing and said nothing")


def watch(call: Call, fd: int, streams: Streams, context: Context, container: str = "") -> int:
    """Run the session on the attach socket `fd`; the exit code for the shell.

    If the engine goes away meanwhile, its successor is asked how `container` ended ("": an exec,
    whose end nobody records).
    """
    if fd < 0:
        raise Internal("the engine sent no attach socket")
    ended = Session(call, fd, streams).run()
    if ended.detached:
        context.err.line()
        return 0
    if ended.lost and ended.status is None and container:
        ended.status = _ask_successor(container, context)
    return exit_code(ended.status, context)


def _ask_successor(container: str, context: Context) -> dict[str, Any] | None:
    try:
        status: dict[str, Any] = context.client.call("containers.wait", {"target": container})
    except NotFound:
        return None  # removed at its end (--rm): its status went with it
    return status


def exit_code(status: dict[str, Any] | None, context: Context) -> int:
    """The shell's code for how a process ended; an explanation goes to stderr."""
    if status is None or (status.get("code") is None and not status.get("signal")):
        context.err.line("onggi: how the process ended is not known: its monitor was lost")
        return _UNKNOWN
    if status.get("explanation"):
        context.err.line(f"onggi: {status['explanation']}")
    signal, code = int(status.get("signal", 0)), status.get("code")
    if signal and (code is None or code < 0 or code == 0):
        return 128 + signal
    return int(code or 0)


def terminal_size(streams: Streams) -> dict[str, int]:
    """The fields of a TerminalSize for a session with a terminal."""
    from onggi.faces.cli.terminal import size  # noqa: PLC0415

    rows, columns = size(streams.stdout) if streams.tty else (0, 0)
    return {"rows": rows, "columns": columns}
