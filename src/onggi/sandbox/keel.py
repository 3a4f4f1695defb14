"""Where the helper program keel comes from: found once, then run only from a sealed copy in memory.

Every monitor executes the same memfd, so all of them share its pages, and no container can write
to what the host runs (CVE-2019-5736). It does not know what keel is told.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from onggi.errors import Internal, NotFound, Unsupported, from_os_error
from onggi.kernel.descriptors import Descriptor
from onggi.kernel.syscalls import sealed_memfd
from onggi.runtime.steps import FIRST_SLOT_FD, NO_SLOT

#: Above every number that a monitor's own descriptors take (5 + 256 slots): what is held here
#: survives while those are put in their places.
LOWEST_HELD_FD: Final = 300

#: Descriptors of keel at its start: the plan, the control socket, then slots.
_PLAN_FD, _CONTROL_FD = 3, 4
MAX_BORROWED: Final = NO_SLOT
#: Python ignores these for itself; a program expects to find them as they are by default.
_DEFAULT_SIGNALS: Final = (signal.SIGPIPE, signal.SIGXFSZ)
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_MAX_SIZE_BYTES: Final = 64 * 1024 * 1024
_PACKAGED: Final = Path(__file__).resolve().parent.parent / "bin" / "keel"


def keel_path() -> Path:
    """The program that comes with the package, or what `ONGGI_KEEL` names (for development).

    Raises:
        NotFound: there is none.
    """
    path = Path(os.environ.get("ONGGI_KEEL") or _PACKAGED)
    if not path.is_file():
        raise NotFound(
            f"the helper program {path} is missing",
            hint="build it with `make -C keel`, or name it in ONGGI_KEEL",
        )
    return path


class Keel:
    """keel in a sealed memfd. A context manager that owns the descriptor."""

    def __init__(self, path: Path | None = None) -> None:
        """Copy the program at `path` (default: `keel_path()`) into memory, seal it, and check.

        Raises:
            NotFound: no such program.
            Unsupported: it is not a program for Linux.
            SyscallError: the kernel cannot make or seal a memfd.
        """
        program = _read_program(path or keel_path())
        with sealed_memfd("keel", program, executable=True) as memfd:
            if fcntl.fcntl(memfd, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
                raise Internal("the copy of the helper program is not sealed")
            self._held = hold(memfd)

    def fileno(self) -> int:
        """The sealed memfd, borrowed; at least `LOWEST_HELD_FD`."""
        return self._held.fileno()

    def close(self) -> None:
        """Let go of it; running monitors keep theirs."""
        self._held.close()

    def __enter__(self) -> Keel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def hold(fd: int) -> Descriptor:
    """A close-on-exec duplicate that is at least `LOWEST_HELD_FD`; `fd` stays the caller's.

    Raises:
        ResourceExhausted: the limit of open files leaves no room up there.
    """
    try:
        return Descriptor(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, LOWEST_HELD_FD))
    except OSError as error:
        raise from_os_error(error, "duplicate a descriptor") from error


def spawn(keel: Keel, role: str, sources: Sequence[int], stdio: Sequence[Any]) -> int:
    """Start keel in a role, with `sources` as descriptors 3, 4, 5 …; the process id.

    `stdio`: actions of posix_spawn on descriptors 0 to 2, which are inherited otherwise.

    Raises:
        ResourceExhausted: no descriptors, memory or processes left.
    """
    borrowed_count = max(len(sources) - (FIRST_SLOT_FD - _PLAN_FD), 0)
    with ExitStack() as stack:
        # dup2 in sequence must not overwrite a source that is still to be placed.
        limit = _PLAN_FD + len(sources)
        held = [fd if fd >= limit else stack.enter_context(hold(fd)) for fd in sources]
        placed = [(os.POSIX_SPAWN_DUP2, fd, _PLAN_FD + n) for n, fd in enumerate(held)]
        try:
            return os.posix_spawn(
                f"/proc/self/fd/{keel.fileno()}",
                ["keel", role, str(borrowed_count)],
                {},
                file_actions=[*stdio, *placed],
                setsigmask=(),
                setsigdef=_DEFAULT_SIGNALS,
            )
        except OSError as error:
            raise from_os_error(error, f"start keel {role}") from error


def _read_program(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            program = file.read(_MAX_SIZE_BYTES + 1)
    except OSError as error:
        raise from_os_error(error, "read the helper program") from error
    if not program.startswith(b"\x7fELF") or len(program) > _MAX_SIZE_BYTES:
        raise Unsupported(f"{path} is not a program that Linux can run")
    return program
