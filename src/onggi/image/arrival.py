"""Blobs on their way in, and layers unpacked while they arrive.

Each layer is unpacked in a thread of its own while its blob still grows, and committed when those
below it are. Knows nothing of manifests; names nothing.

Source: image-spec config.md#layer-chainid.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack

from msgspec import Struct

from onggi.errors import EngineError, InvalidArgument
from onggi.image.compression import Read
from onggi.image.fetch import Fetcher
from onggi.image.flights import Follower, Turns
from onggi.image.layer_stage import StagedLayer
from onggi.image.progress import Report, short_digest
from onggi.image.snapshots import Snapshotter, chain_ids
from onggi.image.store import ContentStore
from onggi.image.transports.crew import Cancellation, Crew
from onggi.specs.image import Descriptor

#: Who unpacks which layer in this process: the second who wants it finds it done.
_TURNS = Turns()


class ArrivingLayer(Struct, frozen=True):
    """A layer's blob, and what it is once it is unpacked."""

    blob: Descriptor
    diff_id: str
    chain_id: str
    parent: str | None


def arriving_layers(
    blobs: Sequence[Descriptor], diff_ids: Sequence[str]
) -> tuple[ArrivingLayer, ...]:
    """The layers of an image, lowest first."""
    chain = chain_ids(diff_ids)
    parents = (None, *chain)
    rows = zip(blobs, diff_ids, chain, parents, strict=False)
    return tuple(ArrivingLayer(*row) for row in rows)


class Arrival:
    """Fetches blobs and unpacks layers, `threads` of each at once."""

    def __init__(
        self,
        content: ContentStore,
        snapshots: Snapshotter,
        fetcher: Fetcher,
        cancellation: Cancellation,
        report: Report,
        threads: int,
    ) -> None:
        self._content = content
        self._snapshots = snapshots
        self._fetcher = fetcher
        self._cancellation = cancellation
        self._report = report
        self._threads = threads
        self._fetches: dict[str, Future[None]] = {}

    def bring(self, blobs: Sequence[Descriptor], layers: Sequence[ArrivingLayer]) -> None:
        """Fetch `blobs`, each once, and unpack those of the layers that are not yet.

        The blobs of such layers must be among them. All is durable on return. On an error
        everything ends; layers that were committed by then stay, for a collection to find.

        Raises: as `Fetcher.fetch`, `Snapshotter.unpack` and `Snapshotter.commit`.
        """
        with (
            ExitStack() as held,
            Crew(self._cancellation, self._threads, "onggi-fetch") as fetching,
            Crew(self._cancellation, self._threads, "onggi-unpack") as unpacking,
        ):
            unpacked = {layer.blob.digest for layer in layers}
            for blob in blobs:
                if blob.digest not in self._fetches:
                    last = blob.digest not in unpacked
                    self._fetches[blob.digest] = fetching.submit(self._fetch, blob, last)
            self._unpack(unpacking, held, layers)
            for fetch in self._fetches.values():
                fetch.result()
        self._content.sync_names()

    def _fetch(self, blob: Descriptor, last: bool) -> None:
        """`last`: nothing more is to be done with this blob."""
        if self._fetcher.fetch(blob) and last:
            self._report("done", item=short_digest(blob.digest))

    def _unpack(self, crew: Crew, held: ExitStack, layers: Sequence[ArrivingLayer]) -> None:
        begun = []
        for layer in layers:
            if self._snapshots.exists(layer.chain_id):
                continue
            stack = held.enter_context(ExitStack())
            begun.append((layer, stack, crew.submit(self._stage, layer, stack)))
        for layer, stack, staging in begun:
            staged = staging.result()
            if staged is not None:
                self._snapshots.commit(staged, layer.parent)
            stack.close()
            self._report("done", item=short_digest(layer.blob.digest))

    def _stage(self, layer: ArrivingLayer, stack: ExitStack) -> StagedLayer | None:
        """Unpack; `stack` then holds the result and the turn. None: somebody else has done it."""
        key = (self._snapshots.root, layer.chain_id)
        stack.enter_context(_TURNS.turn(key, self._cancellation.check))
        if self._snapshots.exists(layer.chain_id):
            return None
        return stack.enter_context(self._unpacked(layer))

    def _unpacked(self, layer: ArrivingLayer) -> StagedLayer:
        blob = layer.blob
        with self._fetcher.follow(blob) as reader:
            try:
                return self._snapshots.unpack(self._told(reader, blob), layer.diff_id)
            except EngineError as error:
                # The blob's own error, if there is one, says more.
                self._fetches[blob.digest].result()
                is_intact = self._fetcher.is_here(blob, verify=True)
                if is_intact and not reader.flight.failed:
                    raise _explained(layer, error) from error
        if not is_intact:
            self._fetcher.fetch(blob, again=True)
        with self._content.open(blob.digest, blob.size) as stored:
            return self._snapshots.unpack(stored.read, layer.diff_id)

    def _told(self, reader: Follower, blob: Descriptor) -> Read:
        def read(size: int) -> bytes:
            self._cancellation.check()
            data = reader.read(size)
            if reader.flight.landed:
                self._report("unpacking", reader.at_bytes, blob.size, short_digest(blob.digest))
            return data

        return read


def _explained(layer: ArrivingLayer, error: EngineError) -> EngineError:
    if not isinstance(error, InvalidArgument):
        return error
    return InvalidArgument(
        f"layer {layer.blob.digest} cannot be unpacked: {error.message}",
        hint=error.hint or "the image was made so: have it made anew",
    )
