"""argv by runc's rules: `-x` and `--x`, `--x=v` and `--x v`.

Own code for argparse's work, which costs 9 ms to import.
"""

from __future__ import annotations

from onggi.errors import InvalidArgument

#: What an option takes: nothing, one value, or a value each time that it is given.
SWITCH, VALUE, MANY = "switch", "value", "many"
_TRUE = frozenset(("1", "t", "T", "true", "TRUE", "True"))
_FALSE = frozenset(("0", "f", "F", "false", "FALSE", "False"))


class Arguments:
    """What a command line said: values by the option's long name, and what follows the options."""

    __slots__ = ("rest", "values")

    def __init__(self) -> None:
        self.values: dict[str, str | bool | list[str]] = {}
        self.rest: list[str] = []

    def text(self, name: str, default: str = "") -> str:
        """The value of `--name`."""
        value = self.values.get(name, default)
        return value if isinstance(value, str) else default

    def on(self, name: str) -> bool:
        """Whether the switch `--name` is on."""
        return self.values.get(name) is True

    def many(self, name: str) -> list[str]:
        """Every value of `--name`."""
        value = self.values.get(name, [])
        return value if isinstance(value, list) else []

    def number(self, name: str, default: int = 0) -> int:
        """The value of `--name` as a number.

        Raises:
            InvalidArgument: it is none.
        """
        text = self.text(name, str(default))
        try:
            return int(text)
        except ValueError:
            raise InvalidArgument(f"--{name} takes a number, not {text!r}") from None


def parse(table: dict[str, str], words: list[str], *, anywhere: bool = False) -> Arguments:
    """Read options until the first word that is none, or `anywhere` until `--`.

    `table`: names (`b bundle`) → what it takes.

    Raises:
        InvalidArgument: an unknown option, or one without its value.
    """
    kinds = {
        name: (names.split()[-1], kind) for names, kind in table.items() for name in names.split()
    }
    found = Arguments()
    at = 0
    while at < len(words):
        word = words[at]
        if not word.startswith("-") or word == "-":
            if not anywhere:
                break
            found.rest.append(word)
            at += 1
            continue
        at += 1
        if word == "--":
            break
        name, equals, value = word.lstrip("-").partition("=")
        if name not in kinds:
            raise InvalidArgument(f"flag provided but not defined: -{name}")
        long, kind = kinds[name]
        if kind == SWITCH:
            found.values[long] = _switch(long, value) if equals else True
            continue
        if not equals:
            if at == len(words):
                raise InvalidArgument(f"flag needs an argument: -{name}")
            value = words[at]
            at += 1
        if kind == MANY:
            found.values[long] = [*found.many(long), value]
        else:
            found.values[long] = value
    found.rest += words[at:]
    return found


def _switch(name: str, value: str) -> bool:
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise InvalidArgument(f"--{name} is true or false, not {value!r}")


def one_id(arguments: Arguments) -> str:
    """The only argument.

    Raises:
        InvalidArgument: there is none, or more.
    """
    if len(arguments.rest) != 1:
        raise InvalidArgument("a container id is needed, and nothing more")
    return arguments.rest[0]
