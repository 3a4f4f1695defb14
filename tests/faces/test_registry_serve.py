"""`onggi registry serve`: whose names it shows, what it lets whom do, and what it withstands."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faces.registry_peers import (
    Peer,
    docker_registry,
    free_port,
    onggi_registry,
    received,
    relative,
    with_digest,
)
from image_tars import END, member
from onggi.errors import PermissionDenied
from onggi.faces.cli.options import parse
from onggi.faces.cli.verbs import registry_serve
from onggi.faces.registry import inbound
from onggi.faces.registry.access import Address, Rules, check_exposure
from onggi.faces.registry.names import aliases, is_repository
from onggi.faces.registry.routes import Registry
from onggi.faces.registry.server import RegistryServer
from onggi.image import served
from onggi.image.archive import import_rootfs
from onggi.image.images import Image, ImageStore
from onggi.image.reference import DEFAULTS, Reference
from onggi.image.registry.client import Credentials, RegistryClient
from onggi.specs.image import OCI_INDEX, OCI_MANIFEST, Descriptor, digest_of

MIB = 1 << 20
EMPTY = b"{}"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def images(root: Path) -> ImageStore:
    return ImageStore(str(root / "data" / "image"))


def make(images: ImageStore, text: bytes, *names: str) -> Image:
    """An image of one file, under names."""
    tar = iter((member(b"file", b"0", text) + END, b""))
    image = import_rootfs(images, lambda _size: next(tar), names[0])
    for name in names[1:]:
        images.tag(names[0], name)
    return image


def artifact(text: bytes, **fields: Any) -> bytes:
    """A manifest of something that is no image."""
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": "application/vnd.example.text",
        "config": {"mediaType": EMPTY_TYPE, "digest": digest_of(EMPTY), "size": len(EMPTY)},
        "layers": [{"mediaType": "text/plain", "digest": digest_of(text), "size": len(text)}],
    }
    return json.dumps(document | fields).encode()


def push_artifact(peer: Peer, name: str, reference: str, text: bytes, **fields: Any) -> bytes:
    """Push it with its blobs; an empty reference means its digest."""
    peer.push_blob(name, EMPTY)
    peer.push_blob(name, text)
    data = artifact(text, **fields)
    reply = peer.push_manifest(name, reference or digest_of(data), data, OCI_MANIFEST)
    assert reply.status == 201, reply
    return data


def digest_at(peer: Peer, name: str, tag: str) -> str | None:
    reply = peer.ask("HEAD", f"/v2/{name}/manifests/{tag}")
    return reply.headers["docker-content-digest"] if reply.status == 200 else None


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


class TestNames:
    def test_aliases(self) -> None:
        def names(text: str) -> list[str]:
            found = aliases(Reference.parse(text), "localhost:5000", DEFAULTS)
            return [alias.repository for alias in found]

        assert names("debian:12") == ["library/debian", "docker.io/library/debian", "debian"]
        assert names("localhost:5000/a/b") == ["a/b", "localhost_5000/a/b"]
        assert names("Quay.io/x") == ["x", "quay.io/x"]
        assert names("[::1]:5000/x") == ["x"]

    def test_repository_names(self) -> None:
        for good in ("a", "a/b-c/d__e.f", "a" * 255):
            assert is_repository(good)
        for bad in ("", "A", "a//b", "/a", "a/", "..", "a/../b", "a" * 256, "a\n", "a b", "ä"):
            assert not is_repository(bad)

    def test_every_name_of_the_store_is_served(self, root: Path, images: ImageStore) -> None:
        image = make(images, b"1", "debian:12", "quay.io/x/tool:1")
        with onggi_registry(root) as peer:
            for name in ("debian", "library/debian", "docker.io/library/debian"):
                assert digest_at(peer, name, "12") == image.manifest_digest
                blob = f"/v2/{name}/blobs/{image.layers[0].digest}"
                assert digest_of(peer.ask("GET", blob).body) == image.layers[0].digest
            assert digest_at(peer, "x/tool", "1") == image.manifest_digest
            assert digest_at(peer, "quay.io/x/tool", "1") == image.manifest_digest
            assert digest_at(peer, "library/debian", "latest") is None
            assert peer.ask("GET", "/v2/_catalog").json["repositories"] == [
                "library/debian", "x/tool",
            ]  # fmt: skip
            assert peer.ask("GET", "/v2/debian/tags/list").json["tags"] == ["12"]

    def test_names_that_collide(self, root: Path, images: ImageStore) -> None:
        quay = make(images, b"quay", "quay.io/library/debian:12")
        hub = make(images, b"hub", "debian:12")
        with onggi_registry(root, "--as=own.lan") as peer:
            assert digest_at(peer, "library/debian", "12") == hub.manifest_digest
            assert digest_at(peer, "quay.io/library/debian", "12") == quay.manifest_digest
            assert digest_at(peer, "docker.io/library/debian", "12") == hub.manifest_digest
            assert peer.ask("GET", "/v2/_catalog").json["repositories"] == [
                "library/debian", "quay.io/library/debian",
            ]  # fmt: skip
            own = make(images, b"own", "own.lan/library/debian:12")
            assert digest_at(peer, "library/debian", "12") == own.manifest_digest
            assert digest_at(peer, "docker.io/library/debian", "12") == hub.manifest_digest

    def test_images_that_come_and_go_while_it_runs(self, root: Path, images: ImageStore) -> None:
        with onggi_registry(root) as peer:
            assert digest_at(peer, "library/new", "1") is None
            image = make(images, b"new", "new:1")
            assert digest_at(peer, "library/new", "1") == image.manifest_digest
            images.untag("new:1")
            assert digest_at(peer, "library/new", "1") is None
            assert peer.ask("GET", f"/v2/library/new/blobs/{image.layers[0].digest}").status == 404

    def test_a_damaged_image_hides_no_other(self, root: Path, images: ImageStore) -> None:
        bad, good = make(images, b"bad", "bad:1"), make(images, b"good", "good:1")
        path = Path(images.content.path(bad.manifest_digest))
        path.write_bytes(path.read_bytes().replace(b"sha256", b"sha257", 1))
        short = Path(images.content.path(good.layers[0].digest))
        with onggi_registry(root) as peer:
            assert peer.ask("GET", "/v2/library/bad/manifests/1").status == 500
            assert digest_at(peer, "library/good", "1") == good.manifest_digest
            short.write_bytes(b"short")
            reply = peer.ask("GET", f"/v2/library/good/blobs/{good.layers[0].digest}")
            assert (reply.status, reply.code) == (404, "BLOB_UNKNOWN")


class TestPush:
    def test_a_pushed_image_can_be_run_here(self, root: Path, images: ImageStore) -> None:
        image = make(images, b"x", "here:1")
        data = images.content.read(image.manifest_digest, MIB)
        with onggi_registry(root, "--push", "--as=own.lan:5000") as peer:
            path = "/v2/copy/of/blobs/uploads/?from=library/here&mount="
            for digest in (image.id, image.layers[0].digest):
                assert peer.ask("POST", path + digest).status == 201
            assert peer.push_manifest("copy/of", "2", data, OCI_MANIFEST).status == 201
            assert images.resolve("own.lan:5000/copy/of:2").id == image.id
            assert served.served_roots(images.root) == []
            assert peer.ask("DELETE", "/v2/copy/of/manifests/2").status == 202
            assert digest_at(peer, "copy/of", "2") is None
            assert images.resolve("here:1").names == ("docker.io/library/here:1",)

    def test_a_tag_moves_between_image_and_artifact(self, root: Path, images: ImageStore) -> None:
        image = make(images, b"x", "here:1")
        data = images.content.read(image.manifest_digest, MIB)
        with onggi_registry(root, "--push", "--as=own.lan") as peer:
            for digest in (image.id, image.layers[0].digest):
                peer.ask("POST", f"/v2/m/blobs/uploads/?from=library/here&mount={digest}")
            for _ in range(2):
                text = push_artifact(peer, "m", "t", b"some text")
                assert digest_at(peer, "m", "t") == digest_of(text)
                assert "own.lan/m:t" not in images.resolve("here:1").names
                assert peer.push_manifest("m", "t", data, OCI_MANIFEST).status == 201
                assert digest_at(peer, "m", "t") == image.manifest_digest
            assert peer.ask("GET", "/v2/m/tags/list").json["tags"] == ["t"]

    def test_what_was_not_pushed_cannot_be_deleted(self, root: Path, images: ImageStore) -> None:
        image = make(images, b"x", "here:1")
        with onggi_registry(root, "--push") as peer:
            for reference in ("1", image.manifest_digest):
                reply = peer.ask("DELETE", f"/v2/library/here/manifests/{reference}")
                assert (reply.status, reply.code) == (403, "DENIED")
            reply = peer.ask("DELETE", f"/v2/library/here/blobs/{image.id}")
            assert reply.status == 405
            assert digest_at(peer, "library/here", "1") == image.manifest_digest

    def test_pushed_content_survives_restart_and_collection(
        self, root: Path, images: ImageStore
    ) -> None:
        with onggi_registry(root, "--push") as peer:
            by_digest = push_artifact(peer, "keep", "", b"by digest")
            subject = {"mediaType": OCI_MANIFEST, "digest": digest_of(by_digest), "size": 1}
            referrer = push_artifact(peer, "keep", "", b"about it", subject=subject)
            tagged = push_artifact(peer, "keep", "tag", b"tagged")
            waiting = peer.push_blob("keep", b"waits for its manifest")
            assert peer.end(signal.SIGKILL) == -signal.SIGKILL
        orphan = images.content.put(b"nobody's").digest
        kept = served.served_digests(images.root, images.content)
        for text in (b"by digest", b"about it", b"tagged", EMPTY, by_digest, referrer, tagged):
            assert digest_of(text) in kept
        assert waiting in kept and orphan not in kept
        with onggi_registry(root, "--push") as peer:
            assert digest_at(peer, "keep", digest_of(by_digest)) == digest_of(by_digest)
            found = peer.ask("GET", f"/v2/keep/referrers/{digest_of(by_digest)}").json
            assert [r["digest"] for r in found["manifests"]] == [digest_of(referrer)]
            assert digest_at(peer, "keep", "tag") == digest_of(tagged)
            assert peer.ask("GET", f"/v2/keep/blobs/{waiting}").status == 200
            peer.ask("DELETE", f"/v2/keep/manifests/{digest_of(tagged)}")
            assert digest_of(tagged) not in served.served_digests(images.root, images.content)

    def test_what_nobody_finished_expires(
        self, root: Path, images: ImageStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with onggi_registry(root, "--push") as peer:
            waiting = peer.push_blob("a", b"waits")
            old = push_artifact(peer, "a", "tag", b"old")
            new = push_artifact(peer, "a", "tag", b"new")
            upload = peer.begin("a")
        later = int(time.time()) + served.UNFINISHED_S + 1
        monkeypatch.setattr(served, "now_s", lambda: later)
        kept = served.served_digests(images.root, images.content)
        assert digest_of(new) in kept
        assert waiting not in kept and digest_of(old) not in kept
        assert served.sweep_uploads(images.root) == 1
        assert not os.listdir(served.ServedRecord(images.root).uploads), upload
        record = served.ServedRecord(images.root)
        with record.change("b"):
            pass
        assert set(record.read().repositories["a"].manifests) == {digest_of(new)}

    def test_hostile_manifests_break_no_collection(self, root: Path, images: ImageStore) -> None:
        with onggi_registry(root, "--push") as peer:
            # Announced as an image's configuration, and none.
            peer.push_blob("evil", b"garbage")
            config = {"mediaType": "application/vnd.oci.image.config.v1+json"}
            config |= {"digest": digest_of(b"garbage"), "size": 7}
            data = json.dumps(json.loads(artifact(b"x")) | {"config": config, "layers": []})
            reply = peer.push_manifest("evil", "1", data.encode(), OCI_MANIFEST)
            assert reply.status == 201
            member_of = {"mediaType": OCI_MANIFEST, "digest": digest_of(data.encode())}
            index = {"schemaVersion": 2, "manifests": [member_of | {"size": len(data)}]}
            raw = json.dumps(index).encode()
            assert peer.push_manifest("evil", "2", raw, OCI_INDEX).status == 201
            for bad in (
                b"",
                b"[" * 100_000,
                b'{"schemaVersion":2,"manifests":[],"layers":[]}',
                b'{"schemaVersion":1,"fsLayers":[]}',
                artifact(b"never pushed"),
                json.dumps(index | {"mediaType": OCI_MANIFEST}).encode(),
            ):
                for kind in (OCI_MANIFEST, OCI_INDEX, "", "text/html"):
                    reply = peer.push_manifest("evil", "3", bad, kind)
                    assert reply.status == 400, (bad[:50], kind, reply)
            reply = peer.push_manifest("evil", "3", b"{" + b" " * (4 * MIB), OCI_MANIFEST)
            assert (reply.status, reply.code) == (413, "SIZE_INVALID")
        images.collect(in_use=())
        assert digest_of(data.encode()) in served.served_digests(images.root, images.content)

    def test_reading_only_by_default(self, root: Path) -> None:
        with onggi_registry(root) as peer:
            for method, path in (
                ("POST", "blobs/uploads/"),
                ("PUT", "manifests/1"),
                ("DELETE", "manifests/1"),
                ("PATCH", "blobs/uploads/0"),
            ):
                reply = peer.ask(method, f"/v2/a/{path}", b"x")
                assert (reply.status, reply.code) == (405, "UNSUPPORTED")


class TestUploads:
    def test_resumed_after_kill(self, root: Path) -> None:
        data = os.urandom(5 * MIB)
        port = free_port()
        with onggi_registry(root, "--push", listen=f"127.0.0.1:{port}") as peer:
            where = peer.begin("a")
            head = (
                f"PATCH {where} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
            )
            with peer.raw(head.encode() + data[: 3 * MIB]):
                upload = Path(peer.images_root, "serve", "uploads")
                await_size(upload, 3 * MIB)
                peer.end(signal.SIGKILL)
        with onggi_registry(root, "--push", listen=f"127.0.0.1:{port}") as peer:
            reply = peer.ask("GET", where)
            assert (reply.status, reply.headers["range"]) == (204, f"0-{3 * MIB - 1}")
            span = {"Content-Range": f"{3 * MIB}-{len(data) - 1}"}
            reply = peer.ask("PATCH", where, data[3 * MIB :], span)
            assert reply.status == 202
            assert peer.ask("PUT", with_digest(where, digest_of(data))).status == 201
            assert peer.ask("GET", f"/v2/a/blobs/{digest_of(data)}").body == data
            assert not os.listdir(upload)

    def test_a_broken_connection_keeps_what_came(self, root: Path) -> None:
        with onggi_registry(root, "--push") as peer:
            where = peer.begin("a")
            head = (
                f"PATCH {where} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            peer.raw(head.encode() + b"5\r\nfirst\r\n9\r\nsec").close()
            await_size(Path(peer.images_root, "serve", "uploads"), 8)
            reply = peer.ask("PATCH", where, b"ond", {"Content-Range": "8-10"})
            assert (reply.status, reply.headers["range"]) == (202, "0-10")
            where = with_digest(where, digest_of(b"firstsecond"))
            assert peer.ask("PUT", where).status == 201

    def test_two_writers_of_one_upload(self, root: Path) -> None:
        with onggi_registry(root, "--push") as peer:
            where = peer.begin("a")
            head = f"PATCH {where} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n"
            with peer.raw(head.encode() + b"12345") as first:
                await_size(Path(peer.images_root, "serve", "uploads"), 5)
                reply = peer.ask("PATCH", where, b"abc")
                assert (reply.status, reply.code) == (409, "BLOB_UPLOAD_INVALID")
                first.sendall(b"67890")
                assert first.recv(100).startswith(b"HTTP/1.1 202")
            replies: list[int] = []

            def chunk() -> None:
                span = {"Content-Range": "10-19"}
                replies.append(peer.ask("PATCH", where, b"x" * 10, span).status)

            threads = [threading.Thread(target=chunk) for _ in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sorted(replies) == [202, 416, 416, 416, 416, 416]
            assert peer.ask("GET", where).headers["range"] == "0-19"

    def test_sessions_are_bound_to_their_repository(self, root: Path) -> None:
        with onggi_registry(root, "--push") as peer:
            where = peer.begin("a")
            for path in (
                where.replace("/v2/a/", "/v2/b/"),
                "/v2/a/blobs/uploads/" + "0" * 32,
                "/v2/a/blobs/uploads/..%2f..%2fmanifests.json",
                "/v2/a/blobs/uploads/%00",
            ):
                assert peer.ask("PATCH", path, b"x").status in (400, 404)
            assert peer.ask("GET", where).headers["range"] == "0-0"

    def test_a_full_disk(self, tmp_path: Path) -> None:
        """The upload is given up, its space is free again, and reading goes on."""
        small = tmp_path / "small"
        small.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "none", small], check=True)
        try:
            images = ImageStore(str(small / "data" / "image"))
            image = make(images, b"x", "here:1")
            with onggi_registry(small, "--push") as peer:
                where = peer.begin("a")
                reply = peer.ask("PATCH", where, b"x" * (40 * MIB))
                assert reply.status == 507
                where = peer.begin("a")
                chunks = (b"x" * MIB for _ in range(64))
                assert peer.ask("PATCH", where, chunks).status == 507
                assert peer.ask("GET", where).status == 404
                assert not os.listdir(small / "data/image/serve/uploads")
                assert digest_at(peer, "library/here", "1") == image.manifest_digest
                assert peer.push_blob("a", b"small") == digest_of(b"small")
        finally:
            subprocess.run(["umount", small], check=True)

    def test_ids_that_are_no_digests(self, root: Path) -> None:
        with onggi_registry(root, "--push") as peer:
            secret = Path(peer.images_root, "secret")
            secret.write_text("secret")
            for digest in (
                "sha256:../../../secret",
                "sha256:..%2f..%2f..%2fsecret",
                "sha512:" + "0" * 128,
                "sha256:" + "A" * 64,
                "sha256:" + "0" * 63,
                "md5:" + "0" * 32,
            ):
                assert peer.ask("GET", f"/v2/a/blobs/{digest}").status in (400, 404)
                where = with_digest(peer.begin("a"), digest)
                assert peer.ask("PUT", where, b"x").status == 400
            for name in ("../a", "a/..", "A", "a" * 300, "a//b", "%2e%2e", "a%00b"):
                assert peer.ask("POST", f"/v2/{name}/blobs/uploads/").status in (400, 404)


class TestAccess:
    def test_user_and_password(self, root: Path) -> None:
        with onggi_registry(
            root, "--push", "--user=ann", "--password-stdin", stdin=b"pw\n"
        ) as peer:
            reply = peer.ask("GET", "/v2/")
            assert (reply.status, reply.code) == (401, "UNAUTHORIZED")
            assert reply.headers["www-authenticate"].startswith("Basic realm=")
            for who in (
                basic("ann", "px"),
                basic("bob", "pw"),
                basic("ann", ""),
                basic("ann", "pw\n"),
            ):
                assert peer.ask("GET", "/v2/", headers=who).status == 401
            for damaged in ("Basic", "Basic !!!", "Bearer x", "Basic " + "A" * 20_000):
                assert peer.ask("GET", "/v2/", headers={"Authorization": damaged}).status == 401
            assert peer.ask("GET", "/v2/", headers=basic("ann", "pw")).status == 200
            assert peer.ask("POST", "/v2/a/blobs/uploads/").status == 401
            reply = peer.ask("POST", "/v2/a/blobs/uploads/", headers=basic("ann", "pw"))
            assert reply.status == 202

    def test_anonymous_pull(self, root: Path) -> None:
        options = ("--push", "--user=ann", "--password-stdin", "--anonymous-pull")
        with onggi_registry(root, *options, stdin=b"pw") as peer:
            assert peer.ask("GET", "/v2/_catalog").status == 200
            assert peer.ask("POST", "/v2/a/blobs/uploads/").status == 401

    def test_tokens_where_some_need_no_name(self, root: Path) -> None:
        """Clients learn at the first request that there are names; so skopeo pushes, too."""
        options = ("--push", "--user=ann", "--password-stdin", "--anonymous-pull")
        with onggi_registry(root, *options, stdin=b"pw") as peer:

            def token(headers: dict[str, str] | None = None) -> dict[str, str]:
                reply = peer.ask("GET", "/token?service=x&scope=y", headers=headers or {})
                return {"Authorization": f"Bearer {reply.json['token']}"}

            greeting = peer.ask("GET", "/v2/")
            assert greeting.status == 401
            assert 'Bearer realm="http://' in greeting.headers["www-authenticate"]
            assert '/token",service=' in greeting.headers["www-authenticate"]
            refused = peer.ask("POST", "/v2/a/b/blobs/uploads/")
            assert 'scope="repository:a/b:pull,push"' in refused.headers["www-authenticate"]
            assert peer.ask("POST", "/token").status == 405

            anybody, ann = token(), token(basic("ann", "pw"))
            for headers, reading, writing in ((anybody, 200, 401), (ann, 200, 202)):
                assert peer.ask("GET", "/v2/", headers=headers).status == reading
                assert peer.ask("POST", "/v2/a/blobs/uploads/", headers=headers).status == writing
            assert peer.ask("GET", "/v2/", headers=basic("ann", "pw")).status == 200
            assert peer.ask("GET", "/token", headers=basic("ann", "px")).status == 401
            name, until_s, seal = ann["Authorization"].removeprefix("Bearer ").split(".")
            for forged in (f"{name}.{int(until_s) + 1}.{seal}", f".{until_s}.{seal}", "..", "e"):
                headers = {"Authorization": f"Bearer {forged}"}
                assert peer.ask("GET", "/v2/", headers=headers).status == 401
            assert peer.ask("GET", "/v2/", headers={"Host": 'x"y'}).status in (400, 403)

    def test_the_body_is_not_wanted_before_the_sender_is_known(self, root: Path) -> None:
        options = ("--push", "--user=ann", "--password-stdin")
        with onggi_registry(root, *options, stdin=b"pw") as peer:
            head = b"PUT /v2/a/manifests/1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
            with peer.raw(head + b"Expect: 100-continue\r\n\r\n") as sock:
                assert received(sock).startswith(b"HTTP/1.1 401")
            known = b"Authorization: " + basic("ann", "pw")["Authorization"].encode() + b"\r\n"
            with peer.raw(head + known + b"Expect: 100-continue\r\n\r\n") as sock:
                assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
                sock.sendall(b"not JSON.")
                assert sock.recv(100).startswith(b"HTTP/1.1 400")

    def test_web_pages_cannot_reach_it(self, root: Path) -> None:
        with onggi_registry(root, "--push") as peer:
            for host in ("evil.example", "evil.example:5000", "10.0.0.1", "localhost.evil.example"):
                assert peer.ask("GET", "/v2/", headers={"Host": host}).status == 403
            for host in ("localhost", "127.0.0.1:80", "[::1]:5", "a.localhost:1"):
                assert peer.ask("GET", "/v2/", headers={"Host": host}).status == 200
            origin = {"Origin": "http://evil.example"}
            assert peer.ask("POST", "/v2/a/blobs/uploads/", headers=origin).status == 403

    def test_exposure_is_refused_unless_it_is_said(self) -> None:
        everywhere = Address.parse("0.0.0.0:5000")
        reading, pushing = Rules(), Rules(push=True)
        check_exposure(Address.parse("[::1]:5000"), tls=False, insecure=False, rules=pushing)
        check_exposure(Address.parse("localhost:0"), tls=False, insecure=False, rules=pushing)
        check_exposure(everywhere, tls=True, insecure=False, rules=reading)
        check_exposure(everywhere, tls=False, insecure=True, rules=pushing)
        with pytest.raises(PermissionDenied):
            check_exposure(everywhere, tls=False, insecure=False, rules=reading)
        with pytest.raises(PermissionDenied):
            check_exposure(everywhere, tls=True, insecure=False, rules=pushing)

    @pytest.mark.parametrize(
        ("options", "word"),
        [
            (["--listen=0.0.0.0:0"], "--insecure"),
            (["--listen=nonsense"], "not HOST:PORT"),
            (["--listen=::1:5000"], "not HOST:PORT"),
            (["--user=ann"], "go together"),
            (["--tls-cert=x"], "go together"),
            (["--tls-cert=/none", "--tls-key=/none"], "/none"),
            (["--as=Nonsense/x"], "not a registry's name"),
            (["--anonymous-pull"], "--user"),
            (["--user=ann", "--password-stdin"], "empty"),
        ],
    )
    def test_bad_options(self, root: Path, options: list[str], word: str) -> None:
        argv = [sys.executable, "-m", "onggi.faces.registry", f"--root={root}"]
        if not any(option.startswith("--listen") for option in options):
            argv.append("--listen=127.0.0.1:0")
        done = subprocess.run(
            [*argv, *options],
            stdin=subprocess.DEVNULL,
            check=False,
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert done.returncode == 125
        assert done.stderr.startswith("onggi: ") and word in done.stderr
        assert done.stderr.count("\n") == 1

    def test_tls(self, root: Path, images: ImageStore, certificate: tuple[Path, Path]) -> None:
        image = make(images, os.urandom(3 * MIB), "here:1")
        files = (f"--tls-cert={certificate[0]}", f"--tls-key={certificate[1]}")
        with onggi_registry(root, *files, "--push") as peer:
            with peer.raw(b"GET /v2/ HTTP/1.1\r\n\r\n") as sock:
                assert b"200" not in received(sock)
            with peer.raw():  # says nothing: the others are served all the same
                peer.tls = ssl.create_default_context(cafile=str(certificate[0]))
                blob = peer.ask("GET", f"/v2/library/here/blobs/{image.layers[0].digest}").body
            assert digest_of(blob) == image.layers[0].digest
            assert peer.push_blob("a", b"over TLS" * 99_999)


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs Debian's package openssl")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


class TestHostileClients:
    @pytest.mark.parametrize(
        ("head", "status"),
        [
            (b"GET /v2/ HTTP/1.1\r\n" + b"X: " + b"y" * 40_000 + b"\r\n\r\n", b"431"),
            (b"GET /v2/ HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", b"431"),
            (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", b"431"),
            (b"GET /v2/\r\n", b"400"),
            (b"GET /v2/ HTTP/3.0\r\n\r\n", b"505"),
            (b"NONSENSE\r\n\r\n", b"400"),
            (b"TRACE /v2/ HTTP/1.1\r\n\r\n", b"400"),
            (b"GET http://x/v2/ HTTP/1.1\r\n\r\n", b"400"),
            (b"GET /v2/%ff HTTP/1.1\r\n\r\n", b"400"),
            (b"GET /v2/?" + b"a=1&" * 99 + b" HTTP/1.1\r\n\r\n", b"400"),
            (b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", b"400"),
            (b"PUT /v2/a/manifests/1 HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"400"),
            (b"PUT /v2/a/manifests/1 HTTP/1.1\r\nContent-Length: 1_0\r\n\r\n", b"400"),
            (b"PUT /v2/a/manifests/1 HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", b"413"),
            (
                b"PUT /v2/a/manifests/1 HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
                b"400",
            ),
            (
                b"PUT /v2/a/manifests/1 HTTP/1.1\r\nContent-Length: 1\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n",
                b"400",
            ),
            (
                b"PUT /v2/a/manifests/1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                b"400",
            ),
            (
                b"PUT /v2/a/manifests/1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"1;" + b"x" * 5000,
                b"400",
            ),
            (
                b"PUT /v2/a/manifests/1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"0\r\n" + b"a: b\r\n" * 99,
                b"400",
            ),
        ],
    )
    def test_requests_that_are_none(self, quiet: Peer, head: bytes, status: bytes) -> None:
        with quiet.raw(head) as sock:
            answer = received(sock)
        assert answer.startswith(b"HTTP/1.1 " + status), answer[:200]
        assert b'"errors"' in answer
        assert quiet.ask("GET", "/v2/").status == 200

    def test_slow_senders_do_not_hold_up_others(self, quiet: Peer) -> None:
        with contextlib.ExitStack() as slow:
            for _ in range(60):
                slow.enter_context(quiet.raw(b"GET /v2/ HTTP/1.1\r\nX: "))
            started = time.monotonic()
            assert quiet.ask("GET", "/v2/").status == 200
            assert time.monotonic() - started < 5

    @pytest.mark.parametrize(
        ("limit", "head"),
        [
            ("HEAD_S", b"GET /v2/ HTTP/1.1\r\nX: "),
            ("PATIENCE_S", b"PUT /v2/a/manifests/1 HTTP/1.1\r\nContent-Length: 9999\r\n\r\n"),
        ],
    )
    def test_drips(
        self, images: ImageStore, monkeypatch: pytest.MonkeyPatch, limit: str, head: bytes
    ) -> None:
        """Heads and bodies have a deadline as a whole, however diligently they drip."""
        monkeypatch.setattr(inbound, limit, 0.3)
        monkeypatch.setattr(inbound, "LEAST_BYTES_PER_S", 10_000)
        server = RegistryServer(Address("127.0.0.1", 0), Rules(push=True), lambda _line: None)
        registry = Registry(images, "own.lan")
        thread = threading.Thread(target=server.serve, args=(registry.answer,))
        thread.start()
        try:
            with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
                sock.sendall(head)
                deadline = time.monotonic() + 20
                while not select.select([sock], [], [], 0.02)[0]:
                    assert time.monotonic() < deadline
                    sock.sendall(b"y")
                assert received(sock).startswith(b"HTTP/1.1 408")
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def test_connections_beyond_the_bound(self, quiet: Peer) -> None:
        many = [quiet.raw() for _ in range(300)]
        try:
            tasks = len(os.listdir(f"/proc/{quiet.process.pid}/task"))
            assert tasks <= 260
        finally:
            for sock in many:
                sock.close()
        assert quiet.ask("GET", "/v2/").status == 200

    def test_the_log_is_plain_text(self, tmp_path: Path) -> None:
        with onggi_registry(tmp_path / "root") as peer, peer.raw() as sock:
            sock.sendall(b"GET /v2/\x1b[2J\xff HTTP/1.1\r\nConnection: close\r\n\r\n")
            received(sock)
        (log,) = tmp_path.glob("root-*.log")
        assert b"\x1b" not in log.read_bytes() and b"[2J" in log.read_bytes()

    def test_one_connection_serves_many_requests(self, quiet: Peer) -> None:
        with quiet.raw(b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50) as sock:
            data = b""
            while data.count(b"HTTP/1.1 200") < 50:
                part = sock.recv(65536)
                assert part
                data += part


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with onggi_registry(tmp_path_factory.mktemp("quiet") / "root", "--push") as peer:
        yield peer


class TestPeers:
    def test_skopeo_there_and_back(self, root: Path, images: ImageStore, tmp_path: Path) -> None:
        """From our store to docker-registry, from there pushed back, each by digest the same."""
        if shutil.which("skopeo") is None:
            pytest.skip("needs Debian's package skopeo")
        image = make(images, os.urandom(2 * MIB), "app:1")
        with (
            onggi_registry(root, "--push", "--as=own.lan") as ours,
            docker_registry(tmp_path / "docker") as theirs,
        ):
            copy = ["skopeo", "--insecure-policy", "copy", "--preserve-digests"]
            copy += ["--src-tls-verify=false", "--dest-tls-verify=false"]
            first = f"docker://127.0.0.1:{ours.port}/app:1"
            second = f"docker://127.0.0.1:{theirs.port}/back/app:2"
            third = f"docker://127.0.0.1:{ours.port}/pushed/app:3"
            for source, target in ((first, second), (second, third), (first, f"{third}-again")):
                done = subprocess.run(
                    [*copy, source, target], check=False, capture_output=True, text=True
                )
                assert done.returncode == 0, done.stderr
            assert digest_at(ours, "pushed/app", "3") == image.manifest_digest
            assert digest_at(ours, "pushed/app", "3-again") == image.manifest_digest
            assert images.resolve("own.lan/pushed/app:3").id == image.id

    def test_our_own_client(self, root: Path, images: ImageStore) -> None:
        image = make(images, os.urandom(2 * MIB), "app:1")
        data = images.content.read(image.manifest_digest, MIB)
        options = ("--push", "--as=own.lan", "--user=ann", "--password-stdin")
        with onggi_registry(root, *options, stdin=b"pw") as peer:
            host = f"127.0.0.1:{peer.port}"
            client = RegistryClient(host, keychain=lambda _host: Credentials("ann", "pw"))
            with contextlib.closing(client):
                client.check()
                assert list(client.catalog()) == ["library/app"]
                source, target = client.repository("library/app"), client.repository("copy")
                assert source.manifest("1") == (image.manifest, data)
                with source.open_blob(image.layers[0], offset=MIB) as stream:
                    assert stream.offset == MIB
                    rest = b"".join(iter(lambda: stream.read(MIB), b""))
                assert len(rest) == image.layers[0].size - MIB
                assert target.mount(image.id, "library/app")
                with source.open_blob(image.layers[0]) as stream:
                    target.upload(image.layers[0], stream, chunk_bytes=MIB)
                target.put_manifest("1", data, OCI_MANIFEST)
                assert target.manifest("1") == (image.manifest, data)
                assert images.resolve("own.lan/copy:1").id == image.id
                text = artifact(
                    b"{}",
                    subject={
                        "mediaType": OCI_MANIFEST,
                        "digest": image.manifest_digest,
                        "size": len(data),
                    },
                )
                peer_config = Descriptor(EMPTY_TYPE, digest_of(EMPTY), len(EMPTY))
                target.upload(peer_config, MemoryStream(EMPTY))
                assert target.put_manifest(digest_of(text), text, OCI_MANIFEST) is True
                found = target.referrers(image.manifest_digest).manifests
                assert [referrer.digest for referrer in found] == [digest_of(text)]
                assert list(target.tags()) == ["1"]
                target.delete("manifests", "1")
                assert list(target.tags()) == []

    def test_parallel_pulls(self, root: Path, images: ImageStore) -> None:
        image = make(images, os.urandom(4 * MIB), "app:1")
        found: list[str] = []
        with onggi_registry(root) as peer:

            def pull() -> None:
                blob = peer.ask("GET", f"/v2/app/blobs/{image.layers[0].digest}").body
                found.append("sha256:" + hashlib.sha256(blob).hexdigest())

            threads = [threading.Thread(target=pull) for _ in range(16)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert found == [image.layers[0].digest] * 16


class TestCommand:
    def test_options_reach_the_server(self) -> None:
        verb = registry_serve.VERBS["serve"]
        argv = "--listen 0.0.0.0:1 --push --as x.y --user ann --password-stdin --insecure".split()
        parsed = parse("registry serve", verb.options, argv)
        assert registry_serve.command("/r", parsed) == [
            sys.executable, "-P", "-m", "onggi.faces.registry", "--root", "/r",
            "--listen=0.0.0.0:1", "--push", "--as=x.y", "--user=ann", "--password-stdin",
            "--insecure",
        ]  # fmt: skip

    def test_the_verb_becomes_the_server(self, root: Path) -> None:
        """In the same process: whoever signals or waits for the command has the server."""
        program = (
            "import os; from onggi.faces.cli.options import parse; "
            "from onggi.faces.cli.verb import Context; "
            "from onggi.faces.cli.verbs.registry_serve import VERBS; "
            "verb = VERBS['serve']; "
            "parsed = parse('registry serve', verb.options, ['--listen', '127.0.0.1:0']); "
            f"verb.run(Context({str(root)!r}, os.environ), parsed)"
        )
        argv = [sys.executable, "-c", program]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            said = process.stdout.readline()
            peer = Peer(int(said.rpartition(b":")[2]), process, root)
            assert peer.ask("GET", "/v2/").status == 200
            assert peer.end(signal.SIGINT) == 0

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_signals_end_it(self, root: Path, number: int) -> None:
        with onggi_registry(root) as peer, peer.raw(b"GET /v2/ HTTP/1.1\r\nX"):
            assert peer.end(number) == 0


class MemoryStream(io.BytesIO):
    """Content as a transport gives it."""

    offset = 0


def await_size(directory: Path, size_bytes: int) -> None:
    """Wait until the one file in `directory` has this size."""
    deadline = time.monotonic() + 20
    while [path.stat().st_size for path in directory.iterdir()] != [size_bytes]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_locations_are_relative() -> None:
    """Behind a proxy or a tunnel the server knows neither its name nor its scheme."""
    assert relative("http://h:1/v2/x") == relative("/v2/x")
