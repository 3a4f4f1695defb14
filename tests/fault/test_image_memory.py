"""What a hostile layer may cost: memory stays bounded whatever a stream grows to, and whatever it
holds. Measured on a process of its own (VmHWM)."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from fault.image_rig import FORMS, need_form
from image_tars import member

MIB = 1 << 20
#: Files cost an inode each in a directory, so that fewer of them tell as much there.
ENTRIES = {
    form: int(os.environ.get("ONGGI_ENTRIES", default))
    for form, default in (("overlay", "2000"), ("erofs", "100000"))
}
#: Of the interpreter with everything imported; what a layer costs comes on top.
BASE_BYTES = 48 * MIB
#: What an entry may cost in memory, as an entry of a tree: its name, inode, place.
ENTRY_BYTES = {"overlay": 1000, "erofs": 600}

PROGRAM = """
import json, os, sys
from onggi.errors import EngineError
from onggi.image.compression import Limits
from onggi.image.snapshots import Snapshotter
root, form, diff_id, limits = sys.argv[1:]
snapshots = Snapshotter(root, form, Limits(**json.loads(limits)))
said = ""
given = 0
def read(wanted):
    global given
    data = sys.stdin.buffer.read(wanted)
    given += len(data)
    return data
try:
    snapshots.unpack(read, diff_id).close()
except EngineError as error:
    said = f"{type(error).__name__}: {error.message}"
peak = next(l for l in open("/proc/self/status") if l.startswith("VmHWM:"))
print(json.dumps({"said": said, "read": given, "peak": int(peak.split()[1]) * 1024}))
"""

pytestmark = pytest.mark.timeout(120 + ENTRIES["overlay"] // 2000)


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    need_form(request.param, tmp_path)
    return str(request.param)


def unpacked(root: Path, form: str, chunks: Iterator[bytes], **limits: int) -> dict[str, object]:
    """What a process that unpacks the stream says at its end."""
    diff_id = "sha256:" + "0" * 64
    words = [sys.executable, "-c", PROGRAM, str(root), form, diff_id, json.dumps(limits)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    with process:
        with contextlib.suppress(BrokenPipeError):  # it has had enough
            for chunk in chunks:
                os.write(process.stdin.fileno(), chunk)
        process.stdin.close()
        said = process.stdout.read()
    assert process.returncode == 0
    found: dict[str, object] = json.loads(said)
    print(found)
    return found


def gzip_bomb(header: bytes, zeros: int) -> Iterator[bytes]:
    """A gzip stream of a header and so many zero bytes, made as it is read."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    yield packer.compress(header)
    block = bytes(MIB)
    for _ in range(zeros // MIB):
        if data := packer.compress(block):
            yield data
    yield packer.flush()


def zstd_bomb(header: bytes, zeros: int) -> Iterator[bytes]:
    """The same as one frame of zstd, whose ratio is ten times as high."""
    packer = zstd.ZstdCompressor()
    yield packer.compress(header)
    block = bytes(MIB)
    for _ in range(zeros // MIB):
        yield packer.compress(block)
    yield packer.flush()


def huge_file(size_bytes: int) -> bytes:
    """The header of a file that claims to be so large."""
    return member(b"bomb", data=b"", size_bytes=size_bytes)


def test_a_bomb(form: str, tmp_path: Path) -> None:
    """It claims a terabyte; what comes is much less, and little of it."""
    stream = gzip_bomb(huge_file(1 << 40), 300 * MIB)
    found = unpacked(tmp_path / "root", form, stream)
    assert "ResourceExhausted" in str(found["said"]) or "InvalidArgument" in str(found["said"])
    assert int(str(found["peak"])) < BASE_BYTES
    assert os.listdir(tmp_path / "root/staging") == []


def test_a_bomb_beyond_the_limit(form: str, tmp_path: Path) -> None:
    """Within what it claims, but more than is allowed: nothing of it stays."""
    stream = gzip_bomb(huge_file(400 * MIB), 400 * MIB)
    found = unpacked(tmp_path / "root", form, stream, size_bytes=100 * MIB)
    assert str(found["said"]).startswith("ResourceExhausted")
    assert int(str(found["peak"])) < BASE_BYTES
    assert os.listdir(tmp_path / "root/staging") == []


def test_a_bomb_of_high_ratio(form: str, tmp_path: Path) -> None:
    """It is refused for how much it grows, long before it is as large as it claims."""
    stream = zstd_bomb(huge_file(1 << 30), 200 * MIB)
    found = unpacked(tmp_path / "root", form, stream, free_bytes=50 * MIB)
    assert "expands more than" in str(found["said"])
    assert int(str(found["peak"])) < BASE_BYTES
    assert os.listdir(tmp_path / "root/staging") == []


def many_entries(count: int) -> Iterator[bytes]:
    """A tar of so many empty files in so many directories."""
    block = io.BytesIO()
    for number in range(count):
        if number % 1000 == 0:
            block.write(member(f"d{number // 1000:04}/".encode(), b"5"))
        block.write(member(f"d{number // 1000:04}/{number:07}".encode()))
        if block.tell() > MIB:
            yield block.getvalue()
            block.seek(0)
            block.truncate()
    yield block.getvalue() + bytes(1024)


def test_many_entries(form: str, tmp_path: Path) -> None:
    """A million (ONGGI_ENTRIES) are taken in, in memory that grows little with each."""
    found = unpacked(tmp_path / "root", form, many_entries(ENTRIES[form]))
    assert str(found["said"]).startswith("DataLoss"), (
        "its digest is the last thing that is looked at"
    )
    assert int(str(found["peak"])) < BASE_BYTES + ENTRIES[form] * ENTRY_BYTES[form]


def test_more_entries_than_allowed(form: str, tmp_path: Path) -> None:
    found = unpacked(
        tmp_path / "root",
        form,
        many_entries(ENTRIES[form]),
        entries=ENTRIES[form] // 10,
        size_bytes=1 << 40,
    )
    assert str(found["said"]).startswith("ResourceExhausted")
    assert int(str(found["peak"])) < BASE_BYTES + ENTRIES[form] // 10 * ENTRY_BYTES[form]
    assert os.listdir(tmp_path / "root/staging") == []
