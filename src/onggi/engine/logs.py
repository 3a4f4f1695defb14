"""Reading a container's log: rotated json-file logs, tail, time bounds, follow.

The monitor writes, this room only reads; a rotation under a reader is noticed by the inode.
Source: docker-logs(1).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime

import msgspec

from onggi.engine.api.answers import LogLine
from onggi.engine.api.requests import LogsRequest
from onggi.engine.core import Core
from onggi.engine.journal import journal_lines
from onggi.engine.places import log_name
from onggi.engine.records import ContainerRecord
from onggi.errors import FailedPrecondition

_POLL_S = 0.05
#: A line is in the file that long after its time at most.
_LATE_NS = 10**9
_CHUNK_BYTES = 1 << 16
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_NO_TIME = "1970-01-01T00:00:00Z"
_decode = msgspec.json.Decoder(LogLine).decode


class Logs:
    """Logs of one engine's containers."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def logs(self, request: LogsRequest, _fds: list[int]) -> AsyncIterator[LogLine]:
        """The lines so far, then with `follow` what comes, over restarts, until the container has
        ended for good.

        Raises:
            FailedPrecondition: its log driver keeps nothing.
        """
        record = self._core.records.find_container(request.target)
        driver = record.spec.log_driver
        if driver == "none":
            raise FailedPrecondition(
                "configured logging driver does not support reading",
                hint=f"container {record.name} was made with --log-driver none",
            )
        if driver == "journald":
            lines = journal_lines(record.id, request, lambda: self._over(record.id))
        else:
            lines = self._file_lines(record, request)
        async for line in lines:
            yield line

    async def _file_lines(
        self, record: ContainerRecord, request: LogsRequest
    ) -> AsyncIterator[LogLine]:
        path = f"{self._core.places.container(record.id)}/{log_name(record.id)}"
        reader = LogReader(path, record.spec.log_max_files)
        try:
            past: Iterator[LogLine] = (n for n in reader.lines() if _wanted(n, request))
            if request.tail >= 0:
                past = iter(deque(past, maxlen=request.tail))
            for count, line in enumerate(past):
                yield line
                if count % 256 == 255:
                    await asyncio.sleep(0)
            alive = False
            while request.follow and not _past_until(request):
                # Looked at before reading: what was written before the end is read after it.
                over = self._over(record.id)
                for line in reader.lines():
                    if _wanted(line, request):
                        yield line
                if over and not alive:
                    return
                # Between the two halves of a restart it looks as if it were over, once.
                alive = not over
                await asyncio.sleep(_POLL_S)
        finally:
            reader.close()

    def _over(self, container_id: str) -> bool:
        """It does not run, and neither a policy nor a command under way brings it back."""
        core = self._core
        record = core.records.containers.get(container_id)
        if record is None or not record.name:
            return core.running(container_id) is None
        lock = core.locks.get(container_id)
        changing = lock is not None and lock.locked()
        returning = changing or core.restarts.waits(container_id)
        return record.state in ("created", "exited") and not returning


def _past_until(request: LogsRequest) -> bool:
    return bool(request.until_ns) and time.time_ns() > request.until_ns + _LATE_NS


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


class LogReader:
    """All lines of a rotated log in order, each once, however often it is asked.

    A rotation at any moment loses nothing that is still there: files are opened from the newest
    back, so that one which moves meanwhile is met twice and never missed.
    """

    def __init__(self, path: str, most_files: int) -> None:
        self._path = path
        self._most = most_files
        self._rest = b""
        self._fds: list[int] = []  # oldest first; the last may still grow

    def close(self) -> None:
        """Close all files. Idempotent."""
        while self._fds:
            os.close(self._fds.pop())

    def lines(self) -> Iterator[LogLine]:
        """What has been written since the last time."""
        self._fds = self._fds or self._newer_than(None)
        while self._fds:
            yield from self._read(self._fds[0])
            if len(self._fds) == 1:
                newer = self._newer_than(os.fstat(self._fds[0]))
                if not newer:
                    return
                # Rotated: the monitor may have appended to it after our last read.
                yield from self._read(self._fds[0])
                self._fds += newer
            os.close(self._fds.pop(0))

    def _read(self, fd: int) -> Iterator[LogLine]:
        if os.fstat(fd).st_size < os.lseek(fd, 0, os.SEEK_CUR):
            os.lseek(fd, 0, os.SEEK_SET)  # a log of one file is emptied when it is full
        while chunk := os.read(fd, _CHUNK_BYTES):
            *whole, self._rest = (self._rest + chunk).split(b"\n")
            for line in whole:
                yield _line(line)

    def _newer_than(self, known: os.stat_result | None) -> list[int]:
        """The files written after `known`, opened, oldest first; all of them for None."""
        found: dict[tuple[int, int], int] = {}
        for number in range(self._most + 1):
            try:
                fd = os.open(f"{self._path}.{number}" if number else self._path, _FLAGS)
            except FileNotFoundError:
                continue  # between two renames
            status = os.fstat(fd)
            if known is not None and os.path.samestat(status, known):
                os.close(fd)
                break
            if (status.st_dev, status.st_ino) in found:
                os.close(fd)
            else:
                found[status.st_dev, status.st_ino] = fd
        return list(reversed(found.values()))


def _line(raw: bytes) -> LogLine:
    try:
        return _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # A power cut leaves zeroes; what follows is still worth reading.
        return LogLine(stream="stderr", time=_NO_TIME, log=f"onggi: a damaged line: {raw[:80]!r}\n")
