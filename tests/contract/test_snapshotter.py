"""What every snapshotter promises."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from image_tars import END, member
from onggi.errors import AlreadyExists, DataLoss, EngineError, InvalidArgument, NotFound, SpecError
from onggi.image.merged import MergedView
from onggi.image.snapshots import OverlaySnapshotter, Snapshotter, chain_ids

BASE = (
    member(b"./", b"5", mode=0o711, uid=7)
    + member(b"a", data=b"base")
    + member(b"t/", b"5", mode=0o1777)
    + END
)
NEXT = member(b"a", data=b"next") + member(b"t/f") + member(b".wh.gone") + END


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "snapshots"


@pytest.fixture
def snapshots(root: Path) -> OverlaySnapshotter:
    return OverlaySnapshotter(str(root))


def apply(snapshots: Snapshotter, data: bytes, parent: str | None = None) -> str:
    return snapshots.apply(parent, io.BytesIO(data).read, digest(data))


def leftovers(root: Path) -> list[str]:
    return [f"{kind}/{name}" for kind in ("staging", "trash") for name in os.listdir(root / kind)]


def test_chain_ids() -> None:
    """The formula of image-spec config.md#layer-chainid."""
    one, two = digest(b"1"), digest(b"2")
    assert chain_ids((one, two)) == (one, digest(f"{one} {two}".encode()))
    assert chain_ids(()) == ()
    with pytest.raises(SpecError):
        chain_ids(("sha256:..",))


def test_layers_appear_under_their_chain_ids(snapshots: OverlaySnapshotter, root: Path) -> None:
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


def test_what_a_layer_leaves_out_it_has_from_below(snapshots: OverlaySnapshotter) -> None:
    first = apply(snapshots, BASE)
    top, _ = snapshots.lowers((first, apply(snapshots, NEXT, first)))
    assert stat.S_IMODE(os.stat(top).st_mode) == 0o711
    assert os.stat(top).st_uid == 7
    assert stat.S_IMODE(os.stat(os.path.join(top, "t")).st_mode) == 0o1777


def test_a_layer_may_not_write_through_a_symlink_below(snapshots: OverlaySnapshotter) -> None:
    first = apply(snapshots, member(b"lib", b"2", link=b"usr/lib") + END)
    with pytest.raises(InvalidArgument, match="symlink in a layer below"):
        apply(snapshots, member(b"lib/x") + END, first)
    apply(snapshots, member(b"lib/", b"5") + member(b"lib/x") + END, first)


def test_the_same_layer_is_not_read_twice(snapshots: OverlaySnapshotter) -> None:
    first = apply(snapshots, BASE)

    def never(size: int) -> bytes:
        raise AssertionError("read")

    assert snapshots.apply(None, never, digest(BASE)) == first


def test_the_diff_id_is_of_the_plain_stream(snapshots: OverlaySnapshotter) -> None:
    assert snapshots.apply(None, io.BytesIO(gzip.compress(BASE)).read, digest(BASE)) == digest(BASE)


@pytest.mark.parametrize(
    "data", [BASE + bytes(512), BASE[:-1], BASE.replace(b"base", b"evil"), b""]
)
def test_other_content_is_refused_and_leaves_nothing(
    snapshots: OverlaySnapshotter, root: Path, data: bytes
) -> None:
    with pytest.raises(EngineError) as caught:
        snapshots.apply(None, io.BytesIO(data).read, digest(BASE))
    assert isinstance(caught.value, DataLoss | InvalidArgument)
    assert snapshots.layers() == []
    assert leftovers(root) == []


def test_missing_parent(snapshots: OverlaySnapshotter) -> None:
    with pytest.raises(NotFound):
        apply(snapshots, NEXT, digest(b"none"))


def test_two_threads_unpack_the_same_layer(snapshots: OverlaySnapshotter, root: Path) -> None:
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


def test_prepare_gives_an_empty_upper_like_the_top(
    snapshots: OverlaySnapshotter, root: Path
) -> None:
    chain = apply(snapshots, BASE)
    rootfs = snapshots.prepare("c1", (chain,))
    assert rootfs.lowers == snapshots.lowers((chain,))
    assert sorted(os.listdir(rootfs.upper)) == ["fs", "work"]
    status = os.stat(os.path.join(rootfs.upper, "fs"))
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o711, 7)
    assert snapshots.list() == ["c1"]
    assert stat.S_IMODE(root.stat().st_mode) == 0o700


def test_prepare_refuses(snapshots: OverlaySnapshotter) -> None:
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


def test_remove_is_at_once_and_deletes_later(snapshots: OverlaySnapshotter, root: Path) -> None:
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


def test_sweep_deletes_what_was_removed_before_a_crash(
    snapshots: OverlaySnapshotter, root: Path
) -> None:
    chain = apply(snapshots, BASE)
    snapshots.prepare("c1", (chain,))
    snapshots.remove("c1")
    OverlaySnapshotter(str(root)).sweep()
    assert leftovers(root) == []
    assert snapshots.layers() == [chain]


def test_usage_counts_each_inode_once(snapshots: OverlaySnapshotter) -> None:
    upper = snapshots.prepare("c1", (apply(snapshots, BASE),)).upper
    empty = snapshots.usage("c1")
    Path(upper, "fs/a").write_bytes(b"x" * 100_000)
    os.link(os.path.join(upper, "fs/a"), os.path.join(upper, "fs/b"))
    used = snapshots.usage("c1")
    assert used.inodes == empty.inodes + 1
    assert 100_000 <= used.size_bytes - empty.size_bytes < 200_000
    with pytest.raises(NotFound):
        snapshots.usage("c2")


def test_a_tree_deeper_than_any_path_is_deleted(snapshots: OverlaySnapshotter, root: Path) -> None:
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


def test_deleting_follows_no_symlink(snapshots: OverlaySnapshotter, tmp_path: Path) -> None:
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep/file").touch()
    upper = snapshots.prepare("c1", (apply(snapshots, BASE),)).upper
    os.symlink(tmp_path / "keep", os.path.join(upper, "fs/link"))
    snapshots.remove("c1")()
    assert (tmp_path / "keep/file").exists()


def test_remove_layer(snapshots: OverlaySnapshotter, root: Path) -> None:
    chain = apply(snapshots, BASE)
    snapshots.remove_layer(chain)
    snapshots.remove_layer(chain)
    assert snapshots.layers() == []
    assert leftovers(root) == []


KILLED = """
import os, signal, sys
from onggi.image.snapshots import OverlaySnapshotter
import onggi.image.snapshots as room
data = open(sys.argv[2], "rb")
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[4] == "read":
    read = lambda size: die() if data.tell() > 2000 else data.read(700)
else:
    read = data.read
    setattr(room, sys.argv[4], die)
OverlaySnapshotter(sys.argv[1]).apply(None, read, sys.argv[3])
"""


@pytest.mark.parametrize("where", ["read", "apply_layer", "syncfs"])
def test_a_crash_before_the_commit_leaves_nothing_visible(
    root: Path, tmp_path: Path, where: str
) -> None:
    data = BASE[:-1024] + member(b"more", data=b"x" * 5000) + END
    (tmp_path / "tar").write_bytes(data)
    arguments = [str(root), str(tmp_path / "tar"), digest(data), where]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(leftovers(root)) == 1
    snapshots = OverlaySnapshotter(str(root))
    assert leftovers(root) == []
    assert snapshots.layers() == []
    assert apply(snapshots, data) == digest(data)


def test_overlayfs_takes_what_is_prepared(snapshots: OverlaySnapshotter, tmp_path: Path) -> None:
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
