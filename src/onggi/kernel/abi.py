"""How a system call is made from Python: its number on this machine, ctypes, errno → SyscallError.

ctypes is loaded by the first call, so that importing this room costs next to nothing. It knows no
call's meaning: `syscalls` does.
"""

from __future__ import annotations

import errno
import os

from onggi.errors import InvalidArgument, SyscallError, Unsupported
from onggi.kernel.hints import hint_for

TYPE_CHECKING = False  # typing's own costs 9 ms to import
if TYPE_CHECKING:
    from collections.abc import Callable

    #: A number, a text (a NUL is put behind), a structure that the kernel reads or fills, or NULL.
    Argument = int | bytes | bytearray | None

# Calls since Linux 5.1 have one number everywhere.
_UNIFIED = {
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "close_range": 436,
    "openat2": 437,
    "pidfd_getfd": 438,
    "mount_setattr": 442,
}

_MACHINE = os.uname().machine
NUMBERS: dict[str, dict[str, int]] = {
    "x86_64": _UNIFIED
    | {
        "setfsuid": 122,
        "setfsgid": 123,
        "capget": 125,
        "capset": 126,
        "pivot_root": 155,
        "prctl": 157,
        "umount2": 166,
        "keyctl": 250,
        "unshare": 272,
        "syncfs": 306,
        "setns": 308,
        "renameat2": 316,
        "statx": 332,
    },
    "aarch64": _UNIFIED
    | {
        "umount2": 39,
        "pivot_root": 41,
        "capget": 90,
        "capset": 91,
        "unshare": 97,
        "setfsuid": 151,
        "setfsgid": 152,
        "prctl": 167,
        "keyctl": 219,
        "syncfs": 267,
        "setns": 268,
        "renameat2": 276,
        "statx": 291,
    },
}

_loaded: Callable[[int, tuple[Argument, ...]], tuple[int, int]] | None = None


def invoke(call: str, *arguments: Argument, text: str) -> int:
    """Make one system call; `text` is what an error shows of its arguments.

    A call interrupted by a signal is made again, after Python's handlers have run (PEP 475).

    Raises:
        SyscallError: with errno and, where one is known, a hint.
        InvalidArgument: a NUL inside a text, where the kernel would stop to read.
        Unsupported: this machine's system calls are not known here.
    """
    number = _number(call)
    trap = _loaded or load()
    while True:
        result, failure = trap(number, arguments)
        if result != -1:
            return result
        if failure != errno.EINTR:
            raise failed(call, text, failure)


def failed(call: str, text: str, number: int) -> SyscallError:
    """The error for a failed call, with its hint."""
    return SyscallError(call, text, number, hint=hint_for(call, text, number))


def _number(call: str) -> int:
    try:
        return NUMBERS[_MACHINE][call]
    except KeyError:
        raise Unsupported(f"{call}: no system call number is known for {_MACHINE}") from None


def load() -> Callable[[int, tuple[Argument, ...]], tuple[int, int]]:
    """Load ctypes, and remember the function that traps into the kernel: at the first call, or
    before, by a process that lives long. Raises: ImportError, OSError."""
    global _loaded  # noqa: PLW0603 - ctypes costs 4 ms: only who makes a call pays, and once
    import ctypes  # noqa: PLC0415

    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long

    def wrap(argument: Argument) -> object:
        if isinstance(argument, bytearray):
            return (ctypes.c_char * len(argument)).from_buffer(argument)
        if isinstance(argument, int):
            # Variadic: without a width, ctypes would pass 32 bits and leave the others undefined.
            return ctypes.c_long(argument)
        if argument is not None and b"\0" in argument:
            raise InvalidArgument(f"NUL inside {argument!r}")
        return ctypes.c_char_p(argument)

    def trap(number: int, arguments: tuple[Argument, ...]) -> tuple[int, int]:
        result: int = syscall(ctypes.c_long(number), *(wrap(argument) for argument in arguments))
        return result, ctypes.get_errno()

    _loaded = trap
    return trap
