"""Our reading of tars beside Python's tarfile, and our unpacking beside umoci's.

Two readers that see different things in one archive are how content is smuggled past a scanner. So
what we accept, the peer reads the same; where we alone refuse, the reason is one of a list.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from erofs_rig import mounted, picture, unpacked, why_not
from fuzz.corpora import seeds
from fuzz.targets import with_checksums
from image_tars import END, gnu_long, member, patched, pax, pieces
from onggi.errors import InvalidArgument
from onggi.image.erofs.format import NotExpressible
from onggi.image.tar_reader import DIRECTORY, HARD_LINK, SYMLINK, Entry, TarReader
from onggi.specs.image import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST
from tar_quirks import LAYER_MAKERS, archives, members

#: Always the same archives: a peer's newest quirk is nothing to fail a change for. More of them:
#: HYPOTHESIS_EXAMPLES=5000.
EXAMPLES = int(os.environ.get("HYPOTHESIS_EXAMPLES", "250"))
QUICK = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
    derandomize=EXAMPLES == 250,
)
FEW = settings(QUICK, max_examples=EXAMPLES // 5)

#: Where we refuse and tarfile reads: why.
STRICTER = {
    # tarfile takes the first damaged header for the end: what follows is silently lost.
    r"wrong header checksum": "a damaged archive is not a short one",
    r"the archive is cut short": "tarfile reads headers only, and takes a part of one for the end",
    r"the archive goes on behind its end mark": "GNU tar -i would read on",
    r"the archive ends behind an extended header": "it was cut there",
    r"the (size|uid|gid|mode|mtime|device number) is not a number": "not an octal one",
    r"the (size|uid|gid|mode|mtime|device number) is out of range": "no kernel takes it",
    r"the owner is out of range": "no kernel takes it",
    r"two different sizes": "a reader that ignores PAX would see other members",
    r"two PAX headers for one": "which of them holds is not said",
    r"given twice for one": "which of them holds is not said",
    r"two long names": "which of them holds is not said",
    r"an empty long name": "nothing honest writes it",
    r"a global PAX header sets names or sizes": "it would name every member alike",
    r"damaged PAX header": "tarfile skips what it does not understand",
    r"PAX record .* is not": "tarfile takes 0 for what is no number",
    r"a NUL in": "C programs see another name",
    r"is longer than any path": "no kernel takes it",
    r"extended tar header of \d+ bytes": "bounded memory",
    r"a member without a name|member without a name": "it names nothing",
    r"a prefix without ustar's magic": "some readers would see it, others not",
    r"unknown type": "tarfile takes it for a file",
    r"data behind what has none": "tarfile skips it, others read headers there",
    r"sparse|the real size is": "tarfile checks no map",
}
#: Where tarfile refuses and we read: why.
LOOSER = {
    r"unexpected end of data": "umoci leaves the last padding out; Go's reader takes that, too",
    r"empty file": "no member at all is an empty layer",
}


def seen(entry: Entry, data: bytes) -> tuple[Any, ...]:
    kind = chr(entry.type)
    name = entry.name.rstrip(b"/") if entry.type == DIRECTORY else entry.name
    size = len(data) if entry.sparse is None else entry.real_size_bytes
    if entry.sparse is not None:
        whole, at = bytearray(size), 0
        for offset, length in entry.sparse:
            whole[offset : offset + length] = data[at : at + length]
            at += length
        data = bytes(whole)
    link = entry.link if entry.type in (HARD_LINK, SYMLINK) else b""
    device = (entry.major, entry.minor) if kind in "34" else (0, 0)
    mtime_s = entry.mtime_ns / 10**9
    return (name, kind, entry.mode, entry.uid, entry.gid, mtime_s, link, device, data)


def ours(archive: bytes) -> list[tuple[Any, ...]]:
    reader = TarReader(pieces(archive))
    return [seen(entry, reader.read_data(1 << 62)) for entry in reader]


def pythons(archive: bytes) -> list[tuple[Any, ...]]:
    found = []
    with tarfile.open(
        fileobj=io.BytesIO(archive), mode="r:", encoding="utf-8", errors="surrogateescape"
    ) as tar:
        for info in tar:
            kind = "0" if info.isreg() else info.type.decode("latin-1")
            content = tar.extractfile(info) if info.isreg() else None
            found.append(
                (
                    os.fsencode(info.name),
                    kind,
                    info.mode & 0o7777,
                    info.uid,
                    info.gid,
                    float(info.mtime),
                    os.fsencode(info.linkname) if kind in "12" else b"",
                    (info.devmajor, info.devminor) if kind in "34" else (0, 0),
                    content.read() if content else b"",
                )
            )
    return found


def listed(message: str, reasons: dict[str, str]) -> bool:
    return any(re.search(pattern, message) for pattern in reasons)


def compare(archive: bytes) -> None:
    try:
        mine = ours(archive)
    except InvalidArgument as error:
        assert listed(error.message, STRICTER), f"refused for a reason not listed: {error}"
        return
    try:
        theirs = pythons(archive)
    except tarfile.ReadError as error:
        assert listed(str(error), LOOSER), f"tarfile refuses: {error}"
        return
    assert mine == theirs


@QUICK
@given(archives())
def test_what_we_read_tarfile_reads_the_same(archive: bytes) -> None:
    compare(archive)


@QUICK
@given(members(3))
def test_no_dialect_is_refused(body: bytes) -> None:
    assert ours(body + END) == pythons(body + END)


#: Offsets in a header, but for two: of what is no device tarfile parses device numbers (329 to 344)
#: all the same; and it takes old GNU tar's times (345 on, by the magic at 257) for a prefix.
PARSED = [at for at in range(512) if not 327 <= at < 345 and not 255 <= at < 265]


@QUICK
@given(members(3), st.data())
def test_damage_is_refused_or_read_the_same(body: bytes, data: st.DataObject) -> None:
    header = data.draw(st.integers(0, len(body) // 512 - 1)) * 512
    at = header + data.draw(st.sampled_from(PARSED))
    # Whose own owner and times mean nothing, but tarfile parses them.
    assume(body[header + 156] not in b"xgLK")
    damaged = body[:at] + data.draw(st.binary(min_size=1, max_size=3)) + body[at + 1 :]
    compare(with_checksums(damaged[: len(body)]) + END)


@pytest.mark.parametrize("number", range(len(seeds("tar"))))
def test_seeds(number: int) -> None:
    compare(seeds("tar")[number])


# Layers: umoci's unpacking beside both of our forms.

#: Where we refuse a layer and umoci unpacks it: why.
STRICTER_LAYERS = STRICTER | {
    r"its parent is a symlink or no directory": "umoci follows symlinks inside the root",
    r"a hard link to a directory": "umoci fails too, or not, as the order has it",
    r"the target of the hard link is not in this layer": "a layer is complete by itself",
    r"'\.\.' in a name|an absolute name": "umoci bends such names to the root",
}


#: Where umoci refuses a layer and we unpack it: why.
LOOSER_LAYERS = {
    r"link: no such file or directory": "a hard link to itself: umoci removes its target first",
    r"unknown typeflag .{2}x(67|53|37)": "a global comment, old sparse or contiguous files",
}


def unpack_with_umoci(archive: bytes, place: Path) -> str:
    """Unpack the tar as a layer into `place`/theirs; what umoci says when it fails."""
    layout = place / "layout"
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes, kind: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}

    layer = put(archive, OCI_LAYER)
    rootfs = {"type": "layers", "diff_ids": [layer["digest"]]}
    config = {"architecture": "amd64", "os": "linux", "rootfs": rootfs, "config": {}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": put(json.dumps(config).encode(), OCI_CONFIG),
        "layers": [layer],
    }
    entry = put(json.dumps(manifest).encode(), OCI_MANIFEST)
    entry["annotations"] = {"org.opencontainers.image.ref.name": "x"}
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
    (layout / "index.json").write_text(json.dumps(index))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    command = ["umoci", "raw", "unpack", "--image", f"{layout}:x", str(place / "theirs")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


def compare_layers(archive: bytes, place: Path) -> bool:
    """Whether both take the layer; then all three trees are alike."""
    refusal = ""
    undated: tuple[bytes, ...] = ()
    try:
        undated = unpacked(archive, place / "ours").missing
    except InvalidArgument as error:
        refusal = error.message
    failure = unpack_with_umoci(archive, place)
    if refusal:
        assert failure or listed(refusal, STRICTER_LAYERS), refusal
        return False
    if failure:
        assert listed(failure, LOOSER_LAYERS), failure
        return False
    mine = picture(os.fsencode(place / "ours"), undated)
    # umoci gives what it makes a missing directory in the time of that, too.
    touched = {*undated, *(path.rpartition(b"/")[0] for path in undated)}
    theirs = picture(os.fsencode(place / "theirs"), touched)
    assert picture(os.fsencode(place / "ours"), touched) == theirs
    if not why_not(place):
        try:
            with mounted(archive, place) as root:
                assert picture(root, undated) == mine
        except NotExpressible:
            pass
    return True


def needs_umoci() -> None:
    if shutil.which("umoci") is None:
        pytest.skip("umoci is not installed (Debian: umoci)")


@FEW
@given(archives(4, LAYER_MAKERS))
def test_umoci_makes_the_same_tree(archive: bytes) -> None:
    needs_umoci()
    with tempfile.TemporaryDirectory() as scratch:
        compare_layers(archive, Path(scratch))


QUIRKS = {
    "no padding at the end": member(b"a", data=b"x" * 600)[: 512 + 600],
    "a part of the padding": member(b"a", data=b"x" * 600)[: 512 + 600 + 9],
    "no end mark": member(b"a", data=b"a"),
    "GNU long name, PAX link": gnu_long(b"L", b"n/" * 60 + b"f")
    + pax((b"linkpath", b"t" * 200))
    + member(b"x", b"2", link=b"t")
    + END,
    "a file twice": member(b"a", data=b"1") + member(b"a", data=b"22") + END,
    "a directory over a file": member(b"a") + member(b"a", b"5") + member(b"a/b") + END,
    "a file over a directory": member(b"a", b"5") + member(b"a/b") + member(b"a", data=b"x") + END,
    "a symlink over a file": member(b"a", data=b"1") + member(b"a", b"2", link=b"b") + END,
    "a hard link to a symlink": member(b"a", b"2", link=b"b") + member(b"c", b"1", link=b"a") + END,
    "a hard link over a file": member(b"a", data=b"a")
    + member(b"b", data=b"b")
    + member(b"b", b"1", link=b"./a")
    + END,
    "before 1970": pax((b"mtime", b"-1.5")) + member(b"a") + END,
    "base 256": patched(member(b"a", data=b"abc"), 124, b"\x80" + bytes(10) + b"\x03") + END,
    "dots": member(b"./", b"5", mode=0o700) + member(b"./a//./b", data=b"x") + END,
    "set-user-id": member(b"a", data=b"x", mode=0o6755, uid=1000, gid=1000) + END,
}


@pytest.mark.parametrize("quirk", QUIRKS)
def test_quirks(quirk: str, tmp_path: Path) -> None:
    needs_umoci()
    compare(QUIRKS[quirk])
    assert compare_layers(QUIRKS[quirk], tmp_path)


ESCAPES = {
    "..": member(b"../a") + END,
    "absolute": member(b"/a") + END,
    "through a symlink": member(b"l", b"2", link=b"/") + member(b"l/a") + END,
    "hard link up": member(b"a", b"1", link=b"../../etc/passwd") + END,
}


@pytest.mark.parametrize("escape", ESCAPES)
def test_what_umoci_bends_we_refuse(escape: str, tmp_path: Path) -> None:
    needs_umoci()
    assert not compare_layers(ESCAPES[escape], tmp_path)
    assert not (tmp_path / "ours/a").exists()
