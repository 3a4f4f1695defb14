"""Reading a container's lines back from the system's journal, by the program `journalctl`.

Source: journalctl(1), systemd.journal-fields(7); docker's journald logging driver for the fields.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

import msgspec

from onggi.engine.api.answers import LogLine
from onggi.engine.api.requests import LogsRequest
from onggi.errors import DataLoss, Unsupported

_ERROR_PRIORITY = "3"
_POLL_S = 0.25
#: A line is at most 16 KiB, three times that when it is told as numbers, and has other fields.
_MAX_LINE_BYTES = 1 << 18
_FIELDS = "MESSAGE,PRIORITY,CONTAINER_PARTIAL_MESSAGE"


class _Entry(msgspec.Struct, frozen=True):
    """One entry of `journalctl -o json`; a message that is no UTF-8 is a list of bytes."""

    time_us: str = msgspec.field(name="__REALTIME_TIMESTAMP")
    message: str | list[int] | None = msgspec.field(name="MESSAGE", default=None)
    priority: str = msgspec.field(name="PRIORITY", default="6")
    partial: str = msgspec.field(name="CONTAINER_PARTIAL_MESSAGE", default="")


_decode = msgspec.json.Decoder(_Entry).decode


async def journal_lines(
    container_id: str, request: LogsRequest, over: Callable[[], bool]
) -> AsyncIterator[LogLine]:
    """The container's lines; with `follow` what comes until it is `over`.

    Raises:
        Unsupported: this host has no journalctl.
        DataLoss: journalctl failed, or its answer cannot be read.
    """
    program = shutil.which("journalctl")
    if program is None:
        raise Unsupported(
            "this host has no journalctl, which reads logs of the driver journald",
            hint="install systemd's, or use --log-driver json-file",
        )
    child = await asyncio.create_subprocess_exec(
        program,
        *_arguments(container_id, request),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=_MAX_LINE_BYTES,
    )
    try:
        async for line in _entries(child, over if request.follow else None):
            if request.stdout if line.stream == "stdout" else request.stderr:
                yield line
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()


def _arguments(container_id: str, request: LogsRequest) -> list[str]:
    tail = str(request.tail) if request.tail >= 0 else "all"
    words = ["--output=json", f"--output-fields={_FIELDS}", "--all", "--no-pager", "--quiet",
             f"--lines={tail}"]  # fmt: skip
    if request.since_ns:
        words.append(f"--since=@{request.since_ns / 1e9:.6f}")
    if request.until_ns:
        words.append(f"--until=@{request.until_ns / 1e9:.6f}")
    if request.follow:
        words.append("--follow")
    return [*words, f"CONTAINER_ID_FULL={container_id}"]


async def _entries(
    child: asyncio.subprocess.Process, over: Callable[[], bool] | None
) -> AsyncIterator[LogLine]:
    stream = child.stdout
    assert stream is not None
    reading = asyncio.ensure_future(stream.readline())
    try:
        while True:
            # Looked at before waiting: what was written before the end has time to come.
            last = over is not None and over()
            await asyncio.wait([reading], timeout=_POLL_S if over is not None else None)
            if not reading.done():
                if last and over is not None and over():
                    return
                continue
            raw = _result(reading)
            if not raw:
                break
            yield _line(raw)
            reading = asyncio.ensure_future(stream.readline())
    finally:
        reading.cancel()
    assert child.stderr is not None
    said = (await child.stderr.read()).decode("utf-8", "replace").strip()
    if await child.wait():
        raise DataLoss(f"journalctl failed: {said.splitlines()[0] if said else 'without a word'}")


def _result(reading: asyncio.Future[bytes]) -> bytes:
    try:
        return reading.result()
    except ValueError:
        raise DataLoss("an entry of the journal is longer than a line can be") from None


def _line(raw: bytes) -> LogLine:
    try:
        entry = _decode(raw)
        message = entry.message or ""
        text = message if isinstance(message, str) else bytes(message).decode("utf-8", "replace")
        moment_us = int(entry.time_us)
    except (msgspec.DecodeError, ValueError) as error:
        raise DataLoss(f"journalctl's answer cannot be read: {error}") from None
    whole, micro = divmod(moment_us, 10**6)
    time = f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%dT%H:%M:%S}.{micro:06d}000Z"
    return LogLine(
        stream="stderr" if entry.priority == _ERROR_PRIORITY else "stdout",
        time=time,
        log=text if entry.partial else f"{text}\n",
    )
