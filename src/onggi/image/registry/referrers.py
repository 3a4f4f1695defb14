"""What refers to a manifest: by the registry's call, or by the tag that stands in for it.

Source: distribution-spec spec.md#listing-referrers, #referrers-tag-schema.
"""

from __future__ import annotations

import re
from urllib.parse import quote

from onggi.errors import DataLoss, InvalidArgument, NotFound, SpecError
from onggi.image.registry import manifests
from onggi.image.registry.pages import pages
from onggi.image.registry.peer import Peer
from onggi.image.registry.refusals import refusal
from onggi.specs.image import (
    MAX_MANIFEST_BYTES,
    OCI_INDEX,
    Descriptor,
    Index,
    parse_index,
)

MAX_REFERRERS = 100_000
_REFERRERS_TAG = re.compile(r"sha256-[0-9a-f]{64}(?:\.\w+)?", re.ASCII)


def referrers_tag(digest: str) -> str:
    """The tag under which clients keep the list where a registry does not."""
    return digest.replace(":", "-", 1)


def is_referrers_tag(tag: str) -> bool:
    """Whether a tag lists what refers to an image, or is cosign's for one (`sha256-….sig`)."""
    return _REFERRERS_TAG.fullmatch(tag) is not None


def referrers(
    peer: Peer, base: str, scopes: tuple[str, ...], digest: str, artifact_type: str
) -> Index:
    """Every manifest that names `digest` as its subject, those of one type if one is given.

    `base`: the repository's path, with a slash at its end.
    Raises: as `manifests.get`; no referrers are an empty index, not an error.
    """
    found = _by_call(peer, base, scopes, digest, artifact_type)
    listed = _by_tag(peer, base, scopes, digest) if found is None else found
    wanted = [d for d in listed if not artifact_type or d.artifact_type == artifact_type]
    return Index(schema_version=2, media_type=OCI_INDEX, manifests=tuple(wanted))


def _by_call(
    peer: Peer, base: str, scopes: tuple[str, ...], digest: str, artifact_type: str
) -> list[Descriptor] | None:
    """None: the registry has no such call."""
    query = f"?artifactType={quote(artifact_type, safe='')}" if artifact_type else ""
    found: list[Descriptor] = []
    for answer in pages(peer, f"{base}referrers/{digest}{query}", scopes):
        if answer.status in (404, 405) and not found:
            answer.discard()
            return None
        if answer.status != 200:
            raise refusal(answer, f"referrers of {digest}", peer.name)
        found += _parsed(answer.document(MAX_MANIFEST_BYTES), f"referrers of {digest}").manifests
        if len(found) > MAX_REFERRERS:
            raise DataLoss(f"{answer.where}: more than {MAX_REFERRERS} referrers")
    return found


def _by_tag(peer: Peer, base: str, scopes: tuple[str, ...], digest: str) -> tuple[Descriptor, ...]:
    tag = referrers_tag(digest)
    what = f"referrers tag {tag}"
    try:
        _descriptor, data = manifests.get(peer, f"{base}manifests/{tag}", scopes, tag, what)
    except NotFound:
        return ()
    return _parsed(data, what).manifests


def _parsed(data: bytes, what: str) -> Index:
    try:
        return parse_index(data)
    except SpecError as error:
        raise InvalidArgument(f"{what}: {error.message}") from None
