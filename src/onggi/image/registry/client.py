"""A registry, and one repository of it: the requests of the distribution specification.

Knows names, digests and bytes; knows nothing of stores or layers. Everything that a registry says
is bounded and verified; everything that can be tried again is.

Source: distribution-spec v1.1 (https://github.com/opencontainers/distribution-spec/blob/main/spec.md).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, TypeVar

from onggi.errors import EngineError, NotFound, Unavailable, Unsupported
from onggi.image.reference import Reference
from onggi.image.registry import manifests
from onggi.image.registry.blobs import RegistryBlob, open_answer
from onggi.image.registry.credentials import Credentials, Keychain
from onggi.image.registry.hosts import endpoints
from onggi.image.registry.http import Http
from onggi.image.registry.pages import pages
from onggi.image.registry.patience import Patience
from onggi.image.registry.peer import Peer
from onggi.image.registry.proxies import proxies_of
from onggi.image.registry.referrers import referrers
from onggi.image.registry.refusals import refusal
from onggi.image.registry.upload import Upload, upload_blob
from onggi.image.settings import ImageSettings
from onggi.image.transports.base import BlobStream
from onggi.specs.distribution import (
    MAX_BODY_BYTES,
    check_repository,
    parse_catalog,
    parse_tags,
)
from onggi.specs.image import Descriptor, Index, check_digest

__all__ = ["Credentials", "Keychain", "RegistryClient", "Repository", "registry_and_repository"]

PAGE_ENTRIES = 1000

_DEFAULTS = ImageSettings()
_PATIENCE = Patience()
_T = TypeVar("_T")


class RegistryClient:
    """A registry and its mirrors. Threads may share it; `close` ends its connections.

    `environment`: where the proxies are read from, this process's own when None.
    """

    def __init__(
        self,
        registry: str,
        settings: ImageSettings = _DEFAULTS,
        keychain: Keychain | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        patience: Patience = _PATIENCE,
    ) -> None:
        """Connects to nothing yet. Raises: InvalidArgument: no name of a registry."""
        *mirrors, own = endpoints(registry, settings)
        proxies = proxies_of(os.environ if environment is None else environment)
        self.registry = registry
        self.http = Http(settings, proxies, patience)
        self.peer = Peer(own, self.http, keychain)
        self._mirrors = [Peer(m, self.http, keychain, patience.mirror_attempts) for m in mirrors]

    def check(self) -> bool:
        """The registry is there and accepts us (`GET /v2/`); whether it asked who we are.

        Raises: PermissionDenied: not who we say we are. Unavailable: not reached. Unsupported:
        not a registry.
        """
        answer = self.peer.send("GET", "/v2/")
        if answer.status == 404:
            answer.discard()
            raise Unsupported(f"{answer.where}: this is not a registry")
        if answer.status != 200:
            raise refusal(answer, "login", self.registry)
        answer.discard()
        return self.peer.asked

    def catalog(self) -> Iterator[str]:
        """Names of repositories, in pages. Raises: as `check`; Unsupported: it does not tell."""
        path = f"/v2/_catalog?n={PAGE_ENTRIES}"
        for answer in pages(self.peer, path, ("registry:catalog:*",)):
            if answer.status == 404:
                answer.discard()
                raise Unsupported(f"{self.registry} does not list its repositories")
            if answer.status != 200:
                raise refusal(answer, "list of repositories", self.registry)
            yield from parse_catalog(answer.document(MAX_BODY_BYTES))

    def repository(self, name: str) -> Repository:
        """One repository (`library/debian`). Raises: InvalidArgument: no name of one."""
        return Repository(self, check_repository(name))

    def read(self, do: Callable[[Peer], _T], skip: int = 0) -> _T:
        """Ask the mirrors in turn (without the first `skip`), then the registry itself.

        Whatever a mirror fails with, the next one is asked; one that does not answer rests.
        """
        for mirror in self._mirrors[skip:]:
            if mirror.rests:
                continue
            try:
                return do(mirror)
            except Unavailable:
                mirror.rest()
            except EngineError:
                continue
        return do(self.peer)

    def mirror_number(self, peer: Peer) -> int:
        """Which mirror it is, from 0; the registry itself comes after all of them."""
        return self._mirrors.index(peer) if peer in self._mirrors else len(self._mirrors)

    def close(self) -> None:
        """End every connection; what waits ends with Unavailable."""
        self.http.close()


class Repository:
    """One repository. Methods raise NotFound, PermissionDenied, Unavailable, DataLoss, …"""

    name: str

    def __init__(self, client: RegistryClient, name: str) -> None:
        self.name = name
        self._client = client
        self._peer = client.peer
        self._push = (f"repository:{client.peer.endpoint.prefix}{name}:pull,push",)
        self._served_by: dict[str, int] = {}

    def manifest(self, reference: str) -> tuple[Descriptor, bytes]:
        """The document under a tag or a digest, verified; its type is a manifest's or index's."""
        manifests.check_reference(reference)

        def get(peer: Peer) -> tuple[Descriptor, bytes]:
            path = self._path(peer, f"manifests/{reference}")
            return manifests.get(peer, path, self._pull(peer), reference, self._what(reference))

        return self._client.read(get)

    def manifest_descriptor(self, reference: str) -> Descriptor | None:
        """What is under a tag or a digest (HEAD); None: nothing."""
        manifests.check_reference(reference)

        def head(peer: Peer) -> Descriptor:
            path = self._path(peer, f"manifests/{reference}")
            return manifests.head(peer, path, self._pull(peer), reference, self._what(reference))

        try:
            return self._client.read(head)
        except NotFound:
            return None

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> BlobStream:
        """A blob from `offset` on, or from 0 where the registry has no ranges.

        A blob that is asked for once more comes from the next mirror, and at last from the
        registry: what the first has sent broke off, or was not right.
        """
        digest = check_digest(descriptor.digest)
        if 0 < descriptor.size <= offset:
            return RegistryBlob(None, descriptor, descriptor.size)
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        skip = self._served_by.get(digest, -1) + 1

        def get(peer: Peer) -> BlobStream:
            path = self._path(peer, f"blobs/{digest}")
            answer = peer.send("GET", path, self._pull(peer), headers=headers)
            if answer.status not in (200, 206) or (answer.status == 206 and not offset):
                raise refusal(answer, f"blob {digest}", peer.name)
            self._served_by[digest] = self._client.mirror_number(peer)
            return open_answer(answer, descriptor, offset)

        return self._client.read(get, skip)

    def blob_size_bytes(self, digest: str) -> int | None:
        """The size of a blob (HEAD); None: not there. Asks the registry itself, never a mirror."""
        path = self._path(self._peer, f"blobs/{check_digest(digest)}")
        answer = self._peer.send("HEAD", path, self._pull(self._peer))
        answer.discard()
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise refusal(answer, f"blob {digest}", self._peer.name)
        if answer.length is None:
            raise Unavailable(f"{answer.where}: the answer does not say how large the blob is")
        return answer.length

    def upload(self, descriptor: Descriptor, stream: BlobStream, *, chunk_bytes: int = 0) -> None:
        """Upload a blob: in one request, or in pieces of `chunk_bytes`.

        What breaks is resumed where the registry is, within the last piece; with a stream that has
        `seek(offset)` anywhere, and from the start if the registry has lost the upload.
        """
        check_digest(descriptor.digest)
        path = self._path(self._peer, "blobs/uploads/")
        upload_blob(self._peer, path, self._push, descriptor, stream, chunk_bytes)

    def mount(self, digest: str, source: str) -> bool:
        """Take a blob over from the repository `source` of the same registry; False: upload it."""
        prefix = self._peer.endpoint.prefix
        source = prefix + check_repository(source)
        path = self._path(self._peer, f"blobs/uploads/?mount={check_digest(digest)}&from={source}")
        scopes = (*self._push, f"repository:{source}:pull")
        answer = self._peer.send("POST", path, scopes)
        if answer.status == 202:
            Upload(self._peer, answer, scopes, Descriptor("", digest, 0)).cancel()
        elif answer.status >= 500:
            raise refusal(answer, f"blob {digest}", self._peer.name)
        else:
            answer.discard()  # a source that we may not read is a blob to be uploaded
        return answer.status == 201

    def put_manifest(self, reference: str, data: bytes, media_type: str) -> bool:
        """Store a document under a tag or its digest. Answers whether the registry has noted its
        subject (`OCI-Subject`); if not, the caller keeps the referrers tag."""
        manifests.check_reference(reference)
        path = self._path(self._peer, f"manifests/{reference}")
        what = self._what(reference)
        return manifests.put(self._peer, path, self._push, reference, data, media_type, what)

    def delete(self, kind: Literal["manifests", "blobs"], reference: str) -> None:
        """Delete a tag, a manifest or a blob. Raises: Unsupported: the registry does not delete."""
        if kind == "manifests":
            manifests.check_reference(reference)
        else:
            check_digest(reference)
        scope = f"repository:{self._peer.endpoint.prefix}{self.name}:delete"
        path = self._path(self._peer, f"{kind}/{reference}")
        answer = self._peer.send("DELETE", path, (*self._push, scope))
        is_tag = kind == "manifests" and ":" not in reference
        if answer.status == 405 or (is_tag and answer.status == 400):
            answer.discard()
            hint = "delete the manifest by its digest" if is_tag else None
            what = "tags" if is_tag else kind
            raise Unsupported(f"{self._client.registry} does not delete {what}", hint=hint)
        if answer.status not in (200, 202, 204):
            raise refusal(answer, self._what(reference), self._peer.name)
        answer.discard()

    def tags(self) -> Iterator[str]:
        """All tags, in pages."""
        path = self._path(self._peer, f"tags/list?n={PAGE_ENTRIES}")
        for answer in pages(self._peer, path, self._pull(self._peer)):
            if answer.status != 200:
                raise refusal(answer, f"tags of {self.name}", self._peer.name)
            yield from parse_tags(answer.document(MAX_BODY_BYTES))

    def referrers(self, digest: str, artifact_type: str = "") -> Index:
        """What refers to a manifest; by the referrers tag where the registry has no such call."""
        base = self._path(self._peer, "")
        return referrers(
            self._peer, base, self._pull(self._peer), check_digest(digest), artifact_type
        )

    def _path(self, peer: Peer, rest: str) -> str:
        return f"/v2/{peer.endpoint.prefix}{self.name}/{rest}"

    def _pull(self, peer: Peer) -> tuple[str, ...]:
        return (f"repository:{peer.endpoint.prefix}{self.name}:pull",)

    def _what(self, reference: str) -> str:
        return f"{self.name}@{reference}" if ":" in reference else f"{self.name}:{reference}"


def registry_and_repository(reference: Reference) -> tuple[str, str]:
    """The two halves of a reference's name."""
    return reference.registry, reference.repository
