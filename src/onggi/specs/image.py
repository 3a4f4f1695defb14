"""OCI image documents (and Docker's v2 schema 2 twins) as frozen types, and their parsers.

Source: image-spec v1.1 descriptor.md, manifest.md, image-index.md, config.md, image-layout.md.
Unknown fields are ignored. Nothing here knows where a document is stored or what a layer holds.
A digest that went through these parsers is `sha256:` and 64 lower-case hex digits: safe in a path.
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct, field

from onggi.errors import SpecError
from onggi.specs.runtime import located

MAX_MANIFEST_BYTES = 4 * 1024 * 1024
MAX_CONFIG_BYTES = 16 * 1024 * 1024
MAX_LAYERS = 500

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = OCI_LAYER + "+gzip"
OCI_LAYER_ZSTD = OCI_LAYER + "+zstd"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_MANIFEST_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"

MANIFEST_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_MANIFEST_LIST})
CONFIG_TYPES = frozenset({OCI_CONFIG, DOCKER_CONFIG})

REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

Digest = Annotated[str, Meta(pattern=r"\Asha256:[0-9a-f]{64}\Z")]
Size = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class _Document(Struct, frozen=True, rename="camel", omit_defaults=True):
    """Base of the types with camelCase names."""


class Platform(_Document, frozen=True):
    """Go's names for an operating system and a CPU (image-index.md#platform)."""

    architecture: str
    os: str
    variant: str | None = None
    os_version: str | None = field(name="os.version", default=None)

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Descriptor(_Document, frozen=True):
    """A typed, sized, verifiable pointer to content (descriptor.md)."""

    media_type: str
    digest: Digest
    size: Size
    urls: tuple[str, ...] | None = None
    annotations: dict[str, str] | None = None
    platform: Platform | None = None
    artifact_type: str | None = None


class Manifest(_Document, frozen=True):
    """One image for one platform (manifest.md)."""

    schema_version: int
    config: Descriptor
    layers: tuple[Descriptor, ...]
    media_type: str = ""
    artifact_type: str | None = None
    subject: Descriptor | None = None
    annotations: dict[str, str] | None = None


class Index(_Document, frozen=True):
    """A list of manifests, one for each platform; also a layout's `index.json`."""

    schema_version: int
    manifests: tuple[Descriptor, ...]
    media_type: str = ""
    annotations: dict[str, str] | None = None


class Layout(_Document, frozen=True):
    """The file `oci-layout` (image-layout.md)."""

    image_layout_version: str


class Healthcheck(Struct, frozen=True, rename="pascal", omit_defaults=True):
    """Docker's extension. Durations in nanoseconds, 0 is the default."""

    test: tuple[str, ...] | None = None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class ContainerConfig(Struct, frozen=True, rename="pascal", omit_defaults=True):
    """How to run the image (config.md#properties, `config`). None: the image does not say."""

    user: str = ""
    exposed_ports: dict[str, dict[str, str]] | None = None
    env: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    volumes: dict[str, dict[str, str]] | None = None
    working_dir: str = ""
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    stop_timeout: int | None = None
    args_escaped: bool = False
    healthcheck: Healthcheck | None = None
    shell: tuple[str, ...] | None = None
    on_build: tuple[str, ...] | None = None


class RootFs(Struct, frozen=True):
    """`diff_ids`: digests of the uncompressed layers, lowest first."""

    type: str = "layers"
    diff_ids: tuple[Digest, ...] | None = ()


class History(Struct, frozen=True, omit_defaults=True):
    """One build step; `created` is RFC 3339."""

    created: str | None = None
    created_by: str | None = None
    author: str | None = None
    comment: str | None = None
    empty_layer: bool = False


class ImageConfig(Struct, frozen=True, omit_defaults=True):
    """An image's configuration; its digest is the image's id (config.md)."""

    architecture: str
    os: str
    rootfs: RootFs
    config: ContainerConfig | None = None
    created: str | None = None
    author: str | None = None
    variant: str | None = None
    os_version: str | None = field(name="os.version", default=None)
    history: tuple[History, ...] | None = None

    @property
    def diff_ids(self) -> tuple[str, ...]:
        return self.rootfs.diff_ids or ()

    @property
    def platform(self) -> Platform:
        return Platform(self.architecture, self.os, self.variant, self.os_version)


_ABSENT = msgspec.Raw(b"null")


def _is_there(value: msgspec.Raw) -> bool:
    """Whether a field is in the document with another value than null."""
    return bytes(value) != b"null"


class _Kind(_Document, frozen=True):
    """What tells a manifest from an index before either is believed."""

    schema_version: int | None = None
    media_type: str | None = None
    manifests: msgspec.Raw = _ABSENT
    layers: msgspec.Raw = _ABSENT
    config: msgspec.Raw = _ABSENT
    fs_layers: msgspec.Raw = _ABSENT


_T = TypeVar("_T")
_KIND = msgspec.json.Decoder(_Kind)
_MANIFEST = msgspec.json.Decoder(Manifest)
_INDEX = msgspec.json.Decoder(Index)
_CONFIG = msgspec.json.Decoder(ImageConfig)
_ENCODER = msgspec.json.Encoder(order="deterministic")


def check_digest(text: str) -> str:
    """`text` itself, when it is a sha256 digest in canonical form.

    Raises:
        SpecError: anything else, other algorithms included.
    Source: image-spec descriptor.md#digests.
    """
    if _DIGEST.fullmatch(text) is None:
        raise SpecError("$", f"{text[:80]!r} is not a sha256 digest", section="descriptor.md")
    return text


def digest_of(data: bytes) -> str:
    """The sha256 digest of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def parse_manifest(data: bytes, media_type: str | None = None) -> Manifest | Index:
    """Read a manifest or an index, whichever it is; `media_type`: what it was announced as.

    A document that could be read as either is refused (CVE-2021-41190).

    Raises:
        SpecError: not JSON, wrong types, larger than 4 MiB, ambiguous, or of another media type.
    Source: image-spec manifest.md, image-index.md.
    """
    kind = _decode(_KIND, data, MAX_MANIFEST_BYTES, "manifest.md")
    if kind.schema_version == 1 or _is_there(kind.fs_layers):
        raise SpecError("$.schemaVersion", "Docker schema 1 images are not supported")
    if kind.schema_version != 2:
        raise SpecError("$.schemaVersion", "must be 2", section="manifest.md")
    is_index = _is_there(kind.manifests)
    if is_index and (_is_there(kind.layers) or _is_there(kind.config)):
        raise SpecError("$", "both an index and a manifest", section="image-index.md")
    _check_media_type(kind.media_type, media_type, is_index)
    if is_index:
        return _decode(_INDEX, data, MAX_MANIFEST_BYTES, "image-index.md")
    manifest = _decode(_MANIFEST, data, MAX_MANIFEST_BYTES, "manifest.md")
    if len(manifest.layers) > MAX_LAYERS:
        raise SpecError("$.layers", f"{len(manifest.layers)} layers, more than {MAX_LAYERS}")
    return manifest


def parse_index(data: bytes) -> Index:
    """Read an index, a layout's `index.json` for instance. Raises: SpecError."""
    document = parse_manifest(data)
    if not isinstance(document, Index):
        raise SpecError("$", "a manifest where an index is due", section="image-index.md")
    return document


def parse_image_config(data: bytes) -> ImageConfig:
    """Read an image's configuration. Raises: SpecError."""
    config = _decode(_CONFIG, data, MAX_CONFIG_BYTES, "config.md")
    if config.rootfs.type != "layers":
        raise SpecError("$.rootfs.type", "must be 'layers'", section="config.md")
    return config


def encode_document(document: Struct) -> bytes:
    """A document as JSON, the same bytes for equal values."""
    return _ENCODER.encode(document)


def _check_media_type(inside: str | None, announced: str | None, is_index: bool) -> None:
    known = INDEX_TYPES if is_index else MANIFEST_TYPES
    for name, value in (("$.mediaType", inside), ("$", announced)):
        if value and value not in known:
            what = "an index" if is_index else "a manifest"
            raise SpecError(name, f"{what} of media type {value[:120]!r}", section="manifest.md")
    if inside and announced and inside != announced:
        raise SpecError("$.mediaType", f"{inside!r}, but announced as {announced!r}")


def _decode(decoder: msgspec.json.Decoder[_T], data: bytes, maximum_bytes: int, section: str) -> _T:
    if len(data) > maximum_bytes:
        raise SpecError("$", f"document is {len(data)} bytes, more than {maximum_bytes}")
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise located(error, section) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SpecError("$", f"not valid JSON: {str(error).rstrip('.')}") from None
    except RecursionError:
        raise SpecError("$", "nested deeper than any document is") from None
