"""Every damage that a disk or a crash can do to an image store is found, and mended or said."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from image_health import BASE, FORMS, fill, layer_tar, make, open_store
from onggi.image.discard import discard
from onggi.image.fsck import Damage, check
from onggi.image.images import ImageStore
from onggi.image.origins import Origins
from onggi.image.repair import Repair, repair
from onggi.specs.image import (
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Index,
    encode_document,
    parse_index,
)


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def truncated(data: bytes) -> bytes:
    return data[:-1]


def grown(data: bytes) -> bytes:
    return data + b"\0"


def zeroed(data: bytes) -> bytes:
    return bytes(len(data))


def flipped_in_the_middle(data: bytes) -> bytes:
    return flip(data, len(data) // 2)


def flipped_at_the_start(data: bytes) -> bytes:
    return flip(data, 0)


def emptied(_: bytes) -> bytes:
    return b""


DAMAGES = (
    flipped_in_the_middle,
    flipped_at_the_start,
    truncated,
    grown,
    zeroed,
    emptied,
)

#: Not records: locks, space, and what nothing can be compared with.
NO_CONTENT = {"reserve", "discard.lock", "names.lock", "lease.lock", "sweep.lock"}


def files_of(root: Path) -> list[Path]:
    """Every blob, record and layer file."""
    found = [
        Path(directory, name)
        for directory, _, names in os.walk(root)
        for name in names
        if name not in NO_CONTENT
    ]
    return [path for path in sorted(found) if path.is_file() and not path.is_symlink()]


def rewrite(path: Path, data: bytes) -> None:
    """In place, with the times that it had, as a failing disk would."""
    status = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def brought_again(images: ImageStore) -> None:
    """What a pull of everything would do."""
    fill(images)


def damage_of(found: tuple[Damage, ...]) -> list[Damage]:
    return [damage for damage in found if not damage.harmless]


@pytest.fixture(params=FORMS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    images = open_store(tmp_path / "whole", request.param)
    fill(images)
    assert check(images) == ()
    images.snapshots.close()
    yield tmp_path / "whole"


def form_of(root: Path) -> str:
    return "erofs" if list(root.rglob("layer.tar")) else "overlay"


def test_every_file_in_every_way(store: Path, tmp_path: Path) -> None:
    form = form_of(store)
    victims = [path.relative_to(store) for path in files_of(store)]
    assert len(victims) > 15
    for victim in victims:
        for harm in DAMAGES:
            root = tmp_path / "copy"
            subprocess.run(["cp", "-a", store, root], check=True)  # hard links too
            images = open_store(root, form)
            whole = (root / victim).read_bytes()
            rewrite(root / victim, harm(whole))
            found = check(images)
            where = f"{victim} {harm.__name__}"
            assert damage_of(found), where
            done = repair(images, in_use=())
            assert done, where
            if not all(each.repaired for each in done):
                assert damage_of(check(images)), where
                brought_again(images)
            assert check(images) == (), where
            assert {name for image in images.list() for name in image.names} == {
                "docker.io/library/app:1",
                "docker.io/library/other:1",
                "docker.io/library/other:2",
            }, where
            for image in images.list():
                images.unpack(image)
            images.snapshots.close()
            shutil.rmtree(root)


def test_every_missing_file(store: Path, tmp_path: Path) -> None:
    form = form_of(store)
    for victim in [path.relative_to(store) for path in files_of(store)]:
        root = tmp_path / "copy"
        subprocess.run(["cp", "-a", store, root], check=True)
        (root / victim).unlink()
        images = open_store(root, form)
        if victim.name != "oci-layout":  # which opening writes
            assert damage_of(check(images)), victim
        if not all(each.repaired for each in repair(images, in_use=())):
            brought_again(images)
        assert check(images) == (), victim
        images.snapshots.close()
        shutil.rmtree(root)


def opened(store: Path) -> ImageStore:
    return open_store(store, form_of(store))


def test_a_shallow_check_reads_no_layers(store: Path) -> None:
    images = opened(store)
    layer = images.resolve("app:1").layers[0]
    path = Path(images.content.path(layer.digest))
    rewrite(path, flip(path.read_bytes(), 50))
    assert check(images, deep=False) == ()
    (damage,) = [d for d in check(images) if d.kind == "blob"]
    assert damage.what == layer.digest
    assert damage.images == ("app:1", "other:1", "other:2")
    rewrite(path, truncated(path.read_bytes()))
    assert [d.kind for d in check(images, deep=False)] == ["blob"]


def test_strays_and_leftovers_are_no_damage(store: Path) -> None:
    images = opened(store)
    content, snapshots = Path(images.content.root), Path(images.snapshots.root)
    (content / "blobs/sha256/nonsense").write_bytes(b"x")
    (content / "blobs/md5").mkdir()
    (content / "ingest/left").write_bytes(b"x")
    (content / "partial").mkdir()
    (content / "partial/nonsense").write_bytes(b"x")
    there = images.resolve("app:1").layers[0].digest[7:]
    (content / "partial" / there).write_bytes(b"x")
    (content / "partial" / ("ab" * 32)).write_bytes(b"a download that can be resumed")
    (snapshots / "staging/left").mkdir()
    (snapshots / "trash/left").mkdir()
    (snapshots / "layers/nonsense").mkdir()
    extra = images.content.put(b"no image needs this")
    found = check(images)
    assert damage_of(found) == []
    assert sorted((d.kind, d.what) for d in found) == [
        ("leftover", "content/ingest/left"),
        ("leftover", f"content/partial/{there}"),
        ("leftover", "snapshots/staging/left"),
        ("leftover", "snapshots/trash/left"),
        ("stray", "content/blobs/md5"),
        ("stray", "content/blobs/sha256/nonsense"),
        ("stray", "content/partial/nonsense"),
        ("stray", "snapshots/layers/nonsense"),
        ("unneeded", extra.digest),
    ]
    assert all(each.repaired for each in repair(images, in_use=()))
    assert check(images) == ()
    assert (content / "partial" / ("ab" * 32)).exists()


def test_what_somebody_works_on_is_left(store: Path) -> None:
    images = opened(store)
    with images.content.ingest() as ingest:
        ingest.write(b"half")
        assert check(images) == ()
        assert repair(images, in_use=()) == ()
        blob = ingest.commit()
    with images.lease():
        assert check(images) == ()  # somebody may be about to give it a name
    assert [d.what for d in check(images)] == [blob.digest]


def test_repair_waits_for_those_who_bring_content(store: Path) -> None:
    images = opened(store)
    path = Path(images.content.path(images.resolve("app:1").id))
    rewrite(path, b"damaged")
    done: list[Repair] = []
    worker = threading.Thread(target=lambda: done.extend(repair(images, in_use=())))
    with images.lease():
        worker.start()
        worker.join(0.2)
        assert path.read_bytes() == b"damaged"
        brought_again(images)
    worker.join()
    assert check(images) == ()
    assert "whole by now" in done[0].done


def test_index_and_backup_lost_the_content_stays(store: Path) -> None:
    images = opened(store)
    ids = {image.id for image in images.list()}
    for name in ("index.json", "index.backup"):
        rewrite(Path(images.content.root, name), b"{")
    assert {d.kind for d in check(images)} >= {"index"}
    done = repair(images, in_use=())
    assert any("names are lost" in each.done for each in done)
    assert check(images) == ()
    assert {image.id for image in images.list()} == ids
    assert all(image.names == () for image in images.list())


def test_a_bit_in_a_name_does_not_rename(store: Path) -> None:
    images = opened(store)
    path = Path(images.content.root, "index.json")
    rewrite(path, path.read_bytes().replace(b"library/app:1", b"library/apq:1"))
    fresh = opened(store)
    assert fresh.resolve("app:1").names == ("docker.io/library/app:1",)
    assert [d.kind for d in check(fresh)] == ["index"]
    fresh.tag("app:1", "more:1")  # is not based on the damaged file
    assert fresh.resolve("app:1").names == ("docker.io/library/app:1", "docker.io/library/more:1")
    assert check(fresh) == ()


def test_a_crash_between_the_backup_and_the_index(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = opened(store)
    before = images.content.read_index()

    class Killed(BaseException):
        pass

    def rename(source: str, target: str) -> None:
        if target.endswith("index.json"):
            raise Killed
        os.replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("onggi.image.durable.os.rename", rename)
        with pytest.raises(Killed):
            images.tag("app:1", "more:1")
    fresh = opened(store)
    assert fresh.content.read_index() == before
    assert damage_of(check(fresh)) == []
    fresh.tag("app:1", "next:1")
    assert check(fresh) == ()
    assert len(parse_index(fresh.content.read_index()).manifests) == 4


def test_what_a_container_uses_stays(store: Path) -> None:
    images = opened(store)
    image = images.resolve("app:1")
    place = store / "snapshots/layers" / image.chain_ids[0][7:]
    victim = next(p for p in (place / "fs/base/file", place / "layer.tar") if p.exists())
    rewrite(victim, flip(victim.read_bytes(), 600))
    (result,) = repair(images, in_use=image.chain_ids[1:2])
    assert result.repaired is False
    assert "container" in result.done
    assert victim.exists()
    (result,) = repair(images, in_use=())
    assert result.repaired
    assert check(images) == ()


def test_a_container_without_its_image_keeps_its_layers(store: Path) -> None:
    images = opened(store)
    chains = images.resolve("app:1").chain_ids
    images.remove("app:1", in_use=chains)
    assert check(images, in_use=chains) == ()
    assert {d.what for d in check(images)} == set(chains[1:])
    assert repair(images, in_use=chains) == ()
    repair(images, in_use=())
    assert check(images) == ()
    assert not images.snapshots.exists(chains[2])


def test_killed_while_layers_go(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers go from the top, so what is left of a chain is a chain."""
    images = opened(store)
    count = len(images.snapshots.layers())
    for left in range(count - 1, -1, -1):
        remove_layer = images.snapshots.remove_layer

        class Killed(BaseException):
            pass

        def remove_one(chain_id: str, remove_layer: Callable[[str], None] = remove_layer) -> None:
            remove_layer(chain_id)
            raise Killed

        images.content.write_index(encode_document(Index(2, (), OCI_INDEX)))
        with monkeypatch.context() as patch:
            patch.setattr(images.snapshots, "remove_layer", remove_one)
            with pytest.raises(Killed):
                images.collect(in_use=())
        assert len(images.snapshots.layers()) == left
        assert {d.kind for d in check(images)} == {"unneeded"}


def test_records_of_origins(store: Path) -> None:
    images = opened(store)
    digest = images.resolve("app:1").layers[0].digest
    Origins(images.content.root).record(digest, "host:5000/a/b")
    assert check(images) == ()
    path = Path(images.content.root, "origins", digest[7:])
    for harm in (truncated, zeroed, flipped_at_the_end, lambda data: data * 5000):
        path.write_bytes(harm(b"host:5000/a/b\n"))
        assert [d.kind for d in check(images)] == ["record"]
        assert all(each.repaired for each in repair(images, in_use=()))
        assert check(images) == ()


def flipped_at_the_end(data: bytes) -> bytes:
    return flip(data, len(data) - 1)


@pytest.mark.parametrize("harm", DAMAGES)
def test_dropped_blobs(tmp_path: Path, harm: Callable[[bytes], bytes]) -> None:
    images = open_store(tmp_path / "root", "erofs")
    image = make(images, "app:1", layers=[BASE, (layer_tar("top"), "python")])
    assert [why for _, why in discard(images, image)] == ["", ""]
    assert check(images) == ()
    layer, chain = image.layers[1], image.chain_ids[1]
    place = tmp_path / "root/snapshots/layers" / chain[7:]
    record = tmp_path / "root/content/discarded" / layer.digest[7:]
    for victim, is_lost in (
        (record, True),
        (place / "layer.erofs", False),
        (place / "layer.json", False),
        (place / "layer.tar", True),
    ):
        rewrite(victim, harm(victim.read_bytes()))
        assert damage_of(check(images)), victim
        done = repair(images, in_use=())
        assert all(each.repaired for each in done) != is_lost, (victim, done)
        if is_lost:
            assert damage_of(check(images))
            make(images, "app:1", layers=[BASE, (layer_tar("top"), "python")])
        assert check(images) == ()
        assert discard(images, images.resolve("app:1"))[1] == (layer.digest, "")
    assert check(images) == ()


def test_a_lost_blob_of_ours_is_made_again(tmp_path: Path) -> None:
    images = open_store(tmp_path / "root", "erofs")
    tars = [(layer_tar(how), how) for how in ("none", "gzip", "zstd")]
    image = make(images, "built:1", layers=tars)
    for layer in image.layers:
        path = Path(images.content.path(layer.digest))
        rewrite(path, flip(path.read_bytes(), 100))
    done = repair(images, in_use=())
    assert [each.done for each in done] == ["made again from the layer's tar"] * 3
    assert check(images) == ()


def test_a_foreign_file_where_a_blob_should_be(store: Path) -> None:
    images = opened(store)
    digest = images.resolve("app:1").layers[0].digest
    path = Path(images.content.path(digest))
    path.unlink()
    path.symlink_to("/etc/passwd")
    assert [(d.kind, d.what) for d in check(images)] == [("blob", digest)]
    repair(images, in_use=())
    assert not path.is_symlink()
    path.unlink(missing_ok=True)
    path.mkdir()
    assert [(d.kind, d.what) for d in check(images)] == [("blob", digest)]
    repair(images, in_use=())
    assert not path.is_dir()


def test_a_document_that_was_made_wrong(store: Path) -> None:
    images = opened(store)
    blob = images.content.put(b'{"schemaVersion":2}')
    entries = parse_index(images.content.read_index()).manifests
    wrong = Descriptor(OCI_MANIFEST, blob.digest, blob.size_bytes)
    images.content.write_index(encode_document(Index(2, (*entries, wrong), OCI_INDEX)))
    (damage,) = damage_of(check(images))
    assert (damage.kind, damage.what) == ("document", blob.digest)
    (result,) = repair(images, in_use=())
    assert not result.repaired
    images.remove(blob.digest, in_use=(), force=True)
    assert check(images) == ()
