"""`explain`: the plan of a run, step by step, without running it."""

from __future__ import annotations

import os

from onggi.faces.cli import values
from onggi.faces.cli.help import wrap
from onggi.faces.cli.options import Option
from onggi.faces.cli.output import printable, short_ids
from onggi.faces.cli.runflags import CONTAINER
from onggi.faces.cli.runspec import container_spec
from onggi.faces.cli.verb import Verb
from onggi.specs import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from onggi.faces.cli.options import Parsed
    from onggi.faces.cli.output import Output
    from onggi.faces.cli.verb import Context


def _explain(context: Context, parsed: Parsed) -> int:
    spec = container_spec(parsed, context.environ, os.getcwd())
    found = context.client.call("containers.explain", spec)
    if parsed.text("format") == "json":
        context.out.line(jsontext.pretty(found, 2))
        return 0
    context.out.text("\n".join(render(found["rows"], context.out)) + "\n")
    context.warn(found.get("warnings", ()))
    return 0


def render(rows: list[dict[str, Any]], out: Output) -> list[str]:
    """The numbered steps, a heading wherever another actor takes over."""
    width = max(40, min(out.columns, 110) if out.terminal else 100)
    digits = len(str(len(rows)))
    indent = " " * (digits + 4)
    lines: list[str] = []
    actor = ""
    for row in rows:
        if row["actor"] != actor:
            actor = row["actor"]
            lines += ["", out.bold(printable(actor))] if lines else [out.bold(printable(actor))]
        optional = " (if possible)" if row.get("optional") else ""
        what = short_ids(printable(f"{row['what']}{optional}"))
        for number, text in enumerate(wrap(what, width - len(indent))):
            head = f"  {row['number']:>{digits}}  " if number == 0 else indent
            lines.append(f"{head}{text}")
        notes = [("concerns", row["concerns"]), ("protects", row["protects"])]
        notes.append(("from", row["section"]))
        for name, note in notes:
            if note:
                for text in wrap(f"{name}: {printable(note)}", width - len(indent)):
                    lines.append(out.dim(f"{indent}{text}"))
    return lines


VERBS = {
    "explain": Verb(
        _explain,
        arguments="IMAGE [COMMAND [ARGUMENT…]]",
        least=1,
        options=(
            Option(
                "--format",
                "json: rows, warnings, config and plan",
                value="FORM",
                parse=values.only_json,
                complete="json",
            ),
            *CONTAINER,
        ),
        interspersed=False,
        complete="image",
        examples=(
            ("onggi explain -m 64m --read-only busybox sh", "takes every option of run"),
            ("onggi explain --format json busybox | grep -c protects", "for a program"),
        ),
    )
}
