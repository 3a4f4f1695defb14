"""`events`."""

from __future__ import annotations

from onggi.faces.cli import human
from onggi.faces.cli.options import Option
from onggi.faces.cli.output import printable
from onggi.faces.cli.table import liner
from onggi.faces.cli.verb import Verb
from onggi.faces.cli.verbs.logs import moment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from onggi.faces.cli.options import Parsed
    from onggi.faces.cli.verb import Context


def _fields(event: dict[str, Any]) -> dict[str, Any]:
    """One event under docker's names, the old ones (`status`, `id`, `from`) among them."""
    attributes = event.get("attributes", {})
    actor = {"ID": event["id"], "Attributes": attributes}
    fields = {
        "Type": event["kind"],
        "Action": event["action"],
        "Actor": actor,
        "scope": "local",
        "time": event["time_ns"] // 10**9,
        "timeNano": event["time_ns"],
    }
    if event["kind"] in ("container", "image"):
        fields |= {"status": event["action"], "id": event["id"]}
    return fields | (
        {"from": attributes["image"]}
        if event["kind"] == "container" and "image" in attributes
        else {}
    )


def _line(event: dict[str, Any]) -> str:
    pairs = ", ".join(f"{k}={v}" for k, v in event.get("attributes", {}).items())
    when = human.timestamp_nano(event["time_ns"])
    tail = f" ({pairs})" if pairs else ""
    return printable(f"{when} {event['kind']} {event['action']} {event['id']}{tail}")


def _events(context: Context, parsed: Parsed) -> int:
    form = parsed.text("format")
    line = liner(form) if form else None
    request = {
        "since_ns": parsed.get("since", 0),
        "until_ns": parsed.get("until", 0),
        "filters": parsed.many("filter"),
    }
    with context.client.open("events", request) as call:
        for item in call.items():
            context.out.line(line(_fields(item.value)) if line else _line(item.value))
    return 0


VERBS = {
    "events": Verb(
        _events,
        most=0,
        options=(
            Option("--since", "from this moment: 10m, 2026-01-31T10:00:00Z", value="TIME",
                   parse=moment),
            Option("--until", "up to this moment", value="TIME", parse=moment),
            Option("-f --filter", "KEY=VALUE: type, event, container, image, network, volume, "
                   "label, daemon, scope", many=True, value="FILTER"),
            Option("--format", "json, or a template: '{{.Type}} {{.Actor.ID}}'", value="FORM"),
        ),
        examples=(("onggi events --filter event=oom", "whom the memory limit has ended"),),
    )
}  # fmt: skip
