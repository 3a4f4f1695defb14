"""A front of onggi-runtime with a plain command line beside it, and the warm process it finds."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

from faces.oci_rig import PLAIN

_ROOT = Path(__file__).resolve().parents[2]


def build_front(place: Path) -> Path:
    """The front, and beside it a plain command line."""
    place.mkdir()
    front = place / "onggi-runtime"
    words = ["make", "-s", "-C", str(_ROOT / "front"), "runtime", f"RUNTIME={front}"]
    subprocess.run([*words, f"BUILD={place}/objects"], check=True)
    plain = place / "onggi-runtime-python"
    plain.write_text(f'#!/bin/sh\necho plain >>"{place}/plain.log"\nexec {" ".join(PLAIN)} "$@"\n')
    plain.chmod(0o755)
    return front


class Warm:
    """A front of its own, and the place where its warm process listens."""

    def __init__(self, place: Path) -> None:
        self.front = build_front(place)
        self._plain_log = place / "plain.log"
        found = self.front.stat()
        self.place = Path(f"/run/onggi-runtime.warm/{found.st_dev:x}-{found.st_ino:x}")

    @property
    def plain_runs(self) -> int:
        return len(self._plain_log.read_text().split()) if self._plain_log.exists() else 0

    def pid(self) -> int:
        """The warm process: it holds its directory open."""
        for path in Path("/proc").glob("[0-9]*"):
            try:
                words = (path / "cmdline").read_bytes().split(b"\0")
                if b"onggi.faces.oci.warm_process" not in words:
                    continue
                if os.readlink(path / "fd/4") == str(self.place) and is_parent(int(path.name)):
                    return int(path.name)
            except OSError:
                continue
        return 0

    def end(self) -> None:
        pid = self.pid()
        if pid:
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.place, ignore_errors=True)


def is_parent(pid: int) -> bool:
    """Not a spare: that one's parent is the warm process."""
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])
    return b"warm_process" not in Path(f"/proc/{parent}/cmdline").read_bytes()
