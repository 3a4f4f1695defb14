"""A bundle with a busybox root, and `onggi-runtime run` on it, as a caller of the runtime sees."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import pytest

from kernel.keel_run import APPLETS, BUSYBOX

RUNTIME = Path(sys.executable).parent / "onggi-runtime"
GOLDEN = Path(__file__).parents[1] / "unit" / "golden"
TIMEOUT_S = 60.0
MORE_APPLETS = (
    "head", "grep", "readlink", "env", "nproc", "mkdir", "ln", "unshare", "uname", "nice", "chroot",
)  # fmt: skip

NEEDS_ROOT_AND_BUSYBOX = pytest.mark.skipif(
    os.geteuid() != 0 or not BUSYBOX.is_file(), reason="host feature missing: root, static busybox"
)


class Bundle:
    """`config` starts as `runc spec` writes it, without a terminal and with a writable root."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.rootfs = directory / "rootfs"
        self.root = directory / "state"
        (self.rootfs / "bin").mkdir(parents=True)
        for name in ("proc", "sys", "dev", "tmp", "etc"):
            (self.rootfs / name).mkdir()
        shutil.copy(BUSYBOX, self.rootfs / "bin/busybox")
        for applet in (*APPLETS, *MORE_APPLETS):
            (self.rootfs / "bin" / applet).symlink_to("busybox")
        self.config: dict[str, Any] = json.loads((GOLDEN / "caller-runc.json").read_text())
        self.config["process"]["terminal"] = False
        self.config["process"]["env"] = ["PATH=/bin"]
        self.config["root"] = {"path": "rootfs"}
        self.name = f"t-{os.getpid()}-{directory.name}"

    @property
    def process(self) -> dict[str, Any]:
        process: dict[str, Any] = self.config["process"]
        return process

    @property
    def linux(self) -> dict[str, Any]:
        linux: dict[str, Any] = self.config["linux"]
        return linux

    def namespaces(self, *kinds: str, **joined: str) -> None:
        """New ones by type, joined ones by type and path; no others."""
        self.linux["namespaces"] = [{"type": kind} for kind in kinds] + [
            {"type": kind, "path": path} for kind, path in joined.items()
        ]
        if "uts" not in kinds:
            self.config.pop("hostname", None)

    def map_users(self, first: int = 1_000_000, size: int = 65_536) -> None:
        """A user namespace of its own, and a root that its root may use."""
        self.linux["namespaces"].append({"type": "user"})
        mapping = [{"containerID": 0, "hostID": first, "size": size}]
        self.linux["uidMappings"] = self.linux["gidMappings"] = mapping
        self.directory.chmod(0o755)
        for path in (self.rootfs, *self.rootfs.rglob("*")):
            os.chown(path, first, first, follow_symlinks=False)

    def mount(
        self, destination: str, kind: str, source: str | Path, *options: str, **more: Any
    ) -> None:
        mount = {"destination": destination, "type": kind, "source": str(source)}
        self.config["mounts"].append({**mount, "options": list(options), **more})

    def write(self) -> None:
        (self.directory / "config.json").write_text(json.dumps(self.config))

    def words(self, *words: str) -> list[str]:
        """One command of the runtime."""
        return [str(RUNTIME), "--root", str(self.root), *words]

    def call(self, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """Carry one out."""
        return subprocess.run(
            self.words(*words),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            cwd=self.directory,
            **more,
        )

    def run(self, script: str, *words: str) -> subprocess.CompletedProcess[str]:
        """`run` with a shell script, in the foreground."""
        self.process["args"] = ["sh", "-c", script]
        self.write()
        return self.call("run", *words, self.name)

    @contextmanager
    def held(self, args: Sequence[str] = ("true",)) -> Iterator[int]:
        """A container that is created and not started: its pid."""
        self.process["args"] = list(args)
        self.write()
        pid_file, errors = self.directory / "pid", self.directory / "errors"
        words = self.words("create", "--pid-file", str(pid_file), self.name)
        with errors.open("wb") as file:  # the container keeps it
            done = subprocess.run(
                words, stdin=DEVNULL, stdout=DEVNULL, stderr=file, check=False, cwd=self.directory
            )
        assert done.returncode == 0, errors.read_text()
        try:
            yield int(pid_file.read_text())
        finally:
            done = self.call("delete", "--force", self.name)
            assert done.returncode == 0, done.stderr

    def out(self, script: str) -> str:
        """What a script that succeeds writes."""
        done = self.run(script)
        assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
        return done.stdout

    def refused(self, script: str = "true") -> str:
        """Why the container is not started; nothing of it is left."""
        done = self.run(script)
        assert done.returncode != 0, done.stdout
        assert "Traceback" not in done.stderr
        assert not list(self.root.glob("*")), done.stderr
        return done.stderr


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle(tmp_path)
