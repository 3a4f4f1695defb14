"""Where a command's words go: bytes to descriptors 1 and 2, read afresh for every command.

`sys.stdout` is not used: a warm process that runs many commands would write to another's terminal.
"""

from __future__ import annotations

import os

_DEFAULT_COLUMNS = 80


def write_all(fd: int, data: bytes) -> None:
    """Write every byte.

    Raises: BrokenPipeError when nobody reads; OSError as write(2).
    """
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


class Output:
    """Text to one descriptor. `terminal` and `columns` are asked for once, when needed."""

    __slots__ = ("_terminal", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._terminal: bool | None = None

    @property
    def terminal(self) -> bool:
        """Whether a person is looking."""
        if self._terminal is None:
            self._terminal = os.isatty(self.fd)
        return self._terminal

    @property
    def columns(self) -> int:
        """Width of the terminal, 80 when it is none or does not say."""
        try:
            return os.get_terminal_size(self.fd).columns or _DEFAULT_COLUMNS
        except OSError:
            return _DEFAULT_COLUMNS

    @property
    def rows(self) -> int:
        """Height of the terminal, 24 when it is none or does not say."""
        try:
            return os.get_terminal_size(self.fd).lines or 24
        except OSError:
            return 24

    def text(self, text: str) -> None:
        """Write `text` as it is."""
        write_all(self.fd, text.encode("utf-8", "backslashreplace"))

    def line(self, text: str = "") -> None:
        """Write one line."""
        self.text(f"{text}\n")

    def bold(self, text: str) -> str:
        """`text`, heavier on a terminal."""
        return f"\x1b[1m{text}\x1b[0m" if self.terminal else text

    def dim(self, text: str) -> str:
        """`text`, lighter on a terminal."""
        return f"\x1b[2m{text}\x1b[0m" if self.terminal else text


def printable(text: str) -> str:
    """`text` without control characters: an image's words must not steer a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


_HEX = frozenset("0123456789abcdef")
_ID_DIGITS = 64
_SHOWN_DIGITS = 12


def short_ids(text: str) -> str:
    """`text` with every id and digest of 64 digits cut to the 12 that tell it apart."""
    parts, start = [], 0
    for at in range(len(text) + 1):
        if at < len(text) and text[at] in _HEX:
            continue
        run = text[start:at]
        parts.append(f"{run[:_SHOWN_DIGITS]}…" if len(run) == _ID_DIGITS else run)
        parts.append(text[at : at + 1])
        start = at + 1
    return "".join(parts)
