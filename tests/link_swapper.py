"""Somebody who swaps directories for links that lead out, while others look."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SWAP = """
import os, sys
os.chdir(sys.argv[1])
print("swapping", flush=True)
while True:
    for name, target in (("a", sys.argv[2]), ("a/b", "../" * 20)):
        os.rename(name, "real")
        os.symlink(target, name)
        os.unlink(name)
        os.rename("real", name)
"""


@contextlib.contextmanager
def swapping(directory: Path, target: Path) -> Iterator[None]:
    """Swap `a` and `a/b` in a directory, thousands of times each second: as any container could
    that has it, and faster than a shell there."""
    words = [sys.executable, "-c", SWAP, str(directory), str(target)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as attacker:
        try:
            assert attacker.stdout is not None
            assert attacker.stdout.readline() == b"swapping\n"
            yield
            assert attacker.poll() is None
        finally:
            attacker.kill()
