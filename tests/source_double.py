"""A source for tests: images in memory, and every way in which a source can misbehave."""

from __future__ import annotations

import gzip
import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Self

from image_tars import END, member
from onggi.errors import NotFound, Unavailable
from onggi.specs.image import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    Platform,
    RootFs,
    encode_document,
)

HOST = Platform("amd64", "linux")


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def noise(size: int, seed: str = "") -> bytes:
    """Bytes that no compressor makes smaller, the same for the same seed."""
    return hashlib.shake_256(seed.encode()).digest(size)


def layer_tar(name: str, size: int = 1000) -> bytes:
    """A layer with a directory and a file of `size` bytes."""
    return b"".join(
        (
            member(b"./", b"5", mode=0o755),
            member(b"data/", b"5", mode=0o755),
            member(f"data/{name}".encode(), data=noise(size, name)),
            END,
        )
    )


def host_index_member(descriptor: Descriptor, platform: Platform) -> Descriptor:
    return Descriptor(descriptor.media_type, descriptor.digest, descriptor.size, platform=platform)


class Faults:
    """What happens to one blob. Each call of `open` takes the next of `breaks`."""

    def __init__(
        self,
        *,
        content: bytes | None = None,
        breaks: Sequence[int] = (),
        always_break: int | None = None,
        ignore_offset: bool = False,
        endless: bool = False,
        error: Exception | None = None,
    ) -> None:
        self.content = content
        self.breaks = list(breaks)
        self.always_break = always_break
        self.ignore_offset = ignore_offset
        self.endless = endless
        self.error = error


class SourceDouble:
    """Content by digest, and a root. Counts what is asked for.

    `asked`: (digest, offset) of each `open`; `given`: bytes read of each digest; `gate`: when it
    is set, streams wait for it at `gate_at` bytes; `delay_s`: before each read.
    """

    def __init__(self, name: str = "double", delay_s: float = 0.0) -> None:
        self.name = name
        self.blobs: dict[str, bytes] = {}
        self.faults: dict[str, Faults] = {}
        self.root_descriptor: Descriptor | None = None
        self.asked: list[tuple[str, int]] = []
        self.given: Counter[str] = Counter()
        self.delay_s = delay_s
        self.gate: threading.Event | None = None
        self.gate_at = 0
        self.on_open: Callable[[Descriptor], None] | None = None
        self._lock = threading.Lock()

    # Making.

    def put(self, data: bytes, media_type: str, **fields: Any) -> Descriptor:
        self.blobs[digest(data)] = data
        return Descriptor(media_type, digest(data), len(data), **fields)

    def image(
        self,
        tars: Sequence[bytes],
        platform: Platform = HOST,
        *,
        media_type: str = OCI_LAYER_GZIP,
        pack: Callable[[bytes], bytes] = lambda tar: gzip.compress(tar, 1, mtime=0),
        diff_ids: Sequence[str] | None = None,
        **fields: Any,
    ) -> Descriptor:
        """An image of these layers; it becomes the root."""
        layers = tuple(self.put(pack(tar), media_type, **fields) for tar in tars)
        config = ImageConfig(
            platform.architecture,
            platform.os,
            RootFs(diff_ids=tuple(diff_ids if diff_ids is not None else map(digest, tars))),
            variant=platform.variant,
        )
        described = self.put(encode_document(config), OCI_CONFIG)
        return self.manifest(Manifest(2, described, layers, OCI_MANIFEST))

    def manifest(self, manifest: Manifest) -> Descriptor:
        self.root_descriptor = self.put(encode_document(manifest), OCI_MANIFEST)
        return self.root_descriptor

    def index(self, members: Sequence[tuple[Descriptor, Platform | None]]) -> Descriptor:
        listed = tuple(
            Descriptor(d.media_type, d.digest, d.size, platform=platform) for d, platform in members
        )
        self.root_descriptor = self.put(encode_document(Index(2, listed, OCI_INDEX)), OCI_INDEX)
        return self.root_descriptor

    def layers(self) -> tuple[Descriptor, ...]:
        """Of the root, a manifest."""
        from onggi.specs.image import parse_manifest

        document = parse_manifest(self.root()[1])
        assert isinstance(document, Manifest)
        return document.layers

    # Being a source.

    def root(self) -> tuple[Descriptor, bytes]:
        assert self.root_descriptor is not None
        return self.root_descriptor, self.blobs[self.root_descriptor.digest]

    def document(self, descriptor: Descriptor) -> bytes:
        with self._lock:
            self.given[descriptor.digest] += descriptor.size
        if descriptor.digest not in self.blobs:
            raise NotFound(f"{self.name} has no {descriptor.digest}")
        return self.blobs[descriptor.digest]

    def open(self, descriptor: Descriptor, offset: int = 0) -> StreamDouble:
        if self.on_open is not None:
            self.on_open(descriptor)
        faults = self.faults.get(descriptor.digest, Faults())
        with self._lock:
            self.asked.append((descriptor.digest, offset))
            breaks = faults.breaks.pop(0) if faults.breaks else faults.always_break
        if faults.error is not None:
            raise faults.error
        data = faults.content if faults.content is not None else self.blobs.get(descriptor.digest)
        if data is None:
            raise NotFound(f"{self.name} has no {descriptor.digest}")
        start = 0 if faults.ignore_offset else offset
        return StreamDouble(self, descriptor.digest, data, start, breaks, faults.endless)

    def close(self) -> None:
        pass

    def count(self, name: str, size: int) -> None:
        with self._lock:
            self.given[name] += size


class StreamDouble:
    def __init__(
        self,
        source: SourceDouble,
        name: str,
        data: bytes,
        offset: int,
        breaks: int | None,
        endless: bool,
    ) -> None:
        self.offset = offset
        self._source = source
        self._name = name
        self._data = data
        self._at = offset
        self._left = breaks
        self._endless = endless

    def read(self, size: int) -> bytes:
        source = self._source
        if source.delay_s:
            time.sleep(source.delay_s)
        if source.gate is not None and self._at >= source.gate_at:
            assert source.gate.wait(30)
        if self._left is not None:
            if self._left == 0:
                raise Unavailable("the line broke")
            size = min(size, self._left)
        data = self._data[self._at : self._at + size]
        if not data and self._endless:
            data = bytes(size)
        self._at += len(data)
        if self._left is not None:
            self._left -= len(data)
        source.count(self._name, len(data))
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass
