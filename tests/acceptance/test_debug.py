"""`debug`: tools beside a container that has none, and nothing of them in it."""

from __future__ import annotations

import io
import tarfile

import pytest

from acceptance.rig import Onggi, busybox_tar


@pytest.fixture
def bare(onggi: Onggi) -> str:
    """A container that has one program and no shell."""
    data = io.BytesIO()
    packed = busybox_tar(onggi.root.parent)
    with (
        tarfile.open(fileobj=io.BytesIO(packed)) as source,
        tarfile.open(fileobj=data, mode="w") as tar,
    ):
        for member in source:
            if member.name.removeprefix("./") in ("bin", "bin/busybox"):
                tar.addfile(member, source.extractfile(member) if member.isreg() else None)
        marker = tarfile.TarInfo("marker")
        marker.size = 6
        tar.addfile(marker, io.BytesIO(b"inside"))
    onggi.run("import", "-", "bare", stdin=data.getvalue())
    onggi.run("run", "-d", "--name", "bare", "bare", "/bin/busybox", "sleep", "1000")
    return "bare"


def test_tools_beside_a_container(onggi: Onggi, bare: str) -> None:
    assert onggi.run("exec", bare, "ls", check=False).returncode == 127
    assert onggi.out("debug", bare, "cat", "/proc/1/root/marker") == "inside"
    assert "sleep 1000" in onggi.out("debug", bare, "ps")
    own = "for n in self/ns/net 1/ns/net self/ns/uts 1/ns/uts; do readlink /proc/$n; done"
    net, same_net, uts, same_uts = onggi.out("debug", bare, "sh", "-c", own).split()
    assert (net, uts) == (same_net, same_uts)
    shell = onggi.run(
        "debug", bare, stdin=b"pwd; cat marker; echo new > from-outside; exit 3\n", check=False
    )
    assert shell.returncode == 3
    assert "inside" in shell.stdout
    assert onggi.out("exec", bare, "/bin/busybox", "cat", "/from-outside") == "new"
    assert onggi.out("ps", "-aq", "--no-trunc").count("\n") == 0, "the tools' container has gone"
    onggi.run("stop", "-t", "0", bare)
    done = onggi.run("debug", bare, check=False)
    assert done.returncode == 125
    assert "onggi start bare" in done.stderr
    assert onggi.run("debug", "nobody", check=False).returncode == 125
    onggi.run("rm", bare)
