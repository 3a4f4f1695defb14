"""Image references as people type them: `debian`, `debian:12`, `host:5000/a/b:tag@sha256:…`.

Pure text. Which registry and namespace an unqualified name means is data (`Defaults`).

Source: the grammar of distribution's reference package; docker-pull(1).
"""

from __future__ import annotations

import re

from msgspec import Struct

from onggi.errors import InvalidArgument

MAX_NAME_CHARS = 255

_DOMAIN_PART = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(
    rf"(?:{_DOMAIN_PART}(?:\.{_DOMAIN_PART})*|\[[a-fA-F0-9:]+\])(?::[0-9]{{1,5}})?", re.ASCII
)
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_HEX_64 = re.compile(r"[0-9a-f]{64}", re.ASCII)


class Defaults(Struct, frozen=True):
    """What a name without a registry means, as Docker's users expect it."""

    registry: str = "docker.io"
    namespace: str = "library"
    tag: str = "latest"
    aliases: tuple[tuple[str, str], ...] = (("index.docker.io", "docker.io"),)


DEFAULTS = Defaults()


class Reference(Struct, frozen=True):
    """A name of an image. `tag` and `digest` may both be missing: then the default tag is meant."""

    registry: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str, defaults: Defaults = DEFAULTS) -> Reference:
        """Read a reference.

        Raises:
            InvalidArgument: not a reference; says which part.
        """
        rest, at, digest = text.partition("@")
        if at and _DIGEST.fullmatch(digest) is None:
            raise InvalidArgument(f"image reference {_shown(text)}: the digest is not sha256:<hex>")
        if _HEX_64.fullmatch(rest):
            raise InvalidArgument(f"image reference {_shown(text)} is an id, not a name")
        name, tag = _split_tag(rest)
        if tag is not None and _TAG.fullmatch(tag) is None:
            raise InvalidArgument(f"image reference {_shown(text)}: {_shown(tag)} is not a tag")
        registry, repository = _split_registry(name, defaults)
        _check_name(text, registry, repository)
        return cls(registry, repository, tag, digest if at else None)

    @property
    def name(self) -> str:
        """Registry and repository."""
        return f"{self.registry}/{self.repository}"

    @property
    def canonical(self) -> str:
        """The whole name; without tag and digest it gets the tag `latest`."""
        tag = self.tag if self.tag or self.digest else DEFAULTS.tag
        return self.name + (f":{tag}" if tag else "") + (f"@{self.digest}" if self.digest else "")

    def familiar(self, defaults: Defaults = DEFAULTS) -> str:
        """The shortest text that `parse` reads as this reference."""
        name = self.name
        if self.registry == defaults.registry:
            name = self.repository.removeprefix(f"{defaults.namespace}/")
            if _split_registry(name, defaults) != (self.registry, self.repository):
                name = self.repository
            if _split_registry(name, defaults) != (self.registry, self.repository):
                name = self.name
        text = name + (f":{self.tag}" if self.tag else "")
        if self.digest:
            return f"{text}@{self.digest}"
        return self.name if _HEX_64.fullmatch(text) else text

    def with_default_tag(self, defaults: Defaults = DEFAULTS) -> Reference:
        """The same reference with a tag if it has neither tag nor digest."""
        if self.tag or self.digest:
            return self
        return Reference(self.registry, self.repository, defaults.tag, None)


def _split_tag(text: str) -> tuple[str, str | None]:
    """A colon behind the last slash starts the tag; one before it is a registry's port."""
    colon = text.rfind(":")
    if colon > text.rfind("/"):
        return text[:colon], text[colon + 1 :]
    return text, None


def _split_registry(name: str, defaults: Defaults) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    is_registry = bool(slash) and (
        "." in first or ":" in first or first == "localhost" or first != first.lower()
    )
    registry, repository = (first, rest) if is_registry else (defaults.registry, name)
    registry = dict(defaults.aliases).get(registry, registry)
    if registry == defaults.registry and "/" not in repository and defaults.namespace:
        repository = f"{defaults.namespace}/{repository}"
    return registry, repository


def _check_name(text: str, registry: str, repository: str) -> None:
    if not text:
        raise InvalidArgument("the image's name is empty", hint="name one: debian:bookworm")
    if _DOMAIN.fullmatch(registry) is None:
        raise InvalidArgument(f"image reference {_shown(text)}: {_shown(registry)} is no registry")
    if _REPOSITORY.fullmatch(repository) is None:
        hint = "repository names are lower case" if repository != repository.lower() else None
        raise InvalidArgument(
            f"image reference {_shown(text)}: {_shown(repository)} is not a repository name",
            hint=hint,
        )
    if len(registry) + 1 + len(repository) > MAX_NAME_CHARS:
        raise InvalidArgument(
            f"image reference {_shown(text)}: the name is longer than {MAX_NAME_CHARS} characters"
        )


def _shown(text: str) -> str:
    return repr(text if len(text) <= 100 else text[:97] + "...")
