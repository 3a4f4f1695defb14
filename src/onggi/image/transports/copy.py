"""Copying an image, or a whole index, from any source to any sink.

Leaves first, the root last: until then nothing is visible at the sink. Bytes are bytes: what the
blobs are does not matter, and every byte that a sink gets was verified on its way.

Source: skopeo-copy(1) for what happens to an index.
"""

from __future__ import annotations

from collections.abc import Sequence

from onggi.errors import FailedPrecondition, NotFound, SpecError, Unavailable
from onggi.image.layer_types import is_foreign
from onggi.image.platforms import host_platform, ranked, with_cpu_level
from onggi.image.progress import Report, short_digest, silent
from onggi.image.transports.base import Sink, Source
from onggi.image.transports.crew import Cancellation, Crew
from onggi.image.transports.steady import SteadyStream, VerifiedStream
from onggi.image.transports.tree import MAX_DEPTH, Node, walk
from onggi.specs.image import Descriptor, Index, Platform, parse_manifest

#: How often a blob is sent when the sink breaks off.
ATTEMPTS = 3


def copy_image(
    source: Source,
    sink: Sink,
    *,
    platform: Platform | None = None,
    every_platform: bool = False,
    parallel: int = 4,
    report: Report = silent,
) -> Descriptor:
    """Copy, and answer the descriptor of the root that was put.

    Of an index, the member for `platform` (this host's if None) becomes the root; with
    `every_platform` the index is, with all its members. Stages of `report`: copying, done, already
    there; its item is a short digest.

    Raises:
        FailedPrecondition: there is no member for the platform.
        NotFound: something is not at the source. DataLoss: it is not what its digest says.
        SpecError: a document is damaged; and what the sink raises.
    """
    root, data = source.root()
    if not every_platform:
        root, data = _one(source, root, data, platform)
    nodes = walk(source.name, root, data, source.document)
    cancellation = Cancellation()
    with cancellation.reasons(), Crew(cancellation, parallel, "onggi-copy") as crew:
        copy = _Copy(source, sink, cancellation, report)
        blobs = {blob.digest: blob for node in nodes for blob in node.blobs}
        for done in [crew.submit(copy.blob, blob) for blob in blobs.values()]:
            done.result()
    _put_documents(sink, nodes)
    return root


def _put_documents(sink: Sink, nodes: Sequence[Node]) -> None:
    for node in nodes[:-1]:
        sink.put_document(node.descriptor, node.data)
    sink.finish(nodes[-1].descriptor, nodes[-1].data)


def _one(
    source: Source, root: Descriptor, data: bytes, platform: Platform | None
) -> tuple[Descriptor, bytes]:
    """The manifest that is meant, the root itself unless it is an index."""
    for _ in range(MAX_DEPTH + 1):
        document = parse_manifest(data, root.media_type)
        if not isinstance(document, Index):
            return root, data
        root, data = _member(source, document, platform)
    raise SpecError("$.manifests", f"indexes nested deeper than {MAX_DEPTH}")


def _member(source: Source, index: Index, platform: Platform | None) -> tuple[Descriptor, bytes]:
    """The best member that is there: a store need not have all of them."""
    own: Platform = getattr(source, "platform", None) or host_platform()
    wanted = platform or with_cpu_level(own)
    missing: NotFound | None = None
    for member in ranked(index.manifests, wanted, strict=platform is not None):
        try:
            return member, source.document(member)
        except NotFound as error:
            missing = missing or error
    if missing is not None:
        raise missing
    offered = ", ".join(sorted({str(m.platform) for m in index.manifests if m.platform})[:40])
    raise FailedPrecondition(
        f"{source.name} is for {offered or 'nothing'}, not for {wanted}",
        hint="choose a platform, or copy every platform",
    )


class _Copy:
    def __init__(
        self, source: Source, sink: Sink, cancellation: Cancellation, report: Report
    ) -> None:
        self._source = source
        self._sink = sink
        self._cancellation = cancellation
        self._report = report

    def blob(self, descriptor: Descriptor) -> None:
        """Copy one blob, unless the sink has it."""
        item = short_digest(descriptor.digest)
        if self._sink.has(descriptor):
            self._report("already there", descriptor.size, descriptor.size, item)
            return
        for left in range(ATTEMPTS - 1, -1, -1):
            try:
                self._send(descriptor)
                break
            except Unavailable:
                if not left:
                    raise
            except NotFound as error:
                raise _absent(descriptor, error) from None
            if self._sink.has(descriptor):  # the answer was lost, not the blob
                break
        self._report("done", descriptor.size, descriptor.size, item)

    def _send(self, descriptor: Descriptor) -> None:
        stream = SteadyStream(self._source, descriptor, cancellation=self._cancellation)
        with VerifiedStream(stream, descriptor) as verified:
            self._sink.put(descriptor, _Told(verified, descriptor, self._report))


class _Told:
    """A stream that says how far it is."""

    offset = 0

    def __init__(self, stream: VerifiedStream, descriptor: Descriptor, report: Report) -> None:
        self._stream = stream
        self._total = descriptor.size
        self._item = short_digest(descriptor.digest)
        self._report = report

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._report("copying", self._stream.read_bytes, self._total, self._item)
        return data

    def __enter__(self) -> _Told:
        return self

    def __exit__(self, *_: object) -> None:
        """The stream belongs to whoever opened it."""


def _absent(descriptor: Descriptor, error: NotFound) -> NotFound:
    if not is_foreign(descriptor):
        return error
    return NotFound(
        f"layer {descriptor.digest} is a foreign one and not at the source: {error.message}",
        hint="URLs in manifests are never followed",
    )
