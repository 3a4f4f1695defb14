"""`logs`."""

from __future__ import annotations

import time

from onggi.faces.cli.options import Option
from onggi.faces.cli.output import write_all
from onggi.faces.cli.values import count, moment_ns
from onggi.faces.cli.verb import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from onggi.faces.cli.options import Parsed
    from onggi.faces.cli.verb import Context


def _tail(text: str) -> int:
    return -1 if text == "all" else count(text)


def moment(text: str) -> int:
    """A moment as the option's value, relative to now."""
    return moment_ns(text, time.time_ns())


def _logs(context: Context, parsed: Parsed) -> int:
    request: dict[str, Any] = {
        "target": parsed.arguments[0],
        "follow": parsed.on("follow"),
        "tail": parsed.get("tail", -1),
        "since_ns": parsed.get("since", 0),
        "until_ns": parsed.get("until", 0),
    }
    stamps = parsed.on("timestamps")
    with context.client.open("containers.logs", request) as call:
        for item in call.items():
            value = item.value
            text = f"{value['time']} {value['log']}" if stamps else value["log"]
            fd = 2 if value["stream"] == "stderr" else 1
            write_all(fd, text.encode("utf-8", "surrogateescape"))
    return 0


VERBS = {
    "logs": Verb(
        _logs,
        arguments="CONTAINER",
        least=1,
        most=1,
        options=(
            Option("-f --follow", "stay, and show what comes"),
            Option("-n --tail", "the last N lines, or all", value="N", parse=_tail),
            Option("--since", "from this moment: 10m, 2026-01-31T10:00:00Z", value="TIME",
                   parse=moment),
            Option("--until", "up to this moment", value="TIME", parse=moment),
            Option("-t --timestamps", "when each line was written"),
        ),
        complete="container",
        examples=(
            ("onggi logs -f --tail 20 web", "the last lines, then the new ones"),
            ("onggi logs --since 1h web 2>&1 >/dev/null | grep error", "stderr of the last hour"),
        ),
    )
}  # fmt: skip
