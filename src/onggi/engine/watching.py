"""Long work in a thread, as a stream of its progress.

Progress crosses from the worker thread to the caller's stream through a queue.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable

from onggi.engine.api.answers import Progress
from onggi.image.progress import Report

_PROGRESS_S = 0.2
_MOST_WAITING = 1000
Work = Callable[[Report], None]


async def watch(work: Work, stage: str = "", source: int = -1) -> AsyncIterator[Progress]:
    """Run `work` in a thread and yield what it reports; its error is raised at the end.

    `source`: a file whose reading position is reported as well, under the name `stage`.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Progress | None] = asyncio.Queue()

    def report(stage: str, done: int = 0, total: int = 0, item: str = "") -> None:
        if queue.qsize() > _MOST_WAITING:
            return  # a caller who does not read misses a part of the way, nothing else
        progress = Progress(stage=stage, done=done, total=total, item=item)
        loop.call_soon_threadsafe(queue.put_nowait, progress)

    def run() -> None:
        try:
            work(report)
        finally:
            loop.call_soon_threadsafe(queue.put_nowait, None)

    thread = asyncio.create_task(asyncio.to_thread(run))
    try:
        while True:
            try:
                progress = await asyncio.wait_for(queue.get(), _PROGRESS_S)
            except TimeoutError:
                progress = _position(stage, source)
                if progress is None:
                    continue
            else:
                if progress is None:
                    break
            yield progress
    finally:
        # A caller who goes away does not stop the work: it ends, and what it made stays.
        await asyncio.shield(thread)


def _position(stage: str, source: int) -> Progress | None:
    """How far a file has been read; None for a pipe."""
    try:
        done = os.lseek(source, 0, os.SEEK_CUR)
    except OSError:
        return None
    return Progress(stage=stage, done=done, total=os.fstat(source).st_size)
