"""`top`."""

from __future__ import annotations

from onggi.faces.cli.options import Option
from onggi.faces.cli.table import Column, show
from onggi.faces.cli.verb import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from onggi.faces.cli.options import Parsed
    from onggi.faces.cli.verb import Context

_COLUMNS = (
    Column("UID", "UID", right=True),
    Column("PID", "PID", right=True),
    Column("PPID", "PPID", right=True),
    Column("C", "C", right=True),
    Column("STIME", "STIME"),
    Column("TTY", "TTY"),
    Column("TIME", "TIME"),
    Column("CMD", "CMD", shrinks=True),
)
_FIELDS = {
    "UID": "uid", "PID": "pid", "PPID": "ppid", "C": "cpu", "STIME": "started", "TTY": "tty",
    "TIME": "time", "CMD": "command",
}  # fmt: skip


def _top(context: Context, parsed: Parsed) -> int:
    found = context.client.call("containers.top", {"target": parsed.arguments[0]})
    rows = [{key: process[field] for key, field in _FIELDS.items()} for process in found]
    show(context.out, _COLUMNS, rows, parsed.text("format"), wide=False)
    return 0


VERBS = {
    "top": Verb(
        _top,
        arguments="CONTAINER",
        least=1,
        most=1,
        options=(Option("--format", "table, json, or a template", value="FORM"),),
        complete="container",
        examples=(("onggi top web", "ids are the host's: what you could look up in /proc"),),
    )
}
