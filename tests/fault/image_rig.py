"""What tests of faults need: images that share layers, a registry that counts, workers to kill."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from acceptance import wire_rig as wire
from acceptance.rig import Onggi, busybox_tar, left_behind, parent_cgroups, until
from image_health import open_store
from onggi.image.fsck import Damage, check
from onggi.image.images import ImageStore
from onggi.image.pull import pull
from onggi.image.reference import Reference
from onggi.image.transports.registry import registry_source
from onggi.specs.image import Descriptor
from registry_double import Call, Double
from source_double import SourceDouble, layer_tar

SEED = int(os.environ.get("ONGGI_SEED", "20261124"))
KILLS = int(os.environ.get("ONGGI_KILLS", "24"))
FORMS = ("overlay", "erofs")
NAME = "library/app"
PIECE_BYTES = 32 << 10


def dice(purpose: str) -> random.Random:
    """The test's own random numbers; says on the test's output how to have the same again."""
    print(f"{purpose}: ONGGI_SEED={SEED}")
    return random.Random(f"{SEED} {purpose}")


def need_form(form: str, place: Path) -> None:
    """Skip where the host cannot have layers of this form; the reason names what is missing."""
    open_store(place / "probe", form).snapshots.close()


class Shelf:
    """Images by tag, in memory; the lowest layer of all is busybox, so that they run."""

    def __init__(self, place: Path, *, level: int = 1) -> None:
        self.source = SourceDouble()
        self._level = level
        self.tags: dict[str, Descriptor] = {}
        self._busybox = busybox_tar(place)

    def add(self, tag: str, *files: str, size_bytes: int = 300_000) -> Descriptor:
        """An image with a layer for each file; layers of the same file are shared."""
        tars = [self._busybox, *(layer_tar(name, size_bytes) for name in files)]
        self.tags[tag] = self.source.image(
            tars, pack=lambda tar: gzip.compress(tar, self._level, mtime=0)
        )
        return self.tags[tag]

    def layers(self, tag: str) -> tuple[Descriptor, ...]:
        self.source.root_descriptor = self.tags[tag]
        return self.source.layers()

    def size_bytes(self, tag: str) -> int:
        """Of an image's layers, compressed."""
        return sum(layer.size for layer in self.layers(tag))


class CountingRegistry:
    """A registry that only gives, with ranges; counts what is asked for and what is sent.

    `pace_s`: between two pieces of a blob.
    """

    def __init__(self, shelf: Shelf, *, pace_s: float = 0.0) -> None:
        self.shelf = shelf
        self.pace_s = pace_s
        self.asked: list[tuple[str, int]] = []
        self.sent: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._double = Double(self._answer)

    def name(self, tag: str = "1") -> str:
        """What an image is called here."""
        return f"{self._double.address}/{NAME}:{tag}"

    def times_asked(self) -> Counter[str]:
        """How often each layer was asked for, from any place on."""
        layers = {layer.digest for tag in self.shelf.tags for layer in self.shelf.layers(tag)}
        return Counter(digest for digest, _ in self.asked if digest in layers)

    def _answer(self, call: Call) -> None:
        if call.path == "/v2/":
            call.answer(200, b"{}")
            return
        match = re.fullmatch(r"/v2/(.+)/(manifests|blobs)/([^/]+)", call.path)
        assert match is not None, call.path
        wanted = match[3]
        if match[2] == "manifests" and wanted in self.shelf.tags:
            wanted = self.shelf.tags[wanted].digest
        data = self.shelf.source.blobs.get(wanted)
        if data is None:
            call.answer(404, b"{}")
        elif match[2] == "manifests":
            media_type = json.loads(data)["mediaType"]
            call.answer(200, data, Content_Type=media_type, Docker_Content_Digest=wanted)
        else:
            self._send(call, wanted, data)

    def _send(self, call: Call, digest: str, data: bytes) -> None:
        found = re.fullmatch(r"bytes=(\d+)-\d*", call.headers.get("Range", ""))
        start = int(found[1]) if found else 0
        with self._lock:
            self.asked.append((digest, start))
        call.answered = True
        handler = call.handler
        # What is on its way when somebody is killed is lost: let it be little.
        handler.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIECE_BYTES)
        handler.send_response(206 if found else 200)
        if found:
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        handler.send_header("Content-Length", str(len(data) - start))
        handler.end_headers()
        for at in range(start, len(data), PIECE_BYTES):
            piece = data[at : at + PIECE_BYTES]
            handler.wfile.write(piece)
            with self._lock:
                self.sent[digest] += len(piece)
            if self.pace_s:
                time.sleep(self.pace_s)

    def __enter__(self) -> Self:
        self._double.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._double.__exit__()


# Workers.


@dataclass(frozen=True)
class Moment:
    """When a worker is killed: after a time, or before its n-th call that changes a file."""

    after_s: float | None = None
    at_call: int | None = None


NEVER = Moment()


@dataclass(frozen=True)
class Outcome:
    """How a worker ended. `calls`: so many that change files were begun."""

    killed: bool
    seconds: float
    calls: int

    def moment(self, random_numbers: random.Random) -> Moment:
        """A random one of such a work: half of them in time, half between two calls."""
        if random_numbers.random() < 0.5:
            return Moment(after_s=random_numbers.uniform(0, self.seconds))
        return Moment(at_call=random_numbers.randint(1, max(1, self.calls)))


class Workers:
    """One process that has everything imported, and forks for each piece of work."""

    def __init__(self, log: Path) -> None:
        self._log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("image_worker.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def do(self, work: str, moment: Moment = NEVER, **arguments: Any) -> Outcome:
        """Do one piece of work (`image_worker`); a failure of its own fails the test."""
        assert self._process.stdin is not None and self._process.stdout is not None
        order = {"work": work, "arguments": arguments, **vars(moment)}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        answer = json.loads(line or '{"signal": 0, "status": -1, "seconds": 0, "calls": 0}')
        assert answer["signal"] in (0, 9) and answer["status"] == 0, self._log.read_text()
        return Outcome(answer["signal"] == 9, answer["seconds"], answer["calls"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(10)


# Stores.


def damage_of(found: Sequence[Damage]) -> list[str]:
    """What is really damaged."""
    return [str(damage) for damage in found if not damage.harmless]


def assert_sound(images: ImageStore, *, in_use: Sequence[str] = ()) -> None:
    """No damage, and every image that can be seen is whole and ready to run."""
    found = check(images, in_use=in_use)
    assert damage_of(found) == [], [str(damage) for damage in found]
    for image in images.list():
        for chain_id in image.chain_ids:
            assert images.snapshots.exists(chain_id), f"{image.names}: no layer {chain_id}"


def pulled(root: Path, form: str, registry: CountingRegistry, *tags: str) -> ImageStore:
    """A store with these images."""
    images = open_store(root, form)
    for tag in tags:
        source = registry_source(Reference.parse(registry.name(tag)), images.settings)
        pull(images, source, (registry.name(tag),))
        source.close()
    return images


def store_of(root: Path) -> Path:
    """Where an engine at `root` has its images."""
    return root / "data" / "image"


def configure(root: Path, form: str) -> None:
    """The form of layers for an engine at `root`."""
    root.mkdir(exist_ok=True)
    (root / "config.toml").write_text(f'[image]\nsnapshotter = "{form}"\n')


@contextmanager
def engine_at(root: Path) -> Iterator[Onggi]:
    """An engine on what is there; at the end it is gone, and nothing of it is left."""
    onggi = Onggi(root)
    try:
        yield onggi
    finally:
        until(lambda: not left_behind(onggi), "nothing is left")
        onggi.run("engine", "stop")
        until(lambda: not wire.engines(onggi), "the engine is gone")
    until(lambda: not parent_cgroups(onggi), "the engine's own cgroup is gone")


def assert_runs(root: Path, name: str) -> None:
    """The image runs in an engine at `root`, and has all its files."""
    with engine_at(root) as onggi:
        assert onggi.out("run", "--rm", name, "sh", "-c", "ls /data | wc -l").strip() != "0"
