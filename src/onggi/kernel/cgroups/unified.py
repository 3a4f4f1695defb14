"""`linux.resources.unified`: v2 files named by the user, written as they are.

Files that move processes or hand out control are refused: this is for limits.
Source: runtime-spec config-linux.md#unified.
"""

from __future__ import annotations

from onggi.errors import InvalidArgument
from onggi.kernel.cgroups.rule import Write
from onggi.specs.runtime import Resources

_CORE_LIMITS = frozenset({"cgroup.max.depth", "cgroup.max.descendants", "cgroup.pressure"})


def writes(resources: Resources) -> tuple[Write, ...]:
    """The writes in the order given.

    Raises:
        InvalidArgument: not the name of a controller's file.
    """
    for file in resources.unified:
        controller, dot, rest = file.partition(".")
        named = bool(controller and dot and rest) and not set(file) & {"/", "\0", "\n", " "}
        if not named or (controller == "cgroup" and file not in _CORE_LIMITS):
            raise InvalidArgument(
                f"unified resource {file!r} is not a limit that may be set",
                hint="name a controller's interface file, memory.high for instance",
            )
    return tuple(Write(file, value) for file, value in resources.unified.items())


def controllers(resources: Resources) -> tuple[str, ...]:
    """The controllers that these files belong to."""
    names = {file.partition(".")[0] for file in resources.unified}
    return tuple(sorted(names - {"cgroup"}))
