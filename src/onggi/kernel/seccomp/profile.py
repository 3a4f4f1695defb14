"""Which profile a container gets: Onggi's own, or one that the user brings.

"unconfined" is the caller's business: it means that no profile is asked for.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import msgspec

from onggi.errors import from_os_error
from onggi.kernel.seccomp.default_rules import DEFAULT
from onggi.kernel.seccomp.profile_format import MAX_PROFILE_BYTES, fit_profile, parse_profile
from onggi.specs.runtime import Seccomp

#: SECCOMP_FILTER_FLAG_SPEC_ALLOW, the default profile's only flag, came with this kernel.
_SPEC_ALLOW_SINCE = (4, 17)


@lru_cache(maxsize=32)
def default_profile(capabilities: frozenset[str], machine: str, kernel: tuple[int, int]) -> Seccomp:
    """Onggi's own allow-list for a container with this bounding set.

    `capabilities` are names ("CAP_SYS_ADMIN"); `kernel` is (major, minor).

    Raises:
        Unsupported: no system call table for this machine.
    """
    plain = fit_profile(DEFAULT, capabilities, machine, kernel)
    if kernel < _SPEC_ALLOW_SINCE:
        return msgspec.structs.replace(plain, flags=())
    return plain


def load_profile(
    source: Path | bytes, capabilities: frozenset[str], machine: str, kernel: tuple[int, int]
) -> Seccomp:
    """A user's profile, from a file or from its bytes, fitted to the container.

    Raises:
        SpecError: not a profile, with the JSON path.
        EngineError: the leaf for a file that cannot be read; Unsupported: an unknown machine.
    """
    return fit_profile(parse_profile(_read(source)), capabilities, machine, kernel)


def _read(source: Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        with source.open("rb") as file:
            return file.read(MAX_PROFILE_BYTES + 1)
    except OSError as error:
        raise from_os_error(error, "reading the seccomp profile") from None
