"""Many pulls of images that share layers, at once, while collections run: each blob is fetched
once, and everything is right."""

from __future__ import annotations

import subprocess
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from acceptance.rig import Onggi
from fault.image_rig import (
    FORMS,
    CountingRegistry,
    Shelf,
    Workers,
    assert_sound,
    configure,
    engine_at,
    need_form,
    store_of,
)
from image_health import open_store
from onggi.image.fsck import check

#: Eight images in which each layer is in several; all stand on busybox.
IMAGES = {str(n): (f"l{n}", f"l{(n + 1) % 8}", f"l{(n + 3) % 8}") for n in range(8)}
PULLS = 16
COLLECTS_EVERY_S = 0.1


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    need_form(request.param, tmp_path)
    return str(request.param)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    made = Shelf(tmp_path)
    for tag, files in IMAGES.items():
        made.add(tag, *files, size_bytes=200_000)
    return made


def each_once(registry: CountingRegistry) -> None:
    """Every layer was asked for once, from its start, and sent once."""
    layers = {layer for tag in IMAGES for layer in registry.shelf.layers(tag)}
    assert registry.times_asked() == Counter({layer.digest: 1 for layer in layers})
    assert all(offset == 0 for _, offset in registry.asked)
    for layer in layers:
        assert registry.sent[layer.digest] == layer.size


def pull_all(onggi: Onggi, registry: CountingRegistry) -> None:
    """Sixteen commands at once, two for each image."""
    running = [
        subprocess.Popen(
            onggi.words("pull", "-q", registry.name(str(n % 8))),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for n in range(PULLS)
    ]
    for process in running:
        _, said = process.communicate(timeout=100)
        assert process.returncode == 0, said.decode()


def collecting(onggi: Onggi, ended: threading.Event) -> int:
    """Prune nameless images, which collects, again and again; how often."""
    count = 0
    while not ended.wait(COLLECTS_EVERY_S):
        onggi.run("image", "prune", "-f")
        count += 1
    return count


def test_one_engine(form: str, shelf: Shelf, tmp_path: Path) -> None:
    root = tmp_path / "engine"
    configure(root, form)
    with CountingRegistry(shelf, pace_s=0.01) as registry, engine_at(root) as onggi:
        onggi.run("images")
        ended = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            collected = pool.submit(collecting, onggi, ended)
            try:
                pull_all(onggi, registry)
            finally:
                ended.set()
            assert collected.result() >= 1
        each_once(registry)
        assert onggi.out("image", "fsck") == "the store is whole"
        names = onggi.out("images", "--format", "{{.Repository}}:{{.Tag}}").split()
        assert set(names) == {registry.name(tag) for tag in IMAGES}
        for tag, files in IMAGES.items():
            shown = onggi.out("run", "--rm", registry.name(tag), "ls", "/data").split()
            assert shown == sorted(files)


def test_several_processes(form: str, shelf: Shelf, tmp_path: Path) -> None:
    """Not even one engine: whoever opens the same store meets the others on its files."""
    root = store_of(tmp_path / "engine")
    root.mkdir(parents=True)
    with CountingRegistry(shelf, pace_s=0.005) as registry:

        def one(number: int) -> None:
            with Workers(tmp_path / f"log{number}") as worker:
                for tag in list(IMAGES)[number * 2 :] + list(IMAGES)[: number * 2]:
                    worker.do("pull", root=str(root), form=form, name=registry.name(tag))

        collecting = threading.Event()

        def collect() -> None:
            images = open_store(root, form)
            while not collecting.wait(0.02):
                images.collect(in_use=())

        with ThreadPoolExecutor(5) as pool:
            collector = pool.submit(collect)
            try:
                list(pool.map(one, range(4)))
            finally:
                collecting.set()
            collector.result()
        each_once(registry)
    images = open_store(root, form)
    assert len(images.list()) == len(IMAGES)
    assert_sound(images)
    assert check(images) == ()
