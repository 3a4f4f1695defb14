"""How far long work is: a bar that redraws itself on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time

from onggi.faces.cli import human
from onggi.faces.cli.output import printable
from onggi.faces.cli.table import cut

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from onggi.faces.cli.client import Call
    from onggi.faces.cli.output import Output

_BAR = 24
_REDRAW_S = 0.05


class ProgressBar:
    """Shows stages on stderr, so that stdout stays free for the answer."""

    __slots__ = ("_drawn_s", "_err", "_stage")

    def __init__(self, err: Output) -> None:
        self._err = err
        self._stage = ""
        self._drawn_s = 0.0

    def show(self, stage: str, done: int, total: int) -> None:
        """One report of the engine."""
        stage = printable(stage)
        if not self._err.terminal:
            if stage != self._stage:
                self._err.line(stage)
            self._stage = stage
            return
        now_s = time.monotonic()
        if stage != self._stage and self._stage:
            self._err.text("\n")
        elif now_s - self._drawn_s < _REDRAW_S and done != total:
            return
        self._stage, self._drawn_s = stage, now_s
        self._err.text(f"\r{cut(self._text(done, total), self._err.columns - 1)}\x1b[K")

    def _text(self, done: int, total: int) -> str:
        if not total:
            return f"{self._stage}  {human.size(done)}" if done else self._stage
        full = min(_BAR, _BAR * done // total)
        bar = "█" * full + "░" * (_BAR - full)
        return f"{self._stage}  {bar} {100 * done // total}%"

    def end(self) -> None:
        """Leave the line."""
        if self._err.terminal and self._stage:
            self._err.text("\n")
            self._stage = ""


def follow(call: Call, err: Output, *, quiet: bool = False) -> list[dict[str, Any]]:
    """Show a call's progress; its ImageAnswers.

    Raises: the engine's error.
    """
    bar = ProgressBar(err)
    answers = []
    try:
        for item in call.items():
            if item.type == "ImageAnswer":
                answers.append(item.value)
            elif not quiet:
                value = item.value
                bar.show(str(value["stage"]), value.get("done", 0), value.get("total", 0))
    finally:
        bar.end()
    return answers
