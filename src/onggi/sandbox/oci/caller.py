"""Who called: the parent that a container is to have, and whose limits and cgroups it starts from.

That is this very process, unless it carries a command out for another one: then that one starts
keel, so that the container becomes its caller's offspring and not ours.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    #: Start `keel create` with these descriptors: keel itself, the plan, the control socket, then
    #: the borrowed ones. The process id if it is this process's child, else 0.
    Spawn = Callable[[Sequence[int]], int]


class Caller:
    """`pid`: as in /proc. `spawn` None: this process starts keel. `keel`: a sealed memfd, or -1."""

    __slots__ = ("keel", "pid", "spawn")

    def __init__(self, pid: str = "self", spawn: Spawn | None = None, keel: int = -1) -> None:
        self.pid = pid
        self.spawn = spawn
        self.keel = keel


current = Caller()
