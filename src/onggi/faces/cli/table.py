"""Tables in columns, rows as JSON or by a template. Text that images chose is made printable."""

from __future__ import annotations

from onggi.errors import InvalidArgument
from onggi.faces.cli import jsontext
from onggi.faces.cli.output import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from onggi.faces.cli.output import Output

_GAP = 3
_LEAST = 12


class Column:
    """A column: its heading, the row's key, and whether it may be cut to fit a terminal."""

    __slots__ = ("heading", "key", "right", "shrinks")

    def __init__(
        self, heading: str, key: str, *, shrinks: bool = False, right: bool = False
    ) -> None:
        self.heading = heading
        self.key = key
        self.shrinks = shrinks
        self.right = right


def layout(columns: Sequence[Column], rows: Sequence[dict[str, Any]], width: int) -> list[str]:
    """The lines of a table: heading first. `width` 0: as wide as it comes.

    Columns that may shrink give way, widest first, until the lines fit; each keeps 12 characters.
    """
    cells = [[printable(str(row.get(c.key, ""))) for c in columns] for row in rows]
    heads = [c.heading for c in columns]
    widths = [max(len(line[i]) for line in [heads, *cells]) for i in range(len(columns))]
    if width:
        _shrink(columns, widths, width)
    return [_line(columns, widths, line) for line in [heads, *cells]]


def _shrink(columns: Sequence[Column], widths: list[int], width: int) -> None:
    while sum(widths) + _GAP * (len(widths) - 1) > width:
        soft = [i for i, c in enumerate(columns) if c.shrinks and widths[i] > _LEAST]
        if not soft:
            return
        widths[max(soft, key=lambda i: widths[i])] -= 1


def _line(columns: Sequence[Column], widths: list[int], cells: Sequence[str]) -> str:
    parts = []
    for column, width, cell in zip(columns, widths, cells, strict=True):
        shown = cut(cell, width)
        parts.append(shown.rjust(width) if column.right else shown.ljust(width))
    return (" " * _GAP).join(parts).rstrip()


def cut(text: str, width: int) -> str:
    """`text` in at most `width` characters, with an ellipsis where something is missing."""
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def show(
    out: Output, columns: Sequence[Column], rows: Sequence[dict[str, Any]], form: str, *, wide: bool
) -> None:
    """Print rows: `form` is "" or `table`, `json` (an object a line), or a template of fields.

    `wide`: never cut (`--no-trunc`); what is not a terminal is never cut either.

    Raises: InvalidArgument for a template that cannot be read.
    """
    if form in ("", "table"):
        width = out.columns if out.terminal and not wide else 0
        out.text("".join(f"{line}\n" for line in layout(columns, rows, width)))
    elif form == "json":
        out.text("".join(f"{jsontext.text(row)}\n" for row in rows))
    elif form.startswith("table "):
        out.text(_template_table(form.removeprefix("table "), columns, rows, out, wide))
    else:
        pieces = template(form)
        out.text("".join(f"{fill(pieces, row)}\n" for row in rows))


def _template_table(
    form: str, columns: Sequence[Column], rows: Sequence[dict[str, Any]], out: Output, wide: bool
) -> str:
    headings = {c.key: c.heading for c in columns}
    parts = [template(part) for part in form.replace("\\t", "\t").split("\t")]
    names = [next((path[0] for kind, path, _ in part if kind == "field"), "") for part in parts]
    made = [
        Column(headings.get(name, name.upper()), str(i), shrinks=True)
        for i, name in enumerate(names)
    ]
    lines = [{str(i): fill(part, row) for i, part in enumerate(parts)} for row in rows]
    width = out.columns if out.terminal and not wide else 0
    return "".join(f"{line}\n" for line in layout(made, lines, width))


Piece = tuple[str, tuple[str, ...], str]


def template(form: str) -> list[Piece]:
    """The pieces of a template: `{{.Field}}`, `{{.A.B}}`, `{{json .A}}`, text, `\\t` and `\\n`.

    This much of Go's templates, no more: conditions and loops are not read.
    """
    pieces: list[Piece] = []
    rest = form.replace("\\t", "\t").replace("\\n", "\n")
    while rest:
        before, opened, after = rest.partition("{{")
        if before:
            pieces.append(("text", (), before))
        if not opened:
            break
        inner, closed, rest = after.partition("}}")
        words = inner.split()
        as_json = len(words) == 2 and words[0] == "json"
        if not closed or not (as_json or len(words) == 1) or not words[-1].startswith("."):
            raise InvalidArgument(
                f"cannot read {{{{{inner} in --format",
                hint="fields are written {{.Name}} or {{json .State}}; or use --format json",
            )
        path = tuple(p for p in words[-1].split(".") if p)
        pieces.append(("json" if as_json else "field", path, ""))
    return pieces


def fill(pieces: Sequence[Piece], row: dict[str, Any]) -> str:
    """The text of a template for one row."""
    parts = []
    for kind, path, words in pieces:
        if kind == "text":
            parts.append(words)
            continue
        value: Any = row
        for key in path:
            if not isinstance(value, dict) or key not in value:
                raise InvalidArgument(
                    f"no field .{'.'.join(path)} to show", hint=f"there are: {', '.join(row)}"
                )
            value = value[key]
        plain = value if isinstance(value, str) else jsontext.text(value)
        parts.append(jsontext.text(value) if kind == "json" else printable(plain))
    return "".join(parts)
