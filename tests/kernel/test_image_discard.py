"""Compressed layers are dropped only when they come back bit by bit."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from image_health import BASE, HOST, TYPES, layer_tar, make, noise, open_store, put
from image_tars import END, member
from onggi.errors import DataLoss, NotFound
from onggi.image.compression import compressed
from onggi.image.discard import (
    discard,
    discarded_digests,
    ensure_blob,
    is_discarded,
    is_present,
    rebuild,
)
from onggi.image.fsck import check
from onggi.image.images import Image, ImageStore
from onggi.image.recipes import Recipe, find_recipe
from onggi.specs.image import (
    OCI_CONFIG,
    OCI_MANIFEST,
    Descriptor,
    ImageConfig,
    Manifest,
    RootFs,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TEXT = b"".join(b"%d bottles of beer on the wall\n" % number for number in range(20_000))
PLAIN = member(b"text", data=TEXT) + member(b"noise", data=noise("x", 300_000)) + END


def named_gzip(data: bytes) -> bytes:
    out = io.BytesIO()
    with gzip.GzipFile("layer.tar", "wb", 5, out, mtime=1234567) as file:
        file.write(data)
    return out.getvalue()


def cut_zstd(**options: int) -> Callable[[bytes], bytes]:
    def make_frame(data: bytes) -> bytes:
        parameters = {getattr(zstd.CompressionParameter, k): v for k, v in options.items()}
        engine = zstd.ZstdCompressor(options=parameters)
        pieces = [engine.compress(data[at : at + 7777]) for at in range(0, len(data), 7777)]
        return b"".join((*pieces, engine.flush()))

    return make_frame


def sized_zstd(data: bytes) -> bytes:
    engine = zstd.ZstdCompressor(level=6)
    engine.set_pledged_input_size(len(data))
    return engine.compress(data) + engine.flush()


def program(*command: str) -> Callable[[bytes], bytes]:
    return lambda data: subprocess.run(command, input=data, capture_output=True, check=True).stdout


KNOWN: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "plain": ("none", lambda data: data),
    "our gzip": ("gzip", lambda data: b"".join(compressed((data,), "gzip"))),
    "our zstd": ("zstd", lambda data: b"".join(compressed((data,), "zstd"))),
    **{
        f"python gzip {level}": ("gzip", lambda data, level=level: gzip.compress(data, level))
        for level in (1, 6, 9)
    },
    "gzip with a name": ("gzip", named_gzip),
    "zstd with the size": ("zstd", sized_zstd),
    "zstd 1 with a checksum": ("zstd", cut_zstd(compression_level=1, checksum_flag=1)),
    "zstd 9": ("zstd", cut_zstd(compression_level=9)),
}

UNKNOWN: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip(1)": ("gzip", program("gzip", "-nc")),
    "two members": ("gzip", lambda d: gzip.compress(d[:1024]) + gzip.compress(d[1024:])),
    "padded": ("gzip", lambda data: gzip.compress(data) + b"\0" * 10),
    "another strategy": (
        "gzip",
        lambda data: (
            (engine := zlib.compressobj(6, zlib.DEFLATED, 31, 8, zlib.Z_HUFFMAN_ONLY)).compress(
                data
            )
            + engine.flush()
        ),
    ),
    "zstd with a long window": ("zstd", cut_zstd(compression_level=3, window_log=25)),
}


def image_of(images: ImageStore, *layers: tuple[bytes, str, bytes]) -> Image:
    """Of (plain tar, media type, blob)."""
    diff_ids = tuple("sha256:" + hashlib.sha256(plain).hexdigest() for plain, _, _ in layers)
    blobs = []
    for _, how, data in layers:
        blob = images.content.put(data)
        blobs.append(Descriptor(TYPES[how], blob.digest, blob.size_bytes))
    config = put(
        images, ImageConfig(HOST.architecture, HOST.os, RootFs(diff_ids=diff_ids)), OCI_CONFIG
    )
    root = put(images, Manifest(2, config, tuple(blobs), OCI_MANIFEST), OCI_MANIFEST)
    image = images.add(root, ("app:1",))
    images.unpack(image)
    return image


@pytest.fixture
def images(tmp_path: Path) -> ImageStore:
    return open_store(tmp_path / "root", "erofs")


@pytest.mark.parametrize("case", KNOWN)
def test_what_we_can_make_again_comes_back_bit_by_bit(images: ImageStore, case: str) -> None:
    how, compress = KNOWN[case]
    data = compress(PLAIN)
    image = image_of(images, (PLAIN, how, data))
    digest = image.layers[0].digest
    assert discard(images, image) == ((digest, ""),)
    assert not os.path.exists(images.content.path(digest))
    assert is_discarded(images.content, digest)
    assert is_present(images.content, image.layers[0])
    assert discard(images, image) == ((digest, ""),)
    assert check(images) == ()
    rebuild(images, digest)
    assert Path(images.content.path(digest)).read_bytes() == data
    assert not is_discarded(images.content, digest)
    assert discarded_digests(images.content) == []


@pytest.mark.parametrize("case", UNKNOWN)
def test_what_we_cannot_make_again_stays(images: ImageStore, case: str) -> None:
    how, compress = UNKNOWN[case]
    image = image_of(images, (PLAIN, how, compress(PLAIN)))
    ((digest, reason),) = discard(images, image)
    assert "cannot be made again" in reason
    assert images.content.size_bytes(digest) == image.layers[0].size
    assert discarded_digests(images.content) == []


def test_a_directory_has_no_tar(tmp_path: Path) -> None:
    images = open_store(tmp_path / "root", "overlay")
    image = make(images, "app:1", layers=[BASE])
    ((digest, reason),) = discard(images, image)
    assert "keeps the tar" in reason
    assert images.content.size_bytes(digest)


def test_an_image_without_its_blobs_is_an_image(images: ImageStore) -> None:
    image = image_of(images, (PLAIN, "gzip", gzip.compress(PLAIN)))
    discard(images, image)
    again = images.add(image.target, ("more:1",))
    assert again.names == ("docker.io/library/app:1", "docker.io/library/more:1")
    images.collect(in_use=())
    assert is_present(images.content, image.layers[0])
    images.snapshots.remove_layer(image.chain_ids[0])
    with pytest.raises(NotFound):
        ensure_blob(images, image.layers[0].digest)


def test_the_tar_stays_as_long_as_any_image_needs_the_blob(images: ImageStore) -> None:
    top = layer_tar("top")
    first = make(images, "first:1", layers=[BASE, (top, "gzip")])
    other = make(images, "other:1", layers=[(layer_tar("x"), "gzip"), (top, "gzip")], unpack=False)
    assert first.layers[1] == other.layers[1]
    discard(images, first)
    images.remove("first:1", in_use=())
    assert images.snapshots.exists(first.chain_ids[1])  # other:1 needs it for its blob
    assert check(images) == ()
    images.unpack(other)
    assert images.content.size_bytes(other.layers[1].digest)  # made again to be unpacked
    images.collect(in_use=())
    assert not images.snapshots.exists(first.chain_ids[1])
    assert check(images) == ()
    images.remove("other:1", in_use=())
    assert discarded_digests(images.content) == []


def test_a_damaged_tar_makes_nothing(images: ImageStore) -> None:
    image = image_of(images, (PLAIN, "gzip", gzip.compress(PLAIN)))
    discard(images, image)
    chain = image.chain_ids[0][7:]
    with open(os.path.join(images.snapshots.root, "layers", chain, "layer.tar"), "r+b") as file:
        file.seek(2000)
        file.write(b"!")
    with pytest.raises(DataLoss, match="pull or load"):
        rebuild(images, image.layers[0].digest)
    assert images.content.size_bytes(image.layers[0].digest) is None


def test_a_damaged_blob_is_not_dropped(images: ImageStore) -> None:
    image = image_of(images, (PLAIN, "gzip", gzip.compress(PLAIN)))
    path = Path(images.content.path(image.layers[0].digest))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    ((_, reason),) = discard(images, image)
    assert reason
    assert path.exists()


def test_killed_between_the_record_and_the_blob(
    images: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = image_of(images, (PLAIN, "gzip", gzip.compress(PLAIN)))
    digest = image.layers[0].digest

    class Killed(BaseException):
        pass

    def delete(_: str) -> int:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(images.content, "delete", delete)
        with pytest.raises(Killed):
            discard(images, image)
    assert not is_discarded(images.content, digest)
    assert check(images) == ()
    ensure_blob(images, digest)
    assert discard(images, image) == ((digest, ""),)
    assert is_discarded(images.content, digest)


def test_trying_stops_at_the_first_difference() -> None:
    """However large the tar is, of what does not fit little is made."""
    blob = subprocess.run(["gzip", "-nc"], input=PLAIN * 4, capture_output=True, check=True).stdout
    read_bytes = 0

    def open_plain() -> Callable[[int], bytes]:
        stream = io.BytesIO(PLAIN * 4)

        def read(size: int) -> bytes:
            nonlocal read_bytes
            data = stream.read(size)
            read_bytes += len(data)
            return data

        return read

    assert find_recipe(open_plain, lambda: io.BytesIO(blob).read) is None
    assert read_bytes < len(PLAIN) * 4 * 10 / 4  # ten recipes were tried


@pytest.mark.parametrize(
    "head", [b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\x1f\x8b\x08\x08" + b"x" * 99999]
)
def test_heads_that_are_cut_short(head: bytes) -> None:
    assert find_recipe(lambda: io.BytesIO(b"plain").read, lambda: io.BytesIO(head).read) is None


def test_a_recipe_makes_the_same_however_the_tar_is_cut() -> None:
    for recipe in (Recipe("gzip", 0), Recipe("zstd", 0), Recipe("zlib", 0, 6, b"head")):
        whole = b"".join(recipe.make((PLAIN,)))
        pieces = (PLAIN[at : at + 1000] for at in range(0, len(PLAIN), 1000))
        assert b"".join(recipe.make(pieces)) == whole
