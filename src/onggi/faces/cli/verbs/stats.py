"""`stats`: redrawn in place on a terminal, a table per sample elsewhere."""

from __future__ import annotations

from onggi.faces.cli import human
from onggi.faces.cli.options import Option
from onggi.faces.cli.table import Column, layout, show
from onggi.faces.cli.values import seconds
from onggi.faces.cli.verb import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from onggi.faces.cli.options import Parsed
    from onggi.faces.cli.output import Output
    from onggi.faces.cli.verb import Context

_COLUMNS = (
    Column("CONTAINER ID", "ID"),
    Column("NAME", "Name", shrinks=True),
    Column("CPU %", "CPUPerc", right=True),
    Column("MEM USAGE / LIMIT", "MemUsage", right=True),
    Column("MEM %", "MemPerc", right=True),
    Column("NET I/O", "NetIO", right=True, shrinks=True),
    Column("BLOCK I/O", "BlockIO", right=True, shrinks=True),
    Column("PIDS", "PIDs", right=True),
)
_UNLIMITED = 1 << 60


def row(sample: dict[str, Any], *, full: bool) -> dict[str, Any]:
    """One sample under docker's names."""
    used, limit = sample["memory_usage_bytes"], sample["memory_limit_bytes"]
    limited = 0 < limit < _UNLIMITED
    percent = f"{100 * used / limit:.2f}%" if limited else "--"
    shown_limit = human.size(limit, binary=True) if limited else "unlimited"
    return {
        "ID": sample["id"] if full else sample["id"][:12],
        "Container": sample["id"] if full else sample["id"][:12],
        "Name": sample["name"],
        "CPUPerc": f"{sample['cpu_percent']:.2f}%",
        "MemUsage": f"{human.size(used, binary=True)} / {shown_limit}",
        "MemPerc": percent,
        "NetIO": f"{human.size(sample['network_receive_bytes'])} / "
        f"{human.size(sample['network_transmit_bytes'])}",
        "BlockIO": f"{human.size(sample['block_read_bytes'])} / "
        f"{human.size(sample['block_write_bytes'])}",
        "PIDs": str(sample["pids"]),
    }


def _redraw(out: Output, rows: list[dict[str, Any]]) -> None:
    lines = layout(_COLUMNS, rows, out.columns)[: out.rows - 1]
    # Home, each line with the rest of its row cleared, then everything below.
    out.text("\x1b[H" + "".join(f"{line[: out.columns]}\x1b[K\n" for line in lines) + "\x1b[J")


def _stats(context: Context, parsed: Parsed) -> int:
    stream = not parsed.on("no-stream")
    targets = parsed.arguments
    if parsed.on("all") and not targets:
        targets = [one["id"] for one in context.client.call("containers.list", {"all": True})]
    request = {
        "targets": targets,
        "stream": stream,
        "interval_s": parsed.get("interval", 1.0),
    }
    form, full = parsed.text("format"), parsed.on("no-trunc")
    in_place = stream and context.out.terminal and form in ("", "table")
    with context.client.open("containers.stats", request) as call:
        if in_place:
            context.out.text("\x1b[2J")
        for item in call.items():
            rows = [row(sample, full=full) for sample in item.value]
            if in_place:
                _redraw(context.out, rows)
            else:
                show(context.out, _COLUMNS, rows, form, wide=full)
    return 0


VERBS = {
    "stats": Verb(
        _stats,
        arguments="[CONTAINER…]",
        options=(
            Option("-a --all", "those that do not run, too"),
            Option("--no-stream", "one sample, then end"),
            Option("--interval", "time between samples (1s)", value="TIME", parse=seconds),
            Option("--no-trunc", "cut nothing"),
            Option("--format", "table, json, or a template: '{{.Name}} {{.CPUPerc}}'",
                   value="FORM"),
        ),
        complete="container",
        examples=(
            ("onggi stats", "all that run, redrawn each second"),
            ("onggi stats --no-stream --format json web", "one sample for a program"),
        ),
    )
}  # fmt: skip
