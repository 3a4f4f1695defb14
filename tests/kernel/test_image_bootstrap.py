"""Base images from Debian's packages; a stand-in plays mmdebstrap, which needs a network."""

from __future__ import annotations

import lzma
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from image_tars import END, member
from onggi.errors import FailedPrecondition, InvalidArgument
from onggi.image import bootstrap
from onggi.image.apt_sources import sources_for
from onggi.image.bootstrap import bootstrap_busybox, bootstrap_debian
from onggi.image.busybox import applets_of
from onggi.image.deb import read_member
from onggi.image.images import ImageStore
from onggi.image.merged import MergedView
from onggi.image.users import resolve_user

PROGRAM = b"\x7fELF" + b"\0" * 60 + b"text\0[\0[[\0ls\0sh\0\0rest"


def ar_member(name: bytes, data: bytes) -> bytes:
    header = b"%-16s%-12d%-6d%-6d%-8s%-10d`\n" % (name, 0, 0, 0, b"100644", len(data))
    return header + data + b"\n" * (len(data) % 2)


def deb(path: str, data: bytes) -> bytes:
    tar = member(b"./" + path.encode(), data=data, mtime_ns=99 * 10**9) + END
    return (
        b"!<arch>\n"
        + ar_member(b"debian-binary", b"2.0\n")
        + ar_member(b"control.tar.xz", b"odd")
        + ar_member(b"data.tar.xz", lzma.compress(tar))
    )


@pytest.fixture
def images(tmp_path: Path) -> ImageStore:
    return ImageStore(str(tmp_path / "root"))


@pytest.mark.parametrize("path", ["bin/busybox", "usr/bin/busybox"])
def test_busybox_from_a_package(images: ImageStore, tmp_path: Path, path: str) -> None:
    package = tmp_path / "busybox-static_1%3a1.35.0-4_amd64.deb"
    package.write_bytes(deb(path, PROGRAM))
    stages: list[tuple[str, int, int]] = []
    image = bootstrap_busybox(
        images, package=str(package), progress=lambda *stage: stages.append(stage)
    )
    assert image.config.config is not None
    assert image.config.config.labels == {"io.onggi.packages": "busybox-static=1:1.35.0-4"}
    assert image.created == "1970-01-01T00:01:39Z"
    root = Path(images.snapshots.layer_path(image.chain_ids[0]))
    assert (root / "bin/busybox").read_bytes() == PROGRAM
    assert (root / "bin/ls").samefile(root / "bin/[[")
    assert stat.S_IMODE((root / "tmp").stat().st_mode) == 0o1777
    assert stat.S_IMODE((root / "etc/shadow").stat().st_mode) == 0o600
    assert stages[-1] == ("done", 3, 3)
    with MergedView([str(root)]) as view:
        assert resolve_user("nobody", view).uid == 65534
    again = bootstrap_busybox(ImageStore(str(tmp_path / "again")), package=str(package))
    assert again.manifest == image.manifest


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"!<arch>\n",
        b"!<arch>\nshort",
        deb("bin/other", PROGRAM),
        deb("bin/busybox", PROGRAM)[:-30],
    ],
    ids=["empty", "nothing in it", "cut", "other file", "cut data"],
)
def test_bad_packages_are_refused(images: ImageStore, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.deb").write_bytes(data)
    with pytest.raises(InvalidArgument):
        bootstrap_busybox(images, package=str(tmp_path / "x.deb"))
    assert images.list() == ()


@pytest.mark.parametrize("program", [b"", b"#!/bin/sh", PROGRAM[1:], PROGRAM.replace(b"ls", b"/x")])
def test_what_is_no_busybox(program: bytes) -> None:
    with pytest.raises(InvalidArgument):
        applets_of(program)


def test_the_installed_busybox(images: ImageStore) -> None:
    path = shutil.which("busybox")
    if (
        path is None
        or subprocess.run(
            ["dpkg", "--verify", "busybox-static"], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("needs Debian's busybox-static on the host")
    image = bootstrap_busybox(images)
    listed = subprocess.run([path, "--list"], capture_output=True, text=True, check=True).stdout
    root = Path(images.snapshots.layer_path(image.chain_ids[0]))
    assert sorted(os.listdir(root / "bin")) == sorted(listed.split())
    done = subprocess.run(
        ["chroot", root, "/bin/sh", "-c", "id -un; ls /bin/cat"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["root", "/bin/cat"]


def test_a_package_of_real_dpkg(tmp_path: Path) -> None:
    builder = shutil.which("dpkg-deb")
    if builder is None:
        pytest.skip("needs dpkg-deb on the host")
    (tmp_path / "p/DEBIAN").mkdir(parents=True)
    (tmp_path / "p/DEBIAN/control").write_text(
        "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@y>\nDescription: x\n"
    )
    (tmp_path / "p/usr").mkdir()
    (tmp_path / "p/usr/file").write_text("content")
    for kind in ("xz", "gzip", "none"):
        target = tmp_path / f"{kind}.deb"
        subprocess.run(
            [builder, f"-Z{kind}", "-b", tmp_path / "p", target], check=True, capture_output=True
        )
        with open(target, "rb") as file:
            assert read_member(file, "usr/file")[0] == b"content"


def test_debian_needs_mmdebstrap(images: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap.shutil, "which", lambda _: None)
    with pytest.raises(FailedPrecondition, match="apt-get install mmdebstrap"):
        bootstrap_debian(images)


@pytest.mark.parametrize(
    "arguments",
    [
        {"suite": "--help"},
        {"suite": "a b"},
        {"variant": "evil"},
        {"include": ["-o"]},
        {"include": ["a,b"]},
    ],
)
def test_debian_takes_no_options_as_names(images: ImageStore, arguments: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument):
        bootstrap_debian(images, **arguments)  # type: ignore[arg-type]


FAKE = """#!/bin/sh
echo "$@" > "$0.arguments"
cat > "$0.sources"
cat "$0.tar"
echo "E: last words" >&2
exit $(cat "$0.code")
"""

STATUS = b"""Package: b
Status: install ok installed
Version: 2-1

Package: a
Status: install ok installed
Version: 1

Package: gone
Status: deinstall ok config-files
Version: 1
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for mmdebstrap, which takes a network and half a minute."""
    program = tmp_path / "mmdebstrap"
    program.write_text(FAKE)
    program.chmod(0o755)
    (tmp_path / "mmdebstrap.code").write_text("0")
    late = {"mtime_ns": 5000 * 10**9}
    (tmp_path / "mmdebstrap.tar").write_bytes(
        member(b"./", b"5", mode=0o755)
        + member(b"./dev/", b"5")
        + member(b"./dev/null", b"3", major=1, minor=3)
        + member(b"./etc/machine-id", data=b"0123\n")
        + member(b"./etc/hostname", data=b"builder\n")
        + member(b"./etc/late", data=b"x", **late)
        + member(b"./var/log/apt/", b"5")
        + member(b"./var/log/apt/term.log", data=b"x")
        + member(b"./var/lib/dpkg/status", data=STATUS)
        + END
    )
    monkeypatch.setattr(bootstrap.shutil, "which", lambda _: str(program))
    return program


def test_debian_leaves_out_what_differs(images: ImageStore, fake: Path) -> None:
    image = bootstrap_debian(images, "bookworm", include=["bb", "aa"], epoch_s=1000)
    root = Path(images.snapshots.layer_path(image.chain_ids[0]))
    assert image.names == ("docker.io/library/debian:bookworm",)
    assert image.config.config is not None
    assert image.config.config.labels == {"io.onggi.packages": "a=1 b=2-1"}
    assert image.created == "1970-01-01T00:16:40Z"
    assert os.listdir(root / "dev") == []
    assert (root / "etc/machine-id").read_bytes() == b""
    assert sorted(os.listdir(root / "etc")) == ["late", "machine-id"]
    assert (root / "etc/late").stat().st_mtime == 1000
    assert os.listdir(root / "var/log/apt") == []
    arguments = Path(f"{fake}.arguments").read_text().split()
    assert "--include=aa,bb" in arguments
    assert "--variant=minbase" in arguments


def test_debian_does_not_take_half_a_tar(images: ImageStore, fake: Path) -> None:
    Path(f"{fake}.code").write_text("25")
    with pytest.raises(bootstrap.Unavailable, match="last words"):
        bootstrap_debian(images, "bookworm", epoch_s=1000)
    assert images.list() == ()


def test_only_sources_of_the_suite(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text(
        "# deb http://no trixie main\ndeb http://a/debian trixie main contrib\n"
        "deb-src http://a/debian trixie main\ndeb [arch=amd64] http://b x-trixie main\n"
    )
    (tmp_path / "sources.list.d/debian.sources").write_text(
        "Types: deb deb-src\n# comment\nURIs: http://c/debian\n"
        "Suites: trixie trixie-updates other\n"
        "Components: main\nSigned-By: /usr/share/keyrings/k.gpg\n\n"
        "Types: deb\nURIs: http://d\nSuites: trixie\nEnabled: no\n"
    )
    assert sources_for("trixie", str(tmp_path)).splitlines() == [
        "deb http://a/debian trixie main contrib",
        "deb [signed-by=/usr/share/keyrings/k.gpg] http://c/debian trixie main",
        "deb [signed-by=/usr/share/keyrings/k.gpg] http://c/debian trixie-updates main",
    ]
    assert sources_for("none", str(tmp_path)) == ""
