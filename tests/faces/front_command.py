"""A warm process whose one command shows and does what the tests of the front ask for."""

from __future__ import annotations

import json
import os
import signal
import sys
import termios
import time
from socket import socket

import onggi.faces.warm.request as requests
from onggi.faces.warm.descriptors import close_from
from onggi.faces.warm.server import Server


def _world() -> int:
    fds = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            fds[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the listing's own descriptor
    report = {
        "argv": [os.fsencode(word).hex() for word in sys.argv[1:]],
        "environment": {k.hex(): v.hex() for k, v in os.environb.items()},
        "cwd": os.fsencode(os.getcwd()).hex(),
        "umask": os.umask(0),
        "ignored": [n for n in range(1, 32) if signal.getsignal(n) == signal.SIG_IGN],
        "fds": fds,
        "buffered": [sys.stdin.encoding, sys.stdout.line_buffering, sys.stderr.line_buffering],
        "timezone": time.tzname[0],
        "pid": os.getpid(),
        "parent": os.getppid(),
    }
    print(json.dumps(report))
    return 0


def _say(text: str) -> None:
    os.write(1, text.encode() + b"\n")


def _wait() -> int:
    _say(f"pid {os.getpid()}")
    # Not pause(2): Python's handler runs after it, and a signal just before it would be lost.
    while True:
        time.sleep(0.01)


def _copy() -> int:
    while data := os.read(0, 65536):
        os.write(1, data)
    os.write(2, b"end")
    return 0


def _catch() -> int:
    """Say each USR1, WINCH and HUP; end at TERM."""
    got: list[int] = []
    for number in (signal.SIGUSR1, signal.SIGWINCH, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, lambda n, _: got.append(n))
    _say(f"pid {os.getpid()}")
    while True:
        while not got:
            time.sleep(0.002)
        number = got.pop(0)
        size = tuple(os.get_terminal_size(1)) if os.isatty(1) else ()
        _say(f"{signal.Signals(number).name} {size}")
        if number == signal.SIGTERM:
            return 9


def _raw() -> int:
    """A terminal in raw mode that comes back whatever happens."""
    before = termios.tcgetattr(0)
    changed = termios.tcgetattr(0)
    changed[3] &= ~(termios.ECHO | termios.ICANON | termios.ISIG)
    termios.tcsetattr(0, termios.TCSANOW, changed)
    try:
        _say(f"pid {os.getpid()}")
        _say(f"read {os.read(0, 10)!r}")
        while True:
            time.sleep(0.01)
    finally:
        termios.tcsetattr(0, termios.TCSANOW, before)


def _deaf() -> int:
    """Cannot be asked to end."""
    signal.signal(signal.SIGRTMIN + 2, signal.SIG_IGN)
    return _wait()


def _raise() -> int:
    raise ValueError("boom")


def _exit_text() -> int:
    sys.exit("sorry")


def _write() -> int:
    try:
        os.write(int(sys.argv[4]), b"x")
    except OSError as error:
        return error.errno
    return 0


def _read() -> int:
    try:
        os.read(0, 1)
    except OSError as error:
        return error.errno
    return 0


def _print() -> int:
    print("on stdout")
    print("on stderr", file=sys.stderr)
    return 0


VERBS = {
    "world": _world, "wait": _wait, "copy": _copy, "catch": _catch, "raw": _raw, "deaf": _deaf,
    "raise": _raise, "exit-text": _exit_text, "write": _write, "read": _read, "print": _print,
}  # fmt: skip


def command(words: list[str]) -> int:
    verb = words[2]
    if verb == "exit":
        return int(words[3])
    return VERBS[verb]()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        requests.__version__ = sys.argv[1]
    close_from(5)
    listener = socket(fileno=3)
    listener.setblocking(False)
    for fd in (3, 4):
        os.set_inheritable(fd, False)
    Server(listener, 4, command, lambda: None).run()
