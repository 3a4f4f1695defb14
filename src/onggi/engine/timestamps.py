"""Moments as docker writes them."""

from __future__ import annotations

from datetime import UTC, datetime


def rfc3339(time_ns: int) -> str:
    """`2026-01-02T03:04:05.000000006Z`; docker's zero time for 0."""
    if not time_ns:
        return "0001-01-01T00:00:00Z"
    seconds, nanoseconds = divmod(time_ns, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"
