"""Builds `probe.c`, the hostile program, and runs it inside containers and outside."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from acceptance.rig import Onggi


class Probe:
    """The built program. Answers are errno by call; 0 says that the kernel let it pass."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def bind(self) -> str:
        """The value of `-v` that puts it at /probe."""
        return f"{self.path}:/probe:ro"

    def inside(self, onggi: Onggi, container: str, *calls: str) -> dict[str, int]:
        """Try calls in a running container that was given `bind`."""
        return _answers(onggi.out("exec", container, "/probe", *calls))

    def outside(self, *calls: str) -> dict[str, int]:
        """Try calls on the host."""
        words = [str(self.path), *calls]
        return _answers(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def _answers(text: str) -> dict[str, int]:
    rows = (line.split() for line in text.splitlines())
    return {name: int(answer) for name, answer in rows}


def build(directory: Path) -> Probe:
    """Compile it statically; skips without a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler (cc) for the probe")
    path = directory / "probe"
    source = Path(__file__).with_name("probe.c")
    subprocess.run([compiler, "-static", "-O1", "-o", str(path), str(source)], check=True)
    return Probe(path)
