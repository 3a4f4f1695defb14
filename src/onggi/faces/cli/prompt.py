"""One line asked of a person at a terminal, if need be without showing it. Source: termios(3)."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` costs 3 ms for enums
import os
import termios

from onggi.errors import InvalidArgument
from onggi.faces.cli.output import write_all
from onggi.faces.cli.terminal import Handlers

MAX_LINE_BYTES = 64 * 1024


def ask(question: str, *, hidden: bool = False) -> str:
    """A line of descriptor 0, a terminal, without its end; the question goes to descriptor 2.

    `hidden`: nothing is echoed, and the terminal is as before on every way out.

    Raises: KeyboardInterrupt on ^C. InvalidArgument: the input ended, or is no utf-8.
    """
    write_all(2, question.encode())
    line = _read_hidden() if hidden else read_line(0)
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise InvalidArgument("what was typed is not utf-8 text") from None


def read_line(fd: int) -> bytes:
    """Bytes up to the end of the line, taken one by one: what follows is somebody else's.

    Raises: InvalidArgument: nothing came before the end, or too much.
    """
    line = b""
    while True:
        byte = os.read(fd, 1)
        if byte in (b"\n", b""):
            break
        line += byte
        if len(line) > MAX_LINE_BYTES:
            raise InvalidArgument(f"a line of more than {MAX_LINE_BYTES} bytes was typed")
    if not line and not byte:
        raise InvalidArgument("the input ended before it was answered")
    return line.removesuffix(b"\r")


def _read_hidden() -> bytes:
    before = termios.tcgetattr(0)
    handlers = Handlers()

    def restore() -> None:
        try:
            termios.tcsetattr(0, termios.TCSADRAIN, before)
        except (OSError, termios.error):
            return  # hung up: there is nothing left to restore

    def die(number: int, _frame: object) -> None:
        restore()
        _signal.signal(number, _signal.SIG_DFL)
        os.kill(os.getpid(), number)

    silent = termios.tcgetattr(0)
    silent[3] &= ~termios.ECHO
    # No context manager: ^C may come between its change and the body that it guards.
    try:
        for number in (_signal.SIGTERM, _signal.SIGHUP, _signal.SIGQUIT):
            handlers.set(number, die)
        # Flushed: what was typed before the question was not meant as its answer.
        termios.tcsetattr(0, termios.TCSAFLUSH, silent)
        return read_line(0)
    finally:
        restore()
        handlers.restore()
        write_all(2, b"\n")
