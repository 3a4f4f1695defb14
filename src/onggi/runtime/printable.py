"""Text from images and containers made fit for one line on a terminal."""

from __future__ import annotations

MAX_CHARACTERS = 300


def printable(text: str, most: int = MAX_CHARACTERS) -> str:
    """The text in one line of at most `most` characters, with nothing a terminal would act on."""
    plain = "".join(character if character.isprintable() else "�" for character in text[: most + 1])
    return plain if len(plain) <= most else plain[: most - 1] + "…"
