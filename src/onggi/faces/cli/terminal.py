"""The user's terminal in raw mode, and back again whatever happens. Source: termios(3)."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` costs 3 ms for enums
import os
import termios

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def size(fd: int) -> tuple[int, int]:
    """(rows, columns) of a terminal, (0, 0) when it has none."""
    try:
        found = os.get_terminal_size(fd)
    except OSError:
        return 0, 0
    return found.lines, found.columns


class RawTerminal:
    """Raw while inside `with`; restored on every way out, death by SIGTERM or SIGHUP included."""

    __slots__ = ("_before", "_fd", "_handlers")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._before: list[Any] = []
        self._handlers = Handlers()

    def __enter__(self) -> RawTerminal:
        self._before = termios.tcgetattr(self._fd)
        for number in (_signal.SIGTERM, _signal.SIGHUP, _signal.SIGQUIT):
            self._handlers.set(number, self._die)
        raw = termios.tcgetattr(self._fd)
        raw[0] &= ~(
            termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP
            | termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON
        )  # fmt: skip
        raw[1] &= ~termios.OPOST
        raw[2] = raw[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        raw[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
        raw[6][termios.VMIN], raw[6][termios.VTIME] = 1, 0
        termios.tcsetattr(self._fd, termios.TCSADRAIN, raw)
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()
        self._handlers.restore()

    def restore(self) -> None:
        """As it was before; harmless when the terminal is gone."""
        try:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)
        except (OSError, termios.error):
            return  # hung up: there is nothing left to restore

    def _die(self, number: int, _frame: object) -> None:
        self.restore()
        _signal.signal(number, _signal.SIG_DFL)
        os.kill(os.getpid(), number)


class Handlers:
    """Signal handlers for a while: what was set before comes back."""

    __slots__ = ("_before",)

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}

    def set(self, number: int, handler: Callable[[int, Any], None]) -> None:
        """Call `handler(number, frame)` on the signal."""
        before = _signal.signal(number, handler)
        self._before.setdefault(number, before)

    def restore(self) -> None:
        """What was set before."""
        for number, before in self._before.items():
            _signal.signal(number, before if before is not None else _signal.SIG_DFL)
        self._before.clear()
