"""The distribution specification's conformance cases, by the names of the official suite.

Each case runs against `onggi registry serve` and, so that the cases themselves are proved, against
Debian's docker-registry. That lacks some of v1.1: those cases (`v11`) are for ours alone.

Source: distribution-spec v1.1 spec.md, conformance/*_test.go.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from faces.registry_peers import (
    Peer,
    docker_registry,
    onggi_registry,
    relative,
    with_digest,
)
from onggi.specs.image import OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST, digest_of

NAME = "conformance/one"
OTHER = "conformance/two"
DUMMY = "sha256:" + "0" * 64
ARTIFACT_A = "application/vnd.nhl.peanut.butter.bagel"
ARTIFACT_B = "application/vnd.nba.strawberry.jam.croissant"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
ANNOTATION = "org.opencontainers.conformance.test"
OCTETS = {"Content-Type": "application/octet-stream"}
ERROR_CODES = set(
    "BLOB_UNKNOWN BLOB_UPLOAD_INVALID BLOB_UPLOAD_UNKNOWN DIGEST_INVALID MANIFEST_BLOB_UNKNOWN"
    " MANIFEST_INVALID MANIFEST_UNKNOWN NAME_INVALID NAME_UNKNOWN SIZE_INVALID UNAUTHORIZED DENIED"
    " UNSUPPORTED TOOMANYREQUESTS TAG_INVALID MANIFEST_UNVERIFIED".split()
)


@pytest.fixture(scope="module", params=["onggi", "docker-registry"])
def peer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Peer]:
    root = tmp_path_factory.mktemp("registry") / "root"
    started = onggi_registry(root, "--push") if request.param == "onggi" else docker_registry(root)
    with started as running:
        yield running


@pytest.fixture(scope="module")
def v11(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """Ours alone: docker-registry 2.8 is older than these parts of the specification."""
    with onggi_registry(tmp_path_factory.mktemp("v11") / "root", "--push") as running:
        yield running


def described(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def manifest(config: bytes, *layers: bytes, **fields: Any) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": described(fields.pop("config_type", OCI_CONFIG), config),
        "layers": [described(fields.get("layer_type", OCI_LAYER_GZIP), data) for data in layers],
    }
    fields.pop("layer_type", None)
    return json.dumps(document | fields).encode()


def config_of(author: str) -> bytes:
    """As in the suite: what looks like a configuration, and could not be run."""
    return json.dumps(
        {"author": author, "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers"}}
    ).encode()


LAYER = b"\x1f\x8b layer of the suite: no tar"


def stored(peer: Peer, name: str, author: str, *tags: str) -> bytes:
    """Push an image under tags; its manifest."""
    config = config_of(author)
    peer.push_blob(name, config)
    peer.push_blob(name, LAYER)
    data = manifest(config, LAYER)
    for tag in tags:
        assert peer.push_manifest(name, tag, data, OCI_MANIFEST).status == 201
    return data


def accepted(peer: Peer, name: str, reference: str, method: str = "GET") -> Any:
    return peer.ask(
        method,
        f"/v2/{name}/manifests/{reference}",
        headers={"Accept": f"{OCI_MANIFEST},{OCI_INDEX}"},
    )


class TestPull:
    def test_base(self, peer: Peer) -> None:
        assert peer.ask("GET", "/v2/").status == 200

    def test_head_and_get_nonexistent_blob_404(self, peer: Peer) -> None:
        for method in ("HEAD", "GET"):
            assert peer.ask(method, f"/v2/{NAME}/blobs/{DUMMY}").status == 404

    def test_head_and_get_existing_blob_200(self, peer: Peer) -> None:
        config = config_of("pull")
        digest = peer.push_blob(NAME, config)
        for method in ("HEAD", "GET"):
            reply = peer.ask(method, f"/v2/{NAME}/blobs/{digest}")
            assert reply.status == 200
            assert reply.headers["docker-content-digest"] == digest
            assert reply.headers["content-length"] == str(len(config))
            assert reply.body == (config if method == "GET" else b"")

    def test_ranges_of_a_blob(self, peer: Peer) -> None:
        path = f"/v2/{NAME}/blobs/{peer.push_blob(NAME, b'0123456789')}"
        for asked, got, where in (
            ("bytes=0-3", b"0123", "bytes 0-3/10"),
            ("bytes=7-", b"789", "bytes 7-9/10"),
            ("bytes=-4", b"6789", "bytes 6-9/10"),
            ("bytes=8-99", b"89", "bytes 8-9/10"),
        ):
            reply = peer.ask("GET", path, headers={"Range": asked})
            assert (reply.status, reply.body, reply.headers["content-range"]) == (206, got, where)

    def test_range_beyond_a_blob_416(self, v11: Peer) -> None:
        path = f"/v2/{NAME}/blobs/{v11.push_blob(NAME, b'0123456789')}"
        for asked in ("bytes=10-", "bytes=-0", "bytes=5-3"):
            reply = v11.ask("GET", path, headers={"Range": asked})
            assert (reply.status, reply.headers["content-range"]) == (416, "bytes */10")
        for asked in ("bytes=0-1,3-4", "lines=1-2", "bytes=x", "bytes=-"):
            assert v11.ask("GET", path, headers={"Range": asked}).body == b"0123456789"

    def test_head_and_get_nonexistent_manifest_404(self, peer: Peer) -> None:
        for method in ("HEAD", "GET"):
            assert accepted(peer, NAME, ".INVALID_MANIFEST_NAME", method).status in (400, 404)
            assert accepted(peer, NAME, "nothing-of-that-name", method).status == 404
            assert accepted(peer, NAME, DUMMY, method).status == 404
            assert accepted(peer, "no/such/repository", "latest", method).status == 404

    def test_head_and_get_manifest_by_tag_and_digest_200(self, peer: Peer) -> None:
        data = stored(peer, NAME, "pull", "tagged")
        for method in ("HEAD", "GET"):
            for reference in ("tagged", digest_of(data)):
                reply = accepted(peer, NAME, reference, method)
                assert reply.status == 200
                assert reply.headers["docker-content-digest"] == digest_of(data)
                assert reply.headers["content-type"] == OCI_MANIFEST
                assert reply.headers["content-length"] == str(len(data))
                assert reply.body == (data if method == "GET" else b"")

    def test_error_body_is_the_specifications(self, peer: Peer) -> None:
        reply = peer.push_manifest(NAME, "sha256:totallywrong", b"blablabla", OCI_MANIFEST)
        assert reply.status in (400, 404)
        if reply.status == 400:
            assert reply.code in ERROR_CODES

    def test_blob_of_another_repository_404(self, peer: Peer) -> None:
        digest = peer.push_blob(NAME, b"of one only")
        assert peer.ask("GET", f"/v2/{OTHER}/blobs/{digest}").status == 404


class TestPush:
    def test_blob_upload_streamed(self, peer: Peer) -> None:
        data = b"streamed " * 1000
        reply = peer.ask("PATCH", peer.begin(NAME), iter((data[:5000], data[5000:])), OCTETS)
        assert reply.status == 202
        where = with_digest(relative(reply.headers["location"]), digest_of(data))
        reply = peer.ask("PUT", where, b"", OCTETS)
        assert reply.status == 201
        assert peer.ask("GET", relative(reply.headers["location"])).body == data

    def test_blob_upload_monolithic_put(self, peer: Peer) -> None:
        digest = peer.push_blob(NAME, b"in one put")
        assert peer.ask("GET", f"/v2/{NAME}/blobs/{digest}").body == b"in one put"

    def test_blob_upload_monolithic_post(self, peer: Peer) -> None:
        data = b"in one post"
        reply = peer.ask(
            "POST", f"/v2/{NAME}/blobs/uploads/?digest={digest_of(data)}", data, OCTETS
        )
        # Without support for it, a session begins (spec.md#single-post).
        assert reply.status in (201, 202)
        if reply.status == 201:
            assert peer.ask("GET", relative(reply.headers["location"])).body == data

    def test_single_post_stores_it_here(self, v11: Peer) -> None:
        data = b"in one post, for certain"
        reply = v11.ask("POST", f"/v2/{NAME}/blobs/uploads/?digest={digest_of(data)}", data, OCTETS)
        assert reply.status == 201
        assert v11.ask("GET", relative(reply.headers["location"])).body == data

    def test_put_with_another_digest_400(self, peer: Peer) -> None:
        reply = peer.ask("PUT", with_digest(peer.begin(NAME), DUMMY), b"something", OCTETS)
        assert (reply.status, reply.code) == (400, "DIGEST_INVALID")
        assert peer.ask("HEAD", f"/v2/{NAME}/blobs/{digest_of(b'something')}").status == 404

    def test_blob_upload_chunked(self, peer: Peer) -> None:
        where = peer.begin(NAME)
        reply = peer.ask("PATCH", where, b"first", OCTETS | {"Content-Range": "0-4"})
        assert (reply.status, reply.headers["range"]) == (202, "0-4")
        where = with_digest(relative(reply.headers["location"]), digest_of(b"first second"))
        reply = peer.ask("PUT", where, b" second", OCTETS | {"Content-Range": "5-11"})
        assert reply.status == 201
        assert peer.ask("GET", relative(reply.headers["location"])).body == b"first second"

    def test_out_of_order_chunk_416(self, v11: Peer) -> None:
        where = v11.begin(NAME)
        reply = v11.ask("PATCH", where, b"second", OCTETS | {"Content-Range": "5-10"})
        assert reply.status == 416
        assert v11.ask("PATCH", where, b"first", OCTETS | {"Content-Range": "0-4"}).status == 202
        reply = v11.ask("PATCH", where, b"first", OCTETS | {"Content-Range": "0-4"})
        assert (reply.status, reply.headers["range"]) == (416, "0-4")
        reply = v11.ask("PATCH", where, b"abc", OCTETS | {"Content-Range": "5-10"})
        assert (reply.status, reply.code) == (400, "SIZE_INVALID")
        reply = v11.ask("GET", where)
        assert (reply.status, reply.headers["range"]) == (204, "0-4")

    def test_upload_status_and_cancel(self, peer: Peer) -> None:
        where = peer.begin(NAME)
        reply = peer.ask("PATCH", where, b"12345678", OCTETS)
        where = relative(reply.headers["location"])
        reply = peer.ask("GET", where)
        assert (reply.status, reply.headers["range"]) == (204, "0-7")
        where = relative(reply.headers["location"])
        assert peer.ask("DELETE", where).status == 204
        reply = peer.ask("GET", where)
        assert (reply.status, reply.code) == (404, "BLOB_UPLOAD_UNKNOWN")

    def test_cross_repository_mount(self, peer: Peer) -> None:
        digest = peer.push_blob(NAME, b"to be mounted")
        path = f"/v2/{OTHER}/blobs/uploads/?mount={digest}&from={NAME}"
        reply = peer.ask("POST", path)
        assert reply.status == 201
        assert relative(reply.headers["location"]) == f"/v2/{OTHER}/blobs/{digest}"
        assert peer.ask("GET", f"/v2/{OTHER}/blobs/{digest}").body == b"to be mounted"

    def test_mount_of_a_nonexistent_blob_begins_an_upload(self, peer: Peer) -> None:
        path = f"/v2/{OTHER}/blobs/uploads/?mount={DUMMY}&from={NAME}"
        reply = peer.ask("POST", path)
        assert reply.status == 202 and reply.headers["location"]

    def test_manifest_upload_under_tags(self, peer: Peer) -> None:
        data = stored(peer, NAME, "push", "test0", "test1", "test2", "test3")
        reply = peer.push_manifest(NAME, "test0", data, OCI_MANIFEST)
        assert reply.headers["docker-content-digest"] == digest_of(data)
        assert (
            accepted(peer, NAME, relative(reply.headers["location"]).rpartition("/")[2]).body
            == data
        )
        assert accepted(peer, NAME, digest_of(data)).status == 200

    def test_manifest_upload_by_digest(self, peer: Peer) -> None:
        data = stored(peer, NAME, "by digest only")
        assert accepted(peer, NAME, digest_of(data)).status == 404
        assert peer.push_manifest(NAME, digest_of(data), data, OCI_MANIFEST).status == 201
        assert accepted(peer, NAME, digest_of(data)).body == data

    def test_manifest_with_another_digest_400(self, peer: Peer) -> None:
        data = stored(peer, NAME, "wrong digest")
        reply = peer.push_manifest(NAME, DUMMY, data, OCI_MANIFEST)
        assert (reply.status, reply.code) == (400, "DIGEST_INVALID")

    def test_manifest_with_a_missing_blob_is_refused(self, peer: Peer) -> None:
        data = manifest(config_of("never pushed"), b"neither")
        reply = peer.push_manifest(NAME, "missing", data, OCI_MANIFEST)
        assert reply.status in (400, 404)
        assert reply.code in ("MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN")
        assert accepted(peer, NAME, "missing").status == 404

    def test_index_of_pushed_manifests(self, peer: Peer) -> None:
        members = [stored(peer, NAME, author) for author in ("arm", "x86")]
        for data in members:
            assert peer.push_manifest(NAME, digest_of(data), data, OCI_MANIFEST).status == 201
        index = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": OCI_INDEX,
                "manifests": [
                    described(OCI_MANIFEST, data) | {"platform": {"architecture": a, "os": "linux"}}
                    for data, a in zip(members, ("arm64", "amd64"), strict=True)
                ],
            }
        ).encode()
        assert peer.push_manifest(NAME, "multi", index, OCI_INDEX).status == 201
        reply = accepted(peer, NAME, "multi")
        assert (reply.body, reply.headers["content-type"]) == (index, OCI_INDEX)

    def test_tag_moves(self, peer: Peer) -> None:
        before = stored(peer, NAME, "before", "moving")
        after = stored(peer, NAME, "after", "moving")
        assert accepted(peer, NAME, "moving").body == after
        assert accepted(peer, NAME, digest_of(before)).body == before


class TestContentDiscovery:
    REPOSITORY = "conformance/tags"

    def test_tags_list_200(self, peer: Peer) -> None:
        stored(peer, self.REPOSITORY, "tags", "test3", "test1", "test0", "test2")
        reply = peer.ask("GET", f"/v2/{self.REPOSITORY}/tags/list")
        assert reply.status == 200
        assert reply.json["name"] == self.REPOSITORY
        assert sorted(reply.json["tags"]) == ["test0", "test1", "test2", "test3"]

    def test_tags_in_pages(self, v11: Peer) -> None:
        stored(v11, self.REPOSITORY, "tags", "test3", "test1", "test0", "test2")
        reply = v11.ask("GET", f"/v2/{self.REPOSITORY}/tags/list?n=2")
        assert reply.json["tags"] == ["test0", "test1"]
        assert reply.headers["link"].endswith('; rel="next"')
        following = reply.headers["link"].partition(">")[0].removeprefix("<")
        reply = v11.ask("GET", following)
        assert reply.json["tags"] == ["test2", "test3"]
        assert "link" not in reply.headers
        reply = v11.ask("GET", f"/v2/{self.REPOSITORY}/tags/list?n=0")
        assert reply.json["tags"] == []
        reply = v11.ask("GET", f"/v2/{self.REPOSITORY}/tags/list?last=test1")
        assert reply.json["tags"] == ["test2", "test3"]

    def test_tags_of_an_unknown_repository_404(self, peer: Peer) -> None:
        reply = peer.ask("GET", "/v2/no/such/repository/tags/list")
        assert (reply.status, reply.code) == (404, "NAME_UNKNOWN")

    def test_catalog_in_pages(self, peer: Peer) -> None:
        stored(peer, "catalog/a", "x", "1")
        stored(peer, "catalog/b", "x", "1")
        names = peer.ask("GET", "/v2/_catalog").json["repositories"]
        assert {"catalog/a", "catalog/b"} <= set(names)
        reply = peer.ask("GET", "/v2/_catalog?n=1&last=catalog%2Fa")
        assert reply.json["repositories"] == ["catalog/b"]
        assert "link" in reply.headers

    def test_referrers_of_the_unknown_are_none(self, v11: Peer) -> None:
        reply = v11.ask("GET", f"/v2/{NAME}/referrers/{DUMMY}")
        assert (reply.status, reply.headers["content-type"]) == (200, OCI_INDEX)
        assert reply.json["manifests"] == [] and reply.json["schemaVersion"] == 2

    def test_referrers(self, v11: Peer) -> None:
        name = "conformance/referrers"
        v11.push_blob(name, b"{}")
        for data in (
            b"NHL Peanut Butter on my NHL bagel",
            b"NBA Strawberry Jam on my NBA croissant",
        ):
            v11.push_blob(name, data)
        config, layer = config_of("subject"), LAYER
        subject_data = manifest(config, layer)
        subject = described(OCI_MANIFEST, subject_data)

        def attach(reference: str, expected: str, **fields: Any) -> bytes:
            data = manifest(
                fields.pop("config", b"{}"),
                fields.pop("blob"),
                annotations={ANNOTATION: reference},
                **fields,
            )
            reply = v11.push_manifest(name, digest_of(data), data, OCI_MANIFEST)
            assert (reply.status, reply.headers["oci-subject"]) == (201, expected)
            return data

        peanut, jam = (
            b"NHL Peanut Butter on my NHL bagel",
            b"NBA Strawberry Jam on my NBA croissant",
        )
        there = subject["digest"]
        # Before the subject is there, by configuration's type and by artifact type.
        first = attach(
            "a config", there, subject=subject, blob=peanut, config_type=ARTIFACT_A, config=peanut
        )
        second = attach(
            "a layer", there, subject=subject, blob=peanut, config_type=EMPTY_TYPE,
            artifactType=ARTIFACT_A,
        )  # fmt: skip
        index = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": OCI_INDEX,
                "artifactType": "application/vnd.food.stand",
                "manifests": [described(OCI_MANIFEST, first), described(OCI_MANIFEST, second)],
                "subject": subject,
                "annotations": {ANNOTATION: "index"},
            }
        ).encode()
        reply = v11.push_manifest(name, digest_of(index), index, OCI_INDEX)
        assert (reply.status, reply.headers["oci-subject"]) == (201, there)
        v11.push_blob(name, config)
        v11.push_blob(name, layer)
        assert v11.push_manifest(name, "tagged", subject_data, OCI_MANIFEST).status == 201
        # And after it.
        attach("b config", there, subject=subject, blob=jam, config_type=ARTIFACT_B, config=jam)
        attach(
            "b layer", there, subject=subject, blob=jam, config_type=EMPTY_TYPE,
            artifactType=ARTIFACT_B,
        )  # fmt: skip
        nowhere = described(OCI_MANIFEST, b"never pushed")
        lonely = attach(
            "c layer", nowhere["digest"], subject=nowhere, blob=jam, config_type=EMPTY_TYPE,
            artifactType=ARTIFACT_B,
        )  # fmt: skip

        found = v11.ask("GET", f"/v2/{name}/referrers/{there}").json["manifests"]
        assert {referrer["annotations"][ANNOTATION] for referrer in found} == {
            "a config", "a layer", "index", "b config", "b layer",
        }  # fmt: skip
        assert len({referrer["digest"] for referrer in found}) == 5
        for referrer in found:
            got = accepted(v11, name, referrer["digest"])
            assert referrer["size"] == len(got.body)
            assert referrer["mediaType"] == got.headers["content-type"]
        reply = v11.ask("GET", f"/v2/{name}/referrers/{there}?artifactType={ARTIFACT_A}")
        assert reply.headers["oci-filters-applied"] == "artifactType"
        assert {r["annotations"][ANNOTATION] for r in reply.json["manifests"]} == {
            "a config", "a layer",
        }  # fmt: skip
        assert {r["artifactType"] for r in reply.json["manifests"]} == {ARTIFACT_A}
        reply = v11.ask("GET", f"/v2/{name}/referrers/{nowhere['digest']}")
        assert [r["digest"] for r in reply.json["manifests"]] == [digest_of(lonely)]

    def test_referrers_of_what_is_no_digest_400(self, v11: Peer) -> None:
        assert v11.ask("GET", f"/v2/{NAME}/referrers/latest").status == 400


class TestContentManagement:
    REPOSITORY = "conformance/management"

    def tags(self, peer: Peer) -> list[str]:
        reply = peer.ask("GET", f"/v2/{self.REPOSITORY}/tags/list")
        assert reply.status == 200, reply
        return reply.json["tags"] or []

    def test_delete_tag(self, v11: Peer) -> None:
        data = stored(v11, self.REPOSITORY, "delete", "tagtest0", "tagtest1")
        reply = v11.ask("DELETE", f"/v2/{self.REPOSITORY}/manifests/tagtest0")
        assert reply.status == 202
        assert accepted(v11, self.REPOSITORY, "tagtest0").status == 404
        assert accepted(v11, self.REPOSITORY, "tagtest1").body == data
        assert self.tags(v11) == ["tagtest1"]

    def test_delete_manifest_by_digest(self, peer: Peer) -> None:
        data = stored(peer, self.REPOSITORY, "delete all", "gone0", "gone1")
        path = f"/v2/{self.REPOSITORY}/manifests/{digest_of(data)}"
        assert {"gone0", "gone1"} <= set(self.tags(peer))
        assert peer.ask("DELETE", path).status == 202
        assert peer.ask("DELETE", path).status == 404
        assert accepted(peer, self.REPOSITORY, digest_of(data)).status == 404
        assert accepted(peer, self.REPOSITORY, "gone0").status == 404
        assert not {"gone0", "gone1"} & set(self.tags(peer))

    def test_delete_blob(self, peer: Peer) -> None:
        digest = peer.push_blob(self.REPOSITORY, b"to be deleted")
        path = f"/v2/{self.REPOSITORY}/blobs/{digest}"
        assert peer.ask("DELETE", path).status == 202
        assert peer.ask("GET", path).status == 404
        assert peer.ask("DELETE", path).status == 404

    def test_deleted_referrer_is_no_longer_listed(self, v11: Peer) -> None:
        name = self.REPOSITORY
        v11.push_blob(name, b"{}")
        subject = described(OCI_MANIFEST, stored(v11, name, "subject", "kept"))
        data = manifest(b"{}", b"{}", subject=subject, config_type=EMPTY_TYPE, artifactType="a/b")
        assert v11.push_manifest(name, digest_of(data), data, OCI_MANIFEST).status == 201
        path = f"/v2/{name}/referrers/{subject['digest']}"
        assert len(v11.ask("GET", path).json["manifests"]) == 1
        assert v11.ask("DELETE", f"/v2/{name}/manifests/{digest_of(data)}").status == 202
        assert v11.ask("GET", path).json["manifests"] == []
