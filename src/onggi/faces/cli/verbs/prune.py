"""`container prune`, `image prune`, `volume prune` and `system prune`: what nobody uses goes."""

from __future__ import annotations

from onggi.errors import InvalidArgument
from onggi.faces.cli import human
from onggi.faces.cli.confirm import agreed
from onggi.faces.cli.options import Option
from onggi.faces.cli.verb import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from onggi.faces.cli.options import Parsed
    from onggi.faces.cli.verb import Context

_STOPPED = "all stopped containers"
_NETWORKS = "all networks that no container is in"
_VOLUMES = "all anonymous volumes that no container uses"
_ALL_VOLUMES = "all volumes that no container uses"
_NAMELESS = "all images without a name"
_UNUSED = "all images that no container uses"


def _images(every: bool) -> str:
    return _UNUSED if every else _NAMELESS


def _listed(context: Context, title: str, removed: Sequence[str]) -> None:
    """One kind, under its title; nothing when nothing went."""
    if removed:
        lines = "".join(f"{one}\n" for one in removed)
        context.out.text(f"{title}:\n{lines}\n")


def _total(context: Context, freed_bytes: int) -> None:
    context.out.line(f"Total reclaimed space: {human.size(freed_bytes)}")


def _sweep(context: Context, call: str, title: str, request: dict[str, Any]) -> int:
    """Carry out one call of SweepRequest's; bytes freed."""
    answer = context.client.call(call, request)
    _listed(context, title, answer.get("removed", ()))
    return int(answer.get("freed_bytes", 0))


def _sweep_images(context: Context, every: bool, filters: list[str]) -> int:
    answer = context.client.call("images.prune", {"every": every, "filters": filters})
    untagged = [f"untagged: {name}" for name in answer.get("untagged", ())]
    deleted = [f"deleted: {digest}" for digest in answer.get("deleted", ())]
    _listed(context, "Deleted Images", untagged + deleted)
    return int(answer["freed_bytes"])


def _prune_containers(context: Context, parsed: Parsed) -> int:
    if not parsed.on("force") and not agreed(_STOPPED):
        return 0
    request = {"filters": parsed.many("filter")}
    _total(context, _sweep(context, "containers.prune", "Deleted Containers", request))
    return 0


def _prune_images(context: Context, parsed: Parsed) -> int:
    every = parsed.on("all")
    if not parsed.on("force") and not agreed(_images(every)):
        return 0
    _total(context, _sweep_images(context, every, parsed.many("filter")))
    return 0


def _prune_volumes(context: Context, parsed: Parsed) -> int:
    every = parsed.on("all")
    if not parsed.on("force") and not agreed(_ALL_VOLUMES if every else _VOLUMES):
        return 0
    request = {"every": every, "filters": parsed.many("filter")}
    _total(context, _sweep(context, "volumes.prune", "Deleted Volumes", request))
    return 0


def _prune_system(context: Context, parsed: Parsed) -> int:
    every, volumes, filters = parsed.on("all"), parsed.on("volumes"), parsed.many("filter")
    if volumes and any(one.startswith("until=") for one in filters):
        raise InvalidArgument(
            "the filter until is not for volumes", hint="leave out --volumes, or until"
        )
    what = (_STOPPED, _NETWORKS, *([_VOLUMES] if volumes else []), _images(every))
    if not parsed.on("force") and not agreed(*what):
        return 0
    request = {"filters": filters}
    freed = _sweep(context, "containers.prune", "Deleted Containers", request)
    freed += _sweep(context, "networks.prune", "Deleted Networks", request)
    if volumes:
        freed += _sweep(context, "volumes.prune", "Deleted Volumes", request)
    freed += _sweep_images(context, every, filters)
    _total(context, freed)
    return 0


_FORCE = Option("-f --force", "do not ask")


def _filter(keys: str) -> Option:
    return Option("--filter", f"KEY=VALUE: {keys}", value="FILTER", many=True)


VERBS = {
    "containers": Verb(
        _prune_containers,
        most=0,
        options=(_FORCE, _filter("until, label, label!")),
        examples=(("onggi container prune --filter until=24h", "those made a day ago or before"),),
    ),
    "images": Verb(
        _prune_images,
        most=0,
        options=(
            Option("-a --all", "images with a name too, when no container uses them"),
            _FORCE,
            _filter("until, label, label!, dangling"),
        ),
        examples=(
            ("onggi image prune", "images without a name"),
            ("onggi image prune -a --filter until=240h", "what is older than ten days and unused"),
        ),
    ),
    "volumes": Verb(
        _prune_volumes,
        most=0,
        options=(
            Option("-a --all", "volumes with a name too"),
            _FORCE,
            _filter("label, label!"),
        ),
        examples=(
            ("onggi volume prune", "those without a name: their containers are gone"),
            ("onggi volume prune -a --filter label=test", "all with a label"),
        ),
    ),
    "system": Verb(
        _prune_system,
        most=0,
        options=(
            Option("-a --all", "images with a name too, when no container uses them"),
            Option("--volumes", "anonymous volumes that no container uses, too"),
            _FORCE,
            _filter("until, label, label!"),
        ),
        examples=(("onggi system prune -a --volumes", "what is not in use goes"),),
    ),
}
