"""Makes a forked child look like a program that the user has just started.

What the kernel gives a new program from its parent (descriptors, environment, working directory,
umask, ignored signals) comes from the front. Not taken over, because it cannot be or is not felt:
session and controlling terminal, cgroup, nice value, resource limits.
"""

from __future__ import annotations

import _locale
import _signal  # type: ignore[import-not-found]  # `signal` costs 3 ms for enums
import io
import os
import sys
import time

from onggi.faces.warm.request import DESCRIPTORS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from onggi.faces.warm.request import Request

#: What the warm process sends to a child whose front is gone. Not SIGHUP: a session passes that
#: on to its container, which must outlive a killed command line.
FRONT_LOST = _signal.SIGRTMIN + 2
_LAST_CLASSIC = 31


def schedule(policy: int) -> None:
    """Change this process's scheduling policy; quiet where forbidden: it is only about speed.

    Source: sched(7).
    """
    try:
        os.sched_setscheduler(0, policy, os.sched_param(0))
    except OSError:
        return


def enter(request: Request) -> list[str]:
    """Take over the request's world; the command's words. Closes the request's descriptors.

    Raises: OSError when the working directory may not be entered.
    """
    _take_descriptors(request.fds)
    os.umask(request.umask)
    _take_environment(request.environment)
    _take_signals(request.ignored)
    words = [os.fsdecode(word) for word in request.arguments]
    sys.argv = ["onggi", *words]
    time.tzset()
    _take_locale()
    _make_streams()
    return words


def _take_locale() -> None:
    try:
        _locale.setlocale(_locale.LC_CTYPE, "")
    except _locale.Error:  # type: ignore[attr-defined]
        return  # not installed here: a new interpreter stays with "C" as well


def _take_descriptors(fds: list[int]) -> None:
    standard, here = fds[:3], fds[3]
    for number, fd in enumerate(standard):
        os.dup2(fd, number)
    os.fchdir(here)
    for fd in fds[:DESCRIPTORS]:
        os.close(fd)
    fds.clear()


def _take_environment(variables: list[bytes]) -> None:
    os.environ.clear()
    environment = os.environb
    for variable in variables:
        name, equals, value = variable.partition(b"=")
        # The first one counts, as in a new interpreter.
        if name and equals and name not in environment:
            environment[name] = value


def _take_signals(ignored: int) -> None:
    for number in range(1, _LAST_CLASSIC + 1):
        if ignored >> (number - 1) & 1 and number not in (_signal.SIGKILL, _signal.SIGSTOP):
            _signal.signal(number, _signal.SIG_IGN)


def _make_streams() -> None:
    """`sys.stdin`, `sys.stdout` and `sys.stderr` as a new interpreter in UTF-8 makes them."""
    sys.stdin = sys.__stdin__ = _stream(0, "r", "surrogateescape")  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = _stream(1, "w", "surrogateescape")  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _stream(2, "w", "backslashreplace")  # type: ignore[misc]


def _stream(fd: int, mode: str, errors: str) -> io.TextIOWrapper | None:
    try:
        raw = io.FileIO(fd, mode, closefd=False)
    except OSError:
        return None  # a directory, for instance
    binary = io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw)
    by_line = fd == 2 or os.isatty(fd)
    return io.TextIOWrapper(binary, "utf-8", errors, line_buffering=by_line)
