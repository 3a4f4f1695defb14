"""What a snapshotter promises, in both forms of layers."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from image_tars import END, member, pax
from onggi.errors import (
    AlreadyExists,
    DataLoss,
    EngineError,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    SpecError,
)
from onggi.image.layer_record import Form
from onggi.image.merged import MergedView
from onggi.image.snapshots import Snapshotter, StagedLayer, chain_ids

BASE = (
    member(b"./", b"5", mode=0o711, uid=7)
    + member(b"a", data=b"base")
    + member(b"t/", b"5", mode=0o1777)
    + END
)
NEXT = member(b"a", data=b"next") + member(b"t/f") + member(b".wh.gone") + END


Change = Callable[[Path], object]


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "snapshots"


@pytest.fixture(params=["overlay", "erofs"])
def form(request: pytest.FixtureRequest, tmp_path: Path) -> Form:
    wanted: Form = request.param
    if wanted == "erofs" and (reason := Snapshotter(str(tmp_path / "probe")).form_reason):
        pytest.skip(f"host feature missing: {reason}")
    return wanted


@pytest.fixture
def snapshots(root: Path, form: Form) -> Iterator[Snapshotter]:
    made = Snapshotter(str(root), form)
    yield made
    made.close()


def apply(snapshots: Snapshotter, data: bytes, parent: str | None = None) -> str:
    chain_id = snapshots.apply(parent, io.BytesIO(data).read, digest(data))
    snapshots.settle()  # its record changes when it is on the disk
    return chain_id


def stage(snapshots: Snapshotter, data: bytes) -> StagedLayer:
    return snapshots.unpack(io.BytesIO(data).read, digest(data))


def leftovers(root: Path) -> list[str]:
    return [f"{kind}/{name}" for kind in ("staging", "trash") for name in os.listdir(root / kind)]


def test_chain_ids() -> None:
    """The formula of image-spec config.md#layer-chainid."""
    one, two = digest(b"1"), digest(b"2")
    assert chain_ids((one, two)) == (one, digest(f"{one} {two}".encode()))
    assert chain_ids(()) == ()
    with pytest.raises(SpecError):
        chain_ids(("sha256:..",))


def test_layers_appear_under_their_chain_ids(snapshots: Snapshotter, root: Path) -> None:
    first = apply(snapshots, BASE)
    second = apply(snapshots, NEXT, first)
    assert (first, second) == chain_ids((digest(BASE), digest(NEXT)))
    assert snapshots.layers() == sorted([first, second])
    assert snapshots.ancestry(second) == (first, second)
    top, bottom = snapshots.lowers((first, second))
    assert Path(top, "a").read_text() == "next"
    assert Path(bottom, "a").read_text() == "base"
    assert stat.S_ISCHR(Path(top, "gone").lstat().st_mode)
    assert leftovers(root) == []


def test_what_a_layer_leaves_out_it_has_from_below(snapshots: Snapshotter) -> None:
    first = apply(snapshots, BASE)
    top, _ = snapshots.lowers((first, apply(snapshots, NEXT, first)))
    assert stat.S_IMODE(os.stat(top).st_mode) == 0o711
    assert os.stat(top).st_uid == 7
    assert stat.S_IMODE(os.stat(os.path.join(top, "t")).st_mode) == 0o1777


def test_a_layer_may_not_write_through_a_symlink_below(snapshots: Snapshotter) -> None:
    first = apply(snapshots, member(b"lib", b"2", link=b"usr/lib") + END)
    with pytest.raises(InvalidArgument, match="symlink in a layer below"):
        apply(snapshots, member(b"lib/x") + END, first)
    apply(snapshots, member(b"lib/", b"5") + member(b"lib/x") + END, first)


def test_the_same_layer_is_not_read_twice(snapshots: Snapshotter) -> None:
    first = apply(snapshots, BASE)

    def never(size: int) -> bytes:
        raise AssertionError("read")

    assert snapshots.apply(None, never, digest(BASE)) == first


def test_the_diff_id_is_of_the_plain_stream(snapshots: Snapshotter) -> None:
    assert snapshots.apply(None, io.BytesIO(gzip.compress(BASE)).read, digest(BASE)) == digest(BASE)


@pytest.mark.parametrize(
    "data", [BASE + bytes(512), BASE[:-1], BASE.replace(b"base", b"evil"), b""]
)
def test_other_content_is_refused_and_leaves_nothing(
    snapshots: Snapshotter, root: Path, data: bytes
) -> None:
    with pytest.raises(EngineError) as caught:
        snapshots.apply(None, io.BytesIO(data).read, digest(BASE))
    assert isinstance(caught.value, DataLoss | InvalidArgument)
    assert snapshots.layers() == []
    assert leftovers(root) == []


def test_layers_are_unpacked_in_any_order_and_thread(snapshots: Snapshotter, root: Path) -> None:
    datas = (BASE, NEXT, member(b"t/g", data=b"third") + END)
    with ThreadPoolExecutor(3) as pool:
        staged = list(pool.map(lambda data: stage(snapshots, data), reversed(datas)))
    assert snapshots.layers() == []
    parent = None
    for one in reversed(staged):
        parent = snapshots.commit(one, parent)
    chain = chain_ids([digest(data) for data in datas])
    assert (parent, snapshots.layers()) == (chain[-1], sorted(chain))
    assert stat.S_IMODE(os.stat(os.path.join(snapshots.lowers(chain)[0], "t")).st_mode) == 0o1777
    assert leftovers(root) == []


def test_what_is_unpacked_and_given_up_is_gone(snapshots: Snapshotter, root: Path) -> None:
    with stage(snapshots, BASE):
        assert len(leftovers(root)) == 1
        Snapshotter(str(root)).sweep()
        assert len(leftovers(root)) == 1, "what is being worked on was swept"
    assert leftovers(root) == []
    assert snapshots.layers() == []


def test_a_commit_on_nothing_is_refused(snapshots: Snapshotter, root: Path) -> None:
    with pytest.raises(NotFound):
        snapshots.commit(stage(snapshots, NEXT), digest(b"none"))
    assert leftovers(root) == []


def test_a_chain_may_mix_the_forms(snapshots: Snapshotter, root: Path, form: Form) -> None:
    other: Form = "erofs" if form == "overlay" else "overlay"
    first = apply(snapshots, BASE)
    with closing(Snapshotter(str(root), other)) as others:
        second = apply(others, NEXT, first)
    chain = (first, second)
    assert [snapshots.record(layer).form for layer in chain] == [form, other]
    with MergedView(snapshots.lowers(chain)) as view:
        assert view.list_directory("/") == ["a", "t"]
        assert view.read_file("/a", 10) == b"next"
        assert view.stat("/t").st_mode == stat.S_IFDIR | 0o1777


def test_the_record_says_what_a_layer_is(snapshots: Snapshotter, form: Form) -> None:
    first = apply(snapshots, BASE)
    second = snapshots.record(apply(snapshots, NEXT, first))
    assert (second.form, second.parent, second.diff_id) == (form, first, digest(NEXT))
    assert (second.size_bytes, second.entries) == (len(NEXT), 3)
    with pytest.raises(NotFound):
        snapshots.record(digest(b"none"))


def test_the_plain_tar_is_kept_by_one_form(snapshots: Snapshotter, form: Form) -> None:
    tar = snapshots.open_tar(apply(snapshots, BASE))
    assert (tar is None) == (form == "overlay")
    if tar is not None:
        with tar:
            assert tar.read() == BASE


def test_usage_of_a_layer_is_what_du_says(snapshots: Snapshotter, root: Path) -> None:
    content = os.urandom(100_000)
    linked = member(b"x", data=content) + member(b"y", b"1", link=b"x")
    chain = apply(snapshots, BASE[:-1024] + linked + END)
    place = root / "layers" / chain.removeprefix("sha256:")
    said = subprocess.run(["du", "-s", "-B1", place], capture_output=True, check=True, text=True)
    usage = snapshots.layer_usage(chain)
    assert usage.size_bytes == int(said.stdout.split()[0])
    assert 100_000 <= usage.size_bytes < 150_000
    with pytest.raises(NotFound):
        snapshots.layer_usage(digest(b"none"))


def rewrite_record(old: bytes, new: bytes) -> Change:
    def change(place: Path) -> None:
        record = (place / "layer.json").read_bytes()
        assert old in record
        (place / "layer.json").write_bytes(record.replace(old, new, 1))

    return change


#: What may happen to a layer's directory so that it is no layer any more.
DAMAGES: list[tuple[Form, Change]] = [
    ("overlay", lambda place: (place / "layer.json").unlink()),
    ("overlay", lambda place: (place / "layer.json").write_bytes(b"")),
    ("overlay", rewrite_record(b'"sha256:', b'"sha256:0')),
    ("overlay", rewrite_record(b'"parent":null', b'"parent":"%s"' % digest(b"x").encode())),
    ("overlay", rewrite_record(b'"overlay"', b'"other"')),
    ("overlay", lambda place: shutil.rmtree(place / "fs")),
    ("erofs", lambda place: (place / "layer.json").unlink()),
    ("erofs", lambda place: (place / "layer.tar").unlink()),
    ("erofs", lambda place: (place / "layer.erofs").unlink()),
    ("erofs", lambda place: os.truncate(place / "layer.tar", 512)),
]


@pytest.mark.parametrize(("form", "damage"), DAMAGES, indirect=["form"])
def test_a_damaged_layer_is_none(snapshots: Snapshotter, root: Path, damage: Change) -> None:
    chain = apply(snapshots, BASE)
    snapshots.lowers((chain,))
    place = root / "layers" / chain.removeprefix("sha256:")
    for _ in range(2):
        damage(place)
        assert not snapshots.exists(chain)
        assert snapshots.layers() == []
        with pytest.raises(NotFound):
            snapshots.lowers((chain,))
        assert apply(snapshots, BASE) == chain
        (path,) = snapshots.lowers((chain,))
        assert Path(path, "a").read_text() == "base"
    damage(place)
    (root / "layers" / "rubbish").mkdir()
    snapshots.sweep({chain})
    assert os.listdir(root / "layers") == [place.name], "a container's layer was swept"
    snapshots.sweep()
    assert os.listdir(root / "layers") == []


RICH = (
    member(b"d/", b"5", mode=0o750, uid=3, gid=4, mtime_ns=10**18)
    + pax((b"SCHILY.xattr.user.k", b"v"))
    + member(b"d/file", data=b"x" * 3000, mode=0o6755, uid=70_000, mtime_ns=10**18 + 1)
    + member(b"d/link", b"1", link=b"d/file")
    + member(b"d/sym", b"2", link=b"/target")
    + member(b"d/fifo", b"6", mode=0o622)
    + member(b"d/.wh..wh..opq")
    + member(b"left/out/file", data=b"y" * 513)
    + member(b"left/.wh.gone")
    + END
)


def test_verify_finds_a_layer_whole(snapshots: Snapshotter) -> None:
    first = apply(snapshots, BASE)
    for data, parent in ((RICH, None), (NEXT, first), (RICH, first)):
        chain = apply(snapshots, data, parent)
        snapshots.verify(chain)
        snapshots.verify(chain, lambda data=data: io.BytesIO(gzip.compress(data)).read)
    with pytest.raises(NotFound):
        snapshots.verify(digest(b"none"))


def flip(path: Path, at: int = 100) -> None:
    """One bit of a file, with its times as before."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def point_elsewhere(place: Path) -> None:
    link = place / "fs/d/sym"
    link.unlink()
    link.symlink_to("/tarmac")
    os.utime(link, ns=(0, 0), follow_symlinks=False)
    os.utime(place / "fs/d", ns=(10**18, 10**18))


def unshare_a_link(place: Path) -> None:
    (place / "fs/d/link").unlink()
    shutil.copy2(place / "fs/d/file", place / "fs/d/link")
    os.utime(place / "fs/d", ns=(10**18, 10**18))


CHANGES: list[tuple[Form, Change]] = [
    ("overlay", lambda place: flip(place / "fs/d/file")),
    ("overlay", lambda place: (place / "fs/d/file").chmod(0o755)),
    ("overlay", lambda place: os.setxattr(place / "fs/d/file", "user.k", b"w")),
    ("overlay", lambda place: os.utime(place / "fs/d/file", ns=(0, 0))),
    ("overlay", lambda place: os.chown(place / "fs/d", 3, 5)),
    ("overlay", lambda place: os.removexattr(place / "fs/d", "user.overlay.opaque")),
    ("overlay", lambda place: (place / "fs/left/gone").unlink()),
    ("overlay", lambda place: (place / "fs/zzz").touch()),
    ("overlay", lambda place: (place / "fs/left/out").chmod(0o700)),
    ("overlay", lambda place: (place / "fs").chmod(0o700)),
    ("overlay", point_elsewhere),
    ("overlay", unshare_a_link),
    ("erofs", lambda place: flip(place / "layer.tar", 600)),
    ("erofs", lambda place: flip(place / "layer.tar", len(RICH) - 1)),
    ("erofs", lambda place: flip(place / "layer.erofs", 1030)),
    ("erofs", lambda place: flip(place / "layer.erofs", -1)),
    ("erofs", lambda place: os.truncate(place / "layer.erofs", 4096)),
]


@pytest.mark.parametrize(("form", "change"), CHANGES, indirect=["form"])
def test_verify_finds_every_change(snapshots: Snapshotter, root: Path, change: Change) -> None:
    chain = apply(snapshots, RICH)
    place = root / "layers" / chain.removeprefix("sha256:")
    change(place)
    with pytest.raises(DataLoss, match=chain):
        snapshots.verify(chain, lambda: io.BytesIO(RICH).read)
    assert leftovers(root) == []


PLAIN_TREE = (
    RICH.removesuffix(END)
    + member(b"dev", b"3", mode=0o600, major=1, minor=300)
    + member(b"d/long", b"2", link=b"/" + b"x" * 600)
    + member(b"big", data=bytes(range(256)) * 5000, mode=0o644)
    + member(b"late", data=b"first")
    + member(b"late", data=b"second")
    + pax((b"SCHILY.xattr.user.other", b"w" * 7))
    + member(b"marked", data=b"z")
    + pax(
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", b"holes"),
        (b"GNU.sparse.realsize", b"4096"),
    )
    + member(b"holes", data=b"1\n1024\n512\n".ljust(512, b"\0") + b"h" * 512)
    + END
)


@pytest.mark.parametrize("form", ["overlay"], indirect=True)
def test_a_whole_directory_is_not_unpacked_again(
    snapshots: Snapshotter, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The quick comparison must suffice where it can; a change is left to the slow one."""
    first = apply(snapshots, BASE)
    chains = [(apply(snapshots, PLAIN_TREE, parent), PLAIN_TREE) for parent in (None, first)]
    slow: list[str] = []
    monkeypatch.setattr(
        "onggi.image.layer_store.check_directory", lambda chain, *_: slow.append(chain)
    )
    for chain, data in (*chains, (apply(snapshots, NEXT, first), NEXT)):
        snapshots.verify(chain, lambda data=data: io.BytesIO(gzip.compress(data)).read)
    assert slow == []
    for name, at in (("big", 700_000), ("big", -1), ("late", 0), ("marked", 0), ("holes", 5)):
        path = root / "layers" / chains[0][0].removeprefix("sha256:") / "fs" / name
        flip(path, at)
        snapshots.verify(chains[0][0], lambda: io.BytesIO(PLAIN_TREE).read)
        assert slow == [chains[0][0]], name
        slow.clear()
        flip(path, at)
    assert leftovers(root) == []


def test_missing_parent(snapshots: Snapshotter) -> None:
    with pytest.raises(NotFound):
        apply(snapshots, NEXT, digest(b"none"))


FULL_AT: list[tuple[Form, str]] = [
    ("overlay", "onggi.image.durable.os.write"),
    ("overlay", "os.rename"),
    ("erofs", "onggi.image.durable.os.write"),
    ("erofs", "os.rename"),
]


@pytest.mark.parametrize(("form", "where"), FULL_AT, indirect=["form"])
def test_a_full_disk_leaves_nothing(
    snapshots: Snapshotter, root: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    first = apply(snapshots, BASE)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as context:
        context.setattr(where, full)
        with pytest.raises(ResourceExhausted):
            apply(snapshots, NEXT, first)
    assert snapshots.layers() == [first]
    assert leftovers(root) == []
    apply(snapshots, NEXT, first)


def test_two_threads_unpack_the_same_layer(snapshots: Snapshotter, root: Path) -> None:
    answers: list[str] = []
    threads = [
        threading.Thread(target=lambda: answers.append(apply(snapshots, BASE))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [digest(BASE)] * 4
    assert leftovers(root) == []


def test_prepare_gives_an_empty_upper_like_the_top(snapshots: Snapshotter, root: Path) -> None:
    chain = apply(snapshots, BASE)
    rootfs = snapshots.prepare("c1", (chain,))
    assert rootfs.lowers == snapshots.lowers((chain,))
    assert sorted(os.listdir(rootfs.upper)) == ["fs", "work"]
    status = os.stat(os.path.join(rootfs.upper, "fs"))
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o711, 7)
    assert snapshots.list() == ["c1"]
    assert stat.S_IMODE(root.stat().st_mode) == 0o700


def test_prepare_refuses(snapshots: Snapshotter) -> None:
    chain = apply(snapshots, BASE)
    snapshots.prepare("c1", (chain,))
    with pytest.raises(AlreadyExists):
        snapshots.prepare("c1", (chain,))
    with pytest.raises(NotFound):
        snapshots.prepare("c2", (digest(b"none"),))
    with pytest.raises(InvalidArgument):
        snapshots.prepare("c3", ())
    for key in ("", "..", "a/b", ".hidden", "x" * 300, "a\n"):
        with pytest.raises(InvalidArgument):
            snapshots.prepare(key, (chain,))
    assert snapshots.list() == ["c1"]


def test_remove_is_at_once_and_deletes_later(snapshots: Snapshotter, root: Path) -> None:
    chain = apply(snapshots, BASE)
    upper = snapshots.prepare("c1", (chain,)).upper
    Path(upper, "fs/file").write_text("x")
    delete = snapshots.remove("c1")
    assert snapshots.list() == []
    assert len(leftovers(root)) == 1
    snapshots.prepare("c1", (chain,))
    delete()
    assert leftovers(root) == []
    assert snapshots.list() == ["c1"]
    snapshots.remove("never")()


def test_sweep_deletes_what_was_removed_before_a_crash(snapshots: Snapshotter, root: Path) -> None:
    chain = apply(snapshots, BASE)
    snapshots.prepare("c1", (chain,))
    snapshots.remove("c1")
    Snapshotter(str(root)).sweep()
    assert leftovers(root) == []
    assert snapshots.layers() == [chain]


def test_usage_counts_each_inode_once(snapshots: Snapshotter) -> None:
    upper = snapshots.prepare("c1", (apply(snapshots, BASE),)).upper
    empty = snapshots.usage("c1")
    Path(upper, "fs/a").write_bytes(b"x" * 100_000)
    os.link(os.path.join(upper, "fs/a"), os.path.join(upper, "fs/b"))
    used = snapshots.usage("c1")
    assert used.inodes == empty.inodes + 1
    assert 100_000 <= used.size_bytes - empty.size_bytes < 200_000
    with pytest.raises(NotFound):
        snapshots.usage("c2")


def test_a_tree_deeper_than_any_path_is_deleted(snapshots: Snapshotter, root: Path) -> None:
    """A container can make one with chdir; recursion or descriptors would run out."""
    upper = snapshots.prepare("c1", (apply(snapshots, BASE),)).upper
    fd = os.open(os.path.join(upper, "fs"), os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d" * 8, dir_fd=fd)
        below = os.open("d" * 8, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    assert snapshots.usage("c1").inodes > 100
    snapshots.remove("c1")()
    assert leftovers(root) == []


def test_deleting_follows_no_symlink(snapshots: Snapshotter, tmp_path: Path) -> None:
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep/file").touch()
    upper = snapshots.prepare("c1", (apply(snapshots, BASE),)).upper
    os.symlink(tmp_path / "keep", os.path.join(upper, "fs/link"))
    snapshots.remove("c1")()
    assert (tmp_path / "keep/file").exists()


def test_remove_layer(snapshots: Snapshotter, root: Path) -> None:
    chain = apply(snapshots, BASE)
    snapshots.remove_layer(chain)
    snapshots.remove_layer(chain)
    assert snapshots.layers() == []
    assert leftovers(root) == []


KILLED = """
import os, pkgutil, signal, sys
from onggi.image.snapshots import Snapshotter
root, tar, diff_id, form, where = sys.argv[1:]
data = open(tar, "rb")
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
if where == "read":
    read = lambda size: die() if data.tell() > 2000 else data.read(700)
else:
    read = data.read
    room, _, name = where.rpartition(".")
    setattr(pkgutil.resolve_name("onggi.image." + room), name, die)
Snapshotter(root, form).apply(None, read, diff_id)
"""
KILLED_AT: list[tuple[Form, str]] = [
    ("overlay", "layer_forms.apply_layer"),
    ("erofs", "layer_forms.index_layer"),
    ("erofs", "layer_forms.hashlib.file_digest"),
]
for each in ("read", "layer_stage.write_record", "layer_stage.StagedLayer.move_to"):
    KILLED_AT += [("overlay", each), ("erofs", each)]


@pytest.mark.parametrize(("form", "where"), KILLED_AT, indirect=["form"])
def test_a_crash_before_the_commit_leaves_nothing_visible(
    root: Path, tmp_path: Path, form: Form, where: str
) -> None:
    data = BASE[:-1024] + member(b"more", data=b"x" * 5000) + END
    (tmp_path / "tar").write_bytes(data)
    arguments = [str(root), str(tmp_path / "tar"), digest(data), form, where]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(leftovers(root)) == 1
    with closing(Snapshotter(str(root), form)) as snapshots:
        assert leftovers(root) == []
        assert snapshots.layers() == []
        assert apply(snapshots, data) == digest(data)


def test_a_layer_is_good_until_the_next_boot_before_it_is_synced(
    root: Path, form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Snapshotter(str(root), form)) as snapshots:
        monkeypatch.setattr("onggi.image.layer_sync.syncfs", refuse_to_sync)
        chain_id = apply(snapshots, BASE)
        snapshots.settle()
        assert snapshots.record(chain_id).boot
    monkeypatch.undo()
    monkeypatch.setattr("onggi.image.layer_record.this_boot", lambda: "another")
    with closing(Snapshotter(str(root), form)) as snapshots:
        assert not snapshots.exists(chain_id)
    monkeypatch.undo()
    with closing(Snapshotter(str(root), form)) as snapshots:
        assert snapshots.exists(chain_id)
        snapshots.sweep()
        snapshots.settle()
        assert snapshots.record(chain_id).boot == ""
        files = ["fs"] if form == "overlay" else ["layer.erofs", "layer.tar"]
        assert sorted(os.listdir(snapshots._layer(chain_id))) == sorted([*files, "layer.json"])


def test_a_layer_on_its_way_out_is_not_written_to(
    snapshots: Snapshotter, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Synced between its removal and its deletion, which would meet a file that was not there."""
    gate, records = threading.Event(), []

    def between(_place: str) -> None:
        gate.set()
        snapshots.settle()
        records.extend(path.read_bytes() for path in (root / "trash").glob("*/layer.json"))

    monkeypatch.setattr("onggi.image.layer_sync.syncfs", lambda _: gate.wait(10))
    monkeypatch.setattr(snapshots._mounts, "forget", between)
    chain_id = snapshots.apply(None, io.BytesIO(BASE).read, digest(BASE))
    snapshots.remove_layer(chain_id)
    assert len(records) == 1
    assert b'"boot":""' not in records[0]
    assert leftovers(root) == []


def refuse_to_sync(_: int) -> None:
    raise OSError(errno.EIO, "no")


def test_overlayfs_takes_what_is_prepared(snapshots: Snapshotter, tmp_path: Path) -> None:
    """Mounted in a mount namespace of its own; what is written there is seen in the merged view."""
    first = apply(snapshots, BASE[:-1024] + member(b"gone", data=b"?") + member(b"d/old") + END)
    second = apply(
        snapshots, NEXT[:-1024] + member(b"d/.wh..wh..opq") + member(b"d/new") + END, first
    )
    rootfs = snapshots.prepare("c1", (first, second))
    (tmp_path / "mnt").mkdir()
    options = (
        f"userxattr,lowerdir={':'.join(rootfs.lowers)},"
        f"upperdir={rootfs.upper}/fs,workdir={rootfs.upper}/work"
    )
    script = (
        'mount -t overlay o -o "$1" "$2"; cd "$2"; ls -1 . d; echo new > w; rm a; rm -r d; mkdir d'
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-ec", script, "sh", options, str(tmp_path / "mnt")],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [".:", "a", "d", "t", "d:", "new"]
    with MergedView([os.path.join(rootfs.upper, "fs"), *rootfs.lowers]) as view:
        assert view.list_directory("/") == ["d", "t", "w"]
        assert view.list_directory("/d") == []
        assert view.read_file("/w", 10) == b"new\n"
