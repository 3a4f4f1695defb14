"""`cp`: both ways, running and stopped, tars on pipes, and containers that swap links meanwhile."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance.rig import Onggi


@pytest.fixture(params=["running", "stopped", "created"])
def box(onggi: Onggi, request: pytest.FixtureRequest) -> Iterator[str]:
    """A container in each state whose files can be copied."""
    if request.param == "created":
        onggi.run("create", "--name", "box", "busybox", "true")
    else:
        onggi.run("run", "-d", "--name", "box", "busybox", "sleep", "1000")
    if request.param == "stopped":
        onggi.run("stop", "-t", "0", "box")
    yield "box"
    onggi.run("rm", "-f", "box")


@pytest.fixture
def running(onggi: Onggi) -> Iterator[str]:
    onggi.run("run", "-d", "--name", "live", "busybox", "sleep", "1000")
    yield "live"
    onggi.run("rm", "-f", "live")


def tree(place: Path) -> Path:
    top = place / "tree"
    (top / "sub").mkdir(parents=True)
    (top / "sub" / "file").write_text("text")
    (top / "run").write_text("#!/bin/sh\n")
    (top / "run").chmod(0o750)
    os.link(top / "run", top / "again")
    (top / "link").symlink_to("sub/file")
    return top


def test_there_and_back(onggi: Onggi, box: str, tmp_path: Path) -> None:
    top = tree(tmp_path)
    onggi.run("cp", str(top), f"{box}:/srv")  # no such directory: it becomes it
    onggi.run("cp", str(top), f"{box}:/srv")  # now there is one
    onggi.run("cp", f"{box}:/srv", str(tmp_path / "back"))
    for copy in (tmp_path / "back", tmp_path / "back" / "tree"):
        assert (copy / "sub" / "file").read_text() == "text"
        assert (copy / "run").stat().st_mode & 0o7777 == 0o750
        assert (copy / "run").stat().st_ino == (copy / "again").stat().st_ino
        assert os.readlink(copy / "link") == "sub/file"
    assert not (tmp_path / "back" / "tree" / "tree").exists()


def test_contents_and_names(onggi: Onggi, running: str, tmp_path: Path) -> None:
    top = tree(tmp_path)
    onggi.run("cp", f"{top}/.", f"{running}:/tmp")
    assert onggi.out("exec", running, "cat", "/tmp/sub/file") == "text"
    onggi.run("cp", str(top / "run"), f"{running}:/tmp/renamed")
    assert onggi.out("exec", running, "stat", "-c", "%u:%g %a", "/tmp/renamed") == "0:0 750"
    onggi.run("cp", f"{running}:/tmp/renamed", str(tmp_path / "mine"))
    assert (tmp_path / "mine").read_text() == "#!/bin/sh\n"
    onggi.run("cp", f"{running}:/tmp/link", str(tmp_path / "asis"))
    assert os.readlink(tmp_path / "asis") == "sub/file"
    onggi.run("cp", "-L", f"{running}:/tmp/link", str(tmp_path / "followed"))
    assert (tmp_path / "followed").read_text() == "text"


def test_owners(onggi: Onggi, running: str, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.write_text("x")
    os.chown(given, 1000, 2000)
    onggi.run("cp", "-a", str(given), f"{running}:/kept")
    onggi.run("cp", str(given), f"{running}:/plain")
    words = ("stat", "-c", "%u:%g", "/kept", "/plain")
    assert onggi.out("exec", running, *words).split() == ["1000:2000", "0:0"]
    onggi.run("cp", "-a", f"{running}:/kept", str(tmp_path / "back"))
    onggi.run("cp", f"{running}:/kept", str(tmp_path / "mine"))
    back, mine = (tmp_path / "back").stat(), (tmp_path / "mine").stat()
    assert (back.st_uid, back.st_gid) == (1000, 2000)
    assert (mine.st_uid, mine.st_gid) == (0, 0)


def test_tars_on_pipes(onggi: Onggi, box: str) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        member = tarfile.TarInfo("made/by")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"tar"))
    onggi.run("cp", "-", f"{box}:/", stdin=data.getvalue())
    done = subprocess.run(
        onggi.words("cp", f"{box}:/made", "-"), capture_output=True, check=True, timeout=60
    )
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        assert tar.getnames() == ["made", "made/by"]


def test_a_volumes_files(onggi: Onggi, tmp_path: Path) -> None:
    onggi.run("create", "--name", "vol", "-v", "cpvol:/data", "busybox", "cat", "/data/f")
    (tmp_path / "f").write_text("in the volume")
    onggi.run("cp", str(tmp_path / "f"), "vol:/data/f")
    assert onggi.out("start", "-a", "vol") == "in the volume"
    onggi.run("rm", "vol")
    onggi.run("volume", "rm", "cpvol")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("cp", "live:/none", "."), "/none"),
        (("cp", "nobody:/etc", "."), "nobody"),
        (("cp", "/etc/hostname", "nobody:/etc"), "nobody"),
        (("cp", "/no/such", "live:/"), "/no/such"),
        (("cp", "/etc", "live:/bin/busybox"), "is a file"),
        (("cp", "/etc/hostname", "live:/new/"), "no directory"),
        (("cp", "/etc/hostname", "live:/no/dir"), "/no"),
        (("cp", "live:/proc/version", "."), "onggi exec"),
        (("cp", "a", "b"), "neither end"),
    ],
)
@pytest.mark.usefixtures("running")
def test_what_cannot_be_copied(onggi: Onggi, words: tuple[str, ...], named: str) -> None:
    done = onggi.run(*words, check=False)
    assert done.returncode == 125
    assert named in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_read_only_root_stays_so(onggi: Onggi) -> None:
    onggi.run("create", "--name", "ro", "--read-only", "busybox", "true")
    done = onggi.run("cp", "/etc/hostname", "ro:/x", check=False)
    assert "read-only" in done.stderr
    onggi.run("rm", "ro")


def test_a_tar_that_leads_out_is_refused(onggi: Onggi, running: str, tmp_path: Path) -> None:
    for name in ("../out", "a/../../out"):
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as tar:
            tar.addfile(tarfile.TarInfo(name))
        done = onggi.run("cp", "-", f"{running}:/tmp", stdin=data.getvalue(), check=False)
        assert done.returncode == 125
    assert "out" not in onggi.out("exec", running, "ls", "/").split()
    done = onggi.run("cp", "-", f"{running}:/tmp", stdin=b"no tar" * 1000, check=False)
    assert done.returncode == 125


def test_a_links_target_outside_is_the_containers_own(
    onggi: Onggi, running: str, tmp_path: Path
) -> None:
    secret = tmp_path / "host-secret"
    secret.write_text("host")
    onggi.run("exec", running, "ln", "-s", str(secret), "/leak")
    onggi.run("exec", running, "ln", "-s", str(tmp_path), "/way")
    leak = onggi.run("cp", "-L", f"{running}:/leak", str(tmp_path / "got"), check=False)
    assert leak.returncode == 125
    assert not (tmp_path / "got").exists()
    into = onggi.run("cp", str(secret), f"{running}:/way/planted", check=False)
    assert into.returncode == 125
    assert not (tmp_path / "planted").exists()


def test_links_that_are_swapped_lead_no_copy_away(
    onggi: Onggi, running: str, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_text("host")
    top = tmp_path / "d"
    top.mkdir()
    (top / "planted").write_text("x")
    script = (
        "mkdir -p /r/d; echo inside > /r/d/f; cd /r; "
        f"while :; do sleep 0.01; mv d e; ln -s {outside} d; rm d; mv e d; done"
    )
    onggi.run("exec", "-d", running, "sh", "-c", script)
    for number in range(30):
        onggi.run("cp", str(top), f"{running}:/r", check=False)
        onggi.run("cp", f"{running}:/r/d", str(tmp_path / f"got{number}"), check=False)
    assert sorted(path.name for path in outside.iterdir()) == ["f"]
    # A link that was there at the moment is copied as what it is.
    copies = [path for path in tmp_path.glob("got*") if not path.is_symlink()]
    assert {path.read_text() for copy in copies for path in copy.glob("f")} == {"inside\n"}
