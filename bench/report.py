"""The figures as a table, as JSON and as a picture."""

from __future__ import annotations

import html
from typing import Any

_BAR, _GAP, _LEFT, _WIDTH = 22, 10, 210, 760
_COLOURS = {"onggi": "#b5532d"}
_OTHER = "#8a9a8e"


def table(results: dict[str, Any]) -> str:
    """Rows a person reads: the figure of each, and its ratio to Onggi's."""
    lines = []
    for case, values in results.items():
        lines.append(case)
        numbers = {n: v for n, v in values.items() if isinstance(v, int | float)}
        ours = next((v for n, v in numbers.items() if n.startswith("onggi")), None)
        for name, value in numbers.items():
            ratio = f"   × {value / ours:.2f}" if ours and not name.startswith("onggi") else ""
            lines.append(f"  {name:<28} {value:10.2f}{ratio}")
        for name, value in values.items():
            if isinstance(value, dict):
                lines.append(f"  {name:<28} " + "  ".join(f"{k} {v}" for k, v in value.items()))
    return "\n".join(lines)


def picture(results: dict[str, Any]) -> str:
    """An SVG with a group of bars for each case whose figures are milliseconds."""
    parts: list[str] = []
    top = 20
    for case, values in results.items():
        bars = {n: v for n, v in values.items() if isinstance(v, int | float)}
        if not bars or "ms" not in case:
            continue
        parts.append(f'<text x="10" y="{top + 14}" font-weight="bold">{html.escape(case)}</text>')
        top += 26
        longest = max(bars.values())
        for name, value in bars.items():
            length = (_WIDTH - _LEFT - 90) * value / longest
            colour = _COLOURS.get(name.split()[0], _OTHER)
            parts.append(
                f'<text x="{_LEFT - 8}" y="{top + 15}" text-anchor="end">{html.escape(name)}</text>'
                f'<rect x="{_LEFT}" y="{top}" width="{length:.1f}" height="{_BAR}" rx="3" '
                f'fill="{colour}"/>'
                f'<text x="{_LEFT + length + 6:.1f}" y="{top + 15}">{value:.1f}</text>'
            )
            top += _BAR + 4
        top += _GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{top}" '
        'font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="#fffdf8"/>'
        + "".join(parts)
        + "</svg>\n"
    )
