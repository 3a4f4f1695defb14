"""A disk that changes a bit or loses the end of any file of an image store: `onggi image fsck`
says so, and `--repair` with a pull makes all of it whole again.

ONGGI_DAMAGES says how many files of a store, ONGGI_SEED which; all of them with `all`. What each
kind of file suffers from in how many ways is told in `tests/kernel/test_image_fsck.py`.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from acceptance import wire_rig as wire
from acceptance.rig import Onggi
from faces.registry_peers import onggi_registry
from fault.image_rig import (
    FORMS,
    CountingRegistry,
    Shelf,
    configure,
    dice,
    engine_at,
    need_form,
    pulled,
    store_of,
)
from image_health import open_store
from onggi.faces.cli.client import Client
from onggi.image.discard import discard
from onggi.image.images import ImageStore
from onggi.image.reference import Reference
from onggi.image.served import ServedRecord
from onggi.image.transports.copy import copy_image
from onggi.image.transports.registry import registry_sink
from onggi.image.transports.store import StoreSource

DAMAGES = os.environ.get("ONGGI_DAMAGES", "16")
#: Locks, space, and what nothing can be compared with (`fsck` says why).
NO_CONTENT = {"reserve", "discard.lock", "names.lock", "lease.lock", "sweep.lock", "manifests.lock"}
TAGS = ("1", "2", "3", "4")

pytestmark = pytest.mark.timeout(120 if DAMAGES != "all" else 1200)


class Rig:
    """An engine with several images, one of them pushed to it by digest, one without its blobs."""

    def __init__(self, onggi: Onggi, registry: CountingRegistry) -> None:
        self.onggi = onggi
        self.store = store_of(onggi.root)
        self._registry = registry
        self._calls: Client = wire.client(onggi)
        self._served = (self.store / "serve/manifests.json").read_bytes()

    def fsck(self, *, repair: bool = False) -> list[dict[str, Any]]:
        """What the engine finds."""
        with self._calls.open("images.fsck", {"repair": repair}) as call:
            return [item.value for item in call.items() if item.type == "FindingRow"]

    def pull(self) -> None:
        """Everything once more."""
        for tag in TAGS:
            with self._calls.open("images.pull", {"reference": self._registry.name(tag)}) as call:
                for _ in call.items():
                    pass

    def settle(self) -> None:
        """Put back what a repair has to forget: records whose content is here again by now."""
        served = self.store / "serve/manifests.json"
        if not served.exists():
            served.write_bytes(self._served)
        _drop_blobs(open_store(self.store, "auto"), self.name("4"))

    def name(self, tag: str) -> str:
        """What an image is called."""
        return self._registry.name(tag)

    def names(self) -> set[str]:
        """Of all images."""
        return {name for row in self._calls.call("images.list", {}) for name in row["names"]}

    def victims(self) -> list[Path]:
        """Every blob, record and file of a layer."""
        found = [
            Path(directory, name)
            for directory, _, names in os.walk(self.store)
            for name in names
            if name not in NO_CONTENT
        ]
        return [path for path in sorted(found) if path.is_file() and not path.is_symlink()]


@pytest.fixture(params=FORMS)
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    form, root = str(request.param), tmp_path / "engine"
    need_form(form, tmp_path)
    configure(root, form)
    shelf = Shelf(tmp_path)
    shelf.add("1", "a", "b")
    shelf.add("2", "a", "c")
    shelf.add("3", "d")
    shelf.add("4", "e")
    with CountingRegistry(shelf) as registry:
        images = pulled(store_of(root), form, registry, *TAGS)
        _push_by_digest(root, images, registry.name("1"))
        _drop_blobs(images, registry.name("4"))
        with engine_at(root) as onggi:
            yield Rig(onggi, registry)


def _drop_blobs(images: ImageStore, name: str) -> None:
    """Drop an image's compressed layers, where they have tars to be made of."""
    for chain_id, (_, why) in zip(
        images.resolve(name).chain_ids, discard(images, images.resolve(name)), strict=True
    ):
        assert why == "" or images.snapshots.record(chain_id).form == "overlay", why


def _push_by_digest(root: Path, images: ImageStore, name: str) -> None:
    """So that there is a record of the registry's."""
    digest = images.resolve(name).target.digest
    with onggi_registry(root, "--push") as peer:
        target = Reference.parse(f"127.0.0.1:{peer.port}/pushed@{digest}")
        source, sink = StoreSource(images, name), registry_sink(target, images.settings)
        copy_image(source, sink)
        sink.close()
        source.close()
    assert ServedRecord(images.root).read().repositories


def flip(data: bytes, numbers: random.Random) -> bytes:
    at = numbers.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << numbers.randrange(8)]) + data[at + 1 :]


def truncate(data: bytes, numbers: random.Random) -> bytes:
    return data[: numbers.randrange(len(data))]


def rewrite(path: Path, data: bytes) -> None:
    """In place, with the times that it had, as a failing disk would."""
    status = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_every_file(rig: Rig) -> None:
    numbers = dice("damages")
    assert rig.fsck() == []
    names, victims = rig.names(), rig.victims()
    kinds = {path.relative_to(rig.store).parts[1] for path in victims}
    assert kinds >= {"blobs", "layers", "origins", "index.json", "index.backup", "oci-layout"}
    assert (rig.store / "serve/manifests.json") in victims
    harms = (flip, truncate)
    for victim in sorted(chosen(victims, rig.store, numbers)):
        for harm in harms if DAMAGES == "all" else (numbers.choice(harms),):
            whole = victim.read_bytes()
            if not whole or (victim.parent.name == "origins" and harm is flip):
                continue  # a wrong origin costs a request; nothing tells it from a right one
            harmed = harm(whole, numbers)
            rewrite(victim, harmed)
            where = f"{victim.relative_to(rig.store)} {harm.__name__} {len(harmed)}/{len(whole)}"
            found = rig.fsck()
            if victim.parent.name == "origins" and not harmed:
                assert found == []
            else:
                assert any(row["severity"] == "error" for row in found), where
            rig.fsck(repair=True)
            rig.pull()
            assert rig.fsck() == [], where
            assert rig.names() == names, where
            rig.settle()
    for tag in TAGS:
        rig.onggi.run("run", "--rm", rig.name(tag), "ls", "/data")


def chosen(victims: list[Path], store: Path, numbers: random.Random) -> list[Path]:
    """Some of each kind, or all."""
    if DAMAGES == "all":
        return victims
    kinds: dict[tuple[str, ...], list[Path]] = {}
    for path in victims:
        parts = path.relative_to(store).parts
        is_record = len(parts) < 4
        kinds.setdefault((*parts[:2], "" if is_record else path.name[:9]), []).append(path)
    some = [numbers.choice(paths) for paths in kinds.values()]
    return numbers.sample(some, min(int(DAMAGES), len(some)))


def test_the_command_line(rig: Rig) -> None:
    assert rig.onggi.out("image", "fsck") == "the store is whole"
    victim = next(p for p in rig.victims() if p.parent.name == "sha256" and p.stat().st_size > 9999)
    rewrite(victim, flip(victim.read_bytes(), dice("one")))
    said = rig.onggi.run("image", "fsck", "--no-trunc", check=False)
    assert said.returncode == 1 and victim.name in said.stdout
    said = rig.onggi.run("image", "fsck", "--repair", "--no-trunc", check=False)
    assert victim.name in said.stdout
    rig.pull()
    assert rig.onggi.out("image", "fsck") == "the store is whole"
