"""The documents that an image or an index is made of, and the blobs that they name.

Bounded, because sources are hostile. Knows nothing of where documents come from.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from onggi.errors import NotFound, ResourceExhausted, SpecError
from onggi.specs.image import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    Descriptor,
    Index,
    Manifest,
    parse_manifest,
)

#: Of indexes in indexes.
MAX_DEPTH = 4
MAX_DOCUMENTS = 2000


class Node(Struct, frozen=True):
    """A document, its bytes, and the blobs that it names itself."""

    descriptor: Descriptor
    data: bytes
    document: Manifest | Index
    blobs: tuple[Descriptor, ...]


def walk(
    name: str,
    root: Descriptor,
    data: bytes,
    read: Callable[[Descriptor], bytes],
    depth: int = 0,
) -> list[Node]:
    """Every document below `root` (whose bytes are `data`), each once, what is named before what
    names it: the root comes last. `read(descriptor)` gives a document, verified.

    Members of an index that are neither manifest nor index are blobs.

    Raises:
        SpecError: a document is damaged or nested too deep. ResourceExhausted: too many.
        NotFound: a member is not there; and what `read` raises.
    """
    return list(_Walk(name, read).visit(root, data, depth).values())


class _Walk:
    def __init__(self, name: str, read: Callable[[Descriptor], bytes]) -> None:
        self._name = name
        self._read = read
        self._nodes: dict[str, Node] = {}

    def visit(self, descriptor: Descriptor, data: bytes, depth: int) -> dict[str, Node]:
        if depth > MAX_DEPTH:
            raise SpecError("$.manifests", f"indexes nested deeper than {MAX_DEPTH}")
        document = parse_manifest(data, descriptor.media_type)
        if isinstance(document, Manifest):
            blobs = (document.config, *document.layers)
        else:
            blobs = tuple(m for m in document.manifests if not is_document(m))
            for member in filter(is_document, document.manifests):
                if member.digest not in self._nodes:
                    self.visit(member, self._member(member), depth + 1)
        if len(self._nodes) >= MAX_DOCUMENTS:
            raise ResourceExhausted(f"{self._name} has more than {MAX_DOCUMENTS} manifests")
        self._nodes[descriptor.digest] = Node(descriptor, data, document, blobs)
        return self._nodes

    def _member(self, member: Descriptor) -> bytes:
        try:
            return self._read(member)
        except NotFound as error:
            shown = f" ({member.platform})" if member.platform else ""
            raise NotFound(
                f"{self._name}: member {member.digest}{shown} of the index is not there:"
                f" {error.message}",
                hint="take one platform, or bring the others in first",
            ) from None


def is_document(descriptor: Descriptor) -> bool:
    """Whether it is a manifest or an index."""
    return descriptor.media_type in MANIFEST_TYPES or descriptor.media_type in INDEX_TYPES
