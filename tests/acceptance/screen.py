"""A terminal with a person before it: a command on a pty of its own, typed to and read."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator

from acceptance.rig import APPLETS_OF, Onggi


class Screen:
    """A command with this terminal as its controlling one. `seen`: all that it has shown."""

    def __init__(self, onggi: Onggi, words: tuple[str, ...], rows: int, columns: int) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(rows, columns)
        self.before = termios.tcgetattr(self.slave)
        self.seen = ""
        self.process = subprocess.Popen(
            [APPLETS_OF, "setsid", "-c", *onggi.words(*words)],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
        )

    def resize(self, rows: int, columns: int) -> None:
        """Drag the window's corner: the kernel tells the foreground process by SIGWINCH."""
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self.master, text.encode())

    def read(self, timeout_s: float = 0.0) -> str:
        """What has been shown since the last time, waiting a moment for some."""
        news = ""
        while select.select([self.master], [], [], timeout_s)[0]:
            news += os.read(self.master, 65536).decode()
            timeout_s = 0.0
        self.seen += news
        return news

    def expect(self, text: str, timeout_s: float = 15) -> str:
        """Read on until `text` is shown; what came before it. What follows it is kept."""
        deadline = time.monotonic() + timeout_s
        while text not in self.seen:
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {timeout_s} s for {text!r}, seen {self.seen!r}")
            self.read(0.1)
        before, _, self.seen = self.seen.partition(text)
        return before

    def ended(self, timeout_s: float = 15) -> int:
        """Wait for the command's end; its exit code. Goes on reading, as a terminal does."""
        deadline = time.monotonic() + timeout_s
        while self.process.poll() is None:
            if time.monotonic() > deadline:
                raise AssertionError(f"still runs after {timeout_s} s, seen {self.seen!r}")
            self.read(0.02)
        self.read()
        return self.process.returncode

    def is_raw(self) -> bool:
        """Whether keys go to the command untouched and unseen."""
        flags = termios.tcgetattr(self.slave)[3]
        return not flags & (termios.ECHO | termios.ICANON | termios.ISIG)

    def is_restored(self) -> bool:
        """Whether the terminal is as it was before the command."""
        return termios.tcgetattr(self.slave) == self.before


@contextlib.contextmanager
def screen(onggi: Onggi, *words: str, rows: int = 30, columns: int = 100) -> Iterator[Screen]:
    """A command on a terminal; at the end it is gone, however the test went."""
    found = Screen(onggi, words, rows, columns)
    try:
        yield found
    finally:
        if found.process.poll() is None:
            found.process.kill()
        found.process.wait()
        os.close(found.master)
        os.close(found.slave)
