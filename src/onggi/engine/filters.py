"""`--filter key=value` as docker reads it: a key given twice matches either, keys are ANDed.

Of `label` and `label!` every one must hold. A name's filter is a pattern (`^web`), bounded so that
no pattern can keep the engine busy. Source: docker-ps(1), docker-images(1), docker-events(1).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from onggi.errors import InvalidArgument

#: What may repeat in a pattern; a name of 255 characters is searched at most so many times deep.
_MOST_REPEATS = 3
#: A repeated group, an extension, a back reference, sets that Python may come to read otherwise.
_NOT_HERE = re.compile(r"\)[*+?{]|\(\?|\\[0-9]|\[.*(?:\[|--|&&|~~|\|\|)")
_BOOLS = {"true": "true", "1": "true", "t": "true", "false": "false", "0": "false", "f": "false"}


class Filters:
    """Parsed filters of one call."""

    def __init__(
        self,
        pairs: Sequence[str],
        known: Sequence[str],
        *,
        values: Mapping[str, Collection[str]] | None = None,
        bools: Collection[str] = ("dangling",),
    ) -> None:
        """Parse. `values`: all that a key can have; `bools`: keys that are true or false.

        Raises:
            InvalidArgument: not `key=value`, a key or a value that this list does not have.
        """
        self._values: dict[str, list[str]] = {}
        self._patterns: dict[str, re.Pattern[str]] = {}
        for pair in pairs:
            key, separator, value = pair.partition("=")
            key = key.strip()
            if not separator:
                raise InvalidArgument(
                    f"invalid filter {pair[:100]!r}", hint="write --filter KEY=VALUE"
                )
            if key not in known:
                raise InvalidArgument(
                    f"unknown filter {key[:100]!r}",
                    hint=f"this list knows: {', '.join(sorted(known))}",
                )
            if key in bools:
                value = _one_of(key, value.lower(), _BOOLS, "true, false")
                value = _BOOLS[value]
            elif values and key in values:
                _one_of(key, value, values[key], ", ".join(values[key]))
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

    def accepts_any(self, key: str, values: Collection[str]) -> bool:
        """The key was not given, or one of its values is among these."""
        return key not in self._values or any(value in values for value in self._values[key])

    def accepts_part(self, key: str, value: str) -> bool:
        """As `accepts`, with values that are patterns of a part; `/web` is `web`.

        Raises:
            InvalidArgument: a pattern that cannot be read, or would take too long.
        """
        return key not in self._values or any(
            self._pattern(key, text).search(value) for text in self._values[key]
        )

    def _pattern(self, key: str, text: str) -> re.Pattern[str]:
        if text not in self._patterns:
            self._patterns[text] = _compile(key, text)
        return self._patterns[text]

    def accepts_id(self, key: str, object_id: str, name: str) -> bool:
        """As `accepts`, with values that are a name or the beginning of an id."""
        plain = object_id.removeprefix("sha256:")
        return key not in self._values or any(
            value == name or (value and plain.startswith(value.removeprefix("sha256:")))
            for value in self._values[key]
        )

    def accepts_label(self, labels: Mapping[str, str]) -> bool:
        """Every `label=KEY` and `label=KEY=VALUE` is there, and no `label!=…`."""
        return all(_has(labels, wanted) for wanted in self.get("label")) and not any(
            _has(labels, unwanted) for unwanted in self.get("label!")
        )


def _one_of(key: str, value: str, known: Collection[str], listed: str) -> str:
    if value not in known:
        raise InvalidArgument(
            f"invalid value {value[:100]!r} of filter {key}", hint=f"there are: {listed}"
        )
    return value


def _has(labels: Mapping[str, str], wanted: str) -> bool:
    key, separator, value = wanted.partition("=")
    return key in labels and (not separator or labels[key] == value)


def _compile(key: str, text: str) -> re.Pattern[str]:
    """A pattern whose search takes at most cubic time.

    Raises:
        InvalidArgument: it has more than that in it.
    """
    plain = text.removeprefix("^").removeprefix("/")
    plain = f"^{plain}" if text.startswith("^") else plain
    repeats = sum(map(plain.count, "*+{?"))
    if len(plain) > 256 or repeats > _MOST_REPEATS or _NOT_HERE.search(plain):
        raise InvalidArgument(
            f"filter {key}={text[:60]!r} is too complex",
            hint=f"at most {_MOST_REPEATS} of * + ? {{}}, and none behind a group",
        )
    try:
        return re.compile(plain)
    except re.error as error:
        raise InvalidArgument(f"filter {key}={text[:60]!r}: {error}") from None
