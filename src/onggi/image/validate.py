"""Whether an image in the store is as the specification says, document by document.

Tells where, what, and which section; mends nothing, though layers that were dropped are made again.
Members of an index that were never brought in are not missed.

Source: image-spec image-index.md, manifest.md, config.md, descriptor.md, annotations.md.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import json
import re
from collections.abc import Callable
from typing import Any

from onggi.errors import EngineError, SpecError
from onggi.image.compression import Read
from onggi.image.discard import ensure_blob
from onggi.image.findings import Finding, Findings
from onggi.image.images import ImageStore
from onggi.image.validate_layer import validate_layer
from onggi.specs.image import (
    DOCKER_CONFIG,
    DOCKER_LAYER_GZIP,
    MAX_CONFIG_BYTES,
    MAX_MANIFEST_BYTES,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    REF_NAME,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    digest_of,
    parse_image_config,
    parse_manifest,
)

_EMPTY = "application/vnd.oci.empty.v1+json"
_TYPE_NAME = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"
_MEDIA_TYPE = re.compile(rf"{_TYPE_NAME}/{_TYPE_NAME}")
_REF_COMPONENT = r"[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*"
_REF_NAME = re.compile(rf"{_REF_COMPONENT}(?:/{_REF_COMPONENT})*")
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE
)
_PORT = re.compile(r"[0-9]{1,5}(?:-[0-9]{1,5})?(?:/(?:tcp|udp|sctp))?")
_ARCHITECTURES = frozenset(
    "386 amd64 arm arm64 loong64 mips mips64 mips64le mipsle ppc64 ppc64le riscv64 s390x wasm"
    " unknown".split()
)
_SYSTEMS = frozenset(
    "aix android darwin dragonfly freebsd illumos ios js linux netbsd openbsd plan9 solaris wasip1"
    " windows unknown".split()
)
_PREDEFINED = "org.opencontainers.image."
_KNOWN = frozenset(
    "created authors url documentation source version revision vendor licenses ref.name title"
    " description base.digest base.name".split()
)
_MAGIC = {
    OCI_LAYER_GZIP: b"\x1f\x8b",
    DOCKER_LAYER_GZIP: b"\x1f\x8b",
    OCI_LAYER_ZSTD: b"\x28\xb5\x2f\xfd",
}
_LAYERS = frozenset((*_MAGIC, OCI_LAYER, "application/vnd.docker.image.rootfs.diff.tar"))


def validate(images: ImageStore, target: Descriptor) -> list[Finding]:
    """Check a manifest or an index and all it leads to; layers are read to their end.

    At most about a thousand findings. An empty answer: the image is as it should be.
    """
    with images.lease():
        checks = _Validation(images)
        checks.descriptor(target, "$")
        checks.document(target, "$")
        return checks.findings.list()


class _Validation:
    def __init__(self, images: ImageStore) -> None:
        self._images = images
        self._content = images.content
        self.findings = Findings()
        self._done: set[str] = set()

    # Content.

    def _read(self, descriptor: Descriptor, maximum_bytes: int, place: str) -> bytes | None:
        try:
            return self._content.read(descriptor.digest, maximum_bytes, descriptor.size)
        except EngineError as error:
            self.findings.error(place, error.message, "descriptor.md#properties")
            return None

    def _parsed(self, data: bytes, place: str, section: str) -> dict[str, Any] | None:
        def no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            found = dict(pairs)
            if len(found) != len(pairs):
                self.findings.warning(place, "a name is there twice in one object", section)
            return found

        try:
            document = json.loads(data, object_pairs_hook=no_doubles)
        except (ValueError, RecursionError):
            self.findings.error(place, "not valid JSON", section)
            return None
        if not isinstance(document, dict):
            self.findings.error(place, "not an object", section)
            return None
        return document

    # Documents.

    def document(self, target: Descriptor, place: str) -> None:
        """A manifest or an index, each once."""
        if target.digest in self._done:
            return
        self._done.add(target.digest)
        data = self._read(target, MAX_MANIFEST_BYTES, place)
        if data is None:
            return
        raw = self._parsed(data, place, "manifest.md")
        try:
            document = parse_manifest(data, target.media_type)
        except SpecError as error:
            self._spec_error(error, place, "manifest.md")
            return
        if raw is None:
            return
        section = "image-index.md" if isinstance(document, Index) else "manifest.md"
        if "mediaType" not in raw:
            self.findings.warning(f"{place}.mediaType", "should be there", section)
        self._annotations(raw.get("annotations"), f"{place}.annotations")
        if isinstance(document, Index):
            self._index(document, raw, place)
        else:
            self._manifest(document, raw, place)

    def _spec_error(self, error: SpecError, place: str, section: str) -> None:
        message = error.message.partition(": ")[2].removesuffix(f" [{error.section}]")
        where = place + error.path.removeprefix("$")
        self.findings.error(where, message, error.section or section)

    def _index(self, index: Index, raw: dict[str, Any], place: str) -> None:
        for number, (member, fields) in enumerate(
            zip(index.manifests, raw["manifests"], strict=False)
        ):
            where = f"{place}.manifests[{number}]"
            self.descriptor(member, where, fields)
            if member.platform is not None:
                platform = member.platform
                self._platform(platform.os, platform.architecture, f"{where}.platform")
            if self._content.size_bytes(member.digest) is not None:
                self.document(member, f"{where} {member.digest[:19]} $")

    def _manifest(self, manifest: Manifest, raw: dict[str, Any], place: str) -> None:
        self.descriptor(manifest.config, f"{place}.config", raw["config"])
        for number, (layer, fields) in enumerate(zip(manifest.layers, raw["layers"], strict=False)):
            self.descriptor(layer, f"{place}.layers[{number}]", fields)
        if manifest.subject is not None:
            self.descriptor(manifest.subject, f"{place}.subject", raw["subject"])
        if not manifest.layers:
            self.findings.warning(f"{place}.layers", "should have an entry", "manifest.md")
        if manifest.config.media_type == _EMPTY and not manifest.artifact_type:
            self.findings.error(
                f"{place}.artifactType",
                "must be there when the configuration is the empty one",
                "manifest.md#guidelines-for-artifact-usage",
            )
        if manifest.config.media_type in (OCI_CONFIG, DOCKER_CONFIG):
            self._image(manifest, place)
            return
        for number, layer in enumerate(manifest.layers):
            self._blob(layer, f"{place}.layers[{number}]")

    def _blob(self, blob: Descriptor, place: str) -> None:
        """Content that nobody here can read: only its digest counts."""
        try:
            with self._content.open(blob.digest, blob.size) as reader:
                reader.verify()
        except EngineError as error:
            self.findings.error(place, error.message, "descriptor.md#properties")

    # Images.

    def _image(self, manifest: Manifest, place: str) -> None:
        where = f"{place}.config {manifest.config.digest[:19]} $"
        config = self._config(manifest.config, where)
        diff_ids = config.diff_ids if config is not None else ()
        if config is not None:
            self._check_layer_count(config, len(manifest.layers), where)
        for number, layer in enumerate(manifest.layers):
            diff_id = diff_ids[number] if number < len(diff_ids) else None
            self._layer(layer, f"{place}.layers[{number}]", diff_id)

    def _config(self, descriptor: Descriptor, place: str) -> ImageConfig | None:
        data = self._read(descriptor, MAX_CONFIG_BYTES, place)
        raw = None if data is None else self._parsed(data, place, "config.md")
        if data is None or raw is None:
            return None
        try:
            config = parse_image_config(data)
        except SpecError as error:
            self._spec_error(error, place, "config.md")
            return None
        self._platform(config.os, config.architecture, place)
        if config.rootfs.diff_ids is None:
            self.findings.error(f"{place}.rootfs.diff_ids", "must be there", "config.md#properties")
        self._time(config.created, f"{place}.created", "config.md#properties")
        for number, step in enumerate(config.history or ()):
            self._time(step.created, f"{place}.history[{number}].created", "config.md#properties")
        self._execution(raw.get("config") or {}, f"{place}.config")
        return config

    def _check_layer_count(self, config: ImageConfig, layers: int, place: str) -> None:
        if len(config.diff_ids) != layers:
            self.findings.error(
                f"{place}.rootfs.diff_ids",
                f"{len(config.diff_ids)} diff ids for {layers} layers",
                "config.md#properties",
            )
        steps = sum(not step.empty_layer for step in config.history or ())
        if config.history is not None and steps != layers:
            self.findings.warning(
                f"{place}.history",
                f"{steps} steps are said to have made the {layers} layers",
                "config.md#properties",
            )

    def _execution(self, config: dict[str, Any], place: str) -> None:
        section = "config.md#properties"
        for number, entry in enumerate(config.get("Env") or ()):
            if not entry.partition("=")[0] or "=" not in entry:
                self.findings.error(f"{place}.Env[{number}]", "not NAME=VALUE", section)
        for port in config.get("ExposedPorts") or ():
            if _PORT.fullmatch(port) is None:
                where = f"{place}.ExposedPorts"
                self.findings.error(where, f"{port[:60]!r} is not a port", section)
        for path in (*(config.get("Volumes") or ()), config.get("WorkingDir") or "/"):
            if not path.startswith("/"):
                self.findings.warning(place, f"{path[:200]!r} is not an absolute path", section)
        self._annotations(config.get("Labels"), f"{place}.Labels")

    def _layer(self, layer: Descriptor, place: str, diff_id: str | None) -> None:
        if layer.media_type not in _LAYERS:
            self._layer_type(layer, place)
            self._blob(layer, place)
            return
        try:
            ensure_blob(self._images, layer.digest)
            with self._content.open(layer.digest, layer.size) as reader:
                read = self._checked_magic(layer, reader.read, place)
                validate_layer(read, place, diff_id, self.findings)
                reader.verify()
        except EngineError as error:
            self.findings.error(place, error.message, "descriptor.md#properties")

    def _layer_type(self, layer: Descriptor, place: str) -> None:
        where, section = f"{place}.mediaType", "layer.md"
        if "nondistributable" in layer.media_type or "foreign" in layer.media_type:
            section = "layer.md#non-distributable-layers"
            self.findings.warning(where, "non-distributable layers are deprecated", section)
        else:
            self.findings.error(where, f"{layer.media_type[:120]!r} is no layer", section)

    def _checked_magic(self, layer: Descriptor, read: Read, place: str) -> Read:
        """Compare the first bytes with the media type; answers a reader that has them again."""
        head = read(4)
        magic = _MAGIC.get(layer.media_type)
        others = tuple(_MAGIC.values())
        if head.startswith(others) if magic is None else not head.startswith(magic):
            self.findings.error(
                f"{place}.mediaType",
                f"the content is not compressed as {layer.media_type} says",
                "layer.md#distributable-format",
            )
        kept = [head] if head else []
        return lambda size: kept.pop() if kept else read(size)

    # Parts of documents.

    def descriptor(
        self, descriptor: Descriptor, place: str, raw: dict[str, Any] | None = None
    ) -> None:
        """A descriptor's own fields."""
        if _MEDIA_TYPE.fullmatch(descriptor.media_type) is None:
            message = f"{descriptor.media_type[:120]!r} is no media type"
            self.findings.error(f"{place}.mediaType", message, "descriptor.md#properties")
        for url in descriptor.urls or ():
            if not url.startswith(("http://", "https://")):
                self.findings.warning(
                    f"{place}.urls", "should be http or https", "descriptor.md#properties"
                )
        raw = raw or {}
        self._annotations(raw.get("annotations"), f"{place}.annotations")
        if "data" in raw:
            self._embedded(descriptor, raw["data"], f"{place}.data")

    def _embedded(self, descriptor: Descriptor, data: object, place: str) -> None:
        try:
            content = base64.b64decode(data if isinstance(data, str) else "?", validate=True)
        except (binascii.Error, ValueError):
            content = None
        if content is None or digest_of(content) != descriptor.digest:
            self.findings.error(place, "is not the content", "descriptor.md#embedded-content")

    def _annotations(self, annotations: object, place: str) -> None:
        section = "annotations.md#rules"
        if not isinstance(annotations, dict):
            return
        for key, value in annotations.items():
            if not key:
                self.findings.error(place, "an empty key", section)
            if key.startswith(_PREDEFINED) and key.removeprefix(_PREDEFINED) not in _KNOWN:
                self.findings.warning(f"{place}.{key[:100]}", "the prefix is reserved", section)
            section_of = "annotations.md#pre-defined-annotation-keys"
            if key == f"{_PREDEFINED}created":
                self._time(value, f"{place}.{key}", section_of)
            if key == REF_NAME and isinstance(value, str) and not _REF_NAME.fullmatch(value):
                self.findings.warning(f"{place}.{key}", "not in the grammar", section_of)

    def _platform(self, system: str, architecture: str, place: str) -> None:
        checks: tuple[tuple[str, str, Callable[[str], bool]], ...] = (
            ("os", system, _SYSTEMS.__contains__),
            ("architecture", architecture, _ARCHITECTURES.__contains__),
        )
        for name, value, known in checks:
            if not value:
                self.findings.error(f"{place}.{name}", "must not be empty", "config.md#properties")
            elif not known(value):
                message = f"{value[:60]!r} is none of Go's names"
                self.findings.warning(f"{place}.{name}", message, "config.md#properties")

    def _time(self, text: object, place: str, section: str) -> None:
        if text is None:
            return
        match = _TIME.fullmatch(text) if isinstance(text, str) else None
        try:
            if match is None:
                raise ValueError
            datetime.datetime.fromisoformat(match[1])
        except ValueError:
            self.findings.error(place, "not a time as RFC 3339 writes it", section)
