"""`state`, `list`, `ps`: what looks at containers and changes nothing."""

from __future__ import annotations

import os

from onggi.errors import DataLoss, InvalidArgument, NotFound
from onggi.faces.oci.arguments import SWITCH, VALUE, one_id
from onggi.sandbox.oci.records import Record, Store, status_of
from onggi.specs import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from onggi.faces.oci.arguments import Arguments
    from onggi.faces.oci.main import Context


def state_of(record: Record) -> dict[str, Any]:
    """The state as the specification has it, and what runc adds."""
    status = status_of(record)
    state: dict[str, Any] = {
        "ociVersion": record.oci_version,
        "id": record.id,
        "pid": 0 if status == "stopped" else record.pid,
        "status": status,
        "bundle": record.bundle,
        "rootfs": record.rootfs,
        "created": record.created,
    }
    if record.annotations:
        state["annotations"] = record.annotations
    return {**state, "owner": record.owner}


def show_state(context: Context, arguments: Arguments) -> None:
    """Print the state of a container as JSON."""
    record = Store(context.root).read(one_id(arguments))
    say(jsontext.pretty(state_of(record), 2))


def show_list(context: Context, arguments: Arguments) -> None:
    """Print every container."""
    records = _records(Store(context.root))
    form = arguments.text("format", "table")
    if arguments.on("quiet"):
        for record in records:
            say(record.id)
    elif form == "json":
        say(jsontext.text([state_of(record) for record in records]) if records else "null")
    elif form == "table":
        rows = [("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")]
        for record in records:
            row = state_of(record)
            rows.append(tuple(str(row[name.lower()]) for name in rows[0]))  # type: ignore[arg-type]
        _table(rows)
    else:
        raise InvalidArgument(f"invalid format option {form!r}", hint="table and json are known")


def _records(store: Store) -> list[Record]:
    found = []
    for container_id in store.ids():
        try:
            found.append(store.read(container_id))
        except (NotFound, DataLoss):
            continue  # it is being made or removed; a damaged one is delete's matter
    return found


def _table(rows: Any) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [cell.ljust(width + 2) for cell, width in zip(row, widths, strict=True)]
        say("".join(cells).rstrip())


def show_processes(context: Context, arguments: Arguments) -> None:
    """Print the processes of a container: their ids as JSON, or what ps(1) shows of them."""
    if not arguments.rest:
        raise InvalidArgument("a container id is needed")
    from onggi.sandbox.oci.ending import processes_of  # noqa: PLC0415

    record = Store(context.root).read(arguments.rest[0])
    pids = processes_of(record)
    form = arguments.text("format", "table")
    if form == "json":
        say(jsontext.text([*pids]) if pids else "null")
        return
    if form != "table":
        raise InvalidArgument(f"invalid format option {form!r}", hint="table and json are known")
    import subprocess  # noqa: PLC0415

    words = ["ps", *(arguments.rest[1:] or ["-ef"])]
    shown = subprocess.run(words, capture_output=True, text=True, check=False)
    if shown.returncode:
        raise InvalidArgument(f"ps: {shown.stderr.strip()}")
    header, *lines = shown.stdout.splitlines()
    column = header.split().index("PID")
    say(header)
    for line in lines:
        fields = line.split()
        if len(fields) > column and fields[column].isdecimal() and int(fields[column]) in pids:
            say(line)


def say(text: str) -> None:
    """A line on stdout."""
    data = text.encode("utf-8", "surrogateescape") + b"\n"
    while data:
        data = data[os.write(1, data) :]


VERBS = {
    "state": ({}, show_state),
    "list": ({"f format": VALUE, "q quiet": SWITCH}, show_list),
    "ps": ({"f format": VALUE}, show_processes),
}
