"""The nearest name to a mistyped one."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def distance(first: str, second: str) -> int:
    """Edits (insert, delete, replace, swap of neighbours) from one to the other."""
    before: list[int] = []
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        current = [i]
        for j, b in enumerate(second, 1):
            cost = min(row[j] + 1, current[j - 1] + 1, row[j - 1] + (a != b))
            if i > 1 and j > 1 and a == second[j - 2] and first[i - 2] == b:
                cost = min(cost, before[j - 2] + 1)
            current.append(cost)
        before, row = row, current
    return row[-1]


def nearest(word: str, names: Iterable[str]) -> str | None:
    """The one of `names` that was probably meant, if any is near enough."""
    best, best_distance = None, max(2, len(word) // 3) + 1
    for name in names:
        found = distance(word, name)
        if word and name.startswith(word):
            found = min(found, 1)
        if found < best_distance and found < max(len(name), 2):
            best, best_distance = name, found
    return best
