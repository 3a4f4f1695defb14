"""Where images come from and go to: the two interfaces that every transport has.

A source is read-only content under digests with one root document; a sink takes content from the
leaves up, and at the end a root. They compose: `copy_image(source, sink)` moves an image between
any two, `pull(images, source)` brings one in ready to run. Nothing here trusts a source: whoever
reads verifies size and digest.

Source: skopeo(1), containers-transports(5) for the names of transports.
"""

from __future__ import annotations

from typing import Protocol, Self

from onggi.specs.image import Descriptor


class BlobStream(Protocol):
    """Content being read, from `offset` on: not verified, perhaps endless. A context manager.

    `offset` may be less than what was asked for, when the transport cannot start in the middle.
    """

    offset: int

    def read(self, size: int) -> bytes: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


class Source(Protocol):
    """An image, or an index of several, to be read."""

    name: str
    """What a person calls it, for messages."""

    def root(self) -> tuple[Descriptor, bytes]:
        """The manifest or index that is meant, and its bytes, verified.

        Raises: NotFound: there is none. Unavailable, PermissionDenied, InvalidArgument, DataLoss.
        """

    def document(self, descriptor: Descriptor) -> bytes:
        """A manifest, index or configuration, verified: 16 MiB at most.

        Raises: NotFound, DataLoss, ResourceExhausted, Unavailable.
        """

    def open(self, descriptor: Descriptor, offset: int = 0) -> BlobStream:
        """A blob from `offset` on (or from an earlier place). Thread-safe.

        Raises: NotFound, Unavailable, PermissionDenied.
        """

    def close(self) -> None: ...


class Sink(Protocol):
    """A place that takes images. Blobs come before the documents that name them."""

    name: str

    def has(self, descriptor: Descriptor) -> bool:
        """Whether this content need not be sent; a sink may fetch it itself (a cross mount)."""

    def put(self, descriptor: Descriptor, stream: BlobStream) -> None:
        """Take a blob, and verify it. Thread-safe. Raises: DataLoss, ResourceExhausted, …"""

    def put_document(self, descriptor: Descriptor, data: bytes) -> None:
        """Take a manifest or an index that the root leads to (not the root itself)."""

    def finish(self, root: Descriptor, data: bytes) -> None:
        """Take the root under the sink's own name: from now on the image is there, whole."""

    def close(self) -> None:
        """Let go; without `finish` nothing is visible."""
