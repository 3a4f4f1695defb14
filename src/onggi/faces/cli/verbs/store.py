"""`system df`, `image prune` and `image fsck`: what images take, what can go, what is damaged."""

from __future__ import annotations

import sys

from onggi.errors import InvalidArgument
from onggi.faces.cli import human
from onggi.faces.cli.options import Option
from onggi.faces.cli.progress import ProgressBar
from onggi.faces.cli.table import Column, show
from onggi.faces.cli.verb import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from onggi.faces.cli.options import Parsed
    from onggi.faces.cli.verb import Context

_USAGE = (
    Column("TYPE", "Type"),
    Column("TOTAL", "TotalCount", right=True),
    Column("ACTIVE", "Active", right=True),
    Column("SIZE", "Size", right=True),
    Column("RECLAIMABLE", "Reclaimable", right=True),
)
_FINDINGS = (
    Column("SEVERITY", "Severity"),
    Column("PLACE", "Place", shrinks=True),
    Column("WHAT", "Message", shrinks=True),
    Column("NEEDED BY", "Images", shrinks=True),
    Column("DONE", "Repaired", shrinks=True),
)
_FORMAT = Option("--format", "table, json, or a template", value="FORM")


def _usage(context: Context, parsed: Parsed) -> int:
    def row(one: dict[str, Any]) -> dict[str, Any]:
        size, free = one["size_bytes"], one["reclaimable_bytes"]
        share = f" ({100 * free // size}%)" if size else ""
        return {
            "Type": one["kind"],
            "TotalCount": str(one["count"]),
            "Active": str(one["active"]),
            "Size": human.size(size),
            "SizeBytes": str(size),
            "Reclaimable": f"{human.size(free)}{share}",
            "ReclaimableBytes": str(free),
        }

    rows = [row(one) for one in context.client.call("system.usage", {})]
    show(context.out, _USAGE, rows, parsed.text("format"), wide=False)
    return 0


def _prune(context: Context, parsed: Parsed) -> int:
    if not parsed.on("force") and not _agreed(every=parsed.on("all")):
        return 0
    request = {"every": parsed.on("all"), "filters": parsed.many("filter")}
    answer = context.client.call("images.prune", request)
    for name in answer.get("untagged", ()):
        context.out.line(f"untagged: {name}")
    for digest in answer.get("deleted", ()):
        context.out.line(f"deleted: {digest}")
    context.out.line(f"Total reclaimed space: {human.size(answer['freed_bytes'])}")
    return 0


def _agreed(*, every: bool) -> bool:
    what = "all images that no container uses" if every else "all images without a name"
    if not sys.stdin.isatty():
        raise InvalidArgument(
            f"this removes {what}, and nobody is there to be asked", hint="say --force"
        )
    return input(f"This removes {what}. Go on? [y/N] ").strip().lower() in ("y", "yes")


def _fsck(context: Context, parsed: Parsed) -> int:
    request = {"repair": parsed.on("repair"), "shallow": parsed.on("quick")}
    bar = ProgressBar(context.err)
    found = []
    try:
        with context.client.open("images.fsck", request) as call:
            for item in call.items():
                value = item.value
                if item.type == "FindingRow":
                    found.append(value)
                elif not parsed.on("quiet"):
                    bar.show(str(value["stage"]), value.get("done", 0), value.get("total", 0))
    finally:
        bar.end()
    rows = [
        {
            "Severity": one["severity"],
            "Place": one["place"],
            "Message": one["message"],
            "Images": one.get("section", ""),
            "Repaired": one.get("repaired", ""),
        }
        for one in found
    ]
    form = parsed.text("format")
    if rows or form:
        columns = _FINDINGS if parsed.on("repair") else _FINDINGS[:-1]
        show(context.out, columns, rows, form, wide=parsed.on("no-trunc"))
    elif not parsed.on("quiet"):
        context.out.line("the store is whole")
    damaged = [r for r in rows if r["Severity"] == "error"]
    return 1 if damaged and not parsed.on("repair") else 0


VERBS = {
    "df": Verb(
        _usage,
        most=0,
        options=(_FORMAT,),
        examples=(("onggi system df --format json", "bytes, for a script"),),
    ),
    "prune": Verb(
        _prune,
        most=0,
        options=(
            Option("-a --all", "images with a name too, when no container uses them"),
            Option("-f --force", "do not ask"),
            Option("--filter", "KEY=VALUE: until, label, label!, dangling", value="FILTER",
                   many=True),
        ),
        examples=(
            ("onggi image prune", "images without a name"),
            ("onggi image prune -a --filter until=240h", "what is older than ten days and unused"),
        ),
    ),
    "fsck": Verb(
        _fsck,
        most=0,
        options=(
            Option("--repair", "mend what can be mended, remove what is of no use"),
            Option("--quick", "names, sizes and records only, without reading all content"),
            Option("-q --quiet", "only what is found"),
            Option("--no-trunc", "cut nothing"),
            _FORMAT,
        ),
        examples=(("onggi image fsck --repair", "after a disk's trouble"),),
    ),
}  # fmt: skip
