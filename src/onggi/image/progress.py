"""How long work says how far it is. Knows nothing of who listens."""

from __future__ import annotations

from typing import Protocol


class Report(Protocol):
    """Called from any thread, often.

    `stage`: what happens now, in a word or two. `done`, `total`: bytes, or 0 where nobody knows.
    `item`: what it happens to where several go on at once, a layer's short digest for instance.
    """

    def __call__(self, stage: str, done: int = 0, total: int = 0, item: str = "") -> None: ...


def silent(stage: str, done: int = 0, total: int = 0, item: str = "") -> None:
    """The report that nobody reads."""


def short_digest(digest: str) -> str:
    """The first twelve hexadecimal digits, as people are shown them."""
    return digest.partition(":")[2][:12]
