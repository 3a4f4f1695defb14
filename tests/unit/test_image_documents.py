"""Manifests, indexes and configurations, good and hostile."""

from __future__ import annotations

import json
from typing import Any

import pytest

from onggi.errors import SpecError
from onggi.specs.image import (
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Index,
    Manifest,
    check_digest,
    encode_document,
    parse_image_config,
    parse_manifest,
)

DIGEST = "sha256:" + "0" * 64
DESCRIPTOR = {"mediaType": "application/x", "digest": DIGEST, "size": 3}
MANIFEST: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": OCI_MANIFEST,
    "config": DESCRIPTOR,
    "layers": [DESCRIPTOR],
}
INDEX: dict[str, Any] = {"schemaVersion": 2, "manifests": [DESCRIPTOR]}


def parse(document: Any, media_type: str | None = None) -> Manifest | Index:
    return parse_manifest(json.dumps(document).encode(), media_type)


def test_reads_both_kinds_and_ignores_unknown_fields() -> None:
    manifest = parse({**MANIFEST, "future": {"a": 1}}, OCI_MANIFEST)
    assert isinstance(manifest, Manifest)
    assert manifest.layers[0].digest == DIGEST
    assert parse_manifest(encode_document(manifest)) == manifest
    assert isinstance(parse(INDEX), Index)
    assert isinstance(parse({**INDEX, "manifests": []}), Index)
    assert isinstance(parse({**MANIFEST, "mediaType": DOCKER_MANIFEST}), Manifest)


def bad(path: str, document: Any, media_type: str | None = None) -> Any:
    return pytest.param(path, document, media_type, id=f"{path}-{str(document)[:60]}")


@pytest.mark.parametrize(
    ("path", "document", "media_type"),
    [
        bad("$", {**MANIFEST, "manifests": [DESCRIPTOR]}),
        bad("$", {**MANIFEST, "manifests": []}),
        bad("$.schemaVersion", {**MANIFEST, "schemaVersion": 1}),
        bad("$.schemaVersion", {**MANIFEST, "schemaVersion": 3}),
        bad("$.schemaVersion", {"config": DESCRIPTOR, "layers": []}),
        bad("$.schemaVersion", {"schemaVersion": 2, "fsLayers": []}),
        bad("$.mediaType", {**MANIFEST, "mediaType": OCI_INDEX}),
        bad("$.mediaType", {**INDEX, "mediaType": OCI_MANIFEST}),
        bad("$.mediaType", MANIFEST, DOCKER_MANIFEST),
        bad("$", INDEX, OCI_MANIFEST),
        bad(
            "$.layers[0].digest", {**MANIFEST, "layers": [{**DESCRIPTOR, "digest": "sha256:../x"}]}
        ),
        bad(
            "$.layers[0].digest", {**MANIFEST, "layers": [{**DESCRIPTOR, "digest": DIGEST + "\n"}]}
        ),
        bad("$.layers[0].digest", {**MANIFEST, "layers": [{**DESCRIPTOR, "digest": "md5:aa"}]}),
        bad("$.config.size", {**MANIFEST, "config": {**DESCRIPTOR, "size": -1}}),
        bad("$.config.size", {**MANIFEST, "config": {**DESCRIPTOR, "size": 2**64}}),
        bad("$.config.size", {**MANIFEST, "config": {**DESCRIPTOR, "size": 1.5}}),
        bad("$.layers", {**MANIFEST, "layers": [DESCRIPTOR] * 501}),
        bad("$", {"schemaVersion": 2, "layers": []}),
        bad("$", []),
        bad("$", "x"),
    ],
)
def test_refuses_with_the_path(path: str, document: Any, media_type: str | None) -> None:
    with pytest.raises(SpecError) as caught:
        parse(document, media_type)
    assert caught.value.path == path


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 100_000, b" " * (4 << 20) + b"{}"])
def test_refuses_what_is_no_document(data: bytes) -> None:
    with pytest.raises(SpecError):
        parse_manifest(data)


def test_config_as_docker_writes_it() -> None:
    config = parse_image_config(
        json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {
                    "Hostname": "",
                    "User": "",
                    "Env": ["PATH=/bin"],
                    "Cmd": None,
                    "Volumes": None,
                    "ExposedPorts": {"80/tcp": {}},
                    "OnBuild": None,
                    "Labels": {},
                    "Healthcheck": {"Test": ["NONE"], "Interval": 5},
                },
                "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
                "history": None,
            }
        ).encode()
    )
    assert config.config is not None
    assert config.config.cmd is None
    assert config.config.env == ("PATH=/bin",)
    assert config.config.healthcheck is not None
    assert config.config.healthcheck.interval == 5
    assert config.diff_ids == (DIGEST,)
    assert str(config.platform) == "linux/amd64"
    assert parse_image_config(encode_document(config)) == config


def test_config_of_another_kind_is_refused() -> None:
    with pytest.raises(SpecError) as caught:
        parse_image_config(b'{"architecture":"a","os":"o","rootfs":{"type":"x","diff_ids":[]}}')
    assert caught.value.path == "$.rootfs.type"


@pytest.mark.parametrize(
    "text", ["", "sha256:", DIGEST + "\n", DIGEST.upper(), "sha512:" + "0" * 128]
)
def test_only_canonical_digests(text: str) -> None:
    with pytest.raises(SpecError):
        check_digest(text)
