"""The engines that are compared, each with a root of its own that goes when the run ends.

An engine that is not installed is skipped by name.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.timing import Action, command

IMAGE = "busybox"


class Engine:
    """One engine: how it is called, and which processes are its own."""

    name = ""
    programs: tuple[str, ...] = ()

    def __init__(self, place: Path) -> None:
        self.place = place
        self.env: dict[str, str] = {}

    def missing(self) -> str:
        """The first program that is not installed; empty when all are."""
        return next((p for p in self.programs if shutil.which(p) is None), "")

    def words(self, *arguments: str) -> list[str]:
        """The command line for these arguments."""
        raise NotImplementedError

    def run_options(self) -> tuple[str, ...]:
        """What `run` needs on this host beside the options that are measured."""
        return ()

    def start(self, archive: Path) -> None:
        """Start what must be resident, and import the image."""
        raise NotImplementedError

    def stop(self) -> None:
        """End what was started."""

    def action(self, *arguments: str) -> Action:
        """A command of this engine, to be timed."""
        return command(self.words(*arguments), self.env)

    def run(self, *arguments: str) -> str:
        """Run a command of this engine now; its output."""
        done = subprocess.run(
            self.words(*arguments),
            env={**os.environ, **self.env},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{self.name} {' '.join(arguments)}: {done.stderr[:400]}")
        return done.stdout.strip()

    def run_words(self, *arguments: str) -> tuple[str, ...]:
        """`run` with the options every engine gets here."""
        return ("run", "--network", "none", *self.run_options(), *arguments)

    def resident(self) -> list[int]:
        """Ids of the engine's own resident processes."""
        return []

    def beside(self, container: str) -> list[int]:
        """Ids of the processes that exist for one container beside the application."""
        raise NotImplementedError


class Onggi(Engine):
    """This engine."""

    name = "onggi"

    def words(self, *arguments: str) -> list[str]:
        return [str(Path(sys.executable).parent / "onggi"), "--root", str(self.place), *arguments]

    def start(self, archive: Path) -> None:
        with archive.open("rb") as source:
            subprocess.run(self.words("import", "-", IMAGE), stdin=source, check=True,
                           stdout=subprocess.DEVNULL)  # fmt: skip

    def stop(self) -> None:
        self.run("engine", "stop")

    def resident(self) -> list[int]:
        engine = int(json.loads(self.run("engine", "status", "--format", "json"))["pid"])
        time.sleep(0.3)  # the command above has used up the spare: let there be a new one
        warm = [pid for pid in children_of(engine) if not name_of(pid).startswith("keel")]
        return [engine, *warm, *(child for pid in warm for child in children_of(pid))]

    def beside(self, container: str) -> list[int]:
        inner = int(self.run("inspect", "--format", "{{.State.Pid}}", container))
        return [parent_of(inner)]


class Docker(Engine):
    """dockerd with containerd, as Debian ships them."""

    name = "docker"
    programs = ("dockerd", "docker")
    options: tuple[str, ...] = ("--iptables=false", "--ip6tables=false", "--bridge=none")

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.env = {"DOCKER_HOST": f"unix://{place}/docker.sock"}
        self._daemon: subprocess.Popen[bytes] | None = None

    def words(self, *arguments: str) -> list[str]:
        return ["docker", *arguments]

    def start(self, archive: Path) -> None:
        places = (f"--data-root={self.place}/data", f"--exec-root={self.place}/exec")
        with (self.place / "log").open("wb") as log:
            self._daemon = subprocess.Popen(
                ["dockerd", *self.options, *places, f"--pidfile={self.place}/pid", "-H",
                 self.env["DOCKER_HOST"]],
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        for _ in range(100):
            try:
                self.run("version")
                break
            except RuntimeError:
                time.sleep(0.2)
        self.run("import", str(archive), IMAGE)

    def stop(self) -> None:
        if self._daemon is not None:
            self._daemon.terminate()
            self._daemon.wait(30)

    def resident(self) -> list[int]:
        daemon = int((self.place / "pid").read_text())
        return [daemon, *children_of(daemon)]

    def beside(self, container: str) -> list[int]:
        return [parent_of(int(self.run("inspect", "-f", "{{.State.Pid}}", container)))]


class Podman(Engine):
    """podman with crun (or runc where crun does not run)."""

    name = "podman"
    programs = ("podman", "conmon", "crun")

    def words(self, *arguments: str) -> list[str]:
        return ["podman", "--root", f"{self.place}/data", "--runroot", f"{self.place}/run",
                "--cgroup-manager=cgroupfs", *arguments]  # fmt: skip

    def run_options(self) -> tuple[str, ...]:
        return ("--ulimit", "nofile=20000:20000", "--ulimit", "nproc=10000:10000")

    def start(self, archive: Path) -> None:
        self.run("import", str(archive), IMAGE)

    def stop(self) -> None:
        self.run("rm", "-fa")

    def beside(self, container: str) -> list[int]:
        return [parent_of(int(self.run("inspect", "-f", "{{.State.Pid}}", container)))]


ENGINES: Sequence[type[Engine]] = (Onggi, Docker, Podman)


def parent_of(pid: int) -> int:
    """The parent's id. Source: proc_pid_stat(5)."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def name_of(pid: int) -> str:
    """The process's own name. Source: proc_pid_comm(5)."""
    return Path(f"/proc/{pid}/comm").read_text().strip()


def children_of(pid: int) -> list[int]:
    """Ids of a process's children."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for task in tasks for word in task.read_text().split()]


def memory_kb(pid: int) -> dict[str, int]:
    """Private dirty, private clean and proportional kilobytes. Source: proc_pid_smaps(5)."""
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    values = {row.split(":")[0]: int(row.split()[1]) for row in rows}
    return {
        "dirty": values["Private_Dirty"],
        "clean": values["Private_Clean"],
        "proportional": values["Pss"],
    }
