"""`start` and `attach`."""

from __future__ import annotations

from onggi.errors import InvalidArgument
from onggi.faces.cli.options import Option
from onggi.faces.cli.runflags import ATTACH
from onggi.faces.cli.verb import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from onggi.faces.cli.options import Parsed
    from onggi.faces.cli.session import Streams
    from onggi.faces.cli.verb import Context


def _streams(context: Context, parsed: Parsed, target: str, *, stdin: bool) -> Streams:
    """How to connect to a container that exists: whether it has a terminal and stdin is its own."""
    from onggi.faces.cli.session import DETACH_KEYS, Streams  # noqa: PLC0415

    config = context.client.call("containers.inspect", {"target": target}).get("Config", {})
    return Streams(
        stdin=stdin and bool(config.get("OpenStdin")),
        tty=bool(config.get("Tty")),
        detach_keys=parsed.get("detach-keys", DETACH_KEYS),
        sig_proxy=parsed.get("sig-proxy", True),
    )


def _start(context: Context, parsed: Parsed) -> int:
    from onggi.faces.cli.foreground import first_session  # noqa: PLC0415

    if parsed.on("attach") or parsed.on("interactive"):
        return _start_attached(context, parsed)
    from onggi.faces.cli.several import each  # noqa: PLC0415

    def start(target: str) -> None:
        with context.client.open("containers.start", {"target": target}) as call:
            first_session(call, context)

    return each(context, parsed.arguments, start)


def _start_attached(context: Context, parsed: Parsed) -> int:
    from onggi.faces.cli.foreground import first_session, terminal_size, watch  # noqa: PLC0415

    if len(parsed.arguments) != 1:
        raise InvalidArgument("only one container can be attached to", hint="leave out -a and -i")
    target = parsed.arguments[0]
    streams = _streams(context, parsed, target, stdin=parsed.on("interactive"))
    request = {
        "target": target,
        "attach": True,
        "attach_stdin": streams.stdin >= 0,
        "size": terminal_size(streams),
    }
    with context.client.open("containers.start", request) as call:
        session, fd = first_session(call, context)
        return watch(call, fd, streams, context, session["id"])


def _attach(context: Context, parsed: Parsed) -> int:
    from onggi.faces.cli.foreground import first_session, watch  # noqa: PLC0415

    target = parsed.arguments[0]
    streams = _streams(context, parsed, target, stdin=not parsed.on("no-stdin"))
    request = {"target": target, "stdin": streams.stdin >= 0}
    with context.client.open("containers.attach", request) as call:
        session, fd = first_session(call, context)
        return watch(call, fd, streams, context, session["id"])


VERBS = {
    "start": Verb(
        _start,
        arguments="CONTAINER…",
        least=1,
        options=(
            Option("-a --attach", "show its output, pass signals on, exit with its code"),
            Option("-i --interactive", "connect stdin too"),
            *ATTACH,
        ),
        complete="container",
        examples=(("onggi start -ai box", "start it again and work in it"),),
    ),
    "attach": Verb(
        _attach,
        arguments="CONTAINER",
        least=1,
        most=1,
        options=(Option("--no-stdin", "show its output only"), *ATTACH),
        complete="container",
        examples=(("onggi attach --no-stdin web", "watch; ctrl-c is passed on as a signal"),),
    ),
}
