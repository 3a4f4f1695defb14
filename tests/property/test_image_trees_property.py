"""Random trees survive compare and apply; random bytes never do more than be refused."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from image_tars import END, member, pax, pieces
from onggi.errors import EngineError
from onggi.image.apply import apply_layer
from onggi.image.compare import write_layer
from onggi.image.overlay import OPAQUE_XATTRS

QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)

names = st.one_of(
    st.sampled_from(["a", "b", "c", "\udcff", "é", "n" * 200, " ", "x\ny"]),
    st.from_regex(r"[a-z.]{1,4}", fullmatch=True),
).filter(lambda name: name not in (".", "..") and not name.startswith(".wh."))
owners = st.sampled_from([0, 1000, 65535, 2_097_152, 2**31])
leaves = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["file", "symlink", "fifo", "char", "whiteout", "link"]),
        "mode": st.integers(0, 0o7777),
        "uid": owners,
        "gid": owners,
        "mtime": st.sampled_from([0, 1, 1_700_000_000, -5, 2**33 + 1]),
        "data": st.binary(max_size=1500),
        "target": st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=1)
        | st.just("t" * 150),
        "xattr": st.none() | st.binary(max_size=40),
    }
)


def directories(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(
        {
            "kind": st.just("directory"),
            "mode": st.integers(0, 0o7777),
            "uid": owners,
            "gid": owners,
            "mtime": st.sampled_from([0, 1_700_000_000]),
            "xattr": st.none() | st.binary(max_size=40),
            "opaque": st.booleans(),
            "children": st.dictionaries(names, children, max_size=4),
        }
    )


trees = directories(st.recursive(leaves, directories, max_leaves=8))


def build(path: str, node: dict[str, Any], files: list[str]) -> None:
    match node["kind"]:
        case "whiteout":
            os.mknod(path, stat.S_IFCHR, 0)
            return
        case "link" if files:
            os.link(files[-1], path)
            return
        case "file" | "link":
            Path(path).write_bytes(node["data"])
            files.append(path)
        case "symlink":
            os.symlink(node["target"], path)
        case "fifo":
            os.mkfifo(path)
        case "char":
            os.mknod(path, stat.S_IFCHR, os.makedev(1, 3))
        case "directory":
            os.makedirs(path, exist_ok=True)
            for name, child in node["children"].items():
                build(os.path.join(path, name), child, files)
    os.chown(path, node["uid"], node["gid"], follow_symlinks=False)
    if node["kind"] != "symlink":
        os.chmod(path, node["mode"])
    if node["xattr"] is not None and node["kind"] in ("file", "link", "directory"):
        os.setxattr(path, "user.x", node["xattr"])
    if node.get("opaque"):
        for key in OPAQUE_XATTRS:
            os.setxattr(path, key, b"y")
    os.utime(path, (node["mtime"], node["mtime"]), follow_symlinks=False)


def picture(root: str) -> dict[str, tuple[Any, ...]]:
    """Everything that a layer keeps, by path."""
    seen: dict[str, tuple[Any, ...]] = {}
    inodes: dict[int, str] = {}
    for base, below, files in os.walk(root):
        for path in [base, *(os.path.join(base, name) for name in sorted(files + below))]:
            status = os.lstat(path)
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                seen[os.path.relpath(path, root)] = ("whiteout",)
                continue
            content = b""
            if stat.S_ISREG(status.st_mode):
                content = Path(path).read_bytes()
            elif stat.S_ISLNK(status.st_mode):
                content = os.fsencode(os.readlink(path))
            relative = os.path.relpath(path, root)
            keys = sorted(os.listxattr(path, follow_symlinks=False))
            if path == root:
                keys = [key for key in keys if key not in OPAQUE_XATTRS]
            first = relative
            if not stat.S_ISDIR(status.st_mode):
                first = inodes.setdefault(status.st_ino, relative)
            seen[relative] = (
                status.st_mode,
                status.st_uid,
                status.st_gid,
                status.st_rdev,
                int(status.st_mtime_ns // 10**9),
                content,
                first,
                [(key, os.getxattr(path, key, follow_symlinks=False)) for key in keys],
            )
    return seen


def archived(root: str) -> bytes:
    out: list[bytes] = []
    fd = os.open(root, os.O_RDONLY)
    try:
        write_layer(fd, out.append)
    finally:
        os.close(fd)
    return b"".join(out)


def applied(data: bytes, root: str) -> None:
    os.mkdir(root)
    fd = os.open(root, os.O_RDONLY)
    try:
        apply_layer(pieces(data), fd)
    finally:
        os.close(fd)


@QUICK
@given(trees)
def test_apply_undoes_compare(tree: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        source, copy = os.path.join(scratch, "source"), os.path.join(scratch, "copy")
        build(source, tree, [])
        data = archived(source)
        applied(data, copy)
        assert picture(copy) == picture(source)
        assert archived(copy) == data


parts = st.sampled_from([b"a", b"b", b"..", b".", b"", b".wh.a", b".wh..wh..opq", b"/", b"n" * 90])
member_names = st.lists(parts, min_size=1, max_size=4).map(b"/".join).filter(bool)
members = st.builds(
    lambda name, kind, link, data, records: (
        (pax(*records) if records else b"")
        + member(name, kind, data if kind == b"0" else b"", link=link)
    ),
    member_names,
    st.sampled_from([b"0", b"1", b"2", b"3", b"5", b"6"]),
    member_names,
    st.binary(max_size=600),
    st.lists(
        st.tuples(
            st.sampled_from([b"path", b"linkpath", b"mtime", b"SCHILY.xattr.user.a", b"uid"]),
            member_names,
        ),
        max_size=1,
    ),
)


@QUICK
@given(st.lists(members, max_size=8).map(b"".join), st.data())
def test_no_archive_reaches_outside(archive: bytes, data: st.DataObject) -> None:
    if archive and data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(archive) - 1))
        archive = (
            archive[:at] + bytes([archive[at] ^ data.draw(st.integers(1, 255))]) + archive[at + 1 :]
        )
    with tempfile.TemporaryDirectory() as scratch:
        inner = os.path.join(scratch, "x", "y", "z")
        os.makedirs(os.path.dirname(inner))
        outside = [scratch, os.path.join(scratch, "x")]
        before = [(os.stat(path).st_mtime_ns, os.listdir(path)) for path in outside]
        with contextlib.suppress(EngineError):
            applied(archive + END, inner)
        assert [(os.stat(path).st_mtime_ns, os.listdir(path)) for path in outside] == before
        assert os.listdir(os.path.dirname(inner)) == ["z"]
