"""`--filter key=value` as docker reads it: a key given twice matches either, keys are ANDed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onggi.errors import InvalidArgument


class Filters:
    """Parsed filters of one call."""

    def __init__(self, pairs: Sequence[str], known: Sequence[str]) -> None:
        """Parse.

        Raises:
            InvalidArgument: not `key=value`, or a key that this list does not have.
        """
        self._values: dict[str, list[str]] = {}
        for pair in pairs:
            key, separator, value = pair.partition("=")
            if not separator:
                raise InvalidArgument(f"invalid filter {pair!r}", hint="write --filter KEY=VALUE")
            if key not in known:
                raise InvalidArgument(
                    f"unknown filter {key!r}", hint=f"this list knows: {', '.join(sorted(known))}"
                )
            self._values.setdefault(key, []).append(value)

    def has(self, key: str) -> bool:
        """Whether the key was given."""
        return key in self._values

    def get(self, key: str) -> list[str]:
        """The values of a key; empty when it was not given."""
        return self._values.get(key, [])

    def accepts(self, key: str, value: str) -> bool:
        """The key was not given, or one of its values is this."""
        return key not in self._values or value in self._values[key]

    def accepts_part(self, key: str, value: str) -> bool:
        """As `accepts`, with values that match a part."""
        return key not in self._values or any(part in value for part in self._values[key])

    def accepts_id(self, key: str, object_id: str, name: str) -> bool:
        """As `accepts`, with values that are a name or the beginning of an id."""
        return key not in self._values or any(
            value == name or (value and object_id.startswith(value)) for value in self._values[key]
        )

    def accepts_label(self, labels: Mapping[str, str]) -> bool:
        """Every `label=KEY` and `label=KEY=VALUE` is there."""
        for wanted in self.get("label"):
            key, separator, value = wanted.partition("=")
            if key not in labels or (separator and labels[key] != value):
                return False
        return True
