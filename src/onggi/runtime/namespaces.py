"""The namespaces of a configuration: which are new, which are joined, who owns them.

Turns them into the clone, the id maps and the time offsets. It knows nothing of mounts.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from onggi.errors import Unsupported
from onggi.kernel.namespaces import FILES
from onggi.runtime.host import HostFacts
from onggi.runtime.steps import CLONE_FLAGS, CloneInto, SetTimeOffsets, Step
from onggi.specs.runtime import IdMapping, Linux, TimeOffset

#: Made by a step of their own: a cgroup namespace after its cgroup is joined, so that this cgroup
#: is its root; a time namespace before the clone, because only a child can be in a new one.
_MADE_APART = frozenset({"cgroup", "time"})


class Namespaces(Struct, frozen=True):
    """`new`: types made for this container. `joined`: (type, path) in the configuration's order.

    `of_host`: the others are the host's own, not those around a user namespace that we are in.
    """

    new: frozenset[str]
    joined: tuple[tuple[str, str], ...]
    of_host: bool = True

    @classmethod
    def of(cls, linux: Linux, *, of_host: bool = True) -> Namespaces:
        """The namespaces that a valid configuration asks for."""
        return cls(
            frozenset(n.type for n in linux.namespaces if not n.path),
            tuple((n.type, n.path) for n in linux.namespaces if n.path),
            of_host,
        )

    def joins(self, kind: str) -> bool:
        """Whether one of this type is joined."""
        return any(joined == kind for joined, _ in self.joined)

    def has(self, kind: str) -> bool:
        """Whether it is another than the engine's."""
        return kind in self.new or self.joins(kind)

    @property
    def own_users(self) -> bool:
        """Whether ids inside are not the host's."""
        return self.has("user")

    def owns(self, kind: str) -> bool:
        """Whether the container's root has power over its namespace of this type.

        A namespace belongs to the user namespace that it was made in: a new user namespace has no
        power over one that is joined or the host's. A joined one is taken to have been made
        together with the others that are joined.
        Source: user_namespaces(7) "Interaction of user namespaces and other types of namespaces".
        """
        if "user" in self.new:
            return kind in self.new
        return self.has(kind) or (self.of_host and not self.own_users)

    @property
    def flags(self) -> int:
        """CLONE_NEW* of every type that is new or joined: what an exec enters."""
        kinds = self.new | {kind for kind, _ in self.joined}
        return sum(CLONE_FLAGS[kind] for kind in kinds)


def require_kinds(namespaces: Namespaces, host: HostFacts) -> None:
    """Refuse what this kernel cannot make or join.

    Raises:
        Unsupported: it lacks a type of namespace.
    """
    missing = (namespaces.new | {kind for kind, _ in namespaces.joined}) - host.namespaces
    if "user" in missing:
        raise Unsupported(
            "user namespaces are not available on this host",
            hint="enable them with `sysctl user.max_user_namespaces=15000`",
        )
    if missing:
        raise Unsupported(
            f"this kernel has no {' and no '.join(sorted(missing))} namespaces",
            hint="use a kernel built with CONFIG_NAMESPACES and all that it offers",
        )


def time_steps(linux: Linux, namespaces: Namespaces) -> list[Step]:
    """A new time namespace, with its offsets if there are any."""
    if "time" not in namespaces.new:
        return []
    offsets = linux.time_offsets or {"monotonic": TimeOffset()}  # the kernel takes no empty text
    lines = [f"{clock} {offset.secs} {offset.nanosecs}\n" for clock, offset in offsets.items()]
    return [SetTimeOffsets(offsets="".join(lines))]


def clone_step(namespaces: Namespaces, cgroup_slot: int) -> CloneInto:
    """Init, in all that is new and all that is joined."""
    return CloneInto(
        flags=sum(CLONE_FLAGS[kind] for kind in namespaces.new - _MADE_APART),
        joins=tuple(f"{FILES[kind]}:{path}" for kind, path in namespaces.joined),
        cgroup_slot=cgroup_slot,
    )


def map_text(mappings: Sequence[IdMapping]) -> str:
    """A map as /proc/PID/uid_map takes it."""
    return "".join(f"{m.container_id} {m.host_id} {m.size}\n" for m in mappings)


def is_mapped(mappings: Sequence[IdMapping], number: int) -> bool:
    """Whether an id of the container has one outside."""
    return host_id(mappings, number) is not None


def host_id(mappings: Sequence[IdMapping], number: int) -> int | None:
    """What an id of the container is outside; None: nobody's."""
    for mapping in mappings:
        if mapping.container_id <= number < mapping.container_id + mapping.size:
            return mapping.host_id + number - mapping.container_id
    return None
