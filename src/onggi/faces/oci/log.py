"""Where errors and warnings go: the file of `--log`, as text or JSON lines, and stderr.

Callers read the JSON: the last line with level `error` says why a command failed.
"""

from __future__ import annotations

import os
import time

from onggi.errors import InvalidArgument
from onggi.specs import jsontext


class Log:
    """One command's log."""

    __slots__ = ("_debug", "_json", "_path")

    def __init__(self, path: str = "", form: str = "text", *, debug: bool = False) -> None:
        """Raises: InvalidArgument: neither text nor json."""
        if form not in ("text", "json", ""):
            raise InvalidArgument(f"unknown log-format {form!r}", hint="text and json are known")
        self._json = form == "json"
        self._path = path
        self._debug = debug

    def warn(self, text: str) -> None:
        """Something is not as it was asked for."""
        self._entry("warning", text)

    def debug(self, text: str) -> None:
        """Something for who looks closely."""
        if self._debug:
            self._entry("debug", text)

    def error(self, text: str) -> None:
        """Why the command failed: on stderr too."""
        if self._path:
            self._entry("error", text)
        _write(2, f"{text}\n")

    def _entry(self, level: str, text: str) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self._json:
            line = jsontext.text({"level": level, "msg": text, "time": now})
        else:
            line = f'time="{now}" level={level} msg={jsontext.text(text)}'
        if not self._path:
            _write(2, f"{line}\n")
            return
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
            fd = os.open(self._path, flags, 0o644)
        except OSError:
            _write(2, f"{line}\n")
            return
        _write(fd, f"{line}\n")
        os.close(fd)


def _write(fd: int, text: str) -> None:
    try:
        os.write(fd, text.encode("utf-8", "backslashreplace"))
    except OSError:
        return  # nobody reads it; the exit code still tells
