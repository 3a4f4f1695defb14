"""Reading a container's log: rotated json-file logs, tail, time bounds, follow.

The monitor writes, this room only reads; a rotation under a reader is noticed by the inode.
Source: docker-logs(1).
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime

import msgspec

from onggi.engine.api.answers import LogLine
from onggi.engine.api.requests import LogsRequest
from onggi.engine.core import Core
from onggi.engine.places import log_name

_POLL_S = 0.05
_CHUNK_BYTES = 1 << 16
_decode = msgspec.json.Decoder(LogLine).decode


class Logs:
    """Logs of one engine's containers."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def logs(self, request: LogsRequest, _fds: list[int]) -> AsyncIterator[LogLine]:
        """The lines so far, then with `follow` what comes until the container ends."""
        record = self._core.records.find_container(request.target)
        path = f"{self._core.places.container(record.id)}/{log_name(record.id)}"
        reader = _Reader(path, record.spec.log_max_files)
        try:
            past: Iterator[LogLine] = (n for n in reader.lines() if _wanted(n, request))
            if request.tail >= 0:
                past = iter(deque(past, maxlen=request.tail))
            for count, line in enumerate(past):
                yield line
                if count % 256 == 255:
                    await asyncio.sleep(0)
            while request.follow:
                # Looked at before reading: what was written before the end is read after it.
                alive = self._core.running(record.id) is not None
                for line in reader.lines():
                    if _wanted(line, request):
                        yield line
                if not alive:
                    return
                await asyncio.sleep(_POLL_S)
        finally:
            reader.close()


def _wanted(line: LogLine, request: LogsRequest) -> bool:
    if not (request.stdout if line.stream == "stdout" else request.stderr):
        return False
    if not (request.since_ns or request.until_ns):
        return True
    time_ns = parse_time_ns(line.time)
    return request.since_ns <= time_ns and (not request.until_ns or time_ns <= request.until_ns)


def parse_time_ns(text: str) -> int:
    """Nanoseconds since 1970 of an RFC 3339 time with up to nine decimals, in UTC."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    seconds = int(datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp())
    return seconds * 10**9 + int((fraction + "000000000")[:9])


class _Reader:
    """All lines of a rotated log in order, each once, however often it is asked."""

    def __init__(self, path: str, most_files: int) -> None:
        self._path = path
        self._rest = b""
        self._fd = -1
        self._waiting = [
            f"{path}.{n}" for n in range(most_files, 0, -1) if os.path.exists(f"{path}.{n}")
        ]

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def lines(self) -> Iterator[LogLine]:
        """What has been written since the last time."""
        while self._open():
            while chunk := os.read(self._fd, _CHUNK_BYTES):
                *whole, self._rest = (self._rest + chunk).split(b"\n")
                for line in whole:
                    yield _decode(line)
            if not self._next():
                return

    def _open(self) -> bool:
        if self._fd < 0:
            path = self._waiting[0] if self._waiting else self._path
            try:
                self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return False
        return True

    def _next(self) -> bool:
        """Go to the next file when this one is finished: an older one, or it was rotated away."""
        if self._waiting:
            self._waiting.pop(0)
            self.close()
            return True
        try:
            current = os.stat(self._path)
        except FileNotFoundError:
            return False
        mine = os.fstat(self._fd)
        if (current.st_dev, current.st_ino) == (mine.st_dev, mine.st_ino):
            return False
        # Rotated: the monitor may have appended to the old file after our last read of it.
        if os.fstat(self._fd).st_size > os.lseek(self._fd, 0, os.SEEK_CUR):
            return True
        self.close()
        return True
