"""Devices by the names of CDI: what a container gets, from inside and from the host."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from acceptance import kernel_side, rig
from acceptance.rig import Onggi

FUSE = (10, 229)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two directories of specifications: the host's and, before it, the running system's."""
    root = tmp_path_factory.mktemp("cdi")
    for name in ("etc", "run"):
        (root / name).mkdir()
    return root / "etc", root / "run"


@pytest.fixture(scope="module")
def onggi(
    tmp_path_factory: pytest.TempPathFactory, places: tuple[Path, Path]
) -> Iterator[rig.Onggi]:
    """An engine whose configuration names these directories."""
    root = tmp_path_factory.mktemp("og") / "root"
    root.mkdir()
    listed = json.dumps([str(place) for place in places])
    (root / "config.toml").write_text(f"[device]\ncdi_directories = {listed}\n")
    with rig.engine(root) as running:
        yield running


@pytest.fixture(autouse=True)
def _no_specification_stays(places: tuple[Path, Path]) -> Iterator[None]:
    yield
    for place in places:
        for path in place.iterdir():
            path.unlink()


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A device node of the host's, for root alone."""
    if not Path("/sys/dev/char/{}:{}".format(*FUSE)).exists():
        pytest.skip("the kernel has no fuse device (10:229)")
    path = tmp_path / "node"
    os.mknod(path, 0o20600, os.makedev(*FUSE))
    return path


def write(path: Path, devices: dict[str, dict[str, Any]], **common: Any) -> None:
    listed = [{"name": name, "containerEdits": edits} for name, edits in devices.items()]
    spec = {"cdiVersion": "0.7.0", "kind": "test.onggi/thing", "devices": listed}
    path.write_text(json.dumps(spec | {"containerEdits": common}))


def run(onggi: Onggi, *options: str, script: str) -> str:
    return onggi.out("run", "--rm", *options, "busybox", "sh", "-c", script, check=False)


def refused(onggi: Onggi, name: str) -> str:
    done = onggi.run("run", "--rm", "--device", name, "busybox", "true", check=False)
    assert (done.returncode, done.stderr.count("\n")) == (125, 1), done.stderr
    return done.stderr


OPEN = "(exec 3<>/dev/thing0) 2>/dev/null && echo opened; true"


def test_what_a_device_brings_along(
    onggi: Onggi, places: tuple[Path, Path], node: Path, tmp_path: Path
) -> None:
    library = tmp_path / "library"
    library.mkdir()
    (library / "thing.so").write_text("library\n")
    write(
        places[0] / "thing.json",
        {
            "0": {
                "deviceNodes": [{"path": "/dev/thing0", "hostPath": str(node)}],
                "env": ["THING=0"],
            }
        },
        env=["VENDOR=test", "PATH_OF_IT=/opt/thing"],
        mounts=[
            {
                "hostPath": str(library),
                "containerPath": "/opt/thing",
                "options": ["ro", "nosuid", "nodev", "bind"],
            }
        ],
        additionalGids=[4242],
    )
    # The variables of the device are the last word, as with the reference implementation.
    asked = ("-e", "VENDOR=mine", "--device", "test.onggi/thing=0", "-u", "1000:1000")
    words = ("-d", "--name", "with", *asked, "busybox", "sleep", "1000")
    onggi.run("run", *words)
    look = (
        f"echo $VENDOR $THING $PATH_OF_IT; cat /opt/thing/thing.so; id -G; {OPEN}; "
        "stat -c '%u:%g %a %t:%T' /dev/thing0; touch /opt/thing/x 2>&1"
    )
    told = onggi.run("exec", "with", "sh", "-c", look, check=False).stdout.splitlines()
    assert told[:2] == ["test 0 /opt/thing", "library"]
    assert told[2].split() == ["1000", "4242"]
    # A node that says nothing of its owner is the user's, so that it can be opened.
    assert told[3:5] == ["opened", "1000:1000 600 a:e5"]
    assert "Read-only" in told[5]
    # The host's side: a node of the container's own; the host's is as it was.
    pid = onggi.pid("with")
    base = kernel_side.uid_range(pid).start
    seen = os.stat(f"/proc/{pid}/root/dev/thing0")
    assert (seen.st_uid, seen.st_gid, seen.st_rdev) == (
        base + 1000, base + 1000, os.makedev(*FUSE),
    )  # fmt: skip
    assert (node.stat().st_uid, node.stat().st_mode & 0o777) == (0, 0o600)
    assert str(base + 4242) in kernel_side.status(pid, "Groups").split()
    assert os.listdir(library) == ["thing.so"]
    onggi.run("rm", "-f", "with")
    # Without it there is none of this, whatever the node's path.
    assert run(onggi, script="echo $THING; ls /dev/thing0 /opt/thing") == ""
    assert run(onggi, "-v", f"{node}:/dev/thing0", script=OPEN) == ""


def test_permissions_and_numbers_are_the_specifications(
    onggi: Onggi, places: tuple[Path, Path], node: Path
) -> None:
    described = {"type": "c", "major": FUSE[0], "minor": FUSE[1], "fileMode": 0o640, "gid": 7}
    write(
        places[0] / "thing.json",
        {
            "read": {"deviceNodes": [{"path": "/dev/thing0", "permissions": "r", **described}]},
            "all-of-it": {"deviceNodes": [{"path": "/dev/thing0", **described}]},
            "gone": {"deviceNodes": [{"path": "/dev/none", "hostPath": "/dev/no-such-node"}]},
            "file": {"deviceNodes": [{"path": "/dev/none", "hostPath": "/etc/passwd"}]},
            "wrong": {"deviceNodes": [{"path": "/x", "hostPath": str(node), "type": "b"}]},
            "far": {"deviceNodes": [{"path": "/dev/thing0", "uid": 70000, **described}]},
        },
    )
    look = f"stat -c '%u:%g %a' /dev/thing0; {OPEN}"
    assert run(onggi, "--device", "test.onggi/thing=read", script=look) == "0:7 640"
    everything = run(onggi, "--device", "test.onggi/thing=all-of-it", script=look)
    assert everything == "0:7 640\nopened"
    assert "no such device on the host: /dev/no-such-node" in refused(
        onggi, "test.onggi/thing=gone"
    )
    assert "/etc/passwd is not a device node" in refused(onggi, "test.onggi/thing=file")
    assert "is not of type b" in refused(onggi, "test.onggi/thing=wrong")
    assert "65536 ids" in refused(onggi, "test.onggi/thing=far")
    host = ("--userns", "host", "--device", "test.onggi/thing=far")
    assert run(onggi, *host, script="stat -c %u /dev/thing0") == "70000"


def test_directories_and_all(onggi: Onggi, places: tuple[Path, Path]) -> None:
    write(places[0] / "a.json", {"0": {"env": ["A=etc"]}, "1": {"env": ["B=etc"]}})
    (places[1] / "b.yaml").write_text(
        'cdiVersion: "0.3.0"\nkind: test.onggi/thing\ndevices:\n'
        '- name: "1"\n  containerEdits:\n    env: [B=run]\n'
    )
    look = "echo $A-$B"
    both = ("--device", "test.onggi/thing=0", "--device", "test.onggi/thing=1")
    assert run(onggi, *both, script=look) == "etc-run"
    assert run(onggi, "--device", "test.onggi/thing=all", script=look) == "etc-run"
    # What is read is what is there at the start: also of a container that was made before.
    onggi.run("create", "--name", "later", *both[:2], "busybox", "sh", "-c", look)
    write(places[0] / "a.json", {"0": {"env": ["A=new"]}})
    assert onggi.out("start", "-a", "later") == "new-"
    onggi.run("rm", "later")
    assert "test.onggi/thing has 0, 1" in refused(onggi, "test.onggi/thing=2")
    assert "no CDI specification" in refused(onggi, "test.onggi/other=0")
    write(places[1] / "c.json", {"1": {}})
    assert "both describe it" in refused(onggi, "test.onggi/thing=1")


def test_files_that_are_none(onggi: Onggi, places: tuple[Path, Path]) -> None:
    write(places[0] / "good.json", {"0": {"env": ["A=1"]}})
    (places[1] / "bad.json").write_text('{"cdiVersion": "1.0.0", "kind": 5}')
    os.mkfifo(places[1] / "fifo.yaml")
    words = ("run", "--rm", "--device", "test.onggi/thing=0", "busybox", "sh", "-c", "echo $A")
    done = onggi.run(*words)
    assert done.stdout == "1\n"
    assert "bad.json: $.kind: expected `str`, got `int`" in done.stderr
    assert "fifo.yaml: not a regular file" in done.stderr
    assert "bad.json: $.kind" in refused(onggi, "test.onggi/thing=1")


def test_what_cannot_be_given_is_refused(onggi: Onggi, places: tuple[Path, Path]) -> None:
    hook = {"hookName": "createContainer", "path": "/usr/bin/hook"}
    write(
        places[0] / "thing.json",
        {
            "hook": {"hooks": [hook]},
            "rdt": {"intelRdt": {"closID": "x"}},
            "clash": {"mounts": [{"hostPath": "/srv", "containerPath": "/mine"}]},
        },
    )
    said = refused(onggi, "test.onggi/thing=hook")
    assert "thing.json: $.devices[0].containerEdits.hooks[0] (createContainer" in said
    assert "the engine runs no hooks" in said
    assert "$.devices[1].containerEdits.intelRdt" in refused(onggi, "test.onggi/thing=rdt")
    words = ("--tmpfs", "/mine", "--device", "test.onggi/thing=clash", "busybox", "true")
    done = onggi.run("run", "--rm", *words, check=False)
    assert "two mounts have the target /mine" in done.stderr
    # What a start would do can be asked before, and names the same devices.
    write(places[0] / "thing.json", {"0": {"env": ["A=1"]}})
    explained = onggi.run(
        "explain", "--device", "test.onggi/thing=hook", "busybox", "true", check=False
    )
    assert "test.onggi/thing has 0" in explained.stderr
