"""Programs that call an OCI runtime, each started with roots and sockets of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from registry_rig import need

RUNTIME = Path(sys.executable).parent / "onggi-runtime"
APPLETS = ("cat", "echo", "id", "readlink", "sh", "sleep", "touch", "true")
IMAGE = "localhost/busybox:latest"


class Caller:
    """A command line with its environment."""

    def __init__(self, words: list[str], environment: dict[str, str] | None = None) -> None:
        self.words = words
        self.environment = environment or {}

    def run(
        self, *arguments: str, check: bool = True, stdin: str | None = None, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """To the end; with `check`, anything but 0 fails the test with what was said."""
        done = subprocess.run(
            [*self.words, *arguments],
            env={**os.environ, **self.environment},
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check and done.returncode != 0:
            said = f"{done.returncode}\n{done.stdout}{done.stderr}"
            raise AssertionError(f"{self.words[0]} {' '.join(arguments)}: {said}")
        return done

    def out(self, *arguments: str) -> str:
        """What it prints, without the last newline."""
        return self.run(*arguments).stdout.removesuffix("\n")


def place() -> contextlib.AbstractContextManager[str]:
    """A short directory (sockets and podman bound its name) that everybody may pass through."""
    directory = tempfile.TemporaryDirectory(prefix="oc", ignore_cleanup_errors=True)
    Path(directory.name).chmod(0o755)
    return directory


def root_file_system(target: Path) -> Path:
    """A directory with busybox and the places that mounts go to."""
    need("busybox", "busybox-static")
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        (target / name).mkdir(parents=True)
    program = shutil.copy(shutil.which("busybox") or "", target / "bin/busybox")
    for name in APPLETS:
        (target / "bin" / name).symlink_to(Path(program).name)
    return target


def image_tar(directory: Path) -> Path:
    """The same as a tar of a root file system."""
    archive = directory / "busybox.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(root_file_system(directory / "image"), arcname=".")
    return archive


def bundle(directory: Path, *arguments: str) -> Path:
    """A bundle whose process has no terminal."""
    root_file_system(directory / "rootfs")
    subprocess.run([RUNTIME, "spec", "--bundle", directory], check=True)
    file = directory / "config.json"
    config = json.loads(file.read_text())
    config["process"] |= {"terminal": False, "args": list(arguments)}
    file.write_text(json.dumps(config))
    return directory


@contextlib.contextmanager
def daemon(
    command: list[str], directory: Path, ready: Callable[[], bool], **environment: str
) -> Iterator[None]:
    """A program in the foreground until the block ends; its log is in the failure."""
    log = directory / f"{Path(command[0]).name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        _wait(process, ready, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(process: subprocess.Popen[bytes], ready: Callable[[], bool], log: Path) -> None:
    for _ in range(600):
        if process.poll() is not None:
            break
        if ready():
            return
        time.sleep(0.1)
    raise AssertionError(f"{log.stem} does not start:\n{log.read_text(errors='replace')[-3000:]}")


def until(holds: Callable[[], bool], what: str) -> None:
    """Wait for something that others bring about."""
    for _ in range(300):
        if holds():
            return
        time.sleep(0.1)
    raise AssertionError(f"never: {what}")
