"""The base of every value that crosses the boundary of the engine."""

from __future__ import annotations

from msgspec import Struct


class Value(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Base of every value on the wire. A field nobody knows is a typing mistake: refused."""
