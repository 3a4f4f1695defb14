"""Timing commands fairly: one warm-up each, then in turns, so that noise meets all alike."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence

Action = Callable[[], None]


def command(words: Sequence[str], env: dict[str, str] | None = None) -> Action:
    """An action that runs a command to its end and fails when the command does."""
    merged = {**os.environ, **(env or {})}

    def run() -> None:
        done = subprocess.run(
            words, env=merged, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        if done.returncode:
            raise RuntimeError(
                f"{' '.join(words)}: {done.returncode}: {done.stderr.decode()[:400]}"
            )

    return run


def in_turns(actions: dict[str, Action], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each round of each action; an action that fails is left out with a word."""
    times: dict[str, list[float]] = {}
    for name, action in actions.items():
        try:
            action()
            times[name] = []
        except (RuntimeError, OSError) as error:
            print(f"  {name}: left out: {error}")
    for _ in range(rounds):
        for name, taken in times.items():
            before = time.perf_counter()
            actions[name]()
            taken.append((time.perf_counter() - before) * 1000)
    return times


def middle(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)
