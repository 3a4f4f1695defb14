"""What a push changes: blobs taken over, manifests and tags stored and deleted.

Where a tag of a pushed manifest is kept: in the store's `index.json`, under this server's registry
name, when the store can take it as an image (so that it can be run, listed and removed here);
otherwise in the record of `onggi.image.served`. Never in both: the one is taken away when the
other is written, and a crash between the two leaves an answer that nobody was given.

A manifest pushed by its digest, or with a subject, stays until it is deleted by its digest; one
pushed by a tag stays while a tag has it, and a day longer. Only what was pushed can be deleted.

Source: distribution-spec v1.1 spec.md#pushing-manifests, #content-management.
"""

from __future__ import annotations

from onggi.errors import EngineError, SpecError
from onggi.faces.registry.answers import ApiError
from onggi.faces.registry.names import is_digest
from onggi.faces.registry.shelf import Contents, Links, Shelves, links_of
from onggi.image.documents import reachable
from onggi.image.served import UNFINISHED_S, ServedManifest, ServedRepository, now_s
from onggi.specs.image import INDEX_TYPES, MANIFEST_TYPES, Descriptor, digest_of

MAX_TAGS = 10_000
MAX_MANIFESTS = 50_000
_OTHERS = "it was not pushed here: remove it with `onggi rmi` on that machine"


class Pushes:
    """Changes to what is served. Threads may share it."""

    def __init__(self, shelves: Shelves) -> None:
        self._shelves = shelves
        self._images = shelves.images
        self._record = shelves.record

    # Blobs.

    def note_blob(self, repository: str, digest: str) -> None:
        """The repository has this blob, for a day if no manifest comes. Hold a lease."""
        with self._record.change(repository) as record:
            record.blobs[digest] = now_s() + UNFINISHED_S

    def mount(self, repository: str, digest: str, source: str) -> bool:
        """Take a blob over from another repository; False: it does not have it."""
        with self._images.lease():
            known = self._shelves.shelf().contents(source).blobs
            if digest not in known or self._images.content.size_bytes(digest) is None:
                return False
            self.note_blob(repository, digest)
        return True

    def delete_blob(self, repository: str, digest: str) -> None:
        """Take a blob out of a repository.

        Raises:
            ApiError: it is not there, or a manifest of the repository needs it.
        """
        with self._record.change(repository) as record:
            contents = self._shelves.shelf().contents(repository)
            if digest not in contents.blobs:
                raise ApiError(404, "BLOB_UNKNOWN", f"{repository} has no blob {digest}")
            for manifest in contents.manifests.values():
                links = self._shelves.links(manifest)
                if links is not None and any(blob.digest == digest for blob in links.blobs):
                    raise ApiError(
                        405,
                        "UNSUPPORTED",
                        f"manifest {manifest.digest} needs it: delete that first",
                    )
            record.blobs.pop(digest, None)

    # Manifests.

    def put_manifest(
        self, repository: str, reference: str, data: bytes, media_type: str
    ) -> tuple[Descriptor, Links]:
        """Store a manifest or index under a tag or its digest.

        Raises:
            ApiError: it is not valid, is not what its digest says, or needs what is not here.
            ResourceExhausted: the disk is full.
        """
        descriptor, links = _examine(data, media_type)
        if is_digest(reference) and reference != descriptor.digest:
            raise ApiError(
                400, "DIGEST_INVALID", f"the manifest is {descriptor.digest}, not {reference}"
            )
        with self._images.lease(), self._record.change(repository) as record:
            contents = self._shelves.shelf().contents(repository)
            self._check_complete(contents, links)
            _check_room(record, reference)
            self._images.content.put(data, descriptor.digest)
            if is_digest(reference) or links.subject is not None:
                _note(record, descriptor, 0)
            if not is_digest(reference):
                self._put_tag(repository, record, reference, descriptor)
        return descriptor, links

    def _check_complete(self, contents: Contents, links: Links) -> None:
        for member in links.members:
            if member.digest not in contents.manifests:
                raise ApiError(
                    400,
                    "MANIFEST_BLOB_UNKNOWN",
                    f"the index names manifest {member.digest}, which is not here: push it first",
                    detail=member.digest,
                )
        for blob in links.blobs:
            size = self._images.content.size_bytes(blob.digest)
            if blob.digest not in contents.blobs or size is None:
                raise ApiError(
                    400,
                    "MANIFEST_BLOB_UNKNOWN",
                    f"the manifest names blob {blob.digest}, which is not here: push it first",
                    detail=blob.digest,
                )
            if size != blob.size:
                raise ApiError(
                    400,
                    "SIZE_INVALID",
                    f"blob {blob.digest} is {size} bytes, the manifest says {blob.size}",
                )

    def _put_tag(
        self, repository: str, record: ServedRepository, tag: str, descriptor: Descriptor
    ) -> None:
        grace_s = now_s() + UNFINISHED_S
        before = self._shelves.shelf().own_tags(repository).get(tag)
        if before is not None and before.digest != descriptor.digest:
            _note(record, before, grace_s)
        name = self._name(repository, tag)
        if name is not None and self._is_image(descriptor):
            self._images.add(descriptor, (name,))
            record.tags.pop(tag, None)
            return
        _note(record, descriptor, grace_s)
        record.tags[tag] = descriptor.digest
        if before is not None and name is not None:
            self._images.untag(name)

    def _is_image(self, descriptor: Descriptor) -> bool:
        """Whether the store can take it: runnable here, and nothing in it stops a collection."""
        try:
            self._images.examine(descriptor)
            reachable(self._images.content, (descriptor,))
        except EngineError:
            return False
        return True

    def _name(self, repository: str, tag: str) -> str | None:
        """The name in the store; None when the two together are too long for one."""
        name = f"{self._shelves.own}/{repository}:{tag}"
        reference = self._shelves.reference(name)
        return name if reference is not None and reference.canonical == name else None

    def delete_manifest(self, repository: str, reference: str) -> None:
        """Delete a tag, or a manifest with all its tags.

        Raises:
            ApiError: there is none, or it was not pushed here.
        """
        with self._record.change(repository) as record:
            shelf = self._shelves.shelf()
            own = shelf.own_tags(repository)
            if not is_digest(reference):
                self._delete_tag(repository, record, reference, own)
                return
            known = reference in record.living(now_s())
            tags = [tag for tag, entry in own.items() if entry.digest == reference]
            if not known and not tags:
                raise self._not_ours(repository, reference)
            for tag in tags:
                self._untag(repository, tag)
            for tag in [tag for tag, digest in record.tags.items() if digest == reference]:
                del record.tags[tag]
            record.manifests.pop(reference, None)

    def _delete_tag(
        self, repository: str, record: ServedRepository, tag: str, own: dict[str, Descriptor]
    ) -> None:
        if tag not in own and tag not in record.tags:
            raise self._not_ours(repository, tag)
        if tag in own:
            _note(record, own[tag], now_s() + UNFINISHED_S)
            self._untag(repository, tag)
        record.tags.pop(tag, None)

    def _untag(self, repository: str, tag: str) -> None:
        name = self._name(repository, tag)
        if name is not None:
            self._images.untag(name)

    def _not_ours(self, repository: str, reference: str) -> ApiError:
        shelf = self._shelves.shelf()
        there = (
            reference in shelf.contents(repository).manifests
            if is_digest(reference)
            else reference in shelf.repositories.get(repository, {})
        )
        if there:
            return ApiError(403, "DENIED", _OTHERS)
        return ApiError(404, "MANIFEST_UNKNOWN", f"{repository} has no manifest {reference}")


def _note(record: ServedRepository, descriptor: Descriptor, expires_s: int) -> None:
    """Remember a manifest; what stays for ever goes on to."""
    known = record.manifests.get(descriptor.digest)
    if known is not None and known.expires_s == 0:
        return
    record.manifests[descriptor.digest] = ServedManifest(
        descriptor.media_type, descriptor.size, expires_s
    )


def _examine(data: bytes, media_type: str) -> tuple[Descriptor, Links]:
    if media_type not in MANIFEST_TYPES | INDEX_TYPES:
        raise ApiError(
            400, "MANIFEST_INVALID", f"{media_type!r} is no media type of a manifest or an index"
        )
    descriptor = Descriptor(media_type, digest_of(data), len(data))
    try:
        return descriptor, links_of(data, descriptor)
    except SpecError as error:
        raise ApiError(400, "MANIFEST_INVALID", error.message) from None


def _check_room(record: ServedRepository, reference: str) -> None:
    if len(record.manifests) >= MAX_MANIFESTS or (
        len(record.tags) >= MAX_TAGS and reference not in record.tags
    ):
        raise ApiError(
            429, "TOOMANYREQUESTS", "the repository is full: delete tags and manifests first"
        )
