"""`stop`, `restart`, `kill`, `pause`, `unpause`, `rename`, `wait` and `rm`."""

from __future__ import annotations

from onggi.faces.cli import values
from onggi.faces.cli.options import Option
from onggi.faces.cli.several import each
from onggi.faces.cli.verb import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from onggi.faces.cli.options import Parsed
    from onggi.faces.cli.verb import Context


def _ending(call: str) -> Callable[[Context, Parsed], int]:
    """A verb that asks containers to end: `stop`, and `restart`."""

    def act(context: Context, parsed: Parsed) -> int:
        request: dict[str, Any] = {}
        if parsed.get("timeout") is not None:
            request["timeout_s"] = parsed.get("timeout")
        if parsed.get("signal"):
            request["signal"] = parsed.get("signal")

        def end(target: str) -> None:
            context.client.call(call, {"target": target, **request})

        return each(context, parsed.arguments, end)

    return act


def _plain(call: str) -> Callable[[Context, Parsed], int]:
    """A verb that names containers and nothing else: `pause`, `unpause`."""

    def act(context: Context, parsed: Parsed) -> int:
        def one(target: str) -> None:
            context.client.call(call, {"target": target})

        return each(context, parsed.arguments, one)

    return act


def _rename(context: Context, parsed: Parsed) -> int:
    target, name = parsed.arguments
    context.client.call("containers.rename", {"target": target, "name": name})
    return 0


def _kill(context: Context, parsed: Parsed) -> int:
    signal = parsed.get("signal", "KILL")

    def kill(target: str) -> None:
        context.client.call("containers.kill", {"target": target, "signal": signal})

    return each(context, parsed.arguments, kill)


def _wait(context: Context, parsed: Parsed) -> int:
    condition = parsed.get("condition", "stopped")

    def wait(target: str) -> str:
        request = {"target": target, "condition": condition}
        status = context.client.call("containers.wait", request)
        code, signal = status.get("code"), status.get("signal", 0)
        if signal and (code is None or code <= 0):
            return str(128 + signal)
        return "unknown" if code is None else str(code)

    return each(context, parsed.arguments, wait)


def _condition(text: str) -> str:
    if text not in ("stopped", "next-exit", "removed"):
        from onggi.faces.cli.options import BadValueError  # noqa: PLC0415

        raise BadValueError("not stopped, next-exit or removed", "removed")
    return text


def _rm(context: Context, parsed: Parsed) -> int:
    flags = {"force": parsed.on("force"), "volumes": parsed.on("volumes")}

    def remove(target: str) -> None:
        context.client.call("containers.remove", {"target": target, **flags})

    return each(context, parsed.arguments, remove, may_miss=parsed.on("force"))


_END = (
    Option("-t --timeout --time", "seconds before it is killed (the container's own: 10)",
           value="SECONDS", parse=values.seconds),
    Option("-s --signal", "signal that asks it to end", value="SIGNAL", parse=values.signal_name),
)  # fmt: skip

VERBS = {
    "stop": Verb(
        _ending("containers.stop"),
        arguments="CONTAINER…",
        least=1,
        options=_END,
        complete="container",
        examples=(("onggi stop -t 30 db", "give it half a minute"),),
    ),
    "restart": Verb(
        _ending("containers.restart"),
        arguments="CONTAINER…",
        least=1,
        options=_END,
        complete="container",
        examples=(("onggi restart web", "the same container, with a new first process"),),
    ),
    "pause": Verb(
        _plain("containers.pause"),
        arguments="CONTAINER…",
        least=1,
        complete="container",
        examples=(("onggi pause db && cp -a /srv/db /backup && onggi unpause db",
                   "copy what stands still"),),
    ),
    "unpause": Verb(
        _plain("containers.unpause"),
        arguments="CONTAINER…",
        least=1,
        complete="container",
    ),
    "rename": Verb(
        _rename,
        arguments="CONTAINER NAME",
        least=2,
        most=2,
        complete="container",
        examples=(("onggi rename web web-old", "the name is free at once"),),
    ),
    "kill": Verb(
        _kill,
        arguments="CONTAINER…",
        least=1,
        options=(
            Option("-s --signal", "signal to send (KILL)", value="SIGNAL",
                   parse=values.signal_name),
        ),
        complete="container",
        examples=(("onggi kill -s HUP web", "have it read its configuration again"),),
    ),
    "wait": Verb(
        _wait,
        arguments="CONTAINER…",
        least=1,
        options=(
            Option("--condition", "stopped, next-exit or removed", value="CONDITION",
                   parse=_condition, complete="stopped next-exit removed"),
        ),
        complete="container",
        examples=(("onggi wait job && onggi logs job", "act when it has ended"),),
    ),
    "rm": Verb(
        _rm,
        arguments="CONTAINER…",
        least=1,
        options=(
            Option("-f --force", "kill it first if it runs; no failure when it is not there"),
            Option("-v --volumes", "remove its anonymous volumes too"),
        ),
        complete="container",
        examples=(("onggi rm -f $(onggi ps -aq)", "remove them all"),),
    ),
}  # fmt: skip
