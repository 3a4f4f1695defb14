"""Which names the server shows, and what a client may write for them. Pure text.

The rule. An image of the store called REGISTRY/REPOSITORY:TAG is served

1. as REPOSITORY:TAG, so `onggi pull HOST:PORT/library/debian:12` gives `docker.io/library/debian`;
2. as REGISTRY/REPOSITORY:TAG, with `_` for the `:` of a port (`quay.io/x/y`, `localhost_5000/x`);
3. without the namespace too, if it is of the default registry: `debian`.

When two images would have one name: what was pushed to this server (its own registry name) comes
first, then form 2, then the default registry, then the others in the store's order. Images
without a name are not served. An IPv6 address as registry has no form 2.

Source: distribution-spec v1.1 spec.md#pulling-manifests for the grammar.
"""

from __future__ import annotations

import re

from msgspec import Struct

from onggi.image.reference import Defaults, Reference

MAX_NAME_CHARS = 255
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_HOST = re.compile(_COMPONENT, re.ASCII)
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


def is_repository(text: str) -> bool:
    """Whether it is a repository name by the specification, of at most 255 characters."""
    return len(text) <= MAX_NAME_CHARS and _REPOSITORY.fullmatch(text) is not None


def is_tag(text: str) -> bool:
    """Whether it is a tag by the specification."""
    return _TAG.fullmatch(text) is not None


def is_digest(text: str) -> bool:
    """Whether it is a sha256 digest; others are not stored here."""
    return _DIGEST.fullmatch(text) is not None


class Alias(Struct, frozen=True, order=True):
    """One way to write a stored name; a lower `rank` wins."""

    rank: int
    repository: str


def aliases(reference: Reference, own: str, defaults: Defaults) -> list[Alias]:
    """Every repository path under which an image of this name is served, the best known first."""
    registry, repository = reference.registry, reference.repository
    is_default = registry == defaults.registry
    found = [Alias(0 if registry == own else 2 if is_default else 4, repository)]
    host = registry.lower().replace(":", "_")
    if _HOST.fullmatch(host):
        found.append(Alias(1, f"{host}/{repository}"))
    short = repository.removeprefix(f"{defaults.namespace}/")
    if is_default and defaults.namespace and short != repository and "/" not in short:
        found.append(Alias(3, short))
    return [alias for alias in found if is_repository(alias.repository)]
