"""Doing one thing to several objects: each is tried, failures are told, the code says if any."""

from __future__ import annotations

from onggi.errors import EngineError, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onggi.faces.cli.verb import Context


def each(
    context: Context,
    targets: Sequence[str],
    act: Callable[[str], str | None],
    *,
    may_miss: bool = False,
) -> int:
    """`act` on each; prints the target, or what `act` answers. 1 when one failed, as docker.

    `may_miss`: one that is not there is told, and is no failure: a forced removal has its way.
    """
    failed = False
    for target in targets:
        try:
            said = act(target)
        except EngineError as error:
            context.err.line(f"onggi: {error}")
            failed = failed or not (may_miss and isinstance(error, NotFound))
            continue
        context.out.line(target if said is None else said)
    return 1 if failed else 0
