"""How far long work is: bars that redraw themselves on a terminal, plain lines elsewhere.

Work of one piece has one line. Where several pieces go on at once (`item`, a layer for instance)
each has a line, as many as the terminal has room for, and a last line sums them up.
"""

from __future__ import annotations

import select
import time

from onggi.faces.cli import human
from onggi.faces.cli.output import printable
from onggi.faces.cli.table import cut

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from onggi.faces.cli.client import Call, Item
    from onggi.faces.cli.output import Output

_BAR = 24
_REDRAW_S = 0.05
_IDLE_MS = 1000.0
#: Over how long the rate is measured: long enough to stand still, short enough to follow.
_RATE_S = 3.0
_ITEM_WIDTH = 12
#: Stages after which an item has no other.
ENDS = frozenset(("done", "already here", "already there"))
_STAGE_WIDTH = 16


class _Item:
    """One of several things under way. `counts`: stage → (done, total)."""

    __slots__ = ("counts", "name", "stage")

    def __init__(self, name: str) -> None:
        self.name = name
        self.stage = ""
        self.counts: dict[str, tuple[int, int]] = {}

    @property
    def finished(self) -> bool:
        """Whether its stage is an end, or counts to its end."""
        done, total = self.counts[self.stage]
        return self.stage in ENDS or 0 < total <= done


class ProgressBar:
    """Shows stages on stderr, so that stdout stays free for the answer."""

    __slots__ = (
        "_counted", "_drawn", "_drawn_s", "_err", "_items", "_line", "_moved", "_said", "_samples",
        "_stage", "_stale",
    )  # fmt: skip

    def __init__(self, err: Output) -> None:
        self._err = err
        self._stage = ""
        self._line: tuple[int, int] = (0, 0)
        self._items: dict[str, _Item] = {}
        self._said: set[tuple[str, str]] = set()
        #: widths of the lines that stand on the terminal, the cursor in the last.
        self._drawn: list[int] = []
        self._drawn_s = 0.0
        #: stage → bytes that have come since we look; what was there before counts for nothing.
        self._moved: dict[str, int] = {}
        self._counted = ""
        self._samples: list[tuple[float, int]] = []
        #: whether more has been reported than is shown.
        self._stale = False

    def show(self, stage: str, done: int, total: int, item: str = "") -> None:
        """One report of the engine."""
        stage, item = printable(stage), printable(item)
        if not self._err.terminal:
            self._say(stage, item)
            return
        if item:
            self._note(stage, done, total, item)
        else:
            if stage != self._stage and self._stage and not self._items:
                self._leave()
            self._stage, self._line = stage, (done, total)
        now_s = time.monotonic()
        ended = done == total and not self._items
        self._stale = True
        if ended or not self._drawn or now_s - self._drawn_s >= _REDRAW_S:
            self._draw(now_s)

    @property
    def pause_ms(self) -> float | None:
        """After what silence to call `redraw`; None: never."""
        if self._stale:
            return _REDRAW_S * 1000
        return _IDLE_MS if self._items else None

    def redraw(self) -> None:
        """Show what has been reported since, and that nothing moves."""
        self._draw(time.monotonic())

    def _say(self, stage: str, item: str) -> None:
        """Without a terminal: each stage once, of each item once."""
        if item:
            if (item, stage) not in self._said:
                self._err.line(f"{item}: {stage}")
            self._said.add((item, stage))
            return
        if stage != self._stage:
            self._err.line(stage)
        self._stage = stage

    def _note(self, stage: str, done: int, total: int, name: str) -> None:
        if not self._items:
            # A stage that came before the items keeps its line.
            self._leave()
            self._stage = ""
        item = self._items.get(name)
        if item is None:
            item = self._items[name] = _Item(name)
        before = item.counts.get(stage, (done, total))
        item.stage = stage
        item.counts[stage] = (done, total)
        self._moved[stage] = self._moved.get(stage, 0) + max(0, done - before[0])

    def _draw(self, now_s: float) -> None:
        self._drawn_s, self._stale = now_s, False
        columns = max(1, self._err.columns - 1)
        rows = self._err.rows
        lines = [cut(line, columns) for line in self._lines(now_s, rows, columns)]
        lines = lines[-max(1, rows - 1) :]
        # Lines wider than a terminal that has shrunk are broken by it, who knows how: what is
        # there is left alone, and drawn again below.
        torn = bool(self._drawn) and max(self._drawn) > columns
        if torn:
            start = "\n"
        else:
            up = min(len(self._drawn), rows) - 1
            start = f"\r\x1b[{up}A" if up > 0 else "\r"
        self._err.text(start + "\x1b[K\n".join(lines) + "\x1b[K\x1b[J")
        self._drawn = [len(line) for line in lines]

    def _lines(self, now_s: float, rows: int, columns: int) -> list[str]:
        if not self._items:
            return [self._text(*self._line)]
        room = max(1, rows - 2)
        items = list(self._items.values())
        hidden: list[_Item] = []
        if len(items) > room:
            # Those at work stay longest.
            order = sorted(items, key=lambda item: item.finished)
            kept = set(map(id, order[: room - 1]))
            hidden = [item for item in items if id(item) not in kept]
            items = [item for item in items if id(item) in kept]
        lines = [_item_line(item, columns) for item in items]
        if hidden:
            finished = sum(item.finished for item in hidden)
            lines.append(f"… {len(hidden)} more, {finished} of them finished")
        return [*lines, self._sum(now_s, columns)]

    def _sum(self, now_s: float, columns: int) -> str:
        """The last line: how many of how many, bytes, rate, time left."""
        items = self._items.values()
        stage, done, total = self._bytes()
        finished = sum(item.finished for item in items)
        parts = [f"{self._stage or 'in all'}  {finished}/{len(items)}"]
        if total:
            parts.append(f"{stage} {human.size(done)} of {human.size(total)}")
        rate = self._rate(stage, now_s)
        if rate and done < total:
            parts.append(f"{human.size(int(rate))}/s")
            parts.append(f"{_time_left((total - done) / rate)} left")
        while len(parts) > 1 and len("  ".join(parts)) > columns:
            parts.pop()
        return "  ".join(parts)

    def _bytes(self) -> tuple[str, int, int]:
        """(stage, done, total) of the first stage that has bytes to go, or of the last one."""
        stages: dict[str, list[int]] = {}
        for item in self._items.values():
            for stage, (done, total) in item.counts.items():
                if total and stage not in ENDS:
                    sums = stages.setdefault(stage, [0, 0])
                    sums[0] += min(done, total)
                    sums[1] += total
        for stage, (done, total) in stages.items():
            if done < total:
                return stage, done, total
        last = next(reversed(stages), "")
        return last, *stages.get(last, (0, 0))

    def _rate(self, stage: str, now_s: float) -> float:
        """Bytes per second over the last moments; 0 while nobody can know."""
        if stage != self._counted:
            self._counted, self._samples = stage, []
        self._samples.append((now_s, self._moved.get(stage, 0)))
        while len(self._samples) > 2 and now_s - self._samples[0][0] > _RATE_S:
            self._samples.pop(0)
        then_s, then = self._samples[0]
        return (self._samples[-1][1] - then) / (now_s - then_s) if now_s > then_s else 0.0

    def _text(self, done: int, total: int) -> str:
        if not total:
            return f"{self._stage}  {human.size(done)}" if done else self._stage
        return f"{self._stage}  {_bar(done, total, _BAR)} {min(100, 100 * done // total)}%"

    def _leave(self) -> None:
        """Go on below what is drawn."""
        if self._drawn:
            self._err.text("\n")
        self._drawn = []

    def end(self) -> None:
        """Draw the last state, and leave the lines."""
        if self._err.terminal and (self._stage or self._items):
            if self._items:
                self._draw(time.monotonic())
            self._leave()
        self._stage, self._items = "", {}


def _bar(done: int, total: int, width: int) -> str:
    full = max(0, min(width, width * done // total))
    return "█" * full + "░" * (width - full)


def _item_line(item: _Item, columns: int) -> str:
    """`abcdef012345  downloading  ████░░░░  1.2MB/3MB`; the narrower, the less of it."""
    done, total = item.counts[item.stage]
    name = cut(item.name, _ITEM_WIDTH).ljust(_ITEM_WIDTH)
    stage = cut(item.stage, _STAGE_WIDTH).ljust(_STAGE_WIDTH)
    if not total:
        return f"{name}  {stage}  {human.size(done)}" if done else f"{name}  {stage.rstrip()}"
    sizes = f"{human.size(done)}/{human.size(total)}"
    left = columns - len(name) - len(stage) - 6 - max(len(sizes), 13)
    if left < 4:
        return f"{name}  {stage}  {min(100, 100 * done // total)}%"
    return f"{name}  {stage}  {_bar(done, total, min(_BAR, left))}  {sizes}"


def _time_left(seconds: float) -> str:
    whole = int(seconds) + 1
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def follow(call: Call, err: Output, *, quiet: bool = False) -> list[dict[str, Any]]:
    """Show a call's progress; its answers, which are all the items that are no Progress.

    Raises: the engine's error.
    """
    bar = ProgressBar(err)
    answers = []
    try:
        for item in _items(call, bar):
            # A stream of one type does not name it: then it is Progress and nothing else.
            if item.type not in ("", "Progress"):
                answers.append(item.value)
            elif not quiet:
                value = item.value
                bar.show(
                    str(value["stage"]),
                    value.get("done", 0),
                    value.get("total", 0),
                    str(value.get("item", "")),
                )
    finally:
        bar.end()
    return answers


def _items(call: Call, bar: ProgressBar) -> Iterator[Item]:
    """Each item of the call; while nothing comes, the bars go on to show the truth."""
    poll = select.poll()
    poll.register(call.sock.fileno(), select.POLLIN)
    while True:
        item = call.take()
        if item is not None:
            yield item
        elif not call.finished:
            while not poll.poll(bar.pause_ms):
                bar.redraw()
            call.receive()
        if call.finished:
            return
