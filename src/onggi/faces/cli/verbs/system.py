"""`info`, `version`, `engine status` and `engine stop`."""

from __future__ import annotations

from onggi import __version__
from onggi.errors import Unavailable
from onggi.faces.cli import human, jsontext
from onggi.faces.cli.options import Option
from onggi.faces.cli.verb import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from onggi.faces.cli.options import Parsed
    from onggi.faces.cli.verb import Context

_FORMAT = Option("-f --format", "json", value="FORM", complete="json")


def _shown(name: str, value: Any) -> str:
    if name.endswith("_bytes"):
        return human.size(value, binary=True)
    if name.endswith("_ns"):
        return human.timestamp(value)
    if isinstance(value, dict):
        return " ".join(f"{k}={v}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return " ".join(str(item) for item in value)
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _print(context: Context, fields: dict[str, Any], form: str) -> None:
    if form == "json":
        context.out.line(jsontext.text(fields))
        return
    width = max(len(name) for name in fields) + 1
    for name, value in fields.items():
        label = name.removesuffix("_bytes").removesuffix("_ns").replace("_", " ")
        context.out.line(f"{label + ':':<{width}} {_shown(name, value)}")


def _info(context: Context, parsed: Parsed) -> int:
    fields = context.client.call("system.info", {})
    warnings = fields.pop("warnings", ())
    _print(context, fields, parsed.text("format"))
    context.warn(warnings)
    return 0


def _version(context: Context, parsed: Parsed) -> int:
    fields = {"command": __version__}
    try:
        fields["engine"] = context.client.call("engine.status", {}, start=False)["version"]
    except Unavailable:
        fields["engine"] = "not running"
    _print(context, fields, parsed.text("format"))
    return 0


def _status(context: Context, parsed: Parsed) -> int:
    try:
        fields = context.client.call("engine.status", {}, start=False)
    except Unavailable:
        context.out.line(f"not running (socket {context.client.path})")
        return 1
    _print(context, fields, parsed.text("format"))
    return 0


def _stop(context: Context, parsed: Parsed) -> int:
    try:
        context.client.call("engine.stop", {}, start=False)
    except Unavailable:
        context.out.line("not running")
        return 0
    _wait_gone(context)
    return 0


def _wait_gone(context: Context) -> None:
    """Return when the engine no longer listens: the next command then starts a new one."""
    import time  # noqa: PLC0415

    from onggi.faces.cli.client import dial  # noqa: PLC0415

    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        sock = dial(context.client.path)
        if sock is None:
            return
        sock.close()
        time.sleep(0.01)
    raise Unavailable("the engine was told to stop, but still listens", hint="look at its log")


VERBS = {
    "info": Verb(_info, most=0, options=(_FORMAT,)),
    "version": Verb(_version, most=0, options=(_FORMAT,)),
    "status": Verb(_status, most=0, options=(_FORMAT,)),
    "stop": Verb(
        _stop,
        most=0,
        examples=(("onggi engine stop && onggi ps", "start a fresh one; containers run on"),),
    ),
}
