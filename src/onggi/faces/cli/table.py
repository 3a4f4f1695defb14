"""Tables in columns, rows as JSON or by a template. Text that images chose is made printable."""

from __future__ import annotations

from onggi.faces.cli.output import printable
from onggi.specs import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from onggi.faces.cli.output import Output

_GAP = 3
#: How narrow a column that may be cut becomes: first all of them the one, then the other.
_LEAST = (12, 6)


class Column:
    """A column: its heading, the row's key, and whether it may be cut to fit a terminal: `late`
    only where cutting the others is not enough."""

    __slots__ = ("heading", "key", "late", "right", "shrinks")

    def __init__(
        self,
        heading: str,
        key: str,
        *,
        shrinks: bool = False,
        late: bool = False,
        right: bool = False,
    ) -> None:
        self.heading = heading
        self.key = key
        self.shrinks = shrinks or late
        self.late = late
        self.right = right


class Labels(str):
    """Labels as a list shows them, `a=1,b=2`; a template's `.Label "a"` finds one in `by_key`."""

    by_key: Mapping[str, str]

    def __new__(cls, labels: Mapping[str, str]) -> Labels:
        made = super().__new__(cls, ",".join(f"{key}={value}" for key, value in labels.items()))
        made.by_key = labels
        return made


def layout(columns: Sequence[Column], rows: Sequence[dict[str, Any]], width: int) -> list[str]:
    """The lines of a table: heading first. `width` 0: as wide as it comes.

    Columns that may shrink give way, widest first, until the lines fit: to 12 characters each,
    then to 6, and then the late ones do.
    """
    cells = [[printable(str(row.get(c.key, ""))) for c in columns] for row in rows]
    heads = [c.heading for c in columns]
    widths = [max(len(line[i]) for line in [heads, *cells]) for i in range(len(columns))]
    if width:
        _shrink(columns, widths, width)
    return [_line(columns, widths, line) for line in [heads, *cells]]


def _shrink(columns: Sequence[Column], widths: list[int], width: int) -> None:
    over = sum(widths) + _GAP * (len(widths) - 1) - width
    for late, least in ((late, least) for late in (False, True) for least in _LEAST):
        may = [i for i, c in enumerate(columns) if c.shrinks and c.late == late]
        while over > 0 and (soft := [i for i in may if widths[i] > least]):
            widths[max(soft, key=lambda i: widths[i])] -= 1
            over -= 1


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
    elif form.startswith(("table ", "table\t", "table{")):
        out.text(_template_table(form.removeprefix("table").strip(), columns, rows, out, wide))
    else:
        line = liner(form)
        out.text("".join(f"{line(row)}\n" for row in rows))


def liner(form: str) -> Callable[[Any], str]:
    """What makes a line of a value: `json`, or a template.

    Raises: InvalidArgument for a template that cannot be read.
    """
    if form == "json":
        return jsontext.text
    from onggi.faces.cli.template import Template  # noqa: PLC0415 - few write one

    return Template(form).fill


def _template_table(
    form: str, columns: Sequence[Column], rows: Sequence[dict[str, Any]], out: Output, wide: bool
) -> str:
    from onggi.faces.cli.template import Template  # noqa: PLC0415

    template = Template(form)
    cells = [template.fill(row).split("\t") for row in rows]
    heads = template.heading({c.key: c.heading for c in columns}).split("\t")
    heads += [""] * (max(map(len, cells), default=0) - len(heads))
    made = [Column(head, str(i), shrinks=True) for i, head in enumerate(heads)]
    lines = [{str(i): cell for i, cell in enumerate(line)} for line in cells]
    width = out.columns if out.terminal and not wide else 0
    return "".join(f"{line}\n" for line in layout(made, lines, width))
