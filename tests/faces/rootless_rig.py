"""Bundles of an ordinary user's, run by onggi-runtime as that user."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from faces.oci_rig import eventually, make_rootfs, processes_below
from visitor_rig import GRANTED, UID, Visitor

Config = dict[str, Any]
Change = Callable[[Config], None]


class Rootless(Visitor):
    """A user with a root file system in a home that is closed to everybody else."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.rootfs = make_rootfs(self.home / "rootfs")
        subprocess.run(["chown", "-R", f"{UID}:{UID}", self.home], check=True)
        self.count = 0

    def bundle(self, *args: str, change: Change = lambda _: None) -> str:
        """A new bundle as `spec --rootless` writes it, without a terminal."""
        self.count += 1
        bundle = self.home / f"bundle{self.count}"
        bundle.mkdir()
        os.chown(bundle, UID, UID)
        self.calls("spec", "--rootless", "--bundle", str(bundle))
        config = json.loads((bundle / "config.json").read_text())
        config["root"] = {"path": str(self.rootfs)}
        config["process"] |= {"terminal": False, "args": list(args)}
        change(config)
        (bundle / "config.json").write_text(json.dumps(config))
        return str(bundle)

    def runs(self, *args: str, change: Change = lambda _: None, **options: Any) -> list[str]:
        """The lines that a program in a container prints to its end."""
        done = self.calls("run", "-b", self.bundle(*args, change=change), "one", **options)
        lines: list[str] = done.stdout.splitlines()
        return lines

    def refuses(self, change: Change, *args: str, globals_: Sequence[str] = ()) -> str:
        """Why a container is not made; nothing is left of it."""
        bundle = self.bundle(*(args or ("true",)), change=change)
        done = self.calls("run", "-b", bundle, "one", check=False, globals_=globals_)
        assert done.returncode == 1, (done.returncode, done.stdout)
        assert self.leftovers() == []
        return done.stderr

    def creates(
        self, name: str, *args: str, change: Change = lambda _: None, **options: Any
    ) -> str:
        """Create a container whose output goes to a file; its name."""
        bundle = self.bundle(*args, change=change)
        with open(self.place / f"{name}.out", "w") as out:
            self.calls("create", "-b", bundle, name, stdout=out, stderr=out, **options)
        return name

    def output(self, name: str) -> str:
        return (self.place / f"{name}.out").read_text()

    def state(self, name: str) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.calls("state", name).stdout)
        return state

    def waits(self, name: str, status: str) -> dict[str, Any]:
        """The state, once it is `status`."""
        return eventually(lambda: (s := self.state(name))["status"] == status and s)

    def leftovers(self) -> list[str]:
        """Records and processes."""
        records = [str(path) for path in self.run.glob("onggi-runtime/*")]
        return records + processes_below(str(self.place))

    def clean(self) -> None:
        """Remove every container, whatever the test left."""
        for path in self.run.glob("onggi-runtime/*"):
            self.calls("delete", "--force", path.name, check=False)
        self.before = ""


def granted(config: Config) -> None:
    """Root inside is the user; the others are those that root granted."""
    maps = [
        {"containerID": 0, "hostID": UID, "size": 1},
        {"containerID": 1, "hostID": GRANTED, "size": 65536},
    ]
    config["linux"] |= {"uidMappings": maps, "gidMappings": maps}


@contextlib.contextmanager
def rootless() -> Iterator[Rootless]:
    """One in a directory that everybody may pass through."""
    place = Path(tempfile.mkdtemp(prefix="rl"))
    place.chmod(0o755)
    try:
        yield Rootless(place)
    finally:
        shutil.rmtree(place)
