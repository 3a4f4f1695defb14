"""What the server has to offer: repositories, their tags, and all that their manifests lead to.

A `Shelf` is a value made from the store's `index.json` and the record of pushes; `Shelves` makes a
new one when either has changed. A blob is on offer in a repository when one of its manifests needs
it, or when it was pushed there and waits for its manifest: never only because the store has it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

import msgspec
from msgspec import Struct

from onggi.errors import EngineError
from onggi.faces.registry.names import aliases, is_repository
from onggi.image.images import ImageStore
from onggi.image.reference import Reference
from onggi.image.served import Served, ServedRecord, now_s
from onggi.specs.image import (
    CONTAINERD_NAME,
    MAX_MANIFEST_BYTES,
    Descriptor,
    Index,
    parse_index,
    parse_manifest,
)

#: Digests that parsed manifests may hold in memory, all together (some 150 bytes each).
_CACHED_DIGESTS = 300_000


class _Refers(Struct, frozen=True, rename="camel"):
    """What manifests and indexes alike say about themselves (referrers)."""

    subject: Descriptor | None = None
    artifact_type: str | None = None
    annotations: dict[str, str] | None = None


class Links(Struct, frozen=True):
    """Where a manifest leads. `referrer`: how it is listed where it is listed as one."""

    members: tuple[Descriptor, ...]
    blobs: tuple[Descriptor, ...]
    subject: Descriptor | None
    referrer: Descriptor | None


class Contents(Struct, frozen=True):
    """One repository, walked. `blobs`: digest → size (None: not known). `referrers` by subject."""

    manifests: dict[str, Descriptor]
    blobs: dict[str, int | None]
    referrers: dict[str, list[Descriptor]]


def links_of(data: bytes, descriptor: Descriptor) -> Links:
    """Read a manifest or an index. Raises: SpecError."""
    document = parse_manifest(data, descriptor.media_type)
    try:
        refers = msgspec.json.decode(data, type=_Refers)
    except (msgspec.ValidationError, UnicodeDecodeError):
        refers = _Refers()  # an index may have what is no subject: it is then none
    kind = refers.artifact_type
    if not isinstance(document, Index) and not kind:
        kind = document.config.media_type
    return Links(
        members=document.manifests if isinstance(document, Index) else (),
        blobs=() if isinstance(document, Index) else (document.config, *document.layers),
        subject=refers.subject,
        referrer=Descriptor(
            descriptor.media_type,
            descriptor.digest,
            len(data),
            annotations=refers.annotations,
            artifact_type=kind,
        )
        if refers.subject
        else None,
    )


class Shelf:
    """All that is on offer at one moment. Threads may share it."""

    def __init__(self, shelves: Shelves, entries: Iterable[Descriptor], served: Served) -> None:
        self._shelves = shelves
        self._served = served
        self._own_names: dict[str, dict[str, Descriptor]] = {}
        self._walked: dict[str, Contents] = {}
        self.repositories: dict[str, dict[str, Descriptor]] = {}
        self.listed: set[str] = set(served.repositories)
        self._fill(entries)

    def _fill(self, entries: Iterable[Descriptor]) -> None:
        placed: list[tuple[int, int, str, str, Descriptor]] = []
        best: list[tuple[list[str], str, Descriptor]] = []
        for place, entry in enumerate(entries):
            name = (entry.annotations or {}).get(CONTAINERD_NAME, "")
            reference = self._shelves.reference(name)
            if reference is None or reference.tag is None:
                continue
            found = aliases(reference, self._shelves.own, self._shelves.images.defaults)
            best.append(([alias.repository for alias in found], reference.tag, entry))
            for alias in found:
                placed.append((alias.rank, place, alias.repository, reference.tag, entry))
            if reference.registry == self._shelves.own:
                own = self._own_names.setdefault(reference.repository, {})
                own[reference.tag] = entry
        placed.sort(key=lambda item: item[:2])
        pushed = [
            (-1, 0, name, tag, Descriptor(manifest.media_type, digest, manifest.size_bytes))
            for name, repository in self._served.repositories.items()
            for tag, digest in repository.tags.items()
            if (manifest := repository.manifests.get(digest)) is not None
        ]
        own_first = [item for item in placed if item[0] == 0]
        for _, _, repository, tag, entry in (*own_first, *pushed, *placed):
            self.repositories.setdefault(repository, {}).setdefault(tag, entry)
        for name in self._served.repositories:
            self.repositories.setdefault(name, {})
        for names, tag, entry in best:
            won = (name for name in names if self.repositories[name][tag].digest == entry.digest)
            self.listed.update((next(won, names[0]),) if names else ())

    def own_tags(self, repository: str) -> dict[str, Descriptor]:
        """The tags of `index.json` that were pushed to this repository, or look as if."""
        return self._own_names.get(repository, {})

    def contents(self, repository: str) -> Contents:
        """Everything in a repository (nothing, if there is none of that name)."""
        known = self._walked.get(repository)
        if known is None:
            known = self._walked[repository] = self._walk(repository)
        return known

    def _walk(self, repository: str) -> Contents:
        found = Contents({}, {}, {})
        pending = list(self.repositories.get(repository, {}).values())
        record = self._served.repositories.get(repository)
        if record is not None:
            at_s = now_s()
            found.blobs.update(dict.fromkeys(record.waiting(at_s)))
            pending += (
                Descriptor(manifest.media_type, digest, manifest.size_bytes)
                for digest, manifest in record.living(at_s).items()
            )
        while pending:
            descriptor = pending.pop()
            if descriptor.digest in found.manifests:
                continue
            links = self._shelves.links(descriptor)
            if links is None:
                continue
            found.manifests[descriptor.digest] = descriptor
            found.blobs.update((blob.digest, blob.size) for blob in links.blobs)
            pending += links.members
            if links.subject is not None and links.referrer is not None:
                found.referrers.setdefault(links.subject.digest, []).append(links.referrer)
        return found


class Shelves:
    """Makes shelves. `own`: this server's registry name, under which pushes are stored."""

    def __init__(self, images: ImageStore, record: ServedRecord, own: str) -> None:
        self.images = images
        self.record = record
        self.own = own
        self._lock = threading.Lock()
        self._known: tuple[object, Shelf] | None = None
        self._links: dict[str, Links] = {}
        self._linked_digests = 0
        self._names: dict[str, Reference | None] = {}

    def shelf(self) -> Shelf:
        """What is on offer now. Raises: DataLoss: index or record are damaged."""
        with self._lock:
            # The stamps come first: what changes after them is seen by the next caller.
            stamp = (self.images.content.index_stamp(), self.record.stamp(), now_s() // 60)
            if self._known is None or self._known[0] != stamp:
                entries = parse_index(self.images.content.read_index()).manifests
                self._known = (stamp, Shelf(self, entries, self.record.read()))
            return self._known[1]

    def reference(self, name: str) -> Reference | None:
        """A stored name, read; None for what cannot be served."""
        if len(self._names) > 10_000:
            self._names.clear()
        if name not in self._names:
            try:
                reference = Reference.parse(name, self.images.defaults)
            except EngineError:
                self._names[name] = None  # an entry of another program's making
            else:
                served = is_repository(reference.repository)
                self._names[name] = reference if served else None
        return self._names[name]

    def links(self, descriptor: Descriptor) -> Links | None:
        """Where a manifest leads; None when it is not here, or damaged (its own GET says which)."""
        known = self._links.get(descriptor.digest)
        if known is not None and self.images.content.size_bytes(descriptor.digest) is not None:
            return known
        try:
            data = self.images.content.read(descriptor.digest, MAX_MANIFEST_BYTES, descriptor.size)
            links = links_of(data, descriptor)
        except EngineError:
            return None
        size = len(links.members) + len(links.blobs) + 1
        if self._linked_digests + size > _CACHED_DIGESTS:
            self._links, self._linked_digests = {}, 0
        self._links[descriptor.digest] = links
        self._linked_digests += size
        return links
