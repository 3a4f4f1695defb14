"""HOME for a process whose configuration says none: what the container's passwd has.

The file is the image's: it is looked at only if it is a regular one, of bounded size, inside the
root (CVE-2024-9676). Nothing else is taken from it: users are numbers here.
"""

from __future__ import annotations

import os

from msgspec import structs

from onggi.errors import EngineError
from onggi.kernel.paths import read_file_bounded
from onggi.specs.runtime import Process

_MAX_BYTES = 1 << 20


def with_home(process: Process, root: str) -> Process:
    """The process, with HOME. `root`: the directory that is its root, or leads to it."""
    if any(entry.startswith("HOME=") for entry in process.env):
        return process
    return structs.replace(process, env=(*process.env, f"HOME={_home(root, process.user.uid)}"))


def _home(root: str, uid: int) -> str:
    try:
        fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return "/"
    try:
        content = read_file_bounded(fd, "/etc/passwd", _MAX_BYTES)
    except EngineError:
        return "/"
    finally:
        os.close(fd)
    wanted = str(uid).encode()
    for line in content.split(b"\n"):
        fields = line.split(b":")
        if len(fields) >= 6 and fields[2] == wanted and fields[5].startswith(b"/"):
            return fields[5].decode("utf-8", "replace").replace("\0", "")
    return "/"
