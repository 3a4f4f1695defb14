"""The engine's loop goes on where the kernel lacks something just now."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from onggi.faces.engine_loop import EngineLoop


def test_work_is_done_when_no_further_thread_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def work() -> list[int]:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            several = (asyncio.to_thread(_slowly, number) for number in range(3))
            return list(await asyncio.gather(*several))

    with asyncio.Runner(loop_factory=EngineLoop) as runner:
        assert runner.run(work()) == [0, 1, 2]


def _slowly(number: int) -> int:
    time.sleep(0.01)
    return number
