"""`ctr run --runc-binary onggi-runtime`: containerd's shim calls us and reaps init."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance import callers_rig as callers
from acceptance import rig
from registry_rig import need


@pytest.fixture(scope="module")
def ctr() -> Iterator[callers.Caller]:
    """A containerd of the tests' own, with an image that Onggi has saved."""
    need("containerd", "containerd")
    with callers.place() as name:
        place = Path(name)
        (place / "config.toml").write_text(
            "version = 2\n"
            f'root = "{place}/root"\nstate = "{place}/state"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\naddress = "{place}/sock"\n[ttrpc]\naddress = "{place}/ttrpc"\n'
        )
        caller = callers.Caller(["ctr", "--address", f"{place}/sock"])
        with callers.daemon(
            ["containerd", "--config", f"{place}/config.toml"],
            place,
            lambda: caller.run("version", check=False).returncode == 0,
        ):
            caller.run("images", "import", str(_image(place)))
            yield caller


def _image(place: Path) -> Path:
    archive = place / "image.tar"
    with rig.engine(place / "onggi") as onggi:
        onggi.run("import", str(callers.image_tar(place)), callers.IMAGE)
        onggi.run("save", "-o", str(archive), callers.IMAGE)
    return archive


def run(ctr: callers.Caller, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """`ctr run` with our runtime."""
    return ctr.run("run", "--runc-binary", str(callers.RUNTIME), *words, check=check)


def test_run_and_its_exit_codes(ctr: callers.Caller) -> None:
    assert run(ctr, "--rm", callers.IMAGE, "c1", "echo", "hi").stdout == "hi\n"
    done = run(ctr, "--rm", callers.IMAGE, "c2", "sh", "-c", "exit 5", check=False)
    assert done.returncode == 5
    absent = run(ctr, "--rm", callers.IMAGE, "c3", "absent", check=False)
    assert "executable file not found in $PATH" in absent.stderr
    assert ctr.out("containers", "ls", "-q") == ""


def test_the_life_of_a_task(ctr: callers.Caller) -> None:
    run(ctr, "-d", callers.IMAGE, "life", "sleep", "1000")
    try:
        assert _status(ctr, "life") == "RUNNING"
        assert ctr.out("task", "exec", "--exec-id", "e1", "life", "id", "-u") == "0"
        ctr.run("task", "pause", "life")
        assert _status(ctr, "life") == "PAUSED"
        ctr.run("task", "resume", "life")
        pid = ctr.out("task", "ls").split()[4]
        assert pid in ctr.out("task", "ps", "life")
    finally:
        ctr.run("task", "kill", "-s", "9", "life")
        callers.until(lambda: _status(ctr, "life") == "STOPPED", "the task has ended")
        ctr.run("task", "delete", "life", check=False)
        ctr.run("containers", "delete", "life")
    assert not Path(f"/proc/{pid}").exists()


def _status(ctr: callers.Caller, task: str) -> str:
    rows = [line.split() for line in ctr.out("task", "ls").splitlines()]
    return next(row[2] for row in rows if row[0] == task)
