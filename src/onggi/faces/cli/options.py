"""Options as data: one table of a verb serves its parser, its help and the completion scripts.

Own code for argparse's work: argparse costs 9 ms to import, wants every parser built before one is
used, and words its errors its own way. Follows docker's rules: `-it`, `-eKEY`, `--name=x`,
`--rm=false`, `--`. Knows no verb.
"""

from __future__ import annotations

from onggi.errors import InvalidArgument
from onggi.faces.cli.suggest import nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

_TRUE = frozenset(("1", "t", "T", "true", "TRUE", "True"))
_FALSE = frozenset(("0", "f", "F", "false", "FALSE", "False"))


class BadValueError(ValueError):
    """A value that cannot be read: why, and what a good one looks like."""

    def __init__(self, reason: str, example: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.example = example


def invalid(flag: str, text: str, error: BadValueError) -> InvalidArgument:
    """The one line that a user gets for a bad value."""
    advice = f"; write for instance {error.example}" if error.example else ""
    return InvalidArgument(f'invalid value "{text}" for {flag}: {error.reason}{advice}')


class Option:
    """One option. `value` is its placeholder in help ("" makes it a switch).

    `parse` turns the text into a value or raises BadValueError; `many` collects every occurrence.
    `complete`: what a shell offers (`container`, `image`, `volume`, `network`, `file`, or words).
    """

    __slots__ = ("complete", "default", "group", "help", "key", "many", "names", "parse", "value")

    def __init__(
        self,
        names: str,
        help: str,
        *,
        value: str = "",
        parse: Callable[[str], Any] | None = None,
        many: bool = False,
        default: Any = None,
        group: str = "",
        complete: str = "",
    ) -> None:
        self.names = tuple(names.split())
        self.help = help
        self.value = value
        self.parse = parse
        self.many = many
        self.default = default
        self.group = group
        self.complete = complete
        self.key = max(self.names, key=len).lstrip("-")

    @property
    def long(self) -> str:
        """The name that messages use."""
        return f"--{self.key}" if len(self.key) > 1 else f"-{self.key}"


class Parsed:
    """What a command line said: values by option key, and the arguments that are no options."""

    __slots__ = ("_values", "arguments", "help")

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self.arguments: list[str] = []
        self.help = False

    def set(self, option: Option, value: Any) -> None:
        """Last one wins, unless the option collects."""
        if option.many:
            self._values.setdefault(option.key, []).append(value)
        else:
            self._values[option.key] = value

    def get(self, key: str, default: Any = None) -> Any:
        """The value of `--key`."""
        return self._values.get(key, default)

    def on(self, key: str) -> bool:
        """Whether a switch is on."""
        return bool(self._values.get(key, False))

    def text(self, key: str, default: str = "") -> str:
        """The text of an option without a parser."""
        return str(self._values.get(key, default))

    def many(self, key: str) -> list[Any]:
        """Every occurrence of a collecting option."""
        return list(self._values.get(key, ()))


def _switch(text: str) -> bool:
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise BadValueError("neither true nor false", "true")


class _Reader:
    """One pass over an argv with one table."""

    def __init__(self, verb: str, options: Sequence[Option]) -> None:
        self._verb = verb
        self._table = {name: option for option in options for name in option.names}
        self.parsed = Parsed()

    def read(self, argv: Sequence[str], interspersed: bool) -> Parsed:
        words = list(argv)
        while words:
            word = words.pop(0)
            if word == "--":
                self.parsed.arguments += words
                break
            if word == "-" or not word.startswith("-"):
                self.parsed.arguments.append(word)
                if not interspersed:
                    self.parsed.arguments += words
                    break
            elif word.startswith("--"):
                self._long(word, words)
            else:
                self._short(word, words)
            if self.parsed.help:
                break
        return self.parsed

    def _long(self, word: str, words: list[str]) -> None:
        name, equals, text = word.partition("=")
        option = self._table.get(name)
        if option is None:
            if name == "--help":
                self.parsed.help = True
                return
            raise self._unknown(name)
        if not option.value:
            self._set(option, name, text if equals else "true")
        elif equals:
            self._set(option, name, text)
        else:
            self._set(option, name, self._following(name, option, words))

    def _short(self, word: str, words: list[str]) -> None:
        for at in range(1, len(word)):
            name = f"-{word[at]}"
            option = self._table.get(name)
            if option is None:
                if word == "-h":
                    self.parsed.help = True
                    return
                raise self._unknown(name if at == 1 else f"{name} (in {word})")
            rest = word[at + 1 :]
            if not option.value:
                if rest.startswith("="):
                    self._set(option, name, rest[1:])
                    return
                self._set(option, name, "true")
                continue
            text = rest.removeprefix("=") if rest else self._following(name, option, words)
            self._set(option, name, text)
            return

    def _following(self, name: str, option: Option, words: list[str]) -> str:
        if not words:
            raise InvalidArgument(
                f"{name} needs a value", hint=f"{name} {option.value}: {option.help}"
            )
        return words.pop(0)

    def _set(self, option: Option, name: str, text: str) -> None:
        parse = option.parse if option.value else _switch
        try:
            self.parsed.set(option, parse(text) if parse else text)
        except BadValueError as error:
            raise invalid(name, text, error) from None

    def _unknown(self, name: str) -> InvalidArgument:
        meant = nearest(name, [known for known in self._table if known.startswith("--")])
        command = f"onggi {self._verb}".rstrip()
        hint = f"did you mean {meant}?" if meant else f"{command} --help lists them all"
        from onggi.faces.cli import instead  # noqa: PLC0415 - only once something is wrong

        hint = instead.hint(self._verb, name.partition(" ")[0]) or hint
        return InvalidArgument(f"{command} has no option {name}", hint=hint)


def parse(
    verb: str, options: Sequence[Option], argv: Sequence[str], *, interspersed: bool = True
) -> Parsed:
    """Read `argv`. Not `interspersed`: the first argument ends the options, as for `run`.

    Raises: InvalidArgument, one line with the nearest name or an example.
    """
    return _Reader(verb, options).read(argv, interspersed)
