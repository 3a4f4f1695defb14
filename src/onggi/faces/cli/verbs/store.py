"""`system df` and `image fsck`: what everything takes on disk, and whether the store is whole."""

from __future__ import annotations

import time

from onggi.faces.cli import human
from onggi.faces.cli.options import Option
from onggi.faces.cli.progress import ProgressBar
from onggi.faces.cli.table import Column, liner, show
from onggi.faces.cli.verb import Verb
from onggi.faces.cli.verbs import images, ps

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
_IMAGES = (
    Column("REPOSITORY", "Repository", shrinks=True),
    Column("TAG", "Tag", shrinks=True),
    Column("IMAGE ID", "ID"),
    Column("CREATED", "CreatedSince", shrinks=True),
    Column("SIZE", "Size", right=True),
    Column("SHARED SIZE", "SharedSize", right=True),
    Column("UNIQUE SIZE", "UniqueSize", right=True),
    Column("CONTAINERS", "Containers", right=True),
)
_CONTAINERS = (
    Column("CONTAINER ID", "ID"),
    Column("IMAGE", "Image", shrinks=True),
    Column("COMMAND", "Command", shrinks=True),
    Column("LOCAL VOLUMES", "LocalVolumes", right=True),
    Column("SIZE", "Size", right=True),
    Column("CREATED", "RunningFor", shrinks=True),
    Column("STATUS", "Status", late=True),
    Column("NAMES", "Names"),
)
_VOLUMES = (
    Column("VOLUME NAME", "Name", shrinks=True),
    Column("LINKS", "Links", right=True),
    Column("SIZE", "Size", right=True),
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
    form = parsed.text("format")
    if parsed.on("verbose"):
        return _details(context, form)

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
    show(context.out, _USAGE, rows, form, wide=False)
    return 0


def _details(context: Context, form: str) -> int:
    """Each image, container and volume; with a template all of them as one object."""
    now_ns = time.time_ns()
    found = context.client.call("system.usage_details", {})
    containers = context.client.call("containers.list", {"all": True, "size": True})
    parts = {
        "Images": [row for one in found["images"] for row in _image_rows(one, now_ns)],
        "Containers": [ps.row(summary, now_ns, full=False) for summary in containers],
        "Volumes": [_volume_row(one) for one in found["volumes"]],
    }
    if form not in ("", "table"):
        context.out.line(liner(form)(parts))
        return 0
    columns = {"Images": _IMAGES, "Containers": _CONTAINERS, "Volumes": _VOLUMES}
    for name, rows in parts.items():
        title = "Local Volumes" if name == "Volumes" else name
        context.out.text(f"{title} space usage:\n\n")
        show(context.out, columns[name], rows, "", wide=False)
        context.out.line()
    return 0


def _image_rows(one: dict[str, Any], now_ns: int) -> list[dict[str, Any]]:
    total = one["shared_bytes"] + one["unique_bytes"]
    summary = {**one, "digest": "", "platform": "", "size_bytes": total}
    sizes = {
        "SharedSize": human.size(one["shared_bytes"]),
        "UniqueSize": human.size(one["unique_bytes"]),
    }
    return [{**row, **sizes} for row in images.rows(summary, now_ns, full=False)]


def _volume_row(one: dict[str, Any]) -> dict[str, Any]:
    return {
        "Name": one["name"],
        "Links": str(one["containers"]),
        "Size": human.size(one["size_bytes"]),
    }


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
        options=(Option("-v --verbose", "each image, container and volume"), _FORMAT),
        examples=(
            ("onggi system df --format json", "bytes, for a script"),
            ("onggi system df -v", "which images share what, which volume is large"),
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
