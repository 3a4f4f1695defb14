"""An ordinary user whom only the test's mount namespaces know, with a grant of ids."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

import onggi

NAME, UID = "visitor", 4242
GRANTED = 300000
AS_USER = ("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--inh-caps=-all")
PYTHON_PATH = f"{Path(onggi.__file__).parents[1]}:{Path(msgspec.__file__).parents[1]}"
FILES = ("passwd", "group", "subuid", "subgid")


def write_files(place: Path, grant: str = f"{NAME}:{GRANTED}:65536") -> None:
    """The host's files with this user in them, to be mounted over the host's."""
    for file, line in (
        ("passwd", f"{NAME}:x:{UID}:{UID}::{place}/home:/bin/sh"),
        ("group", f"{NAME}:x:{UID}:"),
        ("subuid", grant),
        ("subgid", grant),
    ):
        (place / file).write_text(f"{Path(f'/etc/{file}').read_text()}{line}\n")


def write_runtime(place: Path) -> Path:
    """A program that is this tree's onggi-runtime, and that this user may execute."""
    runtime = place / "onggi-runtime"
    words = f"PYTHONPATH={PYTHON_PATH} exec {interpreter()} -P -m onggi.faces.oci.main"
    runtime.write_text(f'#!/bin/sh\n{words} "$@"\n')
    runtime.chmod(0o755)
    return runtime


def interpreter() -> str:
    """A Python that other users may run, with all that the runtime imports."""
    for python in (sys.executable, "/usr/bin/python3"):
        words = ["env", f"PYTHONPATH={PYTHON_PATH}", python, "-c", "import onggi, msgspec"]
        done = subprocess.run([*AS_USER, *words], capture_output=True, check=False)
        if done.returncode == 0:
            return python
    pytest.skip("other users may not run this Python, or not read this source tree")


class Visitor:
    """This user at work below `place`: `home` and `run` are the user's alone.

    `before`: shell commands of root's, carried out in the mount namespace of every call.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.home, self.run = place / "home", place / "run"
        for directory in (self.home, self.run):
            directory.mkdir(mode=0o700)
            os.chown(directory, UID, UID)
        write_files(place)
        self.runtime = write_runtime(place)
        self.before = ""
        self.environment = {
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.run),
            "USER": NAME,
            "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
            "ONGGI_NO_WARM": "1",
        }

    def does(
        self, *words: str, check: bool = True, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as this user, in the home."""
        binds = "".join(f"mount --bind {self.place}/{f} /etc/{f}\n" for f in FILES)
        script = f'set -e\n{binds}{self.before}\ncd {self.home}\nexec "$@"\n'
        inside = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]
        if "stdout" not in options:
            options["capture_output"] = True
        done = subprocess.run(
            [*inside, *AS_USER, *words],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=60,
            check=False,
            **options,
        )
        assert not check or done.returncode == 0, (words, done.returncode, done.stderr)
        return done

    def calls(
        self, *words: str, check: bool = True, globals_: Sequence[str] = (), **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """One command line of onggi-runtime."""
        return self.does(str(self.runtime), *globals_, *words, check=check, **options)
