"""A program in the place of `criu`: says what it was asked, and does as a file tells it.

`swrk` speaks CRIU's protocol and makes or ends processes, but keeps nothing of them. Beside it,
`behaviour` is read (a word for each thing to do wrong), and `asked` is written.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

from onggi.sandbox.oci.criu_messages import (
    DUMP,
    NOTIFY,
    OPTIONS,
    RESTORE,
    SINGLE_PRE_DUMP,
    decode,
    encode,
    fields_of,
)

NAMES = {number: name for name, number in OPTIONS.items()}
MESSAGES = {"cg_root", "inherit_fd", "join_ns", "ps"}
CLONE_PARENT = 0x8000
SYS_CLONE = {"x86_64": 56, "aarch64": 220}[os.uname().machine]


class StandIn:
    """One `criu swrk`."""

    def __init__(self, place: Path, number: int) -> None:
        self.behaviour = (place / "behaviour").read_text().split()
        self.socket = socket.socket(fileno=number)
        self.fields = list(fields_of(self.socket.recv(1 << 16)))
        self.kind = dict(self.fields)[1]
        self.options: dict[str, list[object]] = {}
        for field, value in fields_of(dict(self.fields)[2]):
            name = NAMES[field]
            if name in MESSAGES:
                shown: object = [_shown(part) for part in decode(value).values()]
            else:
                shown = _shown(value)
            self.options.setdefault(name, []).append(shown)
        (place / "asked").write_text(json.dumps([sys.argv[1:], self.kind, self.options]))

    def directory(self, name: str) -> Path:
        return Path(f"/proc/{os.getppid()}/fd/{self.options[name][0]}")

    def notify(self, script: str, pid: int = 0, fd: int = -1) -> None:
        """Tell, and wait for the answer; anything but yes ends everything."""
        packet = encode({1: NOTIFY, 2: True, 5: {1: script, 2: pid}})
        socket.send_fds(self.socket, [packet], [fd] if fd >= 0 else [])
        if f"die-at-{script}" in self.behaviour:
            os.kill(os.getpid(), signal.SIGKILL)
        if f"wait-at-{script}" in self.behaviour:
            time.sleep(1000)
        if not decode(self.socket.recv(1 << 16)).get(3):
            self.fail(f"{script} was refused")

    def fail(self, reason: str) -> None:
        log = self.directory("work_dir_fd") / str(self.options["log_file"][0])
        log.write_text(f"(00.1) something\n(00.2)      1: Error (criu/x.c:1): {reason}\x1b[2J\n")
        self.socket.send(encode({1: self.kind, 2: False, 7: 22}))
        sys.exit(1)

    def dump(self) -> None:
        if "freeze-and-die" in self.behaviour:
            frozen = Path(str(self.options["freeze_cgroup"][0]))
            v2 = frozen / "cgroup.freeze"
            if v2.exists():
                v2.write_text("1")
            else:
                (frozen / "freezer.state").write_text("FROZEN")
            os.kill(os.getpid(), signal.SIGKILL)
        if "fail" in self.behaviour:
            self.fail("no such thing")
        (self.directory("images_dir_fd") / "core-1.img").write_bytes(b"core")
        self.notify("status-ready")
        if self.kind == DUMP and "leave_running" not in self.options:
            os.kill(int(str(self.options["pid"][0])), signal.SIGKILL)
        self.socket.send(encode({1: self.kind, 2: True}))

    def restore(self) -> None:
        if "fail" in self.behaviour:
            self.fail("no such thing")
        go, begin = os.pipe()
        pid = ctypes.CDLL(None).syscall(SYS_CLONE, CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0)
        if pid == 0:
            self.be_restored(go, begin)
        os.close(go)
        try:
            self.notify("setup-namespaces", pid)
            if "terminal" in self.behaviour:
                master, _slave = os.openpty()
                os.write(_slave, b"restored\n")
                self.notify("orphan-pts-master", 0, master)
            self.notify("post-restore", pid)
            if "fail-late" in self.behaviour:
                self.fail("too late")
        except SystemExit:
            os.kill(pid, signal.SIGKILL)
            raise
        os.write(begin, b"go")
        self.socket.send(encode({1: RESTORE, 2: True, 4: {1: pid}}))

    def be_restored(self, go: int, begin: int) -> None:
        """Only forked, never executed, as what CRIU restores; SIGTERM ends it with 7."""
        signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
        os.close(begin)
        self.socket.close()
        if os.read(go, 2) != b"go":
            os._exit(1)
        os.write(1, b"restored\n")
        while True:
            time.sleep(1000)


def _shown(value: int | bytes) -> object:
    return value.decode() if isinstance(value, bytes) else value


def main() -> None:
    place = Path(sys.argv[0]).parent
    if sys.argv[1] == "check":
        sys.exit("no" in (place / "behaviour").read_text())
    stand_in = StandIn(place, int(sys.argv[2]))
    if stand_in.kind in (DUMP, SINGLE_PRE_DUMP):
        stand_in.dump()
    else:
        stand_in.restore()


if __name__ == "__main__":
    main()
