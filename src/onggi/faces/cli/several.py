"""Doing one thing to several objects: each is tried, failures are told, the code says if any."""

from __future__ import annotations

from onggi.errors import EngineError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onggi.faces.cli.verb import Context


def each(context: Context, targets: Sequence[str], act: Callable[[str], str | None]) -> int:
    """`act` on each; prints the target, or what `act` answers. 1 when one failed, as docker."""
    failed = False
    for target in targets:
        try:
            said = act(target)
        except EngineError as error:
            context.err.line(f"onggi: {error}")
            failed = True
            continue
        context.out.line(target if said is None else said)
    return 1 if failed else 0
