"""Names of transports as skopeo writes them, and what each of them opens.

`docker://REFERENCE`, `store:NAME`, `oci:PATH[:TAG]`, `oci-archive:PATH[:TAG]`,
`docker-archive:PATH[:REFERENCE]`, `dir:PATH`; a name without transport is one of the store.

Source: containers-transports(5).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from onggi.errors import InvalidArgument, Unsupported
from onggi.image.reference import Reference
from onggi.image.settings import ImageSettings
from onggi.image.short_names import full_reference

if TYPE_CHECKING:
    from onggi.image.images import ImageStore
    from onggi.image.registry.credentials import Keychain
    from onggi.image.transports.base import Sink, Source

KNOWN = (
    "docker://REFERENCE, store:NAME, oci:PATH[:TAG], oci-archive:PATH[:TAG],"
    " docker-archive:PATH[:REFERENCE], dir:PATH"
)
_OTHERS = {
    "containers-storage": "podman's own store: copy with skopeo to oci: first",
    "docker-daemon": "Docker's own store: use `docker save`, and docker-archive: here",
    "ostree": "not built",
    "sif": "not built",
    "tarball": "use `onggi image import`",
    "atomic": "not built",
}


class RegistryName(Struct, frozen=True):
    """An image in a registry, as it was typed behind `docker://`."""

    reference: str


class StoreName(Struct, frozen=True):
    """An image of the local store: a reference, a digest or the start of an id."""

    name: str


class LayoutName(Struct, frozen=True):
    """An OCI layout in a directory. `tag` may be empty."""

    path: str
    tag: str = ""


class ArchiveName(Struct, frozen=True):
    """An archive file. `reference`: a tag in an OCI archive, a whole name in a Docker archive."""

    path: str
    form: Literal["oci", "docker"]
    reference: str = ""


class DirectoryName(Struct, frozen=True):
    """A directory with one image, as skopeo's `dir:`."""

    path: str


TransportName = RegistryName | StoreName | LayoutName | ArchiveName | DirectoryName


def parse_transport(text: str) -> TransportName:
    """What a source or destination names.

    Raises:
        InvalidArgument: no such transport, or a part is missing. Unsupported: one of others'.
    """
    transport, colon, rest = text.partition(":")
    if not colon or (parse := _PARSERS.get(transport)) is None:
        return _bare(text, transport if colon else "", rest)
    if not rest.removeprefix("//"):
        raise InvalidArgument(
            f"{text[:200]!r} names nothing behind the colon", hint=f"write {KNOWN}"
        )
    return parse(rest)


def _bare(text: str, transport: str, rest: str) -> StoreName:
    if transport in _OTHERS:
        raise Unsupported(f"transport {transport}: {_OTHERS[transport]}", hint=f"there is {KNOWN}")
    # What nobody would call an image: `foo://…` and `foo:/path`.
    if transport and rest.startswith("/"):
        raise InvalidArgument(f"{text[:200]!r}: no transport {transport!r}", hint=f"write {KNOWN}")
    if not text:
        raise InvalidArgument("an image's name is empty", hint=f"write {KNOWN}")
    return StoreName(text)


def _registry(rest: str) -> RegistryName:
    if not rest.startswith("//"):
        shown = f"docker:{rest}"[:200]
        raise InvalidArgument(f"{shown!r}: two slashes are missing", hint="docker://NAME")
    Reference.parse(rest[2:])
    return RegistryName(rest[2:])


def _layout(rest: str) -> LayoutName:
    path, _, tag = rest.partition(":")
    return LayoutName(_path(path, rest), tag)


def _oci_archive(rest: str) -> ArchiveName:
    path, _, reference = rest.partition(":")
    return ArchiveName(_path(path, rest), "oci", reference)


def _docker_archive(rest: str) -> ArchiveName:
    path, _, reference = rest.partition(":")
    return ArchiveName(_path(path, rest), "docker", reference)


def _path(path: str, rest: str) -> str:
    if not path:
        raise InvalidArgument(f"{rest[:200]!r}: the path is empty", hint=f"write {KNOWN}")
    return path


_PARSERS: dict[str, Callable[[str], TransportName]] = {
    "docker": _registry,
    "store": StoreName,
    "oci": _layout,
    "oci-archive": _oci_archive,
    "docker-archive": _docker_archive,
    "dir": DirectoryName,
}


def open_source(
    name: TransportName,
    images: ImageStore,
    settings: ImageSettings,
    keychain: Keychain | None = None,
) -> Source:
    """The source under a name; the caller closes it. Connects to nothing yet.

    Raises: NotFound: no such file or image. InvalidArgument, FailedPrecondition: as the transport.
    """
    # Each transport is imported when it is used: a registry's client takes 100 ms.
    match name:
        case RegistryName():
            from onggi.image.transports.registry import registry_source  # noqa: PLC0415

            return registry_source(full_reference(name.reference, settings), settings, keychain)
        case StoreName():
            from onggi.image.transports.store import StoreSource  # noqa: PLC0415

            return StoreSource(images, name.name)
        case LayoutName():
            from onggi.image.transports.layout import LayoutSource  # noqa: PLC0415

            return LayoutSource(name.path, name.tag)
        case ArchiveName():
            from onggi.image.transports.archives import ArchiveSource  # noqa: PLC0415

            return ArchiveSource(name.path, name.reference, name.form)
        case DirectoryName():
            from onggi.image.transports.directory import DirectorySource  # noqa: PLC0415

            return DirectorySource(name.path)


def open_sink(
    name: TransportName,
    images: ImageStore,
    settings: ImageSettings,
    keychain: Keychain | None = None,
) -> Sink:
    """The sink under a name; the caller closes it. Raises: as `open_source`."""
    match name:
        case RegistryName():
            from onggi.image.origins import Origins  # noqa: PLC0415
            from onggi.image.transports.registry import registry_sink  # noqa: PLC0415

            reference = full_reference(name.reference, settings)
            return registry_sink(reference, settings, keychain, Origins(images.content.root))
        case StoreName():
            from onggi.image.transports.store import StoreSink  # noqa: PLC0415

            return StoreSink(images, name.name)
        case LayoutName():
            from onggi.image.transports.layout import LayoutSink  # noqa: PLC0415

            return LayoutSink(name.path, name.tag)
        case ArchiveName():
            from onggi.image.transports.archives import ArchiveSink  # noqa: PLC0415

            return ArchiveSink(name.path, name.reference, name.form)
        case DirectoryName():
            from onggi.image.transports.directory import DirectorySink  # noqa: PLC0415

            return DirectorySink(name.path)
