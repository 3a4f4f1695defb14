"""Blobs from a source into the content store: verified, resumed, each fetched once.

A blob appears in the store by one rename, after its size and digest were verified and its bytes
synced; the rename itself is durable after `ContentStore.sync_names`, once for many. What a crash or
a broken line leaves is kept (`partial`), and the next who wants the blob, in any process, goes on
from there. Knows nothing of manifests or layers.
"""

from __future__ import annotations

import hashlib
import os
import threading
from typing import Any

from onggi.errors import Conflict, DataLoss, NotFound, ResourceExhausted
from onggi.image.flights import WAKE_S, Flight, FlightTable, Follower, landed
from onggi.image.origins import Origins
from onggi.image.partial import PartialBlob, wait_for_partial
from onggi.image.progress import Report, short_digest, silent
from onggi.image.store import ContentStore
from onggi.image.transports.base import Source
from onggi.image.transports.crew import Cancellation
from onggi.image.transports.steady import (
    CHUNK_BYTES,
    PATIENCE,
    Patience,
    SteadyStream,
    wrong_content,
)
from onggi.specs.image import MAX_CONFIG_BYTES, Descriptor

_FLIGHTS = FlightTable()


class Fetcher:
    """Brings blobs of one source in. Threads share it.

    `verify`: content that is here already is believed only after it was read.
    """

    def __init__(
        self,
        content: ContentStore,
        source: Source,
        report: Report = silent,
        *,
        verify: bool = False,
        patience: Patience = PATIENCE,
        cancellation: Cancellation | None = None,
    ) -> None:
        self._content = content
        self._source = source
        self._report = report
        self._verify = verify
        self._patience = patience
        self._cancellation = cancellation or Cancellation()
        self._root = os.path.realpath(content.root)
        self._origins = Origins(content.root)
        self._origin: str = getattr(source, "origin", "")
        self._mirrors: int = getattr(source, "mirrors", 0)
        self._changed = threading.Condition()
        self._joined: dict[str, Flight] = {}

    def document(self, descriptor: Descriptor) -> bytes:
        """A manifest, index or configuration, from the store or fetched and stored.

        Raises: as `Source.document`; DataLoss: of another size.
        """
        try:
            return self._content.read(descriptor.digest, MAX_CONFIG_BYTES, descriptor.size)
        except (NotFound, DataLoss):
            data = self._source.document(descriptor)
        self.keep(descriptor, data)
        return data

    def keep(self, descriptor: Descriptor, data: bytes) -> None:
        """Store a document that was read from the source. Raises: DataLoss, ResourceExhausted."""
        if len(data) != descriptor.size:
            raise DataLoss(
                f"document {descriptor.digest} is {len(data)} bytes, its descriptor says"
                f" {descriptor.size}"
            )
        if not self.is_here(descriptor, verify=True):
            self._content.put(data, descriptor.digest)

    def fetch(self, descriptor: Descriptor, *, again: bool = False) -> bool:
        """Bring a blob in, or wait until somebody else has; `again`: though it is here.

        False: it was here.

        Raises:
            DataLoss: the source has wrong, too short or too long content; nothing of it stays.
            Unavailable: the source breaks off; what came is kept.
            ResourceExhausted: the disk is full; nothing stays.
            NotFound, PermissionDenied: as `Source.open`. Conflict: cancelled.
        """
        # In this order: one that arrives between the two looks is no damaged one.
        there = self._content.size_bytes(descriptor.digest) is not None
        here = not again and self.is_here(descriptor, verify=self._verify)
        if here:
            self._say("already here", descriptor, descriptor.size)
            self._join(descriptor, landed())
        else:
            self._bring_in(descriptor, again=again or there)
        if self._origin:
            self._origins.record(descriptor.digest, self._origin)
        return not here

    def _bring_in(self, descriptor: Descriptor, *, again: bool) -> None:
        for left in range(self._mirrors, -1, -1):
            try:
                while not self._fly(descriptor, again=again):
                    self._cancellation.check()
                return
            except DataLoss:
                if not left:
                    raise  # else the next mirror has perhaps the right content

    def is_here(self, descriptor: Descriptor, *, verify: bool) -> bool:
        """Whether the store has a blob, of the right size; `verify`: and of the right content."""
        if self._content.size_bytes(descriptor.digest) != descriptor.size:
            return False
        if verify:
            try:
                with self._content.open(descriptor.digest, descriptor.size) as reader:
                    reader.verify()
            except (NotFound, DataLoss):
                return False
        return True

    def follow(self, descriptor: Descriptor) -> Follower:
        """A reader of a blob that another thread has fetched, fetches or will fetch.

        Raises: Conflict: cancelled.
        """
        with self._changed:
            while descriptor.digest not in self._joined:
                self._cancellation.check()
                self._changed.wait(WAKE_S)
            flight = self._joined[descriptor.digest]
        return Follower(self._content, descriptor, flight, self._cancellation.check)

    def _join(self, descriptor: Descriptor, flight: Flight) -> None:
        with self._changed:
            self._joined[descriptor.digest] = flight
            self._changed.notify_all()

    def _fly(self, descriptor: Descriptor, *, again: bool) -> bool:
        """Lead or wait for a flight; whether it brought the blob."""
        key = (self._root, descriptor.digest)
        flight, leads = _FLIGHTS.board(key)
        self._join(descriptor, flight)
        if not leads:
            return self._ride(descriptor, flight)
        partial: PartialBlob | None = None
        brought = False
        try:
            partial = self._partial(descriptor)
            brought = self._bring(descriptor, flight, partial, again=again)
        finally:
            # In this order: who waits for the flight may lead the next at once, and nobody opens
            # a descriptor that is closed.
            _FLIGHTS.leave(key)
            flight.ended(landed=brought)
            if partial is not None:
                partial.close()
        return brought

    def _ride(self, descriptor: Descriptor, flight: Flight) -> bool:
        done = -1
        while flight.wait(done):
            self._cancellation.check()
            if flight.done_bytes > done:
                done = flight.done_bytes
                self._say("downloading", descriptor, done)
        return flight.landed

    def _partial(self, descriptor: Descriptor) -> PartialBlob:
        def pause(seconds: float) -> None:
            self._say("waiting", descriptor, 0)
            self._cancellation.sleep(seconds)

        return wait_for_partial(self._content, descriptor.digest, pause)

    def _bring(
        self, descriptor: Descriptor, flight: Flight, partial: PartialBlob, *, again: bool
    ) -> bool:
        """Download the rest and publish; False: what was there already was worth nothing."""
        if not again and self.is_here(descriptor, verify=False):
            partial.delete()
            return True
        flight.opened(partial.fd)
        digest = self._resume(descriptor, flight, partial)
        resumed_bytes = partial.size_bytes
        try:
            with self._stream(descriptor, resumed_bytes) as stream:
                self._copy(descriptor, flight, partial, stream, digest)
                found = "sha256:" + digest.hexdigest()
                if found == descriptor.digest:
                    partial.publish()
                    return True
                error = wrong_content(descriptor, found, longer=stream.goes_on())
        except (DataLoss, ResourceExhausted):
            partial.delete()
            raise
        except Conflict:
            if isinstance(self._cancellation.reason, ResourceExhausted):
                partial.delete()  # what there is no space for is not worth keeping
            raise
        partial.delete()
        if resumed_bytes:
            return False  # a power cut leaves files that are longer than what was written
        raise error

    def _resume(self, descriptor: Descriptor, flight: Flight, partial: PartialBlob) -> Any:
        """The hash of what is there; the file's position is behind it."""
        digest = hashlib.sha256()
        if partial.size_bytes > descriptor.size:
            partial.truncate()
        at = 0
        while data := os.read(partial.fd, 4 * CHUNK_BYTES):
            self._cancellation.check()
            digest.update(data)
            at += len(data)
            flight.advance(at)
            self._say("downloading", descriptor, at)
        return digest

    def _stream(self, descriptor: Descriptor, offset: int) -> SteadyStream:
        return SteadyStream(
            self._source,
            descriptor,
            offset,
            patience=self._patience,
            cancellation=self._cancellation,
        )

    def _copy(
        self,
        descriptor: Descriptor,
        flight: Flight,
        partial: PartialBlob,
        stream: SteadyStream,
        digest: Any,
    ) -> None:
        at = stream.offset
        while data := stream.read(CHUNK_BYTES):
            partial.append(data)
            at += len(data)
            flight.advance(at)
            digest.update(data)
            self._say("downloading", descriptor, at)

    def _say(self, stage: str, descriptor: Descriptor, done: int) -> None:
        self._report(stage, done, descriptor.size, short_digest(descriptor.digest))
