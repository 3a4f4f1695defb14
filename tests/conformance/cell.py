"""`python cell.py SECONDS DIRECTORY ARGV…`: one case in mounts, cgroups and devices of its own.

Strangers' tests change the owner of /dev/null, mount, freeze and are killed halfway. Here that
happens to copies: a mount namespace with its own device nodes and /run, a cgroup namespace over
cgroups of its own in every hierarchy, a pid namespace that ends with the case, and a terminal.
The exit code is the case's, 124 when its time was up, 125 when this world could not be made.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import pty
import select
import signal
import stat
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWPID = 0x00020000, 0x02000000, 0x20000000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE, MS_MOVE = 2, 4, 1 << 12, 1 << 14, 1 << 18, 1 << 13
MNT_DETACH = 2
CGROUPS = Path("/sys/fs/cgroup")
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
PATIENCE_S = 20.0
LATE, UNMADE = 124, 125

_libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> None:
    """A system call of libc that answers 0, or OSError."""
    converted = [os.fsencode(a) if isinstance(a, str | Path) else a for a in arguments]
    if getattr(_libc, name)(*converted) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}{arguments}: {os.strerror(error)}")


def mount(source: str, target: Path, kind: str, flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    call("mount", source, target, kind, ctypes.c_ulong(flags), data)


def hierarchies() -> dict[Path, tuple[str, str]]:
    """Where each cgroup hierarchy is mounted, with its type and what selects it."""
    found: dict[Path, tuple[str, str]] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        front, _, rear = line.partition(" - ")
        kind, _, options = rear.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            words = [w for w in options.split(",") if w not in ("rw", "ro", "nsdelegate", "xattr")]
            if any(w.startswith("name=") for w in words):
                words.insert(0, "none")
            found[Path(front.split()[4])] = (kind, ",".join(words) if kind == "cgroup" else "")
    return found


def places() -> dict[Path, tuple[str, str]]:
    """The hierarchies that are where programs look for them."""
    return {place: how for place, how in hierarchies().items() if place.is_relative_to(CGROUPS)}


class Cgroups:
    """A cgroup of this case in every hierarchy, with all that is made below."""

    def __init__(self) -> None:
        self.places = places()
        self.own = [place / f"onggi-conformance-{os.getpid()}" for place in self.places]

    def admit(self, pid: int) -> None:
        """Make them, and move a process in."""
        if CGROUPS in self.places:
            _share_out(CGROUPS)
        for directory in self.own:
            directory.mkdir()
            for name in ("cpuset.cpus", "cpuset.mems"):
                if (directory / name).exists() and not (directory / name).read_text().strip():
                    (directory / name).write_text((directory.parent / name).read_text())
            (directory / "cgroup.procs").write_text(str(pid))

    def _below(self) -> Iterator[Path]:
        for directory in self.own:
            for path, _, _ in os.walk(directory, topdown=False):
                yield Path(path)

    def kill(self) -> bool:
        """Thaw and kill everybody; False as long as somebody was there."""
        nobody = True
        for directory in self._below():
            with contextlib.suppress(OSError):
                (directory / "freezer.state").write_text("THAWED")
            with contextlib.suppress(OSError):
                (directory / "cgroup.freeze").write_text("0")
            with contextlib.suppress(OSError):
                for pid in (directory / "cgroup.procs").read_text().split():
                    nobody = False
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
        return nobody

    def remove(self) -> None:
        """Remove them, deepest first."""
        for directory in self._below():
            with contextlib.suppress(OSError):
                directory.rmdir()


def _share_out(cgroup: Path) -> None:
    """Let cgroups below have every controller that this one has, as far as the kernel lets us."""
    for name in (cgroup / "cgroup.controllers").read_text().split():
        with contextlib.suppress(OSError):
            (cgroup / "cgroup.subtree_control").write_text(f"+{name}")


def main() -> int:
    """Run the case and end what it left."""
    seconds, directory, argv = float(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    cgroups = Cgroups()
    ready, go = os.pipe()
    ending, tell = os.pipe()
    master, slave = pty.openpty()
    pid = os.fork()
    if pid == 0:
        os.close(go)
        os.close(master)
        os.read(ready, 1)
        os.close(ready)
        _outside(cgroups.places, directory, slave, tell, argv)
    os.close(tell)
    try:
        cgroups.admit(pid)
        os.close(go)
        return _wait(ending, master, seconds)
    finally:
        _end_all(cgroups)


def _outside(
    places: dict[Path, tuple[str, str]],
    directory: Path,
    terminal: int,
    tell: int,
    argv: list[str],
) -> None:
    """Never returns: make the world, and have its init run the case."""
    try:
        call("unshare", CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWPID)
        call("mount", None, "/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None)
        own_cgroups(directory, places)
        _own_devices(directory)
        mount("tmpfs", Path("/run"), "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
        if os.fork() == 0:
            _init(terminal, tell, argv)
    except OSError as error:
        print(f"cell: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(0)


def _init(terminal: int, tell: int, argv: list[str]) -> None:
    """Never returns: process 1 reaps at once, as tests that wait for a cgroup to empty need.

    It tells how the case ended, since its own end waits for what the case has left frozen.
    """
    mount("proc", Path("/proc"), "proc", MS_NOSUID | MS_NODEV)
    # One of the tests takes five digits for the form of a pid. Not every kernel has this file.
    with contextlib.suppress(FileNotFoundError):
        Path("/proc/sys/kernel/ns_last_pid").write_text("10000")
    case = os.fork()
    if case == 0:
        os.setsid()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        for descriptor in (0, 1, 2):
            os.dup2(terminal, descriptor)
        os.close(terminal)
        os.execvp(argv[0], argv)
    os.close(terminal)
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == case:
            os.write(tell, bytes([os.waitstatus_to_exitcode(status) & 0xFF]))
            os._exit(0)


def own_cgroups(directory: Path, places: dict[Path, tuple[str, str]]) -> None:
    """Show every hierarchy at its usual place only, as this cgroup namespace sees it."""
    for place in hierarchies():
        if not place.is_relative_to(CGROUPS):
            call("umount2", place, MNT_DETACH)
    if CGROUPS in places:
        call("umount2", CGROUPS, MNT_DETACH)
        mount("cgroup", CGROUPS, "cgroup2")
        # A cgroup with processes shares nothing out: its root is left to the case's containers.
        (CGROUPS / "init").mkdir()
        (CGROUPS / "init/cgroup.procs").write_text("0")
        return
    stage = directory / "cgroup"
    stage.mkdir()
    mount("tmpfs", stage, "tmpfs", 0, "mode=755")
    try:
        for place, (kind, selected) in places.items():
            target = stage / place.relative_to(CGROUPS)
            target.mkdir(parents=True)
            mount("cgroup", target, kind, 0, selected)
    except BaseException:
        # the host's own hierarchies: who removes the directory must not find them in it
        call("umount2", stage, MNT_DETACH)
        raise
    call("umount2", CGROUPS, MNT_DETACH)
    call("mount", str(stage), str(CGROUPS), None, ctypes.c_ulong(MS_MOVE), None)
    stage.rmdir()


def _own_devices(directory: Path) -> None:
    nodes = directory / "devices"
    nodes.mkdir()
    mount("tmpfs", nodes, "tmpfs", MS_NOSUID, "mode=755")
    for name in DEVICES:
        (nodes / name).touch()
        (nodes / name).unlink()
        os.mknod(nodes / name, stat.S_IFCHR | 0o666, os.stat(f"/dev/{name}").st_rdev)
        (nodes / name).chmod(0o666)
        call("mount", str(nodes / name), f"/dev/{name}", None, ctypes.c_ulong(MS_BIND), None)


def _wait(ending: int, master: int, seconds: float) -> int:
    """Pass on what the terminal says; the case's exit code, 124 when its time is up."""
    os.set_blocking(master, False)
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        ended = ending in select.select([master, ending], [], [], left)[0]
        _relay(master)
        if ended:
            return (os.read(ending, 1) or bytes([UNMADE]))[0]
    return LATE


def _relay(master: int) -> None:
    # The other end stays open here, so this says "would block", never "nobody there".
    with contextlib.suppress(BlockingIOError):
        while said := os.read(master, 65536):
            os.write(1, said.replace(b"\r\n", b"\n"))


def _end_all(cgroups: Cgroups) -> None:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        nobody = cgroups.kill()
        if nobody:
            break
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        time.sleep(0.01)
    cgroups.remove()


if __name__ == "__main__":
    sys.exit(main())
