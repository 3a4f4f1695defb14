"""Rootless podman with our runtime: root of a user namespace of its own, with newuidmap's ids."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance import callers_rig as callers
from registry_rig import need
from visitor_rig import AS_USER, UID, write_files, write_runtime

# A user whom only this mount namespace knows; what is left over ends with the pid namespace.
WORLD = """
set -e
for file in passwd group subuid subgid; do mount --bind {place}/$file /etc/$file; done
cd {place}/home
HOME={place}/home XDG_RUNTIME_DIR={place}/run USER=visitor {user} {place}/script
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A home, an image and a runtime that this user may execute."""
    need("podman", "podman")
    need("newuidmap", "uidmap")
    if not Path("/etc/subuid").exists() or not Path("/etc/subgid").exists():
        pytest.skip("/etc/subuid or /etc/subgid is missing: install the package uidmap")
    with callers.place() as name:
        place = Path(name)
        _write(place)
        yield place


def _write(place: Path) -> None:
    write_files(place)
    callers.image_tar(place).chmod(0o644)
    for name in ("home", "run"):
        (place / name).mkdir(mode=0o700)
    subprocess.run(["chown", f"{UID}:{UID}", place / "home", place / "run"], check=True)
    write_runtime(place)


def as_visitor(place: Path, commands: str) -> list[str]:
    """Lines that a shell script prints, with `$podman` and an image at hand."""
    podman = f"podman --root {place}/home/data --runroot {place}/run/podman --storage-driver=vfs"
    podman += f" --cgroup-manager=cgroupfs --runtime {place}/onggi-runtime"
    script = place / "script"
    script.write_text(f"#!/bin/sh\nset -e\npodman={shlex.quote(podman)}\n{commands}")
    script.chmod(0o755)
    world = WORLD.format(place=place, user=" ".join(AS_USER))
    spaces = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    done = subprocess.run(
        [*spaces, "sh", "-c", world],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_run_exec_stop_and_rm(place: Path) -> None:
    lines = as_visitor(
        place,
        f"$podman import -q {place}/busybox.tar {callers.IMAGE} >/dev/null\n"
        f"$podman run --rm --network none {callers.IMAGE} sh -c 'id -u; cat /proc/self/uid_map'\n"
        f"$podman run -d --name one --network none {callers.IMAGE} sleep 1000 >/dev/null\n"
        "$podman exec one sh -c 'exit 3' || echo $?\n"
        "$podman stop -t 0 one\n"
        "$podman inspect -f '{{.State.Status}}' one\n"
        "$podman rm one >/dev/null\n"
        "$podman ps -aq\n",
    )
    uid, first, rest, *life = lines
    assert uid == "0"
    assert first.split() == ["0", str(UID), "1"]
    assert rest.split() == ["1", "300000", "65536"]
    assert life == ["3", "one", "exited"]
