"""Reading /proc/PID: one way to say that a process is gone or not ours to look at."""

from __future__ import annotations

import errno
import os

from onggi.errors import EngineError, NotFound, from_os_error

#: No file of /proc/PID that is read whole comes near this: a mountinfo of 100,000 mounts does.
MAX_BYTES = 16 * 1024 * 1024


def read_process_file(pid: int | str, name: str, maximum_bytes: int = MAX_BYTES) -> bytes:
    """A file under /proc/PID (`self` will do for the pid), cut after `maximum_bytes`.

    Raises:
        NotFound: no such process. PermissionDenied: not ours to look at.
    """
    try:
        with open(f"/proc/{pid}/{name}", "rb", buffering=0) as file:
            content = bytearray()
            while len(content) < maximum_bytes:
                part = os.read(file.fileno(), min(maximum_bytes - len(content), 1 << 20))
                if not part:
                    break
                content += part
            return bytes(content)
    except OSError as error:
        raise failed_look(error, pid) from None


def failed_look(error: OSError, pid: int | str) -> EngineError:
    """The error for an `OSError` met below /proc/PID."""
    if error.errno in (errno.ENOENT, errno.ESRCH):
        return NotFound(f"no process {pid}")
    return from_os_error(error, f"look at process {pid} in")
