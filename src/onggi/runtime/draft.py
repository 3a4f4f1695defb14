"""A plan while it is being made: the parts that the planner's rooms fill, and the slots they use.

Only `plan` puts the parts in order; a room that adds a step says who must have acted before by the
list that it chooses.
"""

from __future__ import annotations

from onggi.errors import SpecError, Unsupported
from onggi.runtime.host import HostFacts
from onggi.runtime.namespaces import Namespaces
from onggi.runtime.request import StartRequest
from onggi.runtime.steps import (
    NO_SLOT,
    BindTree,
    IdmapTree,
    MakeNode,
    OpenPeerTree,
    OpenTree,
    Step,
    TakeTree,
)
from onggi.specs.runtime import Config, Linux

#: `required`: the start fails without it; `wanted`: a warning, and owners show as they are.


class Draft:
    """`trees`: before the clone, `idmaps`: after the id maps, `taken`: then, `inside`: then,
    `late`: last."""

    def __init__(self, config: Config, host: HostFacts, request: StartRequest) -> None:
        self.config = config
        self.linux = config.linux or Linux()
        self.host = host
        self.request = request
        self.namespaces = Namespaces.of(self.linux, of_host=not host.unprivileged)
        self.trees: list[OpenTree | OpenPeerTree | MakeNode] = []
        self.idmaps: list[IdmapTree] = []
        self.taken: list[TakeTree] = []
        self.inside: list[Step] = []
        self.late: list[Step] = []
        self.warnings: list[str] = []
        self._next_slot = request.borrowed

    def slot(self, path: str) -> int:
        """A slot that nothing is in yet; `path` is the JSON path of what needs it.

        Raises:
            SpecError: all are taken.
        """
        if self._next_slot >= NO_SLOT:
            raise SpecError(
                path, f"one container takes no more than {NO_SLOT} mounts from the host"
            )
        self._next_slot += 1
        return self._next_slot - 1

    def open_tree(
        self,
        source: str,
        path: str,
        *,
        recursive: bool = False,
        idmap: bool = False,
        optional: bool = False,
        held: str = "",
    ) -> int:
        """Have the host's mount at `source` taken into a slot, which is returned.

        By the monitor, before anything of the container exists; an ordinary user may copy mounts
        only in a namespace of the own, so there init does it with the first of its steps.
        `held`: the name of a descriptor of it, to be taken instead. `idmap`: with the owners of
        the container's user namespace.
        """
        slot = self.slot(path)
        name = held or source
        if self.host.own_ids is not None:
            self.taken.append(
                TakeTree(slot=slot, path=name, recursive=int(recursive), optional=optional)
            )
        else:
            self.trees.append(
                OpenTree(
                    slot=slot,
                    path=name,
                    recursive=int(recursive),
                    source=source if held else "",
                    optional=optional,
                )
            )
        if idmap:
            self.map_owners(IdmapTree(slot=slot, recursive=int(recursive)), path)
        return slot

    def map_owners(self, step: IdmapTree, path: str) -> None:
        """Have a tree show other owners than it has on disk.

        Raises:
            Unsupported: an ordinary user asks for it.
        """
        if self.host.own_ids is not None and not step.optional:
            raise Unsupported(
                f"{path}: the owners of a mount are mapped by root of the host only",
                hint="leave out idmap and the mappings, or run as root",
            )
        if self.host.own_ids is None:
            self.idmaps.append(step)

    def open_peer_tree(self, namespace: str, source: str, path: str) -> int:
        """The same for the mount at `source` in another container's mount namespace."""
        slot = self.slot(path)
        self.trees.append(OpenPeerTree(slot=slot, namespace=namespace, path=source))
        return slot

    def bind(
        self, source: str, target: str, path: str, propagation: int, *, attributes: int = 0
    ) -> None:
        """Bind one mount of the host as it is, without those below it."""
        self.inside.append(
            BindTree(
                slot=self.open_tree(source, path),
                target=target,
                attributes_set=attributes,
                propagation=propagation,
            )
        )

    def warn(self, path: str, message: str) -> None:
        """Note what was left out, by the JSON path of who asked for it."""
        self.warnings.append(f"{path}: {message}")
