"""onggi-runtime on bundles of busybox, driven as an engine drives it, seen from the host."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from onggi.kernel.cgroups.driver import Cgroup
from onggi.kernel.cgroups.layout import CgroupLayout

BUSYBOX = Path("/bin/busybox")
NEEDS_ROOT_AND_BUSYBOX = pytest.mark.skipif(
    os.geteuid() != 0 or not BUSYBOX.is_file(), reason="host feature missing: root, static busybox"
)
PLAIN = (sys.executable, "-P", "-m", "onggi.faces.oci.main")
DEADLINE_S = 20.0
_APPLETS = (
    "sh", "true", "false", "sleep", "cat", "ls", "id", "echo", "ps", "mount", "env", "tty", "stty",
    "readlink", "head", "kill", "mkdir", "ln", "grep", "dd", "test", "pwd", "wc",
)  # fmt: skip


def make_rootfs(place: Path) -> Path:
    """A root file system with busybox, root and user 1000."""
    for name in ("bin", "proc", "sys", "dev", "etc", "tmp", "root"):
        (place / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, place / "bin/busybox")
    for name in _APPLETS:
        (place / "bin" / name).symlink_to("busybox")
    (place / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nu:x:1000:1000::/home/u:\n")
    return place


def default_config() -> dict[str, Any]:
    """A configuration as podman and containerd give them: no user namespace."""
    capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
    safe = ["nosuid", "noexec", "nodev"]
    return {
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "hostname": "inside",
        "process": {
            "cwd": "/",
            "args": ["/bin/true"],
            "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0},
            "noNewPrivileges": True,
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
            },
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*safe, "ro"]},
        ],
        "linux": {
            "namespaces": [{"type": t} for t in ("pid", "network", "ipc", "uts", "mount")],
            "maskedPaths": ["/proc/kcore"],
            "readonlyPaths": ["/proc/sys"],
        },
    }


class Runtime:
    """One state root, and bundles beside it. `words`: how the program is called."""

    def __init__(self, place: Path, words: Sequence[str] = PLAIN) -> None:
        self.place = place
        self.root = place / "state"
        self.words = list(words)
        self.prefix = f"t{os.getpid()}-{place.name}"[:60]
        self.environment = {**os.environ, "ONGGI_NO_WARM": "1"}
        self.rootfs = place / "rootfs"
        if not self.rootfs.exists():
            make_rootfs(self.rootfs)

    def bundle(self, *args: str, change: Callable[[dict[str, Any]], None] | None = None) -> Path:
        """A new bundle whose process has these arguments."""
        number = sum(1 for _ in self.place.glob("bundle*"))
        bundle = self.place / f"bundle{number}"
        bundle.mkdir()
        config = default_config()
        config["root"]["path"] = str(self.rootfs)
        config["process"]["args"] = list(args) or ["/bin/true"]
        if change:
            change(config)
        (bundle / "config.json").write_text(json.dumps(config))
        return bundle

    def name(self, name: str) -> str:
        """An id that no other test has: cgroups are named for it."""
        return f"{self.prefix}-{name}"

    def call(
        self, *words: str, check: bool = True, globals_: Sequence[str] = (), **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """One command line. `check`: it must answer 0."""
        if "input" not in options:
            options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("env", self.environment)
        if "stdout" not in options:
            options["capture_output"] = True
        done = subprocess.run(
            [*self.words, "--root", str(self.root), *globals_, *words],
            text=True,
            timeout=60,
            check=False,
            **options,
        )
        assert not check or done.returncode == 0, (words, done.returncode, done.stderr)
        return done

    def create(self, name: str, bundle: Path, *words: str, **options: Any) -> str:
        """Create a container that its caller does not wait for; its id.

        Its output is a file's: a pipe would stay open as long as the container lives.
        """
        container = self.name(name)
        with open(self.place / f"{name}.out", "w") as out:
            self.call("create", "-b", str(bundle), *words, container, stdout=out, stderr=out,
                      **options)  # fmt: skip
        return container

    def output(self, name: str) -> str:
        return (self.place / f"{name}.out").read_text()

    def state(self, container: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.call("state", container).stdout)
        return answer

    def wait(self, container: str, status: str) -> dict[str, Any]:
        """The state, once it is `status`."""
        return eventually(lambda: (s := self.state(container))["status"] == status and s)

    def clean(self) -> None:
        """Remove every container, whatever the test left."""
        for path in self.root.glob("*"):
            self.call("delete", "--force", path.name, check=False)

    def leftovers(self) -> list[str]:
        """What is left of this runtime's containers: directories, cgroups, processes."""
        found = [str(path) for path in self.root.glob("*")]
        for hierarchy in CgroupLayout.probe().every:
            found += [str(path) for path in Path(hierarchy.mount_point).glob(f"{self.prefix}*")]
        found += processes_below(str(self.place))
        return found


def processes_below(place: str) -> list[str]:
    """keels and applications whose root or mounts are those of this place."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            mounts = (path / "mountinfo").read_text()
            name = (path / "comm").read_text().strip()
        except OSError:
            continue
        first = mounts.splitlines()[0] if mounts else ""
        if place in first:
            found.append(f"{path.name} {name}")
    return found


def cgroup(path: str) -> Cgroup:
    return Cgroup(CgroupLayout.probe(), path)


def eventually(condition: Callable[[], Any]) -> Any:
    """What `condition` says once it is true."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError("it did not come true in time")


class Console:
    """A console socket as conmon has it: takes one terminal's master."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(1)
        self._listener.settimeout(DEADLINE_S)

    def take(self) -> int:
        connection, _ = self._listener.accept()
        with connection:
            _, fds, _, _ = socket.recv_fds(connection, 4096, 4)
        assert len(fds) == 1
        return fds[0]

    def close(self) -> None:
        self._listener.close()
        os.unlink(self.path)


def read_all(master: int) -> str:
    """What comes from a terminal until nobody has its other side."""
    data = b""
    while True:
        try:
            piece = os.read(master, 4096)
        except OSError:
            return data.decode()
        if not piece:
            return data.decode()
        data += piece
