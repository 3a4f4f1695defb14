"""`ps`."""

from __future__ import annotations

import time

from onggi.faces.cli import human, values
from onggi.faces.cli.options import Option
from onggi.faces.cli.porttext import ports
from onggi.faces.cli.table import Column, Labels, cut, show
from onggi.faces.cli.verb import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from onggi.faces.cli.options import Parsed
    from onggi.faces.cli.verb import Context

_COLUMNS = (
    Column("CONTAINER ID", "ID"),
    Column("IMAGE", "Image", shrinks=True),
    Column("COMMAND", "Command", shrinks=True),
    Column("CREATED", "RunningFor", shrinks=True),
    Column("STATUS", "Status", late=True),
    Column("PORTS", "Ports", shrinks=True),
    Column("NAMES", "Names"),
)
_COMMAND_CHARACTERS = 20
_HEALTH = {"healthy": "healthy", "unhealthy": "unhealthy", "starting": "health: starting"}
_MOUNT_CHARACTERS = 15


def status(summary: dict[str, Any], now_ns: int) -> str:
    """`Up 3 minutes`, `Exited (137) 2 hours ago`: docker's words, with the reason when known."""
    state = summary["state"]
    if state in ("running", "paused"):
        up = human.duration(max(0, now_ns - summary.get("started_ns", 0)) / 1e9)
        how = "Paused" if state == "paused" else _HEALTH.get(summary.get("health", ""))
        return f"Up {up} ({how})" if how else f"Up {up}"
    if state in ("exited", "restarting"):
        ended = summary.get("exit") or {}
        code, signal = ended.get("code"), ended.get("signal", 0)
        if signal and (code is None or code <= 0):
            code = 128 + signal
        shown = "unknown" if code is None else code
        out_of_memory = ", out of memory" if ended.get("oom_killed") else ""
        when = human.ago(summary.get("finished_ns", 0) or ended.get("finished_ns", 0), now_ns)
        word = "Restarting" if state == "restarting" else "Exited"
        return f"{word} ({shown}{out_of_memory}) {when}".rstrip()
    return {"created": "Created", "removing": "Removal In Progress", "dead": "Dead"}.get(
        state, str(state)
    )


def row(summary: dict[str, Any], now_ns: int, *, full: bool) -> dict[str, Any]:
    """The fields of one container under docker's names."""
    command = summary["command"]
    mounts = summary.get("mounts", ())
    size = summary.get("size_bytes")
    return {
        "ID": summary["id"] if full else summary["id"][:12],
        "Image": summary["image"],
        "Command": f'"{command if full else cut(command, _COMMAND_CHARACTERS)}"',
        "CreatedAt": human.timestamp(summary["created_ns"]),
        "RunningFor": human.ago(summary["created_ns"], now_ns),
        "State": summary["state"],
        "Status": status(summary, now_ns),
        "Health": summary.get("health", ""),
        "Names": summary["name"],
        "Ports": ports(summary.get("ports", ())),
        "Labels": Labels(summary.get("labels", {})),
        "Mounts": ",".join(one if full else cut(one, _MOUNT_CHARACTERS) for one in mounts),
        "LocalVolumes": str(sum(not one.startswith("/") for one in mounts)),
        "Networks": ",".join(summary.get("networks", ())),
        "Size": "0B" if size is None else human.size(size),
    }


def _ps(context: Context, parsed: Parsed) -> int:
    last = 1 if parsed.on("latest") else max(0, parsed.get("last", 0))
    request = {
        "all": parsed.on("all") or last > 0,
        "last": last,
        "size": parsed.on("size") or ".Size" in parsed.text("format"),
        "filters": parsed.many("filter"),
    }
    found = context.client.call("containers.list", request)
    form = parsed.text("format")
    full = parsed.on("no-trunc")
    if parsed.on("quiet") and not form:
        ids = [c["id"] if full else c["id"][:12] for c in found]
        context.out.text("".join(f"{identity}\n" for identity in ids))
        return 0
    now_ns = time.time_ns()
    rows = [row(summary, now_ns, full=full) for summary in found]
    columns = (*_COLUMNS, Column("SIZE", "Size")) if parsed.on("size") else _COLUMNS
    show(context.out, columns, rows, form, wide=full)
    return 0


VERBS = {
    "ps": Verb(
        _ps,
        most=0,
        options=(
            Option("-a --all", "those that do not run, too"),
            Option("-q --quiet", "ids only"),
            Option("-n --last", "the N newest, running or not", value="N", parse=values.newest),
            Option("-l --latest", "the newest, running or not"),
            Option("-s --size", "the size of what they have written"),
            Option("-f --filter", "KEY=VALUE: name, id, status, label, health, exited, ancestor, "
                   "network, volume, publish, expose, before, since", many=True, value="FILTER"),
            Option("--no-trunc", "cut nothing"),
            Option("--format", "table, json, or a template: '{{.Names}} {{.Status}}'",
                   value="FORM"),
        ),
        examples=(
            ("onggi ps -a --filter status=exited", "those that have ended"),
            ("onggi ps --format '{{.Names}}\\t{{.Status}}'", "for a script"),
            ("onggi ps --format 'table {{.Names}}\\t{{.Ports}}'", "columns of your choice"),
        ),
    )
}  # fmt: skip
