"""Progress on a terminal that remembers what it shows, and without one."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onggi.faces.cli import progress
from onggi.faces.cli.output import Output
from onggi.faces.cli.progress import ProgressBar

_PIECES = re.compile(r"\x1b\[(\d*)([A-Z])|(.)", re.DOTALL)


class Screen(Output):
    """As much of a terminal as progress uses: cursor up, two ways to clear, wrapping, scrolling."""

    def __init__(self, rows: int = 24, columns: int = 80) -> None:
        super().__init__(2)
        self._rows, self._columns = rows, columns
        self.lines = [""]
        self.row = self.column = 0
        self.raw = ""

    terminal = True  # type: ignore[assignment]

    @property
    def rows(self) -> int:
        return self._rows

    @property
    def columns(self) -> int:
        return self._columns

    def resize(self, rows: int, columns: int) -> None:
        """As terminals do that leave broken lines alone: what is too wide is cut off."""
        self._rows, self._columns = rows, columns

    def text(self, text: str) -> None:
        self.raw += text
        for count, final, char in _PIECES.findall(text):
            if final:
                self._control(final, int(count or 1))
            elif char == "\r":
                self.column = 0
            elif char == "\n":
                self._down()
            else:
                self._put(char)

    def _control(self, final: str, count: int) -> None:
        if final == "A":
            top = max(0, len(self.lines) - self._rows)
            self.row = max(top, self.row - count)
        elif final == "K":
            self.lines[self.row] = self.lines[self.row][: self.column]
        elif final == "J":
            self.lines[self.row] = self.lines[self.row][: self.column]
            del self.lines[self.row + 1 :]
        else:
            raise AssertionError(f"a terminal is asked for {final}")

    def _down(self) -> None:
        self.row, self.column = self.row + 1, 0
        if self.row == len(self.lines):
            self.lines.append("")

    def _put(self, char: str) -> None:
        if self.column == self._columns:
            self._down()
        line = self.lines[self.row].ljust(self.column)
        self.lines[self.row] = line[: self.column] + char + line[self.column + 1 :]
        self.column += 1

    @property
    def shown(self) -> list[str]:
        return [line.rstrip() for line in self.lines]


class Clock:
    """A clock that stands still until it is told."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(progress, "time", found)
    return found


class Words(Output):
    """No terminal."""

    def __init__(self) -> None:
        super().__init__(2)
        self.said: list[str] = []

    terminal = False  # type: ignore[assignment]

    def text(self, text: str) -> None:
        self.said.append(text)


def test_one_thing_has_one_line_for_each_stage(clock: Clock) -> None:
    screen = Screen()
    bar = ProgressBar(screen)
    for done in range(5):
        clock.now_s += 1
        bar.show("reading", done * 25, 100)
    bar.show("unpacking", 1500, 0)
    bar.end()
    assert screen.shown == [
        f"reading  {'█' * 24} 100%",
        "unpacking  1.5kB",
        "",
    ]


def test_several_things_have_a_line_each_and_a_sum(clock: Clock) -> None:
    screen = Screen()
    screen.text("$ onggi pull x\n")
    bar = ProgressBar(screen)
    bar.show("looking", 0, 0)
    bar.show("downloading", 0, 4_000_000, "aaaaaaaaaaaa")
    bar.show("downloading", 0, 6_000_000, "bbbbbbbbbbbb")
    bar.show("already here", 0, 0, "cccccccccccc")
    for step in range(1, 5):
        clock.now_s += 0.5
        bar.show("downloading", step * 1_000_000, 4_000_000, "aaaaaaaaaaaa")
        bar.show("downloading", step * 500_000, 6_000_000, "bbbbbbbbbbbb")
    clock.now_s += 0.5
    bar.show("unpacking", 0, 0, "aaaaaaaaaaaa")
    assert screen.shown == [
        "$ onggi pull x",
        "looking",
        "aaaaaaaaaaaa  unpacking",
        f"bbbbbbbbbbbb  downloading       {'█' * 8}{'░' * 16}  2MB/6MB",
        "cccccccccccc  already here",
        "in all  1/3  downloading 6MB of 10MB  2.4MB/s  2s left",
    ]
    bar.show("done", 0, 0, "aaaaaaaaaaaa")
    bar.show("downloading", 6_000_000, 6_000_000, "bbbbbbbbbbbb")
    bar.end()
    assert screen.shown[2:] == [
        "aaaaaaaaaaaa  done",
        f"bbbbbbbbbbbb  downloading       {'█' * 24}  6MB/6MB",
        "cccccccccccc  already here",
        "in all  3/3  downloading 10MB of 10MB",
        "",
    ]


def test_what_was_there_before_is_no_speed(clock: Clock) -> None:
    screen = Screen()
    bar = ProgressBar(screen)
    bar.show("downloading", 900_000_000, 1_000_000_000, "a")
    clock.now_s += 1
    bar.show("downloading", 910_000_000, 1_000_000_000, "a")
    assert screen.shown[-1] == "in all  0/1  downloading 910MB of 1GB  10MB/s  10s left"


def test_ends_are_not_summed_up(clock: Clock) -> None:
    screen = Screen()
    bar = ProgressBar(screen)
    bar.show("copying", 3_000_000, 3_000_000, "a")
    bar.show("done", 3_000_000, 3_000_000, "a")
    clock.now_s += 1
    bar.show("already there", 9_000_000, 9_000_000, "b")
    assert screen.shown[-1] == "in all  2/2  copying 3MB of 3MB"


def test_silence_is_shown_as_such(clock: Clock) -> None:
    screen = Screen()
    bar = ProgressBar(screen)
    assert bar.pause_ms is None
    bar.show("downloading", 0, 1_000_000, "a")
    clock.now_s += 1
    bar.show("downloading", 1000, 1_000_000, "a")
    clock.now_s += 0.01
    bar.show("downloading", 2000, 1_000_000, "a")
    assert bar.pause_ms == 50
    bar.redraw()
    assert "2kB of 1MB  1.98kB/s" in screen.shown[-1]
    for _ in range(4):
        assert bar.pause_ms == 1000
        clock.now_s += 1
        bar.redraw()
    assert screen.shown[-1] == "in all  0/1  downloading 2kB of 1MB"


def test_a_stage_of_the_whole_names_the_sum(clock: Clock) -> None:
    screen = Screen()
    bar = ProgressBar(screen)
    bar.show("downloading", 1, 2, "a")
    clock.now_s += 1
    bar.show("pulling", 0, 0)
    assert screen.shown[-1].startswith("pulling  0/1  downloading 1B of 2B")


def test_it_redraws_seldom(clock: Clock) -> None:
    screen = Screen()
    bar = ProgressBar(screen)
    for number in range(1000):
        clock.now_s += 0.001
        bar.show("downloading", number, 1000, "a")
    assert 15 <= screen.raw.count("in all") <= 21


def test_never_taller_than_the_terminal(clock: Clock) -> None:
    screen = Screen(rows=8)
    bar = ProgressBar(screen)
    for number in range(30):
        clock.now_s += 1
        bar.show("downloading", 10 if number < 10 else 1, 10, f"layer{number:02}")
    assert len(screen.shown) == 7
    assert [line.split()[0] for line in screen.shown[:5]] == [f"layer{n}" for n in range(10, 15)]
    assert screen.shown[5] == "… 25 more, 10 of them finished"
    assert screen.shown[6].startswith("in all  10/30")
    bar.end()


@pytest.mark.parametrize("columns", [1, 2, 10, 20, 35, 40, 60, 79])
def test_narrow_terminals(clock: Clock, columns: int) -> None:
    screen = Screen(columns=columns)
    bar = ProgressBar(screen)
    for number in range(4):
        clock.now_s += 1
        bar.show("downloading", number * 123_456, 1_234_567, "0123456789ab")
        bar.show("unpacking", number * 123_456, 0, "ba9876543210")
    assert len(screen.shown) == 3
    assert max(map(len, screen.shown)) <= max(1, columns - 1)
    bar.end()


def test_a_window_made_narrower_keeps_what_stands_above(clock: Clock) -> None:
    screen = Screen()
    screen.text("above\n")
    bar = ProgressBar(screen)
    bar.show("downloading", 1, 2, "a" * 12)
    screen.resize(24, 30)
    clock.now_s += 1
    bar.show("downloading", 2, 2, "a" * 12)
    assert screen.shown[0] == "above"
    before = len(screen.shown)
    clock.now_s += 1
    bar.show("downloading", 2, 2, "a" * 12)
    assert len(screen.shown) == before
    assert max(map(len, screen.shown[-2:])) <= 29


def test_a_window_made_lower(clock: Clock) -> None:
    screen = Screen(rows=24)
    bar = ProgressBar(screen)
    for number in range(20):
        bar.show("downloading", 1, 2, f"layer{number}")
    clock.now_s += 1
    bar.show("downloading", 1, 2, "layer19")
    assert len(screen.shown) == 21
    screen.resize(6, 80)
    clock.now_s += 1
    bar.show("downloading", 1, 2, "layer19")
    assert screen.raw.rpartition("A")[2].count("\n") == 4  # five lines on six rows
    assert screen.shown[-1].startswith("in all  0/20")


def test_words_of_an_engine_do_not_steer_a_terminal() -> None:
    screen = Screen()
    bar = ProgressBar(screen)
    bar.show("a\x1b[2Jb", 0, 0, "c\x1b[2Jd")
    bar.end()
    assert "\\x1b[2J" in screen.raw
    assert "\x1b[2J" not in screen.raw


def test_without_a_terminal_each_stage_of_each_item_once() -> None:
    words = Words()
    bar = ProgressBar(words)
    bar.show("looking", 0, 0)
    for done in range(50):
        bar.show("downloading", done, 50, "a")
        bar.show("unpacking", done, 50, "a")
        bar.show("downloading", done, 50, "b")
    bar.show("done", 0, 0, "a")
    bar.show("committing", 0, 0)
    bar.end()
    assert words.said == [
        "looking\n", "a: downloading\n", "a: unpacking\n", "b: downloading\n", "a: done\n",
        "committing\n",
    ]  # fmt: skip


_REPORTS = st.lists(
    st.tuples(
        st.sampled_from(["downloading", "unpacking", "done", "x" * 40]),
        st.integers(-1, 10**12),
        st.integers(0, 10**12),
        st.sampled_from(["", *(f"item{number}" for number in range(12))]),
        st.integers(0, 3),
        st.one_of(st.none(), st.tuples(st.integers(1, 30), st.integers(1, 100))),
    ),
    max_size=40,
)


@given(_REPORTS)
def test_whatever_is_reported_lines_fit_and_nothing_above_is_touched(
    reports: list[tuple[str, int, int, str, int, tuple[int, int] | None]],
) -> None:
    screen = Screen()
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "time", clock)
        screen.text("above\n")
        bar = ProgressBar(screen)
        for stage, done, total, item, passed_s, size in reports:
            if size is not None:
                screen.resize(*size)
            clock.now_s += passed_s
            drawn = screen.raw
            bar.show(stage, done, total, item)
            news = screen.raw.removeprefix(drawn)
            for line in re.sub(r"\x1b\[\d*[A-Z]|\r", "", news).split("\n"):
                assert len(line) <= max(1, screen.columns - 1)
        bar.end()
    assert screen.lines[0] == "above"
    assert screen.column == 0


def test_time_left_in_words() -> None:
    texts = [progress._time_left(s) for s in (0, 58.5, 59.5, 3598, 3600, 86400)]
    assert texts == ["1s", "59s", "1m00s", "59m59s", "1h00m", "24h00m"]
