"""`events`."""

from __future__ import annotations

from onggi.faces.cli import human, jsontext
from onggi.faces.cli.options import Option
from onggi.faces.cli.output import printable
from onggi.faces.cli.table import fill, template
from onggi.faces.cli.verb import Verb
from onggi.faces.cli.verbs.logs import moment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from onggi.faces.cli.options import Parsed
    from onggi.faces.cli.verb import Context


def _fields(event: dict[str, Any]) -> dict[str, Any]:
    """One event under docker's names."""
    attributes = event.get("attributes", {})
    return {
        "Type": event["kind"],
        "Action": event["action"],
        "Actor": {"ID": event["id"], "Attributes": attributes},
        "time": event["time_ns"] // 10**9,
        "timeNano": event["time_ns"],
    }


def _line(event: dict[str, Any]) -> str:
    pairs = ", ".join(f"{k}={v}" for k, v in event.get("attributes", {}).items())
    when = human.timestamp_nano(event["time_ns"])
    tail = f" ({pairs})" if pairs else ""
    return printable(f"{when} {event['kind']} {event['action']} {event['id']}{tail}")


def _events(context: Context, parsed: Parsed) -> int:
    form = parsed.text("format")
    pieces = template(form) if form not in ("", "json") else []
    request = {
        "since_ns": parsed.get("since", 0),
        "until_ns": parsed.get("until", 0),
        "filters": parsed.many("filter"),
    }
    with context.client.open("events", request) as call:
        for item in call.items():
            if form == "json":
                context.out.line(jsontext.text(_fields(item.value)))
            elif pieces:
                context.out.line(fill(pieces, _fields(item.value)))
            else:
                context.out.line(_line(item.value))
    return 0


VERBS = {
    "events": Verb(
        _events,
        most=0,
        options=(
            Option("--since", "from this moment: 10m, 2026-01-31T10:00:00Z", value="TIME",
                   parse=moment),
            Option("--until", "up to this moment", value="TIME", parse=moment),
            Option("-f --filter", "KEY=VALUE: type, event, container, image, label", many=True,
                   value="FILTER"),
            Option("--format", "json, or a template", value="FORM"),
        ),
        examples=(("onggi events --filter event=oom", "whom the memory limit has ended"),),
    )
}  # fmt: skip
