"""Functions of `--format` templates: docker's own, and those of Go that do not touch control flow.

Texts are counted in characters, not bytes. What a function makes of an image's text is printable;
`json` and the comparisons see it as it is.
Source: docs.docker.com/engine/cli/formatting, pkg.go.dev/text/template "Functions", pkg.go.dev/fmt.
"""

from __future__ import annotations

from onggi.faces.cli.output import printable
from onggi.faces.cli.template_tokens import Made
from onggi.specs import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any


class CallError(Exception):
    """A function was called with what it cannot use; the text says why."""


class Map(dict):  # type: ignore[type-arg]  # keys and values are whatever JSON has
    """An object with keys of its user's choice (labels, ports): any key may be missing."""

    __slots__ = ()


#: What follows a number in a format: flags, width, precision.
_FLAGS = "+-# 0"


def shown(value: Any) -> str:
    """A value as `{{…}}` prints it: Go's `%v`, with control characters made visible."""
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, (list, tuple)):
        return f"[{' '.join(map(_inner, value))}]"
    if isinstance(value, dict):
        pairs = (f"{printable(str(key))}:{_inner(value[key])}" for key in sorted(value))
        return f"map[{' '.join(pairs)}]"
    if isinstance(value, float):
        return format(value, ".15g")
    return (
        {None: "<no value>", True: "true", False: "false"}[value]
        if _is_constant(value)
        else str(value)
    )


def _is_constant(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _inner(value: Any) -> str:
    return "<nil>" if value is None else shown(value)


def _clean(text: str) -> Made:
    return text if isinstance(text, Made) else Made(printable(text))


def _text(value: Any) -> Made:
    if not isinstance(value, str):
        raise CallError(f"{type_name(value)} is no text")
    return _clean(value)


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise CallError(f"{type_name(value)} is no whole number")
    return value


def type_name(value: Any) -> str:
    """What a value is, in words."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return f'the text "{printable(value[:40])}"'
    for kind, name in (
        (bool, "a bool"), (int, "a number"), (float, "a number"), (dict, "a map"),
    ):  # fmt: skip
        if isinstance(value, kind):
            return name
    return "a list"


# -- docker's --------------------------------------------------------------------------------


def _json(value: Any) -> Made:
    return Made(jsontext.text(value))


def _join(items: Any, separator: Any) -> Made:
    if not isinstance(items, (list, tuple)):
        raise CallError(f"{type_name(items)} is no list")
    return Made(_text(separator).join(_text(item) for item in items))


def _split(text: Any, separator: Any) -> list[Made]:
    if not separator:
        return list(map(Made, _text(text)))
    return list(map(Made, _text(text).split(_text(separator))))


def _title(text: Any) -> Made:
    """The first letter of each word as a capital, the others as they are."""
    made, before = "", " "
    for char in _text(text):
        made += char if before.isalnum() or before in "_'" else char.upper()
        before = char
    return Made(made)


def _pad(text: Any, before: Any, behind: Any) -> Made:
    source = _text(text)
    return Made(f"{' ' * _number(before)}{source}{' ' * _number(behind)}") if source else source


def _truncate(text: Any, length: Any) -> Made:
    return Made(_text(text)[: max(0, _number(length))])


# -- Go's ------------------------------------------------------------------------------------


def _len(value: Any) -> int:
    if not isinstance(value, (str, list, tuple, dict)):
        raise CallError(f"{type_name(value)} has no length")
    return len(value)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, dict):
            plain = dict.get(value, _plain(key))
            if plain is None and all(isinstance(one, str) for one in value.values()):
                plain = ""
            value = plain
        elif isinstance(value, (list, tuple)):
            if not 0 <= _number(key) < len(value):
                raise CallError(f"index out of range: {key} of {len(value)}")
            value = value[key]
        else:
            raise CallError(f"{type_name(value)} has no parts")
    return value


def _plain(key: Any) -> Any:
    if not isinstance(key, str):
        raise CallError(f"a map has texts as keys, not {type_name(key)}")
    return str(key)


def _slice(value: Any, *bounds: Any) -> Any:
    if not isinstance(value, (str, list, tuple)):
        raise CallError(f"{type_name(value)} cannot be cut")
    value = _clean(value) if isinstance(value, str) else value
    if len(bounds) > 2:
        raise CallError("at most two bounds")
    start, end = (*map(_number, bounds), *(0, len(value))[len(bounds) :])
    if not 0 <= start <= end <= len(value):
        raise CallError(f"bounds {start}:{end} are not within {len(value)}")
    part = value[start:end]
    return Made(part) if isinstance(part, str) else part


def _kind(value: Any) -> type:
    if isinstance(value, bool):
        return bool
    if isinstance(value, (int, float)):
        return float
    if isinstance(value, str):
        return str
    raise CallError(f"{type_name(value)} cannot be compared")


def _same(first: Any, other: Any) -> bool:
    if first is None or other is None:
        return first is other
    kinds = (_kind(first), _kind(other))
    if set(kinds) == {float, str}:  # docker reads a number of inspect as either: eq .ExitCode "0"
        return shown(first) == shown(other)
    if kinds[0] is not kinds[1]:
        raise CallError(f"{type_name(first)} and {type_name(other)} cannot be compared")
    return bool(first == other)


def _eq(first: Any, other: Any, *more: Any) -> bool:
    return any(_same(first, one) for one in (other, *more))


def _less(first: Any, other: Any) -> bool:
    if _kind(first) is not _kind(other) or _kind(first) is bool:
        raise CallError(f"{type_name(first)} and {type_name(other)} have no order")
    return bool(first < other)


def _print(*values: Any) -> Made:
    """Go's Sprint: a space between two operands when neither is a text."""
    made = ""
    for at, value in enumerate(values):
        between = at and not isinstance(value, str) and not isinstance(values[at - 1], str)
        made += (" " if between else "") + shown(value)
    return Made(made)


def _printf(form: Any, *values: Any) -> Made:
    rest, made, left = str(_text(form)), "", list(values)
    while rest:
        plain, percent, rest = rest.partition("%")
        made += plain
        if not percent:
            break
        options = rest[: len(rest) - len(rest.lstrip(_FLAGS + "123456789."))]
        verb, rest = rest[len(options) : len(options) + 1], rest[len(options) + 1 :]
        if verb == "%":
            made += "%"
        elif not left:
            raise CallError(f"%{options}{verb} has no value")
        else:
            made += _verb(options, verb, left.pop(0))
    if left:
        raise CallError(f"{len(left)} more values than % signs")
    return Made(made)


def _verb(options: str, verb: str, value: Any) -> str:
    flags = options[: len(options) - len(options.lstrip(_FLAGS))]
    width, _, precision = options[len(flags) :].partition(".")
    if len(width) > 3 or len(precision) > 3 or "." in precision:
        raise CallError(f"%{options}{verb} is too wide")
    if verb in ("d", "x", "X", "o", "b", "c"):
        text = format(_number(value), f"{'+' if '+' in flags else ''}{verb}")
    elif verb in ("f", "e", "g"):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise CallError(f"{type_name(value)} is no number")
        text = format(float(value), f".{precision or 6}{verb}")
    elif verb in ("s", "v", "q", "t"):
        text = jsontext.text(str(_text(value))) if verb == "q" else shown(value)
        text = text[: int(precision)] if precision else text
    else:
        raise CallError(f"unknown %{verb}")
    if "-" in flags:
        return text.ljust(int(width or 0))
    return text.zfill(int(width or 0)) if "0" in flags else text.rjust(int(width or 0))


#: name → (least arguments, most or None, the function).
FUNCTIONS: dict[str, tuple[int, int | None, Callable[..., Any]]] = {
    "eq": (2, None, _eq),
    "ge": (2, 2, lambda a, b: not _less(a, b)),
    "gt": (2, 2, lambda a, b: _less(b, a)),
    "index": (1, None, _index),
    "join": (2, 2, _join),
    "json": (1, 1, _json),
    "le": (2, 2, lambda a, b: not _less(b, a)),
    "len": (1, 1, _len),
    "lower": (1, 1, lambda text: Made(_text(text).lower())),
    "lt": (2, 2, _less),
    "ne": (2, 2, lambda a, b: not _same(a, b)),
    "not": (1, 1, lambda value: not value),
    "pad": (3, 3, _pad),
    "print": (0, None, _print),
    "printf": (1, None, _printf),
    "println": (0, None, lambda *values: Made(" ".join(map(shown, values)) + "\n")),
    "slice": (1, 3, _slice),
    "split": (2, 2, _split),
    "title": (1, 1, _title),
    "truncate": (2, 2, _truncate),
    "upper": (1, 1, lambda text: Made(_text(text).upper())),
}
#: Those that a heading passes through unchanged. Source: docker/cli templates, HeaderFunctions.
OF_CELLS = frozenset(("join", "json", "lower", "pad", "split", "title", "truncate", "upper"))
#: Every name that a command may begin with; `and` and `or` look at no more than they need.
NAMES: Sequence[str] = tuple(sorted((*FUNCTIONS, "and", "or")))


def call(name: str, arguments: Sequence[Any]) -> Any:
    """What a function answers.

    Raises: CallError.
    """
    least, most, function = FUNCTIONS[name]
    if len(arguments) < least or (most is not None and len(arguments) > most):
        wanted = f"{least}" if most == least else f"{least} or more"
        raise CallError(f"it takes {wanted} arguments, not {len(arguments)}")
    return function(*arguments)
