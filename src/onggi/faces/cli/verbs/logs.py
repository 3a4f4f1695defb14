"""`logs`."""

from __future__ import annotations

import time

from onggi.faces.cli.options import Option
from onggi.faces.cli.output import write_all
from onggi.faces.cli.values import moment_ns, newest
from onggi.faces.cli.verb import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from onggi.faces.cli.options import Parsed
    from onggi.faces.cli.verb import Context


def moment(text: str) -> int:
    """A moment as the option's value: relative to now, and in local time when it names no zone."""
    found = moment_ns(text, time.time_ns())
    clock = text.partition("T")[2] or text.partition(" ")[2]
    is_date = len(text) > 4 and text[4] == "-"
    if is_date and not clock.endswith(("Z", "z")) and not set("+-") & set(clock):
        found -= time.localtime(found // 10**9).tm_gmtoff * 10**9
    return found


def _logs(context: Context, parsed: Parsed) -> int:
    target = parsed.arguments[0]
    request: dict[str, Any] = {
        "target": target,
        "follow": parsed.on("follow"),
        "tail": parsed.get("tail", -1),
        "since_ns": parsed.get("since", 0),
        "until_ns": parsed.get("until", 0),
    }
    details = _details(context, target) if parsed.on("details") else ""
    stamps = parsed.on("timestamps")
    starts = {"stdout": True, "stderr": True}
    with context.client.open("containers.logs", request) as call:
        for item in call.items():
            value = item.value
            stream, text = value["stream"], value["log"]
            if starts.get(stream, True):  # of a line that came in several parts only the first
                text = f"{value['time']} {details}{text}" if stamps else f"{details}{text}"
            starts[stream] = value["log"].endswith("\n")
            write_all(2 if stream == "stderr" else 1, text.encode("utf-8", "surrogateescape"))
    return 0


def _details(context: Context, target: str) -> str:
    """What `--log-opt` has added to every line."""
    found = context.client.call("containers.inspect", {"target": target})
    tag = found["HostConfig"]["LogConfig"]["Config"].get("tag", "")
    return f"tag={tag} " if tag else ""


VERBS = {
    "logs": Verb(
        _logs,
        arguments="CONTAINER",
        least=1,
        most=1,
        options=(
            Option("-f --follow", "stay, and show what comes"),
            Option("-n --tail", "the last N lines, or all", value="N", parse=newest),
            Option("--since", "from this moment: 10m, 2026-01-31T10:00:00Z", value="TIME",
                   parse=moment),
            Option("--until", "up to this moment", value="TIME", parse=moment),
            Option("-t --timestamps", "when each line was written"),
            Option("--details", "what --log-opt adds to each line"),
        ),
        complete="container",
        examples=(
            ("onggi logs -f --tail 20 web", "the last lines, then the new ones"),
            ("onggi logs --since 1h web 2>&1 >/dev/null | grep error", "stderr of the last hour"),
        ),
    )
}  # fmt: skip
