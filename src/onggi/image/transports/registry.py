"""An image in a registry as a source and as a sink."""

from __future__ import annotations

import contextlib

from onggi.errors import DataLoss, InvalidArgument, NotFound, PermissionDenied, Unavailable
from onggi.image.origins import Origins
from onggi.image.reference import Reference
from onggi.image.registry.client import RegistryClient, Repository
from onggi.image.registry.credentials import Keychain
from onggi.image.registry.hosts import endpoints
from onggi.image.registry.referrers import referrers_tag
from onggi.image.settings import ImageSettings
from onggi.image.transports.base import BlobStream
from onggi.image.transports.steady import SteadyStream
from onggi.image.transports.streams import read_verified
from onggi.image.transports.tree import is_document
from onggi.specs.image import (
    MAX_CONFIG_BYTES,
    OCI_INDEX,
    Descriptor,
    Index,
    Manifest,
    encode_document,
    parse_manifest,
)

#: A mount that is refused costs a request: the newest places are the likeliest.
MAX_MOUNTS_TRIED = 3


def registry_source(
    reference: Reference, settings: ImageSettings, keychain: Keychain | None = None
) -> RegistrySource:
    """A source with connections of its own. Raises: InvalidArgument: no name of a registry."""
    mirrors = len(endpoints(reference.registry, settings)) - 1
    client = RegistryClient(reference.registry, settings, keychain)
    return RegistrySource(client, reference, mirrors)


def registry_sink(
    reference: Reference,
    settings: ImageSettings,
    keychain: Keychain | None = None,
    origins: Origins | None = None,
) -> RegistrySink:
    """A sink with connections of its own. Raises: InvalidArgument: no name of a registry."""
    return RegistrySink(RegistryClient(reference.registry, settings, keychain), reference, origins)


class RegistrySource:
    """What a tag or a digest of a repository means. Closes its client.

    `origin`: the repository, as `Origins` records it. `mirrors`: how many other places may have a
    blob that was wrong.
    """

    def __init__(self, client: RegistryClient, reference: Reference, mirrors: int = 0) -> None:
        self.name = reference.familiar()
        self.origin = reference.name
        self.mirrors = mirrors
        self._client = client
        self._repository = client.repository(reference.repository)
        self._wanted = _tag_or_digest(reference)

    def root(self) -> tuple[Descriptor, bytes]:
        return self._repository.manifest(self._wanted)

    def document(self, descriptor: Descriptor) -> bytes:
        if is_document(descriptor):
            _, data = self._repository.manifest(descriptor.digest)
            if len(data) != descriptor.size:
                raise DataLoss(
                    f"{self.name}: document {descriptor.digest} is {len(data)} bytes, its"
                    f" descriptor says {descriptor.size}"
                )
            return data
        if descriptor.size > MAX_CONFIG_BYTES:
            raise InvalidArgument(
                f"{self.name}: configuration {descriptor.digest} is {descriptor.size} bytes, more"
                f" than {MAX_CONFIG_BYTES}"
            )
        with SteadyStream(self, descriptor) as stream:
            return read_verified(stream, descriptor, self.name)

    def open(self, descriptor: Descriptor, offset: int = 0) -> BlobStream:
        return self._repository.open_blob(descriptor, offset)

    def close(self) -> None:
        self._client.close()


class RegistrySink:
    """A tag or a digest of a repository. Closes its client.

    `origins`: where blobs are known to be, so that the registry takes them over by itself.
    """

    def __init__(
        self, client: RegistryClient, reference: Reference, origins: Origins | None = None
    ) -> None:
        self.name = reference.familiar()
        self._reference = reference
        self._origins = origins
        self._client = client
        self._repository = client.repository(reference.repository)

    def has(self, descriptor: Descriptor) -> bool:
        """Asks the registry; then for a mount from where the blob is known to be."""
        there = self._repository.blob_size_bytes(descriptor.digest) == descriptor.size
        if there or self._mount(descriptor):
            self._record(descriptor)
            return True
        return False

    def put(self, descriptor: Descriptor, stream: BlobStream) -> None:
        self._repository.upload(descriptor, stream)
        self._record(descriptor)

    def put_document(self, descriptor: Descriptor, data: bytes) -> None:
        put_manifest(self._repository, descriptor.digest, descriptor, data)

    def finish(self, root: Descriptor, data: bytes) -> None:
        """Raises: InvalidArgument: the name has the digest of something else."""
        if self._reference.digest not in (None, root.digest):
            raise InvalidArgument(
                f"{self.name} names a digest, and what is copied is {root.digest}",
                hint="copy to a tag, or copy every platform to keep an index as it is",
            )
        put_manifest(self._repository, self._reference.tag or root.digest, root, data)

    def close(self) -> None:
        self._client.close()

    def _mount(self, descriptor: Descriptor) -> bool:
        if self._origins is None:
            return False
        registry = self._reference.registry
        known = self._origins.of(descriptor.digest, registry)
        others = [name.removeprefix(f"{registry}/") for name in known]
        others = [name for name in others if name != self._reference.repository]
        for repository in reversed(others[-MAX_MOUNTS_TRIED:]):
            # Whatever a mount fails with, an upload does without.
            with contextlib.suppress(NotFound, PermissionDenied, Unavailable, InvalidArgument):
                if self._repository.mount(descriptor.digest, repository):
                    return True
        return False

    def _record(self, descriptor: Descriptor) -> None:
        if self._origins is not None:
            self._origins.record(descriptor.digest, self._reference.name)


def put_manifest(
    repository: Repository, reference: str, descriptor: Descriptor, data: bytes
) -> None:
    """Store a document under a tag or its digest, and list it as a referrer of its subject.

    Source: distribution-spec spec.md#pushing-manifests-with-subject.
    """
    noted = repository.put_manifest(reference, data, descriptor.media_type)
    document = parse_manifest(data, descriptor.media_type)
    if isinstance(document, Manifest) and document.subject is not None and not noted:
        _refer(repository, document.subject, descriptor, document)


def _refer(
    repository: Repository, subject: Descriptor, descriptor: Descriptor, manifest: Manifest
) -> None:
    """Keep the referrers tag (distribution-spec spec.md#referrers-tag-schema)."""
    listed = repository.referrers(subject.digest).manifests
    if any(entry.digest == descriptor.digest for entry in listed):
        return
    entry = Descriptor(
        descriptor.media_type,
        descriptor.digest,
        descriptor.size,
        annotations=manifest.annotations,
        artifact_type=manifest.artifact_type or manifest.config.media_type,
    )
    index = encode_document(Index(2, (*listed, entry), OCI_INDEX))
    repository.put_manifest(referrers_tag(subject.digest), index, OCI_INDEX)


def _tag_or_digest(reference: Reference) -> str:
    return reference.digest or reference.tag or "latest"
