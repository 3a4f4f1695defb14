"""Boxes with two columns, as wide as the terminal; below each other when it is narrow. Pure."""

from __future__ import annotations

from onggi.faces.cli.help import wrap
from onggi.faces.cli.output import printable, short_ids
from onggi.faces.cli.table import cut

_NARROW = 72


def _fold(text: str, width: int) -> list[str]:
    lines = []
    for line in wrap(short_ids(printable(text)), width):
        # A word without spaces (a path, a digest) is broken where it must be.
        pieces = [line[at : at + width] for at in range(0, max(1, len(line)), width)]
        lines += pieces
    return lines


def titled(title: str, width: int) -> str:
    """A box's upper edge with a title in it."""
    head = f"┌─ {cut(printable(title), width - 6)} "
    return head + "─" * (width - len(head) - 1) + "┐"


def pair(title: str, left: list[str], right: list[str], width: int) -> list[str]:
    """A section with what the host sees on the left and what the container sees on the right."""
    if width < _NARROW:
        return _stacked(title, left, right, width)
    first = (width - 3) // 2 - 1
    second = width - 7 - first
    lines = [_edge(title, first, second)]
    a = [piece for text in left for piece in _fold(text, first)]
    b = [piece for text in right for piece in _fold(text, second)]
    for at in range(max(len(a), len(b))):
        one = a[at] if at < len(a) else ""
        two = b[at] if at < len(b) else ""
        lines.append(f"│ {one:<{first}} │ {two:<{second}} │")
    return lines


def _edge(title: str, first: int, second: int) -> str:
    label = f"─ {title} "
    return f"├{label}{'─' * (first + 2 - len(label))}┼{'─' * (second + 2)}┤"


def _stacked(title: str, left: list[str], right: list[str], width: int) -> list[str]:
    inner = width - 4
    lines = [f"├─ {title} {'─' * max(0, width - len(title) - 5)}┤"]
    for side, texts in (("host", left), ("container", right)):
        if not texts:
            continue
        lines.append(f"│ {f'[{side}]':<{inner}} │")
        lines += [f"│ {piece:<{inner}} │" for text in texts for piece in _fold(text, inner)]
    return lines


def whole(title: str, texts: list[str], width: int) -> list[str]:
    """A section across both columns."""
    inner = width - 4
    lines = [f"├─ {title} {'─' * max(0, width - len(title) - 5)}┤"]
    lines += [f"│ {piece:<{inner}} │" for text in texts for piece in _fold(text, inner)]
    return lines


def bottom(width: int) -> str:
    """A box's lower edge."""
    return f"└{'─' * (width - 2)}┘"
