"""Single flight: work on one thing that several threads want is done by one of them.

A `Flight` is one blob on its way into the store: its leader says how far it is, and others wait for
it, or read along. Knows nothing of registries or layers.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Self

from onggi.errors import Unavailable
from onggi.image.store import ContentStore
from onggi.specs.image import Descriptor

#: How long a waiting thread sleeps before it asks whether it was cancelled.
WAKE_S = 0.2


class Flight:
    """One download in this process."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._fd = -1
        self.done_bytes = 0
        self.landed = False
        self.failed = False

    def opened(self, fd: int) -> None:
        """The file that grows; the leader keeps it open until `ended`."""
        with self._changed:
            self._fd = fd
            self._changed.notify_all()

    def advance(self, done_bytes: int) -> None:
        """So many bytes are in the file."""
        with self._changed:
            self.done_bytes = done_bytes
            self._changed.notify_all()

    def ended(self, *, landed: bool) -> None:
        """The blob is in the store, or this flight will not bring it. The first call counts."""
        with self._changed:
            if self._over:
                return
            self._fd = -1
            self.landed = landed
            self.failed = not landed
            self._changed.notify_all()

    def wait(self, known_bytes: int) -> bool:
        """Sleep until there is more than `known_bytes`, or a while; whether the flight goes on."""
        with self._changed:
            if not self._over and self.done_bytes <= known_bytes:
                self._changed.wait(WAKE_S)
            return not self._over

    def share(self) -> int | None:
        """A descriptor of the growing file, the caller's to close; None when there is none now."""
        with self._changed:
            if self._fd < 0:
                return None
            # Not a duplicate of the open file: that would share the writer's position and lock.
            return os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_CLOEXEC)

    @property
    def _over(self) -> bool:
        return self.landed or self.failed


class FlightTable:
    """Who brings what in, in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[tuple[str, str], Flight] = {}

    def board(self, key: tuple[str, str]) -> tuple[Flight, bool]:
        """The flight for `key`, and whether the caller leads it (and must `leave` it)."""
        with self._lock:
            flight = self._flights.get(key)
            if flight is not None:
                return flight, False
            flight = self._flights[key] = Flight()
            return flight, True

    def leave(self, key: tuple[str, str]) -> None:
        with self._lock:
            del self._flights[key]


class Turns:
    """A lock for each key, which exists while somebody wants it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turns: dict[tuple[str, str], tuple[threading.Lock, int]] = {}

    @contextlib.contextmanager
    def turn(self, key: tuple[str, str], check: Callable[[], None]) -> Iterator[None]:
        """Hold the lock of `key`. Raises: what `check` raises while waiting."""
        with self._lock:
            lock, users = self._turns.get(key, (threading.Lock(), 0))
            self._turns[key] = (lock, users + 1)
        try:
            while not lock.acquire(timeout=WAKE_S):
                check()
            try:
                yield
            finally:
                lock.release()
        finally:
            with self._lock:
                _, users = self._turns[key]
                if users == 1:
                    del self._turns[key]
                else:
                    self._turns[key] = (lock, users - 1)


class Follower:
    """A reader of a blob that is still arriving. A context manager; not verified.

    It ends with the last byte, before the leader has verified and synced: whoever believes what
    was read waits for the flight too, or verifies in another way.
    """

    def __init__(
        self,
        content: ContentStore,
        descriptor: Descriptor,
        flight: Flight,
        check: Callable[[], None],
    ) -> None:
        self.at_bytes = 0
        self.flight = flight
        self._content = content
        self._descriptor = descriptor
        self._check = check
        self._fd: int | None = None

    def read(self, size: int) -> bytes:
        """At most `size` bytes, as soon as there are any; b'' at the end.

        Raises:
            Unavailable: the flight failed; another may bring the blob.
        """
        if self.at_bytes >= self._descriptor.size:
            return b""
        while self.flight.wait(self.at_bytes):
            if self.flight.done_bytes > self.at_bytes:
                break
            self._check()
        fd = None if self.flight.failed else self._open()
        if fd is None:
            if self.flight.failed:
                raise Unavailable(f"blob {self._descriptor.digest} did not arrive")
            return self.read(size)  # the leader closed the file just now
        there = self._descriptor.size if self.flight.landed else self.flight.done_bytes
        data = os.pread(fd, min(size, there - self.at_bytes), self.at_bytes)
        self.at_bytes += len(data)
        return data

    def _open(self) -> int | None:
        if self._fd is None:
            self._fd = self.flight.share()
        if self._fd is None and self.flight.landed:
            path = self._content.path(self._descriptor.digest)
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        return self._fd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def landed() -> Flight:
    """The flight of a blob that was there all the time."""
    flight = Flight()
    flight.ended(landed=True)
    return flight
