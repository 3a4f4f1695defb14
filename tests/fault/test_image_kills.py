"""SIGKILL at random moments of whatever changes an image store: nothing is damaged, and the next
who wants the same goes on from what is there.

ONGGI_KILLS says how many in all, ONGGI_SEED which.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import registry_rig
from acceptance import wire_rig as wire
from acceptance.rig import Onggi, kill_engine
from faces.registry_peers import onggi_registry
from fault.image_rig import (
    FORMS,
    KILLS,
    PIECE_BYTES,
    CountingRegistry,
    Moment,
    Outcome,
    Shelf,
    Workers,
    assert_runs,
    assert_sound,
    configure,
    damage_of,
    dice,
    engine_at,
    need_form,
    pulled,
    store_of,
)
from image_health import open_store
from onggi.errors import NotFound
from onggi.image.archive import save
from onggi.image.fsck import check
from onggi.image.images import ImageStore
from onggi.image.pull import pull
from onggi.image.reference import Reference
from onggi.image.repair import repair
from onggi.image.transports.registry import registry_source

#: Of each kind of work and form of layers.
SHARE = max(3, KILLS // 8)
#: After so many kills of one pull it is let through.
KILLS_IN_A_ROW = 5
#: What a killed client had read, but not yet written: a chunk of each of its streams.
LOST_BYTES = 4 * (256 << 10)

pytestmark = pytest.mark.timeout(120 + 4 * KILLS)


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    need_form(request.param, tmp_path)
    return str(request.param)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    made = Shelf(tmp_path)
    made.add("1", "a", "b", "c")
    made.add("2", "a", "b", "d")
    made.add("3", "e")
    return made


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    with Workers(tmp_path / "workers.log") as running:
        yield running


def stored_bytes(images: ImageStore, shelf: Shelf, tag: str) -> dict[str, int]:
    """How much of each layer is there, wholly or in part."""
    found = {}
    for layer in shelf.layers(tag):
        partial = Path(images.content.root, "partial", layer.digest[7:])
        size = images.content.size_bytes(layer.digest)
        found[layer.digest] = partial.stat().st_size if partial.exists() else size or 0
    return found


def copied(master: Path, place: Path) -> Path:
    """A store like another, hard links and owners included."""
    shutil.rmtree(place, ignore_errors=True)
    subprocess.run(["cp", "-a", "--reflink=auto", master, place], check=True)
    return place


def test_a_pull(form: str, shelf: Shelf, workers: Workers, tmp_path: Path) -> None:
    numbers = dice(f"a pull, {form}")
    killed = 0
    with CountingRegistry(shelf, pace_s=0.004) as registry:
        name = registry.name()
        whole = workers.do("pull", root=str(tmp_path / "first"), form=form, name=name)
        size = shelf.size_bytes("1")
        while killed < SHARE:
            root = tmp_path / "engine"
            shutil.rmtree(root, ignore_errors=True)
            store_of(root).mkdir(parents=True)
            killed += _pull_with_kills(
                workers, registry, numbers, whole, store_of(root), form, SHARE - killed
            )
            images = open_store(store_of(root), form)
            assert_sound(images)
            repair(images, in_use=())
            assert check(images) == ()
            assert images.resolve(name).target.digest == shelf.tags["1"].digest
        assert size
        configure(root, form)
        assert_runs(root, name)


def _pull_with_kills(
    workers: Workers,
    registry: CountingRegistry,
    numbers: random.Random,
    whole: Outcome,
    root: Path,
    form: str,
    most: int,
) -> int:
    """One image into an empty store against kills; how many there were."""
    name, shelf = registry.name(), registry.shelf
    registry.sent.clear()
    killed = 0
    while True:
        before = stored_bytes(open_store(root, form), shelf, "1")
        asked = len(registry.asked)
        last = killed == min(most, KILLS_IN_A_ROW)
        moment = {} if last else {"moment": whole.moment(numbers)}
        outcome = workers.do("pull", **moment, root=str(root), form=form, name=name)
        # What was there is not asked for again.
        for digest, offset in registry.asked[asked:]:
            if digest in before:
                there = before.pop(digest)
                assert offset == there, (digest, offset, there)
        images = open_store(root, form)
        assert_sound(images)
        if not outcome.killed:
            break
        killed += 1
        with_name = [image.names for image in images.list()]
        assert with_name in ([], [(name,)])
    sent = sum(registry.sent[layer.digest] for layer in shelf.layers("1"))
    slack = killed * (LOST_BYTES + 4 * 4 * PIECE_BYTES)
    assert sent <= shelf.size_bytes("1") + slack, f"{sent} bytes after {killed} kills"
    return killed


class Killing:
    """A piece of work on copies of one store, killed until there were enough kills."""

    def __init__(self, workers: Workers, form: str, master: Path, place: Path) -> None:
        self._workers = workers
        self._form = form
        self._master = master
        self._place = place

    def each(self, work: str, numbers: random.Random, **arguments: object) -> Iterator[ImageStore]:
        """The store after each kill; before the next, the work must come to its end."""
        whole = self._do(work, copied(self._master, self._place), **arguments)
        killed = 0
        for _ in range(10 * SHARE):
            root = copied(self._master, self._place)
            outcome = self._do(work, root, moment=whole.moment(numbers), **arguments)
            if not outcome.killed:
                continue
            killed += 1
            images = open_store(root, self._form)
            yield images
            self._do(work, root, **arguments)
            assert_sound(images)
            if killed == SHARE:
                return
        raise AssertionError(f"only {killed} of {10 * SHARE} were killed")

    def _do(self, work: str, root: Path, **arguments: object) -> Outcome:
        return self._workers.do(work, root=str(root), form=self._form, **arguments)  # type: ignore[arg-type]


def test_a_load(form: str, shelf: Shelf, workers: Workers, tmp_path: Path) -> None:
    archive = tmp_path / "archive.tar"
    with CountingRegistry(shelf) as registry:
        images = pulled(tmp_path / "saved", form, registry, "1", "2", "3")
    with archive.open("wb") as file:
        save(images, images.list(), file.fileno())
    wanted = {image.id for image in images.list()}
    master = tmp_path / "master"
    master.mkdir()
    killing = Killing(workers, form, master, tmp_path / "copy")
    for after in killing.each("load", dice(f"a load, {form}"), path=str(archive)):
        # An image is seen when it is whole; the layers of a load come after its name.
        assert damage_of(check(after)) == []
        assert {image.id for image in after.list()} <= wanted
        for image in after.list():
            after.unpack(image)
        assert_sound(after)
    last = open_store(tmp_path / "copy", form)
    repair(last, in_use=())
    assert check(last) == ()
    assert {image.id for image in last.list()} == wanted


def test_a_prune(form: str, shelf: Shelf, workers: Workers, tmp_path: Path) -> None:
    with CountingRegistry(shelf) as registry:
        master = tmp_path / "master"
        images = pulled(master, form, registry, "1", "2", "3")
        keep = registry.name("2")
    images.content.put(b"what a crash left")
    kept = images.resolve(keep)
    needed = {kept.target.digest, kept.id, *(layer.digest for layer in kept.layers)}
    killing = Killing(workers, form, master, tmp_path / "copy")
    for after in killing.each("prune", dice(f"a prune, {form}"), keep=keep):
        assert_sound(after, in_use=kept.chain_ids)
        assert after.resolve(keep).id == kept.id
    last = open_store(tmp_path / "copy", form)
    assert check(last) == ()
    assert set(last.content.digests()) == needed
    assert last.snapshots.layers() == sorted(kept.chain_ids)


def test_a_repair(form: str, shelf: Shelf, workers: Workers, tmp_path: Path) -> None:
    with CountingRegistry(shelf) as registry:
        master = tmp_path / "master"
        images = pulled(master, form, registry, "1", "2", "3")
    one, two = images.resolve(registry.name("1")), images.resolve(registry.name("3"))
    harmed = [Path(images.content.path(two.layers[1].digest)), *master.rglob("index.json")]
    layer = master / "snapshots/layers" / one.chain_ids[1][7:]
    harmed.append(next(p for p in (layer / "fs/data/a", layer / "layer.tar") if p.exists()))
    for path in harmed:
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    images.content.put(b"what a crash left")
    assert len(damage_of(check(images))) == 3
    lost = {two.layers[1].digest} if form == "overlay" else set()
    killing = Killing(workers, form, master, tmp_path / "copy")
    for after in killing.each("repair", dice(f"a repair, {form}")):
        assert {image.id for image in after.list()} <= {i.id for i in images.list()}
        repair(after, in_use=())
        said = {d.what for d in check(after) if not d.harmless}
        assert said <= lost or said == {two.layers[1].digest}
        with CountingRegistry(shelf) as again:
            pulled(Path(after.root), form, again, "1", "3")
    last = open_store(tmp_path / "copy", form)
    assert check(last) == ()


def test_a_push(form: str, shelf: Shelf, workers: Workers, tmp_path: Path) -> None:
    root, numbers = tmp_path / "store", dice(f"a push, {form}")
    with CountingRegistry(shelf) as registry:
        images = pulled(root, form, registry, "1")
        name = registry.name("1")
    before = images.resolve(name)
    with registry_rig.start(tmp_path / "registry") as peer:

        def push(tag: str, **moment: object) -> Outcome:
            target = f"{peer.address}/pushed/{tag}:1"
            return workers.do(  # type: ignore[no-any-return]
                "push", root=str(root), form=form, name=name, target=target, **moment
            )

        whole = push("first")
        killed, number = 0, 0
        while killed < SHARE:
            number += 1
            outcome = push(f"p{number}", moment=whole.moment(numbers))
            killed += outcome.killed
            assert_sound(open_store(root, form))
            _absent_or_whole(f"{peer.address}/pushed/p{number}:1", tmp_path / "taken")
            push(f"p{number}")
            assert number < 10 * SHARE
        taken = _absent_or_whole(f"{peer.address}/pushed/p{number}:1", tmp_path / "taken")
        assert taken == before.target.digest
    assert check(images) == ()


def _absent_or_whole(name: str, place: Path) -> str | None:
    """Pull everything into a new store; the digest, None when there is no such image."""
    images = open_store(place)
    source = registry_source(Reference.parse(name), images.settings)
    try:
        try:
            source.root()
        except NotFound:
            return None
        image = pull(images, source, (name,), unpack=False)
    finally:
        source.close()
    assert check(images) == ()
    shutil.rmtree(place)
    return image.target.digest


def test_a_push_to_our_registry(shelf: Shelf, workers: Workers, tmp_path: Path) -> None:
    """The server is killed, and whoever pushes; the server's store is the one to be sound."""
    root, numbers = tmp_path / "store", dice("a push to our registry")
    with CountingRegistry(shelf) as registry:
        images = pulled(root, "auto", registry, "1")
        name = registry.name("1")
    digest = images.resolve(name).target.digest

    def push(target: str, **moment: object) -> Outcome:
        named = {"root": str(root), "form": "auto", "name": name, "target": target}
        return workers.do("push", **named, **moment)  # type: ignore[arg-type, no-any-return]

    place = tmp_path / "measured"
    with onggi_registry(place, "--push") as peer:
        whole = push(f"127.0.0.1:{peer.port}/pushed:1")
    place = tmp_path / "served"
    for number in range(max(2, SHARE // 2)):
        target = f"pushed/p{number}:1"
        with onggi_registry(place, "--push") as peer:
            timer = threading.Timer(numbers.uniform(0, whole.seconds), peer.process.kill)
            timer.start()
            # It would try again and again: the push ends a little later than the server.
            moment = Moment(after_s=2 * whole.seconds)
            push(f"127.0.0.1:{peer.port}/{target}", moment=moment)
            timer.join()
            peer.process.wait(10)
        served = ImageStore(peer.images_root)
        assert damage_of(check(served)) == []
        with onggi_registry(place, "--push") as peer:
            push(f"127.0.0.1:{peer.port}/{target}")
            taken = _absent_or_whole(f"127.0.0.1:{peer.port}/{target}", tmp_path / "taken")
            assert taken == digest
        assert damage_of(check(served)) == []
    repair(served, in_use=())
    assert check(served) == ()


class Commands:
    """Commands whose engine is killed under them."""

    def __init__(self, onggi: Onggi, numbers: random.Random) -> None:
        self._onggi = onggi
        self._numbers = numbers

    def take_s(self, *words: str) -> float:
        """How long a command takes when nobody is killed."""
        begun = time.monotonic()
        self._onggi.run(*words)
        return time.monotonic() - begun

    def killed(self, seconds: float, *words: str) -> None:
        """Run a command, and kill the engine at a random moment of its time."""
        self._onggi.run("images")
        pid = wire.engine_pid(self._onggi)
        assert pid is not None
        done = subprocess.Popen(
            self._onggi.words(*words), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        time.sleep(self._numbers.uniform(0, seconds))
        kill_engine(pid)
        _, said = done.communicate(timeout=60)
        assert done.returncode in (0, 1, 125), said.decode()
        assert b"Traceback" not in said, said.decode()

    def sound(self) -> None:
        """Nothing is damaged, by the command's own word."""
        self._onggi.run("image", "fsck")


def test_the_engine(form: str, shelf: Shelf, tmp_path: Path) -> None:
    root, numbers = tmp_path / "engine", dice(f"the engine, {form}")
    configure(root, form)
    with CountingRegistry(shelf, pace_s=0.004) as registry, engine_at(root) as onggi:
        commands = Commands(onggi, numbers)
        one, two = registry.name("1"), registry.name("3")
        archive = str(tmp_path / "archive.tar")
        pull_s = commands.take_s("pull", one)
        onggi.run("save", "-o", archive, one)
        prune_s = commands.take_s("image", "prune", "-a", "-f")
        load_s = commands.take_s("load", "-i", archive)
        for _ in range(max(1, SHARE // 3)):
            onggi.run("image", "prune", "-a", "-f")
            registry.sent.clear()
            commands.killed(pull_s, "pull", one)
            commands.sound()
            onggi.run("pull", one)
            sent = sum(registry.sent[layer.digest] for layer in shelf.layers("1"))
            assert sent <= shelf.size_bytes("1") + LOST_BYTES + 16 * PIECE_BYTES
            onggi.run("pull", two)
            commands.killed(prune_s, "image", "prune", "-a", "-f")
            commands.sound()
            onggi.run("image", "prune", "-a", "-f")
            assert onggi.out("images", "-q") == ""
            commands.killed(load_s, "load", "-i", archive)
            commands.sound()
            onggi.run("load", "-i", archive)
            with registry_rig.start(tmp_path / "registry") as peer:
                target = f"{peer.address}/pushed:1"
                commands.killed(load_s, "push", one, target)
                commands.sound()
                onggi.run("push", one, target)
            assert onggi.out("run", "--rm", one, "ls", "/data").split() == ["a", "b", "c"]
        onggi.run("image", "fsck", "--repair")
        assert onggi.out("image", "fsck") == "the store is whole"
