"""Variables, labels, and the files that hold them."""

from __future__ import annotations

from onggi.errors import InvalidArgument, from_os_error
from onggi.faces.cli.options import BadValueError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def variable(text: str, environ: Mapping[str, str]) -> str | None:
    """`KEY=VALUE`, or `KEY` taken from `environ`; None when it is not there (left out)."""
    key, equals, _ = text.partition("=")
    if not key or "\0" in text:
        raise BadValueError("no name in front of =", "LANG=C.UTF-8")
    if equals:
        return text
    return f"{key}={environ[key]}" if key in environ else None


def label(text: str) -> tuple[str, str]:
    """`KEY=VALUE` or `KEY` (an empty value)."""
    key, _, value = text.partition("=")
    if not key:
        raise BadValueError("no name in front of =", "team=blue")
    return key, value


def lines(path: str, flag: str) -> list[str]:
    """The lines of an env or label file that say something; `#` begins a comment line.

    Raises: InvalidArgument for a file that is not text; EngineError when it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise from_os_error(error, f"{flag}: reading") from None
    try:
        text = content.removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{flag}: {path} is not utf-8 text ({error.reason})") from None
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        word = line.lstrip()
        if not word or word.startswith("#"):
            continue
        key = word.partition("=")[0]
        if not key or any(c.isspace() for c in key):
            raise InvalidArgument(f"{flag}: {path} line {number}: {key!r} is not a name")
        found.append(word)
    return found


def merged(pairs: Iterable[str]) -> list[str]:
    """`KEY=VALUE` pairs with the last of each key, in order of first appearance."""
    table: dict[str, str] = {}
    for pair in pairs:
        table[pair.partition("=")[0]] = pair
    return list(table.values())
