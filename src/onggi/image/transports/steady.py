"""Streams over a source's blobs: one that goes on where it broke, one that lets nothing wrong by.

Both give at most what the descriptor says: an endless blob is cut, a short one is an error. Knows
nothing of where the bytes go.
"""

from __future__ import annotations

import hashlib
from typing import Self

from msgspec import Struct

from onggi.errors import DataLoss, EngineError, Unavailable
from onggi.image.transports.base import BlobStream, Source
from onggi.image.transports.crew import Cancellation
from onggi.specs.image import Descriptor

CHUNK_BYTES = 1 << 18


class Patience(Struct, frozen=True):
    """How often a stream that breaks is opened again, and after which delay.

    `attempts`: in a row without `progress_bytes` of new content; the delay doubles with each.
    """

    attempts: int = 5
    progress_bytes: int = 1 << 16
    delay_s: float = 0.2


PATIENCE = Patience()


class SteadyStream:
    """A blob from exactly `offset` on, opened again where it broke. Nothing is verified.

    Opening is the source's own business, which tries again by itself; what is tried again here is
    what was read too little.
    """

    def __init__(
        self,
        source: Source,
        descriptor: Descriptor,
        offset: int = 0,
        *,
        patience: Patience = PATIENCE,
        cancellation: Cancellation | None = None,
    ) -> None:
        self.offset = offset
        self._source = source
        self._descriptor = descriptor
        self._patience = patience
        self._cancellation = cancellation or Cancellation()
        self._at = offset
        self._stream: BlobStream | None = None
        self._failures = 0
        self._failed_at = offset
        self._ended_at = -1
        self._behind = offset

    def read(self, size: int) -> bytes:
        """At most `size` bytes; b'' behind the last that the descriptor allows.

        Raises:
            DataLoss: the source ends too early, twice at the same place.
            Unavailable: it breaks again and again; NotFound, PermissionDenied: as `Source.open`.
            Conflict: cancelled.
        """
        wanted = min(size, self._descriptor.size - self._at)
        if wanted <= 0:
            return b""
        while True:
            self._cancellation.check()
            stream = self._stream or self._open()
            try:
                self._skip(stream)
                data = stream.read(wanted)
            except (Unavailable, OSError) as error:
                self._broken(error)
                continue
            if data:
                data = data[:wanted]
                self._at += len(data)
                self._behind += len(data)
                return data
            self._broken(None)

    def goes_on(self) -> bool:
        """Whether the source has more than the descriptor allows, as far as it can be told."""
        try:
            return self._stream is not None and bool(self._stream.read(1))
        except DataLoss:
            return True
        except (EngineError, OSError):
            return False

    def _open(self) -> BlobStream:
        self._stream = self._source.open(self._descriptor, self._at).__enter__()
        self._behind = self._stream.offset
        if self._behind > self._at:
            raise DataLoss(
                f"blob {self._descriptor.digest}: {self._source.name} starts at byte"
                f" {self._behind} where {self._at} was asked for"
            )
        return self._stream

    def _skip(self, stream: BlobStream) -> None:
        """Read what is known already, from a source that cannot start in the middle."""
        while self._behind < self._at:
            self._cancellation.check()
            data = stream.read(min(self._at - self._behind, CHUNK_BYTES))
            if not data:
                return  # the next read sees the end too
            self._behind += len(data)

    def _broken(self, error: Exception | None) -> None:
        self.close()
        if self._at - self._failed_at >= self._patience.progress_bytes:
            self._failures = 0
        else:
            self._failures += 1
        # Ended in good order at the same place twice: there is no more.
        short = error is None and self._ended_at == self._at
        self._failed_at = self._at
        self._ended_at = self._at if error is None else -1
        if short or self._failures >= self._patience.attempts:
            raise self._final(error) from error
        if self._failures:
            self._cancellation.sleep(self._patience.delay_s * 2 ** (self._failures - 1))

    def _final(self, error: Exception | None) -> Exception:
        where = f"after {self._at} of {self._descriptor.size} bytes"
        blob = f"blob {self._descriptor.digest} from {self._source.name}"
        if error is None:
            return DataLoss(f"{blob} ended {where}", hint="its descriptor or the source is wrong")
        return Unavailable(f"{blob} broke off {where}: {error}", hint="try again: it will resume")

    def close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class VerifiedStream:
    """A blob from its first byte, whose last bytes come out only if the whole is right."""

    offset = 0

    def __init__(self, stream: SteadyStream, descriptor: Descriptor) -> None:
        self._stream = stream
        self._descriptor = descriptor
        self._hash = hashlib.sha256()
        self.read_bytes = 0
        if not descriptor.size:
            self._verify()

    def read(self, size: int) -> bytes:
        """At most `size` bytes. Raises: DataLoss: wrong content; as `SteadyStream.read`."""
        data = self._stream.read(size)
        if data:
            self._hash.update(data)
            self.read_bytes += len(data)
            if self.read_bytes == self._descriptor.size:
                self._verify()
        return data

    def _verify(self) -> None:
        found = "sha256:" + self._hash.hexdigest()
        if found != self._descriptor.digest:
            raise wrong_content(self._descriptor, found, longer=self._stream.goes_on())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


def wrong_content(descriptor: Descriptor, found: str, *, longer: bool = False) -> DataLoss:
    """The error for a blob that arrived with the digest `found`."""
    if longer:
        return DataLoss(
            f"blob {descriptor.digest} is longer than the {descriptor.size} bytes that its"
            " descriptor says"
        )
    return DataLoss(f"content of {found} arrived where {descriptor.digest} was due")
