"""`container prune` and `system prune`: what nobody uses goes, what is used stays, and it is asked
for before."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from acceptance.rig import Onggi, until
from onggi.image.images import ImageStore

NONE = ("--network", "none")


def names(onggi: Onggi) -> list[str]:
    return sorted(onggi.out("ps", "-a", "--format", "{{.Names}}").split())


def made(onggi: Onggi, name: str, *words: str, program: str = "true") -> str:
    """A container that has ended; its id."""
    onggi.run("run", *NONE, "--name", name, *words, "busybox", program)
    identity: str = onggi.out("inspect", "-f", "{{.Id}}", name)
    return identity


def test_stopped_containers_go_and_those_that_run_stay(onggi: Onggi) -> None:
    onggi.run("run", "-d", *NONE, "--name", "up", "busybox", "sleep", "1000")
    onggi.run("run", "-d", *NONE, "--name", "frozen-soon", "busybox", "sleep", "1000")
    ended = made(onggi, "ended")
    onggi.run("create", *NONE, "--name", "never", "busybox", "true")
    never = onggi.out("inspect", "-f", "{{.Id}}", "never")
    said = onggi.out("container", "prune", "-f")
    title, *removed, empty, total = said.splitlines()
    assert title == "Deleted Containers:"
    assert sorted(removed) == sorted((ended, never))
    assert empty == ""
    assert total.startswith("Total reclaimed space: ")
    assert names(onggi) == ["frozen-soon", "up"]
    place = onggi.root / "data/containers"
    until(lambda: not (place / ended).exists() and not (place / never).exists(), "files are gone")
    assert onggi.out("container", "prune", "-f") == "Total reclaimed space: 0B"
    onggi.run("rm", "-f", "up", "frozen-soon")


@pytest.mark.parametrize(
    ("filters", "left"),
    [
        (("label=old",), ["new", "plain"]),
        (("label!=old",), ["old"]),
        (("label=old", "label=other"), ["new", "old", "plain"]),
        (("label=age=2",), ["old", "plain"]),
        (("until=1h",), ["new", "old", "plain"]),
        (("until=0s",), []),
    ],
)
def test_filters(onggi: Onggi, filters: tuple[str, ...], left: list[str]) -> None:
    made(onggi, "old", "--label", "old", "--label", "age=1")
    made(onggi, "new", "--label", "age=2")
    made(onggi, "plain")
    words = [word for text in filters for word in ("--filter", text)]
    onggi.run("container", "prune", "-f", *words)
    assert names(onggi) == left
    onggi.run("container", "prune", "-f")


@pytest.mark.parametrize(
    ("answer", "left"), [(b"y\n", []), (b"YES\n", []), (b"n\n", ["a"]), (b"\n", ["a"])]
)
def test_it_is_asked_for(onggi: Onggi, answer: bytes, left: list[str]) -> None:
    made(onggi, "a")
    onggi.run("container", "prune", stdin=answer)
    assert names(onggi) == left
    onggi.run("container", "prune", "-f")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("container", "prune"), "this removes all stopped containers, and nobody is there"),
        (("image", "prune", "-a"), "this removes all images that no container uses"),
        (("system", "prune", "--volumes"), "volumes that no container uses, all images without"),
        (("system", "prune", "-f", "--filter", "dangling=true"), "known are until, label, label!"),
        (("container", "prune", "-f", "--filter", "until=soon"), "use 240h"),
        (("system", "prune", "-f", "--volumes", "--filter", "until=1h"), "is not for volumes"),
    ],
)
def test_what_is_refused_removes_nothing(onggi: Onggi, words: tuple[str, ...], said: str) -> None:
    made(onggi, "stays")
    done = onggi.run(*words, check=False)
    assert done.returncode == 125
    assert said in done.stderr
    assert names(onggi) == ["stays"]
    onggi.run("rm", "stays")


def test_what_a_container_has_written_is_counted(onggi: Onggi) -> None:
    onggi.run("run", *NONE, "busybox", "dd", "if=/dev/zero", "of=/big", "bs=1000", "count=5000")
    said = onggi.out("container", "prune", "-f").splitlines()[-1]
    assert said.startswith("Total reclaimed space: 5.0")
    assert said.endswith("MB")


def test_the_whole_system(own_onggi: Onggi) -> None:
    onggi = own_onggi
    onggi.run("run", "-d", *NONE, "--name", "up", "-v", "used:/v", "busybox", "sleep", "1000")
    onggi.run("tag", "busybox", "me/other:1")
    ended = made(onggi, "ended", "-v", "/anonymous", "-v", "named:/n")
    onggi.run("network", "create", "unused")
    said = onggi.out("system", "prune", "-f").splitlines()
    assert said[:2] == ["Deleted Containers:", ended]
    assert said[3:5] == ["Deleted Networks:", "unused"]
    assert said[-1].startswith("Total reclaimed space: ")
    assert names(onggi) == ["up"]
    assert "me/other" in onggi.out("images")
    assert onggi.out("volume", "ls", "-q").split() != []
    assert "unused" not in onggi.out("network", "ls")
    onggi.run("rm", "-f", "up")
    onggi.run("system", "prune", "-af")
    assert onggi.out("images", "-q") == ""
    assert "bridge" in onggi.out("network", "ls")
    volumes = Path(onggi.root / "data/volumes")
    assert {"named", "used"} <= set(os.listdir(volumes))


def test_a_removed_image_goes_as_soon_as_nobody_brings_content_in(onggi: Onggi) -> None:
    images = ImageStore(str(onggi.root / "data/image"))
    before = set(images.content.digests())
    onggi.run("run", "--name", "c", *NONE, "busybox", "touch", "/more")
    onggi.run("commit", "c", "more")
    onggi.run("rm", "c")
    made = set(images.content.digests())
    assert made > before
    with images.lease():
        onggi.run("rmi", "more")
        assert set(images.content.digests()) == made, "the content of somebody else could go"
    until(lambda: set(images.content.digests()) == before, "what the image left is gone")


def test_a_run_beside_prune_has_its_layers_or_no_image(own_onggi: Onggi, tmp_path: Path) -> None:
    onggi = own_onggi
    archive = tmp_path / "busybox.tar"
    onggi.run("save", "-o", str(archive), "busybox")
    over = threading.Event()

    def prune() -> int:
        rounds = 0
        while not over.is_set():
            onggi.run("image", "prune", "-af")
            rounds += 1
        return rounds

    with ThreadPoolExecutor(1) as pool:
        pruning = pool.submit(prune)
        try:
            for _ in range(15):
                onggi.run("load", "-i", str(archive))
                words = ("--rm", "--pull", "never", *NONE, "busybox", "echo", "here")
                done = onggi.run("run", *words, check=False)
                assert done.stdout == "here\n" or "'busybox' is not here" in done.stderr, done
        finally:
            over.set()
        assert pruning.result() > 0
