"""One blob on its way into a registry: begun, sent whole or in pieces, resumed, ended, cancelled.

The registry verifies the digest at the end; this room sees to it that exactly the announced number
of bytes is sent, each at its place.

Source: distribution-spec spec.md#pushing-blobs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Protocol, runtime_checkable
from urllib.parse import urlsplit

from onggi.errors import DataLoss, EngineError, Unavailable
from onggi.image.registry.http import RETRIED, Answer
from onggi.image.registry.peer import Peer
from onggi.image.registry.refusals import refusal
from onggi.image.registry.urls import moved
from onggi.image.transports.base import BlobStream
from onggi.specs.image import Descriptor

PIECE_BYTES = 64 * 1024
MAX_CHUNK_BYTES = 64 * 1024 * 1024
MAX_BREAKS = 100

_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,18})", re.ASCII)
_NUMBER = re.compile(r"\d{1,18}", re.ASCII)


@runtime_checkable
class Seekable(Protocol):
    """A stream that can start again elsewhere: its upload is resumed in the middle."""

    def seek(self, offset: int, /) -> int: ...


class SessionLost(Unavailable):
    """The registry knows nothing of the upload any more, or not how far it is."""


def upload_blob(
    peer: Peer,
    path: str,
    scopes: tuple[str, ...],
    descriptor: Descriptor,
    stream: BlobStream,
    chunk_bytes: int,
) -> None:
    """Upload in one session, or from the start in another where that helps and can be.

    docker-registry 2 gives a session up when a piece of it broke off in the middle.

    Raises: what the registry answers; DataLoss: the stream is not of the announced size.
    """
    for left in reversed(range(peer.http.patience.attempts)):
        answer = peer.send("POST", path, scopes)
        if answer.status != 202:
            raise refusal(answer, f"blob {descriptor.digest}", peer.name)
        try:
            Upload(peer, answer, scopes, descriptor).send(stream, chunk_bytes)
            return
        except SessionLost:
            if not left or not isinstance(stream, Seekable):
                raise
            stream.seek(0)


class Upload:
    """One upload session. `location`: where the next request of it goes, a whole URL."""

    def __init__(
        self, peer: Peer, begun: Answer, scopes: tuple[str, ...], descriptor: Descriptor
    ) -> None:
        """`begun`: the answer 202 to the POST that began it."""
        self.what = f"blob {descriptor.digest}"
        self.peer = peer
        self.descriptor = descriptor
        self._scopes = scopes
        self._location = ""
        begun.discard()
        self._take_location(begun)
        minimum = begun.header("OCI-Chunk-Min-Length").strip()
        self.minimum_chunk_bytes = int(minimum) if _NUMBER.fullmatch(minimum) else 0

    def send(self, stream: BlobStream, chunk_bytes: int) -> None:
        """Send everything, and end the session. Raises: what the registry answers; DataLoss."""
        chunk_bytes = max(chunk_bytes, self.minimum_chunk_bytes) if chunk_bytes else 0
        try:
            if chunk_bytes and chunk_bytes <= MAX_CHUNK_BYTES and self.descriptor.size:
                _Chunks(self, stream, chunk_bytes).send()
                self._finish()
            else:
                self._send_whole(stream)
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """End the session without a blob."""
        with suppress(EngineError):  # the registry forgets the session by itself in time
            self._request("DELETE").discard()

    def _send_whole(self, stream: BlobStream) -> None:
        """One PUT; when it breaks and the stream can go back, the rest in PATCHes from there."""
        size = self.descriptor.size
        body = _exactly(stream, size, self.what)
        try:
            answer = self._put(body, size)
        except Unavailable:
            if not isinstance(stream, Seekable):
                raise
        else:
            if answer.status not in RETRIED or not isinstance(stream, Seekable):
                self._check_finished(answer)
                return
            answer.discard()
        self._resume(stream)

    def _resume(self, stream: BlobStream) -> None:
        size = self.descriptor.size
        failures = breaks = 0
        done = self.where_it_is(failures + 1)
        while done < size:
            assert isinstance(stream, Seekable)
            stream.seek(done)
            try:
                self.patch(_exactly(stream, size - done, self.what), done, size - done)
                done = size
            except Unavailable:
                failures, breaks = failures + 1, breaks + 1
                if failures >= self.peer.http.patience.attempts or breaks >= MAX_BREAKS:
                    raise
                reached = self.where_it_is(failures)
                failures = 0 if reached > done else failures
                done = reached
        self._finish()

    def patch(self, body: bytes | Iterator[bytes], start: int, size: int) -> int:
        """Send a piece; how much the registry has now. Raises: Unavailable: ask where it is."""
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(size),
            "Content-Range": f"{start}-{start + size - 1}",
        }
        answer = self._request("PATCH", headers, _once(body))
        if answer.status in RETRIED or answer.status in (401, 416):
            answer.discard()
            raise Unavailable(f"{answer.where}: answers {answer.status}")
        if answer.status not in (201, 202, 204):
            raise refusal(answer, self.what, self.peer.name)
        answer.discard()
        self._take_location(answer)
        return self._reached(answer, start + size)

    def where_it_is(self, attempt: int) -> int:
        """After a failure and a pause: how many bytes the registry has. Raises: SessionLost."""
        self.peer.http.backoff(attempt)
        answer = self._request("GET")
        if answer.status in (400, 404, 410, 416):
            answer.discard()
            raise SessionLost(f"{self.what}: {self.peer.name} has lost the upload")
        if answer.status not in (204, 200, 202):
            raise refusal(answer, self.what, self.peer.name)
        answer.discard()
        self._take_location(answer)
        return self._reached(answer, 0)

    def _reached(self, answer: Answer, default: int) -> int:
        """What the Range header says; `0-0` means nothing (or one byte: sent again)."""
        match = _RANGE.fullmatch(answer.header("Range").strip())
        if match is None:
            return default
        reached = int(match[1]) + 1 if int(match[1]) else 0
        if reached > self.descriptor.size:
            raise DataLoss(f"{answer.where}: the registry has {reached} bytes, more than were sent")
        return reached

    def _finish(self) -> None:
        self._check_finished(self._put(b"", 0))

    def _put(self, body: bytes | Iterator[bytes], size: int) -> Answer:
        joint = "&" if urlsplit(self._location).query else "?"
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        return self.peer.send(
            "PUT",
            f"{self._location}{joint}digest={self.descriptor.digest}",
            self._scopes,
            headers=headers,
            body=body,
            answer_s=self.peer.http.patience.finish_s,
        )

    def _check_finished(self, answer: Answer) -> None:
        if answer.status not in (201, 204):
            raise refusal(answer, self.what, self.peer.name)
        answer.discard()
        stored = answer.header("Docker-Content-Digest")
        if stored.startswith("sha256:") and stored != self.descriptor.digest:
            raise DataLoss(f"{self.what}: {self.peer.name} has stored it under another digest")

    def _request(
        self,
        method: str,
        headers: dict[str, str] | None = None,
        body: Iterator[bytes] | None = None,
    ) -> Answer:
        return self.peer.send(
            method,
            self._location,
            self._scopes,
            headers=headers,
            body=body,
            answer_s=self.peer.http.patience.finish_s if body is not None else 0,
        )

    def _take_location(self, answer: Answer) -> None:
        location = answer.header("Location")
        if location:
            self._location = moved(answer.url, location, self.peer.http.trust, "upload location")
        elif not self._location:
            raise Unavailable(f"{answer.where}: an upload without a location")


class _Chunks:
    """An upload in pieces, of which the last is kept in memory until the registry has it."""

    def __init__(self, upload: Upload, stream: BlobStream, chunk_bytes: int) -> None:
        self._upload = upload
        self._stream = stream
        self._chunk_bytes = chunk_bytes
        self._attempts = upload.peer.http.patience.attempts
        self._left = upload.descriptor.size

    def send(self) -> None:
        start = 0
        while self._left:
            size = min(self._chunk_bytes, self._left)
            chunk = b"".join(_exactly(self._stream, size, self._upload.what, self._left == size))
            self._send_chunk(chunk, start)
            start += size
            self._left -= size

    def _send_chunk(self, chunk: bytes, start: int) -> None:
        done = start
        failures = 0
        while done < start + len(chunk):
            rest = chunk[done - start :]
            try:
                reached = self._upload.patch(rest, done, len(rest))
            except Unavailable:
                failures += 1
                if failures >= self._attempts:
                    raise
                reached = self._upload.where_it_is(failures)
            else:
                failures += reached <= done
            if not start <= reached <= start + len(chunk) or failures >= self._attempts:
                raise Unavailable(
                    f"{self._upload.what}: the registry is at byte {reached}, not {done}"
                )
            done = reached


def _exactly(stream: BlobStream, size: int, what: str, last: bool = True) -> Iterator[bytes]:
    """`size` bytes of a stream in pieces; `last`: then it must be at its end. Raises: DataLoss."""
    left = size
    while left:
        piece = stream.read(min(PIECE_BYTES, left))
        if not piece:
            raise DataLoss(f"{what}: its content ends {left} bytes early")
        left -= len(piece)
        if last and not left and stream.read(1):
            raise DataLoss(f"{what}: its content is longer than its descriptor says")
        yield piece


def _once(body: bytes | Iterator[bytes]) -> Iterator[bytes]:
    """A body that is never sent a second time by itself: where it goes must be asked first."""
    return iter((body,)) if isinstance(body, bytes) else body
