"""`stop`, `kill`, `wait` and `rm`."""

from __future__ import annotations

from onggi.faces.cli import values
from onggi.faces.cli.options import Option
from onggi.faces.cli.several import each
from onggi.faces.cli.verb import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from onggi.faces.cli.options import Parsed
    from onggi.faces.cli.verb import Context


def _stop(context: Context, parsed: Parsed) -> int:
    request: dict[str, Any] = {}
    if parsed.get("timeout") is not None:
        request["timeout_s"] = parsed.get("timeout")
    if parsed.get("signal"):
        request["signal"] = parsed.get("signal")

    def stop(target: str) -> None:
        context.client.call("containers.stop", {"target": target, **request})

    return each(context, parsed.arguments, stop)


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

    return each(context, parsed.arguments, remove)


VERBS = {
    "stop": Verb(
        _stop,
        arguments="CONTAINER…",
        least=1,
        options=(
            Option("-t --timeout --time", "seconds before it is killed (the container's own: 10)",
                   value="SECONDS", parse=values.seconds),
            Option("-s --signal", "signal that asks it to end", value="SIGNAL",
                   parse=values.signal_name),
        ),
        complete="container",
        examples=(("onggi stop -t 30 db", "give it half a minute"),),
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
            Option("-f --force", "kill it first if it runs"),
            Option("-v --volumes", "remove its anonymous volumes too"),
        ),
        complete="container",
        examples=(("onggi rm -f $(onggi ps -aq)", "remove them all"),),
    ),
}  # fmt: skip
