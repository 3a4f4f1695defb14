"""Tables that must fit a terminal: who gives way, and who does last."""

from __future__ import annotations

import pytest

from onggi.faces.cli.table import Column, layout

COLUMNS = (
    Column("ID", "id"),
    Column("COMMAND", "command", shrinks=True),
    Column("STATUS", "status", late=True),
)
ROW = {"id": "f14ec1f8f3f0", "command": "a" * 20, "status": "Exited (137) 2 seconds ago"}


@pytest.mark.parametrize(
    ("width", "command", "status"),
    [
        (0, 20, 26),
        (80, 20, 26),
        (56, 12, 26),
        (50, 6, 26),
        (40, 6, 16),
        (10, 6, 6),
    ],
)
def test_what_matters_is_cut_last(width: int, command: int, status: int) -> None:
    heading, line = layout(COLUMNS, [ROW], width)
    cells = line.split("   ")
    assert [len(cell) for cell in cells] == [12, command, status]
    assert cells[1].endswith("…") == (command < 20)
    assert cells[2].endswith("…") == (status < 26)
    assert heading.startswith("ID")
