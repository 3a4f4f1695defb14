"""Threads that do one piece of work together: the first error ends it for all of them.

Knows nothing of what the work is.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, Self, TypeVar

from onggi.errors import Conflict

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Cancellation:
    """Says to all the threads of one piece of work that it has come to nothing, and why."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._event = threading.Event()
        self._first: BaseException | None = None

    def cancel(self, error: BaseException) -> None:
        """End the work; the first `error` is the reason."""
        with self._lock:
            self._first = self._first or error
        self._event.set()

    @property
    def reason(self) -> BaseException | None:
        """The first error; None: the work goes on."""
        return self._first

    def check(self) -> None:
        """Raises: Conflict once `cancel` was called."""
        if self._event.is_set():
            raise Conflict("given up, because another part of the transfer failed")

    def sleep(self, seconds: float) -> None:
        """Wait, less long when cancelled. Raises: Conflict."""
        self._event.wait(seconds)
        self.check()

    @contextlib.contextmanager
    def reasons(self) -> Iterator[None]:
        """Whatever error leaves the block, the first one is raised in its place."""
        try:
            yield
        except BaseException as error:
            self.cancel(error)
            assert self._first is not None
            if self._first is error:
                raise
            raise self._first from None


class Crew:
    """So many threads. Left by an error, it drops what has not begun; it waits for the rest."""

    def __init__(self, cancellation: Cancellation, threads: int, name: str) -> None:
        self._cancellation = cancellation
        self._pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix=name)

    def submit(self, work: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs) -> Future[_T]:
        """Begin `work` when a thread is free, in the order of the calls."""
        return self._pool.submit(self._guarded, lambda: work(*arguments, **named))

    def _guarded(self, work: Callable[[], _T]) -> _T:
        self._cancellation.check()
        try:
            return work()
        except BaseException as error:
            self._cancellation.cancel(error)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None:
            self._cancellation.cancel(error)
        self._pool.shutdown(wait=True, cancel_futures=error is not None)
