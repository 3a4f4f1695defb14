"""What the store says it takes is what `du` says; what it says it would free is what goes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from image_health import FORMS, blocks_below, fill, layer_tar, make, open_store
from onggi.image.discard import discard
from onggi.image.images import ImageStore
from onggi.image.origins import Origins
from onggi.image.prune import prune
from onggi.image.usage import disk_usage, take_inventory


@pytest.fixture(params=FORMS)
def images(request: pytest.FixtureRequest, tmp_path: Path) -> ImageStore:
    return open_store(tmp_path / "root", request.param)


def du(path: str) -> int:
    out = subprocess.run(["du", "-s", "--block-size=1", path], capture_output=True, check=True)
    return int(out.stdout.split()[0])


def test_the_sum_is_that_of_du(images: ImageStore) -> None:
    fill(images)
    chains = images.resolve("app:1").chain_ids
    upper = Path(images.snapshots.prepare("box", chains).upper)
    (upper / "fs/big").write_bytes(b"x" * 100_000)
    os.link(upper / "fs/big", upper / "fs/again")
    (upper / "fs/sparse").touch()
    os.truncate(upper / "fs/sparse", 1 << 30)
    (upper / "fs/link").symlink_to("/")
    Path(images.content.root, "partial").mkdir()
    Path(images.content.root, "partial", "ab" * 32).write_bytes(b"y" * 5000)
    Path(images.root, "own").write_bytes(b"z" * 9000)
    usage = disk_usage(images, in_use=chains, users={images.resolve("app:1").id})
    assert usage.total_bytes == du(images.root) == blocks_below(images.root)
    assert usage.blobs_bytes == du(os.path.join(images.content.root, "blobs"))
    assert usage.layers_bytes == du(os.path.join(images.snapshots.root, "layers"))
    assert usage.uppers_bytes == du(os.path.join(images.snapshots.root, "active"))
    assert usage.uppers == {"box": du(str(upper))}
    assert usage.partial_bytes >= 8192
    assert usage.damage == ""
    for chain_id in chains:
        assert take_inventory(images.root).layers[chain_id] == (
            images.snapshots.layer_usage(chain_id).size_bytes
        )


def test_what_would_be_freed_is_freed_to_the_byte(images: ImageStore) -> None:
    fill(images)
    digest = images.resolve("app:1").layers[2].digest
    Origins(images.content.root).record(digest, "host:5000/a/b")
    keep = images.resolve("other:1")
    users = {"in_use": keep.chain_ids, "users": {keep.id}}
    images.content.put(b"nobody needs this" * 1000)
    images.snapshots.settle()
    before = disk_usage(images, **users)
    assert before.garbage_bytes > 0
    assert before.reclaimable_bytes > before.garbage_bytes
    assert before.notes_bytes == du(os.path.join(images.content.root, "origins", digest[7:]))
    everything = disk_usage(images)
    held = everything.blobs_bytes + everything.layers_bytes + everything.notes_bytes
    assert everything.reclaimable_bytes <= held

    images.collect(in_use=keep.chain_ids)
    collected = du(images.root)
    assert before.total_bytes - collected == before.garbage_bytes

    pruned = prune(images, every=True, **users)
    assert pruned.untagged == ("docker.io/library/app:1",)
    assert collected - du(images.root) == pruned.freed_bytes
    assert before.total_bytes - du(images.root) == before.reclaimable_bytes
    after = disk_usage(images, **users)
    assert (after.garbage_bytes, after.reclaimable_bytes) == (0, 0)


def test_shared_and_unique(images: ImageStore) -> None:
    fill(images)
    inventory = take_inventory(images.root)
    app, other = disk_usage(images, users={images.resolve("app:1").id}).images
    shared_layer = images.resolve("app:1").layers[0].digest
    shared_chain = images.resolve("app:1").chain_ids[0]
    shared = inventory.of((shared_layer,), (shared_chain,))
    assert app.names == ("docker.io/library/app:1",)
    assert other.names == ("docker.io/library/other:1", "docker.io/library/other:2")
    assert app.shared_bytes == other.shared_bytes == shared > 0
    everything = sum(inventory.blobs.values()) + sum(inventory.layers.values())
    assert app.unique_bytes + other.unique_bytes + shared == everything
    assert (app.in_use, other.in_use) == (True, False)
    assert app.size_bytes == app.unique_bytes + shared


def test_the_same_content_under_two_names_is_unique(images: ImageStore) -> None:
    image = make(images, "a:1", layers=[(layer_tar("plain"), "none")])
    images.tag("a:1", "b:1")
    assert image.layers[0].digest == image.chain_ids[0]  # a blob's digest that is a chain id too
    (only,) = disk_usage(images).images
    assert only.shared_bytes == 0
    assert len(only.names) == 2


def test_dropped_blobs_take_nothing_and_go_with_their_image(tmp_path: Path) -> None:
    images = open_store(tmp_path / "root", "erofs")
    image = make(images, "a:1", layers=[(layer_tar("big", 200_000), "gzip")])
    before = disk_usage(images)
    assert discard(images, image) == ((image.layers[0].digest, ""),)
    after = disk_usage(images)
    assert after.blobs_bytes < before.blobs_bytes - 190_000
    assert after.total_bytes == du(images.root)
    freed = prune(images, in_use=(), users=(), every=True).freed_bytes
    assert after.total_bytes - du(images.root) == freed == after.reclaimable_bytes
    assert os.listdir(os.path.join(images.content.root, "discarded")) == []


def test_a_damaged_store_is_measured_too(images: ImageStore) -> None:
    fill(images)
    image = images.resolve("app:1")
    Path(images.content.path(image.manifest_digest)).write_bytes(b"{}")
    usage = disk_usage(images)
    assert usage.total_bytes == du(images.root)
    assert image.manifest_digest in usage.damage
    assert (usage.garbage_bytes, usage.reclaimable_bytes) == (0, 0)


def test_an_empty_store(images: ImageStore) -> None:
    usage = disk_usage(images)
    assert usage.total_bytes == du(images.root)
    assert usage.images == ()
    assert usage.reclaimable_bytes == 0
