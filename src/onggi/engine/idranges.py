"""Which 65,536 host ids belong to which running container.

Owners on disk are never shifted (ARCHITECTURE.md), so a range is lent for one run only: while
the container's user namespace lives, nobody else has it. Two engines draw from the same pool of the
host; each starts at a place of its own, so that they meet only when one has used up what lies
between.
"""

from __future__ import annotations

from onggi.engine.compose import ID_RANGE
from onggi.errors import ResourceExhausted, Unsupported
from onggi.runtime.own_ids import IdPool


class IdRanges:
    """Free and lent ranges of one pool. An owner (a container's id) has one at most."""

    def __init__(self, pool: IdPool | None, instance: str) -> None:
        self.start = pool.start if pool else 0
        self._count = pool.size // ID_RANGE if pool else 0
        self._lent: dict[str, int] = {}
        self._next = sum(instance.encode()) * 97 % self._count if self._count else 0

    def lend(self, owner: str) -> int:
        """The first host id of a free range.

        Raises:
            ResourceExhausted: all are lent.
        """
        taken = set(self._lent.values())
        for _ in range(self._count):
            base = self.start + self._next * ID_RANGE
            self._next = (self._next + 1) % self._count
            if base not in taken:
                self._lent[owner] = base
                return base
        if not self._count:
            raise Unsupported(
                "this user has no ids to give to containers",
                hint="add a line for it to /etc/subuid and /etc/subgid, or use --userns host",
            )
        raise ResourceExhausted(
            f"all {self._count} id ranges of this host are in use",
            hint="stop containers, enlarge onggi's range in /etc/subuid, or use --userns host",
        )

    def keep(self, owner: str, base: int) -> None:
        """Note that a container which already runs has this range."""
        self._lent[owner] = base

    def give_back(self, owner: str) -> None:
        """The owner's range is free again. Idempotent: by then it may be somebody else's."""
        self._lent.pop(owner, None)
