"""What is in a registry: tags, repositories, deletion, and what refers to an image.

Credentials come with each request and are kept nowhere.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from onggi.engine.api.answers import PushAnswer, ReferrerRow
from onggi.engine.api.requests import AttachArtifactRequest, Nothing, RemoteRequest
from onggi.engine.core import Core
from onggi.engine.registry_calls import keychain_of
from onggi.errors import InvalidArgument, NotFound, ResourceExhausted
from onggi.image.reference import Reference
from onggi.image.short_names import full_reference
from onggi.specs.image import OCI_MANIFEST, Descriptor, Manifest, digest_of, encode_document

if TYPE_CHECKING:
    from onggi.image.registry.client import RegistryClient, Repository

_T = TypeVar("_T")
_MAX_ARTIFACT_BYTES = 64 << 20
_EMPTY = b"{}"
_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"


class RemoteCalls:
    """Registries, as one engine sees them."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def tags(self, request: RemoteRequest, _fds: list[int]) -> tuple[str, ...]:
        """All tags of a repository."""
        return await self._ask(request, lambda repository, _: tuple(repository.tags()))

    async def catalog(self, request: RemoteRequest, _fds: list[int]) -> tuple[str, ...]:
        """All repositories of a registry. `reference`: its host."""

        def work() -> tuple[str, ...]:
            client = self._client(request.reference, request)
            try:
                return tuple(client.catalog())
            finally:
                client.close()

        return await asyncio.to_thread(work)

    async def delete(self, request: RemoteRequest, _fds: list[int]) -> Nothing:
        """Delete a tag or a manifest. Raises: Unsupported: the registry does not delete."""

        def act(repository: Repository, reference: Reference) -> Nothing:
            repository.delete("manifests", reference.digest or reference.tag or "")
            return Nothing()

        return await self._ask(request, act)

    async def referrers(self, request: RemoteRequest, _fds: list[int]) -> tuple[ReferrerRow, ...]:
        """What is attached to an image. Source: distribution-spec, Listing Referrers."""

        def act(repository: Repository, reference: Reference) -> tuple[ReferrerRow, ...]:
            digest = reference.digest or _subject(repository, reference).digest
            index = repository.referrers(digest, request.artifact_type)
            return tuple(
                ReferrerRow(
                    digest=one.digest,
                    artifact_type=one.artifact_type or "",
                    size_bytes=one.size,
                    annotations=one.annotations or {},
                )
                for one in index.manifests
            )

        return await self._ask(request, act)

    async def attach(self, request: AttachArtifactRequest, fds: list[int]) -> PushAnswer:
        """Attach a file to an image in its registry. Source: image-spec manifest.md, artifacts."""
        if len(fds) != 1:
            raise InvalidArgument("the request does not carry the file")

        def act(repository: Repository, reference: Reference) -> PushAnswer:
            from onggi.image.transports.registry import put_manifest  # noqa: PLC0415

            data = _read_all(fds[0])
            layer = Descriptor(request.media_type, digest_of(data), len(data))
            title = {"org.opencontainers.image.title": request.name} if request.name else None
            manifest = Manifest(
                2,
                Descriptor(_EMPTY_TYPE, digest_of(_EMPTY), len(_EMPTY)),
                (Descriptor(layer.media_type, layer.digest, layer.size, annotations=title),),
                OCI_MANIFEST,
                artifact_type=request.artifact_type,
                subject=_subject(repository, reference),
                annotations=request.annotations or None,
            )
            for descriptor, content in ((layer, data), (manifest.config, _EMPTY)):
                if repository.blob_size_bytes(descriptor.digest) is None:
                    repository.upload(descriptor, _Bytes(content))
            document = encode_document(manifest)
            digest = digest_of(document)
            put_manifest(
                repository, digest, Descriptor(OCI_MANIFEST, digest, len(document)), document
            )
            return PushAnswer(
                reference=f"{reference.name}@{digest}", digest=digest, size_bytes=len(data)
            )

        return await self._ask(request, act)

    async def _ask(
        self,
        request: RemoteRequest | AttachArtifactRequest,
        act: Callable[[Repository, Reference], _T],
    ) -> _T:
        """Do something with a reference's repository, in a thread."""
        reference = full_reference(
            request.reference.removeprefix("docker://"), self._core.images.settings
        )

        def work() -> _T:
            client = self._client(reference.registry, request)
            try:
                return act(client.repository(reference.repository), reference)
            finally:
                client.close()

        return await asyncio.to_thread(work)

    def _client(
        self, registry: str, request: RemoteRequest | AttachArtifactRequest
    ) -> RegistryClient:
        from onggi.image.registry.client import RegistryClient  # noqa: PLC0415

        settings = self._core.images.settings
        return RegistryClient(registry, settings, keychain_of(request.credentials))


class _Bytes:
    """A blob in memory, as a stream."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.offset = 0

    def read(self, size: int) -> bytes:
        piece, self._data = self._data[:size], self._data[size:]
        return piece

    def __enter__(self) -> _Bytes:
        return self

    def __exit__(self, *_: object) -> None:
        self._data = b""


def _subject(repository: Repository, reference: Reference) -> Descriptor:
    found = repository.manifest_descriptor(reference.digest or reference.tag or "")
    if found is None:
        raise NotFound(f"{reference.familiar()} is not in its registry")
    return Descriptor(found.media_type, found.digest, found.size)


def _read_all(fd: int) -> bytes:
    parts, total = [], 0
    while data := os.read(fd, 1 << 20):
        total += len(data)
        if total > _MAX_ARTIFACT_BYTES:
            raise ResourceExhausted(f"the file is larger than {_MAX_ARTIFACT_BYTES} bytes")
        parts.append(data)
    return b"".join(parts)
