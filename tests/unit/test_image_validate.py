"""Validation: an image as it should be has no finding; each fault has its own, with its place."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from image_tars import END, member
from onggi.image.findings import MAX_FINDINGS, Finding
from onggi.image.images import ImageStore
from onggi.image.validate import validate
from onggi.specs.image import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Descriptor,
    Platform,
    digest_of,
)

LAYER = member(b"./", b"5", mode=0o755) + member(b"etc/", b"5") + member(b"etc/x", data=b"x") + END
Change = Callable[[dict[str, Any]], object]


def nothing(_: dict[str, Any]) -> None:
    """The document stays as it is."""


@pytest.fixture
def images(tmp_path: Path) -> ImageStore:
    return ImageStore(str(tmp_path / "root"), platform=Platform("amd64", "linux"))


def put(images: ImageStore, data: bytes, media_type: str) -> dict[str, Any]:
    blob = images.content.put(data)
    return {"mediaType": media_type, "digest": blob.digest, "size": blob.size_bytes}


def described(fields: dict[str, Any]) -> Descriptor:
    return Descriptor(fields["mediaType"], fields["digest"], fields["size"])


def made(
    images: ImageStore,
    *,
    layer: bytes = LAYER,
    config: Change = nothing,
    manifest: Change = nothing,
) -> Descriptor:
    """A good image, but for what the arguments change in its documents."""
    packed = gzip.compress(layer, mtime=0)
    document: dict[str, Any] = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2024-02-29T12:00:00.5Z",
        "config": {"Env": ["PATH=/bin"], "ExposedPorts": {"80/tcp": {}}, "WorkingDir": "/srv"},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]},
        "history": [{"created_by": "x"}, {"created_by": "y", "empty_layer": True}],
    }
    config(document)
    top: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": put(images, json.dumps(document).encode(), OCI_CONFIG),
        "layers": [put(images, packed, OCI_LAYER_GZIP)],
        "annotations": {"org.opencontainers.image.created": "2024-01-01T00:00:00+01:00"},
    }
    manifest(top)
    return described(put(images, json.dumps(top).encode(), OCI_MANIFEST))


def test_a_good_image_has_no_finding(images: ImageStore) -> None:
    target = made(images)
    assert validate(images, target) == []
    entry = {"mediaType": OCI_MANIFEST, "digest": target.digest, "size": target.size}
    away = {"mediaType": OCI_MANIFEST, "digest": digest_of(b"away"), "size": 4}
    index = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [entry | {"platform": {"os": "linux", "architecture": "amd64"}}, away],
    }
    assert validate(images, described(put(images, json.dumps(index).encode(), OCI_INDEX))) == []


def the_only(found: list[Finding]) -> Finding:
    assert len(found) == 1, found
    return found[0]


CONFIGS: dict[str, tuple[Change, str, str]] = {
    "no os": (lambda c: c.pop("os"), "error", "$"),
    "empty os": (lambda c: c.update(os=""), "error", "$.os"),
    "odd os": (lambda c: c.update(os="Linux"), "warning", "$.os"),
    "odd cpu": (lambda c: c.update(architecture="x86_64"), "warning", "$.architecture"),
    "too few diff ids": (
        lambda c: c["rootfs"].update(diff_ids=[]),
        "error",
        "$.rootfs.diff_ids",
    ),
    "rootfs of another type": (
        lambda c: c["rootfs"].update(type="zip"),
        "error",
        "$.rootfs.type",
    ),
    "history": (lambda c: c["history"].pop(0), "warning", "$.history"),
    "created": (lambda c: c.update(created="yesterday"), "error", "$.created"),
    "no such day": (lambda c: c.update(created="2023-02-29T00:00:00Z"), "error", "$.created"),
    "a step's time": (
        lambda c: c["history"][1].update(created="2020"),
        "error",
        "$.history[1].created",
    ),
    "environment": (lambda c: c["config"].update(Env=["A=1", "B"]), "error", "$.config.Env[1]"),
    "port": (
        lambda c: c["config"].update(ExposedPorts={"http": {}}),
        "error",
        "$.config.ExposedPorts",
    ),
    "directory": (lambda c: c["config"].update(WorkingDir="srv"), "warning", "$.config"),
    "type": (lambda c: c["config"].update(User=7), "error", "$.config.User"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations(images: ImageStore, name: str) -> None:
    change, severity, place = CONFIGS[name]
    found = the_only(validate(images, made(images, config=change)))
    assert found.severity == severity
    assert found.section.startswith("config.md")
    assert found.place.startswith("$.config sha256:")
    assert found.place.rpartition(" ")[2] == place


MANIFESTS: dict[str, tuple[Change, str, str, str]] = {
    "no media type": (lambda m: m.pop("mediaType"), "warning", "$.mediaType", "manifest.md"),
    "version": (lambda m: m.update(schemaVersion=1), "error", "$.schemaVersion", "manifest.md"),
    "both shapes": (lambda m: m.update(manifests=[]), "error", "$", "image-index.md"),
    "size": (
        lambda m: m["layers"][0].update(size=1),
        "error",
        "$.layers[0]",
        "descriptor.md#properties",
    ),
    "negative size": (
        lambda m: m["layers"][0].update(size=-1),
        "error",
        "$.layers[0].size",
        "manifest.md",
    ),
    "digest": (
        lambda m: m["layers"][0].update(digest="sha256:../x"),
        "error",
        "$.layers[0].digest",
        "manifest.md",
    ),
    "missing": (
        lambda m: m["layers"][0].update(digest=digest_of(b"")),
        "error",
        "$.layers[0]",
        "descriptor.md#properties",
    ),
    "compression": (
        lambda m: m["layers"][0].update(mediaType=OCI_LAYER),
        "error",
        "$.layers[0].mediaType",
        "layer.md#distributable-format",
    ),
    "layer type": (
        lambda m: m["layers"][0].update(mediaType="text/plain"),
        "error",
        "$.layers[0].mediaType",
        "layer.md",
    ),
    "foreign": (
        lambda m: m["layers"][0].update(
            mediaType="application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        ),
        "warning",
        "$.layers[0].mediaType",
        "layer.md#non-distributable-layers",
    ),
    "url": (
        lambda m: m["layers"][0].update(urls=["file:///etc/passwd"]),
        "warning",
        "$.layers[0].urls",
        "descriptor.md#properties",
    ),
    "data": (
        lambda m: m["layers"][0].update(data=base64.b64encode(b"else").decode()),
        "error",
        "$.layers[0].data",
        "descriptor.md#embedded-content",
    ),
    "annotation": (
        lambda m: m.update(annotations={"org.opencontainers.image.mine": "x"}),
        "warning",
        "$.annotations.org.opencontainers.image.mine",
        "annotations.md#rules",
    ),
    "empty key": (
        lambda m: m.update(annotations={"": "x"}),
        "error",
        "$.annotations",
        "annotations.md#rules",
    ),
    "annotated time": (
        lambda m: m.update(annotations={"org.opencontainers.image.created": "now"}),
        "error",
        "$.annotations.org.opencontainers.image.created",
        "annotations.md#pre-defined-annotation-keys",
    ),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests(images: ImageStore, name: str) -> None:
    change, severity, place, section = MANIFESTS[name]
    found = the_only(validate(images, made(images, manifest=change)))
    assert (found.severity, found.place, found.section) == (severity, place, section)
    assert found.message


def test_embedded_content_may_be_right(images: ImageStore) -> None:
    def embed(manifest: dict[str, Any]) -> None:
        config = manifest["config"]
        data = images.content.read(config["digest"], 1 << 20)
        config["data"] = base64.b64encode(data).decode()

    assert validate(images, made(images, manifest=embed)) == []


@pytest.mark.parametrize("data", [b"{", b"[]", b"[" * 100_000, b'{"schemaVersion":"\xff"}'])
def test_no_document(images: ImageStore, data: bytes) -> None:
    found = validate(images, described(put(images, data, OCI_MANIFEST)))
    assert {finding.severity for finding in found} == {"error"}


def test_a_name_twice_in_a_document(images: ImageStore) -> None:
    target = made(images)
    data = images.content.read(target.digest, 1 << 20)
    doubled = data.replace(b'{"schemaVersion": 2,', b'{"schemaVersion": 2, "schemaVersion": 2,')
    assert doubled != data
    found = the_only(validate(images, described(put(images, doubled, OCI_MANIFEST))))
    assert "twice" in found.message


def test_an_artifact(images: ImageStore) -> None:
    empty = "application/vnd.oci.empty.v1+json"

    def artifact(manifest: dict[str, Any]) -> None:
        manifest.update(config=put(images, b"{}", empty), layers=[put(images, b"x", "text/plain")])

    found = the_only(validate(images, made(images, manifest=artifact)))
    assert found.place == "$.artifactType"

    def typed(manifest: dict[str, Any]) -> None:
        artifact(manifest)
        manifest["artifactType"] = "text/plain"

    assert validate(images, made(images, manifest=typed)) == []


def test_damage_is_found(images: ImageStore) -> None:
    target = made(images)
    (layer,) = json.loads(images.content.read(target.digest, 1 << 20))["layers"]
    with open(images.content.path(layer["digest"]), "r+b") as file:
        file.seek(4)
        file.write(b"\1")  # the gzip header's time: the same plain tar
    found = the_only(validate(images, target))
    assert (found.severity, found.place) == ("error", "$.layers[0]")


LAYERS: dict[str, tuple[bytes, str, str]] = {
    "absolute": (member(b"/etc/x"), "error", "'/etc/x'"),
    "dots": (member(b"a/../../x"), "error", "'a/../../x'"),
    "twice": (member(b"a") * 2, "warning", "'a'"),
    "twice in other words": (member(b"a") + member(b"./a"), "warning", "'./a'"),
    "below a symlink": (
        member(b"a", b"2", link=b"/etc") + member(b"a/passwd"),
        "error",
        "'a/passwd'",
    ),
    "deep below a symlink": (
        member(b"a", b"2", link=b"/etc") + member(b"a/b/c/d"),
        "error",
        "'a/b/c/d'",
    ),
    "hard link to nothing": (member(b"a", b"1", link=b"b"), "error", "'a'"),
    "hard link outside": (member(b"a", b"1", link=b"/etc/passwd"), "error", "'a', its target"),
    "whiteout with content": (member(b".wh.a", data=b"x"), "error", "'.wh.a'"),
    "whiteout of nothing": (member(b"a/.wh."), "error", "'a/.wh.'"),
    "whiteout that is a directory": (member(b".wh.a", b"5"), "error", "'.wh.a/'"),
    "whiteout of the same layer's": (member(b"a") + member(b".wh.a"), "warning", "'.wh.a'"),
    "mark of aufs": (member(b".wh..wh.plnk"), "warning", "'.wh..wh.plnk'"),
    "attribute of overlayfs": (
        member(b"a", xattrs={"trusted.overlay.opaque": b"y"}),
        "warning",
        "'a'",
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(images: ImageStore, name: str) -> None:
    tar, severity, entry = LAYERS[name]
    found = the_only(validate(images, made(images, layer=tar + END)))
    assert (found.severity, found.place) == (severity, f"$.layers[0]: {entry}")
    assert found.section.startswith("layer.md#")


def test_a_good_layer_with_everything(images: ImageStore) -> None:
    layer = (
        member(b"./", b"5")
        + member(b"./a/", b"5")
        + member(b"./", b"5")
        + member(b"a/.wh..wh..opq")
        + member(b"a/.wh.b")
        + member(b"a/x", data=b"x", xattrs={"user.a": b"1"})
        + member(b"a/y", b"1", link=b"./a/x")
        + member(b"a/z", b"2", link=b"../../..")
        + member(b"a/null", b"3", major=1, minor=3)
        + member(b"a/fifo", b"6")
        + END
    )
    assert validate(images, made(images, layer=layer)) == []


@pytest.mark.parametrize("layer", [b"x" * 700, member(b"a", data=b"x" * 600)[:700]])
def test_no_tar(images: ImageStore, layer: bytes) -> None:
    found = the_only(validate(images, made(images, layer=layer)))
    assert (found.severity, found.place) == ("error", "$.layers[0]")


def test_another_diff_id(images: ImageStore) -> None:
    other = digest_of(b"other")
    change: Change = lambda c: c["rootfs"].update(diff_ids=[other])  # noqa: E731
    found = the_only(validate(images, made(images, config=change)))
    assert found.section == "config.md#layer-diffid"
    assert other in found.message


def test_findings_are_bounded(images: ImageStore) -> None:
    layer = b"".join(member(b"/%d" % number) for number in range(MAX_FINDINGS + 200)) + END
    found = validate(images, made(images, layer=layer))
    assert len(found) == MAX_FINDINGS + 1
    assert "more than" in found[-1].message
