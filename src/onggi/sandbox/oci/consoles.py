"""The terminal of a process: who takes its master, and how it is passed on."""

from __future__ import annotations

import os
import socket
import termios

from onggi.errors import InvalidArgument, Unavailable, from_os_error


def check_terminal(terminal: bool, console_socket: str, *, detached: bool) -> None:
    """Whether somebody takes the terminal that is asked for.

    Raises:
        InvalidArgument: nobody does, or there is none to take.
    """
    if terminal and detached and not console_socket:
        raise InvalidArgument(
            "cannot allocate tty if runtime will detach without setting console socket",
            hint="use --console-socket, or set process.terminal to false",
        )
    if console_socket and not (terminal and detached):
        raise InvalidArgument(
            "cannot use console socket if runtime will not detach or allocate tty"
        )


def connect_console(path: str) -> socket.socket:
    """The console socket, connected; one that is not connected if there is none."""
    console = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path:
            console.connect(path)
    except OSError as error:
        console.close()
        raise from_os_error(error, f"connect to the console socket {path}") from error
    return console


def send_terminal(console: socket.socket, terminal: int) -> None:
    """Pass a terminal's master to whoever listens at the console socket.

    Raises:
        Unavailable: nobody takes it.
    """
    try:
        socket.send_fds(console, [b"/dev/ptmx"], [terminal])
    except OSError as error:
        raise Unavailable(f"nobody takes the terminal: {os.strerror(error.errno or 0)}") from error


def settle_terminal(terminal: int) -> None:
    """Before the process can print: who reads its output from a pipe wants no carriage returns."""
    if not os.isatty(1):
        attributes = termios.tcgetattr(terminal)
        attributes[1] &= ~termios.ONLCR
        termios.tcsetattr(terminal, termios.TCSANOW, attributes)
