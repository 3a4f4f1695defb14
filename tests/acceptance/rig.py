"""An engine of the test's own, driven as a user drives it: by the command line."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

APPLETS_OF = "/bin/busybox"


class Onggi:
    """`onggi --root ROOT …`, with the engine that the first command starts."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def words(self, *arguments: str) -> list[str]:
        """The command line."""
        return [sys.executable, "-m", "onggi", "--root", str(self.root), *arguments]

    def run(
        self, *arguments: str, check: bool = True, stdin: bytes = b"", timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end; with `check`, anything but 0 fails the test with what was said."""
        done = subprocess.run(
            self.words(*arguments), input=stdin, capture_output=True, timeout=timeout_s, check=False
        )
        text = subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )
        if check and text.returncode != 0:
            raise AssertionError(
                f"onggi {' '.join(arguments)}: {text.returncode}\n{text.stdout}{text.stderr}"
            )
        return text

    def out(self, *arguments: str, **options: Any) -> str:
        """What a command prints, without the last newline."""
        return self.run(*arguments, **options).stdout.removesuffix("\n")

    def inspect(self, container: str) -> dict[str, Any]:
        """One container's facts."""
        found: list[dict[str, Any]] = json.loads(self.out("inspect", container))
        return found[0]

    def view(self, container: str) -> dict[str, Any]:
        """One running container from both sides, as `view` tells it."""
        found: dict[str, Any] = json.loads(self.out("view", "--format", "json", container))
        return found

    def pid(self, container: str) -> int:
        """The host's id of the container's first process."""
        return int(self.inspect(container)["State"]["Pid"])

    def engine_pid(self) -> int:
        """The resident process."""
        return int(json.loads(self.out("engine", "status", "--format", "json"))["pid"])

    def kill_engine(self) -> None:
        """SIGKILL, and wait until it is gone. Its guard first: only a command brings it back."""
        kill_engine(self.engine_pid())

    def import_busybox(self, name: str = "busybox") -> None:
        """An image of busybox alone, from the host's static busybox."""
        self.run("import", "-c", 'CMD ["sh"]', "-", name, stdin=busybox_tar(self.root.parent))


def kill_engine(pid: int) -> None:
    """SIGKILL to an engine and before it to its guards, and wait until it is gone."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    for guard in guards(words[words.index(b"--root") + 1]) if b"--root" in words else ():
        with contextlib.suppress(ProcessLookupError):
            os.kill(guard, signal.SIGKILL)
        until(lambda guard=guard: not alive(guard), "the guard is gone")
    os.kill(pid, signal.SIGKILL)
    # Its last thread holds the socket: until then a command would find the engine that dies.
    until(lambda: not alive(pid) and threads(pid) <= 1, "the engine is gone")


def threads(pid: int) -> int:
    """How many threads a process has; 0: there is none."""
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except FileNotFoundError:
        return 0


def guards(root: bytes) -> list[int]:
    """Processes that would start a root's next engine."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if words[0] == b"onggi-guard" and root in words and alive(int(entry.name)):
                found.append(int(entry.name))
    return found


def busybox_tar(place: Path) -> bytes:
    """A root file system with busybox and its applets as a tar."""
    rootfs = place / "busybox-rootfs"
    if not rootfs.exists():
        for name in ("bin", "etc", "root", "tmp", "proc", "sys", "dev", "var", "home"):
            (rootfs / name).mkdir(parents=True)
        (rootfs / "tmp").chmod(0o1777)
        shutil.copy(APPLETS_OF, rootfs / "bin/busybox")
        names = subprocess.run([APPLETS_OF, "--list"], capture_output=True, text=True, check=True)
        for applet in names.stdout.split():
            if applet != "busybox":
                (rootfs / "bin" / applet).symlink_to("busybox")
        (rootfs / "etc/passwd").write_text(
            "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n"
        )
        (rootfs / "etc/group").write_text("root:x:0:\nuser:x:1000:\nextra:x:2000:user\n")
    words = ["tar", "-C", str(rootfs), "--owner=0", "--group=0", "-cf", "-", "."]
    return subprocess.run(words, capture_output=True, check=True).stdout


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


def until(
    condition: Callable[[], object], what: str | Callable[[], str], timeout_s: float = 20
) -> None:
    """Wait for a condition; the test fails when it does not come true, and says `what`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            said = what if isinstance(what, str) else what()
            raise AssertionError(f"waited {timeout_s} s in vain until {said}")
        time.sleep(0.01)


@contextlib.contextmanager
def engine(root: Path) -> Iterator[Onggi]:
    """An engine with the image `busybox`; at the end every container and the engine are gone, and
    the test fails when the kernel still has anything of them."""
    onggi = Onggi(root)
    onggi.import_busybox()
    try:
        yield onggi
    finally:
        ids = onggi.out("ps", "-aq", "--no-trunc").split()
        if ids:
            onggi.run("rm", "-f", *ids)
        until(lambda: not left_behind(onggi), lambda: f"it is gone: {left_behind(onggi)}")
        onggi.run("engine", "stop")
    assert not left_behind(onggi)
    until(lambda: not network_objects(onggi), "the engine takes its bridges and rules along")
    until(lambda: not parent_cgroups(onggi), "the engine's own cgroup is gone")


def parent_cgroups(onggi: Onggi) -> list[Path]:
    """The cgroup of this root in every hierarchy."""
    name = instance(onggi)
    places = [*Path("/sys/fs/cgroup").glob(f"*/{name}"), Path("/sys/fs/cgroup", name)]
    return [place for place in places if place.exists()]


def left_behind(onggi: Onggi) -> list[str]:
    """Kernel objects and files of containers of this root: cgroups, mounts, tasks, snapshots."""
    found = [str(p) for p in Path("/sys/fs/cgroup").glob(f"*/{instance(onggi)}/*") if p.is_dir()]
    found += [str(p) for p in Path("/sys/fs/cgroup").glob(f"{instance(onggi)}/*") if p.is_dir()]
    found += [
        line.split()[4]
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if str(onggi.root) in line
    ]
    for pattern in ("run/tasks/*", "data/containers/*", "data/image/snapshots/active/*",
                    "data/image/snapshots/trash/*", "data/volumes/.removed/*"):  # fmt: skip
        found += [str(p) for p in onggi.root.glob(pattern)]
    return found + [name for name in links(onggi) if name.startswith("ov")]


def links(onggi: Onggi) -> list[str]:
    """Links of this root in the test's network namespace: bridges and containers' veths."""
    tag = f"{zlib.crc32(instance(onggi).encode()) & 0xFFFFFF:06x}"
    return [name for _, name in socket.if_nameindex() if name[2:8] == tag]


def network_objects(onggi: Onggi) -> list[str]:
    """Links, and tables of rules, of this root."""
    listed = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True)
    return links(onggi) + [line for line in listed.stdout.splitlines() if instance(onggi) in line]


def instance(onggi: Onggi) -> str:
    """The name that marks this root's kernel objects."""
    from onggi.engine.layout import layout_for

    return layout_for(str(onggi.root), os.geteuid(), {}).instance
