"""`system check`: differences between the records and the machine."""

from __future__ import annotations

from onggi.faces.cli.options import Option
from onggi.faces.cli.table import Column, show
from onggi.faces.cli.verb import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from onggi.faces.cli.options import Parsed
    from onggi.faces.cli.verb import Context

_COLUMNS = (
    Column("KIND", "Kind"),
    Column("SUBJECT", "Subject", shrinks=True),
    Column("DIFFERENCE", "What", shrinks=True),
    Column("REPAIRED", "Repaired"),
)


def _check(context: Context, parsed: Parsed) -> int:
    with context.client.open("system.check", {"repair": parsed.on("repair")}) as call:
        rows = [_row(item.value) for item in call.items()]
    form = parsed.text("format")
    if rows or form:
        show(context.out, _COLUMNS, rows, form, wide=False)
    else:
        context.out.line("records and machine agree")
    return 1 if any(not row["Repaired"] for row in rows) else 0


def _row(found: dict[str, Any]) -> dict[str, Any]:
    return {
        "Kind": found["kind"],
        "Subject": found["subject"],
        "What": found["what"],
        "Repaired": bool(found.get("repaired")),
    }


VERBS = {
    "check": Verb(
        _check,
        most=0,
        options=(
            Option("--repair", "make them agree"),
            Option("--format", "table, json, or a template: '{{.Kind}}'", value="FORM"),
        ),
        examples=(("onggi system check && echo fine", "1 when something differs"),),
    ),
}  # fmt: skip
