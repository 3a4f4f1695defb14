"""The question before something is removed that cannot be brought back. Shared by all `prune`."""

from __future__ import annotations

import os

from onggi.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_YES = (b"y", b"yes")


def agreed(*what: str) -> bool:
    """Whether the user wants `what` to be removed: asked at a terminal, or read from a pipe.

    Raises: InvalidArgument: nobody is there to be asked.
    """
    from onggi.faces.cli.prompt import ask, read_line  # noqa: PLC0415 - with --force nobody asks

    if os.isatty(0):
        return ask(_question(what)).strip().lower().encode() in _YES
    try:
        return read_line(0).strip().lower() in _YES
    except InvalidArgument:
        raise InvalidArgument(
            f"this removes {', '.join(what)}, and nobody is there to be asked", hint="say --force"
        ) from None


def _question(what: Sequence[str]) -> str:
    if len(what) == 1:
        return f"This removes {what[0]}. Go on? [y/N] "
    listed = "".join(f"  - {one}\n" for one in what)
    return f"This removes:\n{listed}Go on? [y/N] "
