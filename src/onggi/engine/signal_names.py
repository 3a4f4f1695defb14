"""Signals as people write them. Source: signal(7), docker-kill(1)."""

from __future__ import annotations

import signal

from onggi.errors import InvalidArgument


def parse_signal(text: str) -> int:
    """`TERM`, `SIGTERM`, `rtmin+3` or `15`.

    Raises:
        InvalidArgument: no such signal.
    """
    name = text.upper().removeprefix("SIG")
    if name.isascii() and name.isdecimal() and 1 <= int(name) <= signal.SIGRTMAX:
        return int(name)
    base, plus, offset = name.partition("+")
    member = getattr(signal, f"SIG{base}", None)
    if not isinstance(member, signal.Signals) or (plus and not offset.isdecimal()):
        raise InvalidArgument(f"unknown signal {text!r}", hint="write TERM, SIGTERM or 15")
    number = int(member) + int(offset or 0)
    if number > signal.SIGRTMAX:
        raise InvalidArgument(f"unknown signal {text!r}", hint="the highest is RTMAX")
    return number
