"""A layer mounted as EROFS cannot be told from the same layer unpacked; nor can what is refused."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from erofs_rig import indexed, mounted, picture, unpacked, why_not, write
from image_tars import END, member
from onggi.errors import EngineError
from onggi.image.erofs.format import NotExpressible

QUICK = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)


@pytest.fixture(scope="module", autouse=True)
def erofs(tmp_path_factory: pytest.TempPathFactory) -> None:
    if reason := why_not(tmp_path_factory.mktemp("probe")):
        pytest.skip(f"no erofs from files: {reason}")


# Few names, so that entries meet; some that sort on both sides of '.' and '..'.
parts = st.sampled_from(
    [b"a", b"a", b"b", b"b", b"c", b"!", b"-", b"..a", b"\xff", b"n" * 255, b"n" * 256, b".",
     b"..", b"", b".wh.a", b".wh.b", b".wh..wh..opq", b".wh..wh.plnk", b".wh.", b".wh..",
     b".wh." + b"n" * 256]
)  # fmt: skip
honest = st.sampled_from([b"a", b"b", b"c", b"d", b"e"])
tame = st.one_of(
    st.lists(honest, min_size=1, max_size=3),
    st.lists(honest, min_size=1, max_size=3).map(lambda parts: [b".", *parts, b""]),
).map(b"/".join)
names = st.one_of(tame, st.lists(parts, min_size=1, max_size=4).map(b"/".join))
marks = st.builds(
    lambda folder, mark: b"/".join([*folder, mark]),
    st.lists(honest, max_size=2),
    st.sampled_from([b".wh.a", b".wh.b", b".wh.c", b".wh..wh..opq"]),
)
CAPABILITY = bytes.fromhex("01000002") + bytes(16)
kept: list[dict[str, bytes]] = [
    {},
    {},
    {"user.k": b"v\0"},
    {"user.k": b"", "user.long": b"x" * 1500},
    {"security.capability": CAPABILITY},
    {"trusted.other": b"1", "security.selinux": b"label"},
]
odd = [{"user.overlay.opaque": b"y"}, {"security.capability": b"no"}, {"user.": b""}]
ids = st.sampled_from([0, 1000, 65535, 2_097_152, 2**32 - 2])
times = st.sampled_from([0, 10**9 + 1, 1_700_000_000 * 10**9, -5 * 10**9, (2**33 + 1) * 10**9])
devices = st.sampled_from([(0, 0), (1, 3), (4095, 2**20 - 1), (8, 300)])


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    known: list[bytes] = []
    return b"".join(draw(members(known)) for _ in range(draw(st.integers(1, 14))))


@st.composite
def members(draw: st.DrawFn, known: list[bytes]) -> bytes:
    """One member; `known`: what hard links of later ones may name."""
    wild = draw(st.integers(0, 30)) == 17
    kind = draw(st.sampled_from([b"0", b"0", b"0", b"5", b"5", b"1", b"1", b"2", b"3", b"4", b"6"]))
    name = draw(names) if wild else draw(st.one_of(tame, tame, tame, marks))
    fields: dict[str, Any] = {"uid": draw(ids), "gid": draw(ids), "mtime_ns": draw(times)}
    fields["xattrs"] = draw(st.sampled_from(kept + odd if wild else kept))
    if kind not in (b"0", b"5") and not wild:
        fields["xattrs"] = {}
    if kind in (b"3", b"4"):
        fields["major"], fields["minor"] = draw(devices)
    if kind == b"2":
        fields["link"] = draw(names if wild else tame | long)
    if kind == b"1":
        fields["link"] = draw(names if wild or not known else st.sampled_from(known))
    elif kind != b"5":
        known.append(name)
    data = draw(st.binary(max_size=1500)) if kind == b"0" else b""
    return member(name or b"e", kind, data, mode=draw(st.integers(0, 0o7777)), **fields)


long = st.sampled_from([b"a", b"t" * 400, b"t" * 450, b"t" * 4095])


@QUICK
@given(archives())
def test_both_forms_are_alike(archive: bytes) -> None:
    data = archive + END
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        failures = []
        try:
            applied = unpacked(data, place / "directory")
        except EngineError as error:
            failures.append((type(error), error.message))
        try:
            tree = indexed(data, place)
        except EngineError as error:
            failures.append((type(error), error.message))
        if failures:
            assert len(failures) == 2, failures
            assert failures[0] == failures[1]
            return
        assert (tree.entries, tree.size_bytes) == (applied.entries, applied.size_bytes)
        missing = tree.missing
        assert set(missing) <= set(applied.missing)
        assert write(tree, place) == write(indexed(data, place), place)
        with mounted(data, place) as root:
            assert picture(root, missing) == picture(bytes(place / "directory"), missing)


@QUICK
@given(archives(), st.data())
def test_a_damaged_archive_is_refused_or_mounted(archive: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(archive) - 1))
    damaged = archive[:at] + bytes([archive[at] ^ data.draw(st.integers(1, 255))])
    damaged += archive[at + 1 :] + END
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        try:
            with mounted(damaged, place) as root:
                picture(root)
        except NotExpressible:
            unpacked(damaged, place / "directory")
        except EngineError:
            return
