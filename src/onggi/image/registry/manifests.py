"""Manifests over the wire: verified by digest and by shape, bounded to 4 MiB.

Source: distribution-spec spec.md#pulling-manifests, #pushing-manifests.
"""

from __future__ import annotations

import hashlib

from onggi.errors import DataLoss, InvalidArgument, SpecError, Unsupported
from onggi.image.registry.http import Answer
from onggi.image.registry.peer import Peer
from onggi.image.registry.refusals import refusal
from onggi.runtime.printable import printable
from onggi.specs.distribution import check_tag
from onggi.specs.image import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    MAX_MANIFEST_BYTES,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Index,
    check_digest,
    digest_of,
    parse_manifest,
)

ACCEPT = ", ".join(sorted(MANIFEST_TYPES | INDEX_TYPES))

#: Types that say nothing; then the document's own `mediaType` holds.
VAGUE_TYPES = frozenset(
    {"", "application/json", "application/octet-stream", "binary/octet-stream", "text/plain"}
)
SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1"


def check_reference(reference: str) -> str:
    """`reference` itself, when it is a tag or a digest. Raises: InvalidArgument."""
    return check_digest(reference) if ":" in reference else check_tag(reference)


def get(
    peer: Peer, path: str, scopes: tuple[str, ...], reference: str, what: str
) -> tuple[Descriptor, bytes]:
    """The document under a tag or digest, verified.

    Raises:
        DataLoss: larger than 4 MiB, or not what its digest or the registry's header says.
        InvalidArgument: no manifest and no index, or both, or of another type than announced.
        Unsupported: Docker's schema 1.
    """
    answer = peer.send("GET", path, scopes, headers={"Accept": ACCEPT})
    if answer.status != 200:
        raise refusal(answer, what, peer.name)
    announced = _media_type(answer)
    data = answer.document(MAX_MANIFEST_BYTES)
    digest = digest_of(data)
    if ":" in reference and digest != reference:
        raise DataLoss(f"{what}: {peer.name} sent a document with the digest {digest}")
    _check_header(answer, data, what)
    try:
        document = parse_manifest(data, announced or None)
    except SpecError as error:
        raise InvalidArgument(f"{what} of {peer.name}: {error.message}") from None
    plain = OCI_INDEX if isinstance(document, Index) else OCI_MANIFEST
    return Descriptor(announced or document.media_type or plain, digest, len(data)), data


def head(peer: Peer, path: str, scopes: tuple[str, ...], reference: str, what: str) -> Descriptor:
    """What is under a tag or digest; by GET where the registry's HEAD does not tell all.

    Raises: NotFound, and as `get`.
    """
    answer = peer.send("HEAD", path, scopes, headers={"Accept": ACCEPT})
    if answer.status != 200:
        raise refusal(answer, what, peer.name)
    announced, digest = _media_type(answer), answer.header("Docker-Content-Digest").strip()
    answer.discard()
    try:
        check_digest(digest)
    except SpecError:
        digest = ""
    if ":" in reference and digest not in ("", reference):
        raise DataLoss(f"{what}: {peer.name} says that its digest is {digest}")
    if not digest or not announced or answer.length is None:
        return get(peer, path, scopes, reference, what)[0]
    if announced not in MANIFEST_TYPES | INDEX_TYPES:
        raise InvalidArgument(f"{what}: {printable(announced, 120)!r} is not a manifest's type")
    return Descriptor(announced, digest, answer.length)


def put(
    peer: Peer,
    path: str,
    scopes: tuple[str, ...],
    reference: str,
    data: bytes,
    media_type: str,
    what: str,
) -> bool:
    """Store a document; whether the registry has noted its subject.

    Raises: InvalidArgument: not its digest, too large, or refused by the registry. DataLoss: the
    registry has stored something else.
    """
    digest = digest_of(data)
    if ":" in reference and digest != reference:
        raise InvalidArgument(f"{what}: the document's digest is {digest}")
    if len(data) > MAX_MANIFEST_BYTES:
        raise InvalidArgument(f"{what}: {len(data)} bytes, more than {MAX_MANIFEST_BYTES}")
    headers = {"Content-Type": media_type}
    answer = peer.send("PUT", path, scopes, headers=headers, body=data)
    if answer.status not in (200, 201, 202, 204):
        raise refusal(answer, what, peer.name)
    answer.discard()
    _check_header(answer, data, what)
    return bool(answer.header("OCI-Subject"))


def _media_type(answer: Answer) -> str:
    """The announced type without its parameters; empty: none that says anything."""
    text = answer.header("Content-Type").partition(";")[0].strip().lower()
    if text.startswith(SCHEMA_1):
        answer.close()
        raise Unsupported(f"{answer.where}: Docker schema 1 images are not supported")
    return "" if text in VAGUE_TYPES else text


def _check_header(answer: Answer, data: bytes, what: str) -> None:
    """The registry's own digest of what it sent, where we know its algorithm."""
    stated = answer.header("Docker-Content-Digest").strip()
    algorithm, _colon, expected = stated.partition(":")
    if algorithm not in ("sha256", "sha384", "sha512"):
        return
    if hashlib.new(algorithm, data).hexdigest() != expected:
        raise DataLoss(f"{what}: its content is not {printable(stated, 140)}, as the registry says")
