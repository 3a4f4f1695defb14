"""The system call filter of a plan, compiled once for each profile.

Compiling costs more than all the rest of a plan, and a thousand containers share one profile.
"""

from __future__ import annotations

from functools import lru_cache

from onggi.runtime.steps import LoadSeccomp
from onggi.specs.runtime import Seccomp


@lru_cache(maxsize=64)
def seccomp_step(profile: Seccomp, machine: str) -> tuple[LoadSeccomp, tuple[str, ...]]:
    """The step that loads the profile, and what of the profile was left out.

    Raises:
        SpecError: the profile is wrong, with the JSON path.
        Unsupported: no table for the machine.
        InvalidArgument: the program would be longer than the kernel takes.
    """
    # Its tables of system calls are read by the first container that is filtered only.
    from onggi.kernel.seccomp.compiler import compile_profile  # noqa: PLC0415

    compiled = compile_profile(profile, machine)
    return LoadSeccomp(flags=compiled.flags, program=compiled.program), compiled.warnings
