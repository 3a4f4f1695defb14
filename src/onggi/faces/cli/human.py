"""Sizes, ages and moments as people read them. Pure."""

from __future__ import annotations

import time


def size(size_bytes: int, *, binary: bool = False) -> str:
    """`1.25MB` in powers of 1000, or `1.192MiB` in powers of 1024; four figures as docker."""
    base, units = (1024, ("B", "KiB", "MiB", "GiB", "TiB")) if binary else (
        1000, ("B", "kB", "MB", "GB", "TB"))  # fmt: skip
    value = float(size_bytes)
    at = 0
    while value >= base and at < len(units) - 1:
        value /= base
        at += 1
    return f"{value:.4g}{units[at]}" if binary else f"{value:.3g}{units[at]}"


#: up to this many seconds → how many seconds one of the unit has, and its name.
_STEPS = (
    (60, 1, "second"),
    (120, 60, "about a minute"),
    (3600, 60, "minute"),
    (5400, 3600, "about an hour"),
    (48 * 3600, 3600, "hour"),
    (14 * 86400, 86400, "day"),
    (60 * 86400, 7 * 86400, "week"),
    (730 * 86400, 30 * 86400, "month"),
)


def duration(seconds: float) -> str:
    """`3 minutes`, `About an hour`, `2 weeks`: docker's words."""
    if seconds < 1:
        return "Less than a second"
    for limit, unit_s, unit in _STEPS:
        if seconds < limit:
            if unit.startswith("about"):
                return unit.capitalize()
            return _count(int(seconds // unit_s), unit)
    return _count(int(seconds // (365 * 86400)), "year")


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"


def ago(then_ns: int, now_ns: int) -> str:
    """`5 minutes ago`; an empty text for no moment."""
    return f"{duration(max(0, now_ns - then_ns) / 1e9)} ago" if then_ns else ""


def timestamp(moment_ns: int) -> str:
    """A moment in local time, to the second, with its offset."""

    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(moment_ns / 1e9))


def timestamp_nano(moment_ns: int) -> str:
    """RFC 3339 in UTC with nanoseconds."""

    whole, nano = divmod(moment_ns, 10**9)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{nano:09d}Z"
