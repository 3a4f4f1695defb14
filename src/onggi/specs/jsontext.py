"""JSON text for command lines, without the price of `import json` (8 ms, through `re`).

Uses the C scanner and encoder that `json` itself uses, and falls back to `json` where an
interpreter lacks them. Knows nothing about what it says.
"""

from __future__ import annotations

from onggi.errors import DataLoss, InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class _Settings:
    """What the C scanner asks of its context (`json.decoder.JSONDecoder` has the same fields)."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}


def _refuse(value: object) -> Any:
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _c_codec() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """CPython's C encoder and scanner.

    Raises: ImportError, TypeError or AttributeError where the interpreter has others.
    """
    native: Any = __import__("_json")
    scan = native.make_scanner(_Settings())
    text_of = native.encode_basestring
    return native.make_encoder(None, _refuse, text_of, None, ":", ",", False, False, False), scan


def _codec() -> tuple[Callable[[object], str], Callable[[str], Any]]:
    try:
        encode, scan = _c_codec()
    except (ImportError, TypeError, AttributeError):
        import json  # noqa: PLC0415

        def text_of(value: object) -> str:
            return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

        return text_of, json.loads

    def loads(text: str) -> Any:
        stripped = text.strip()
        try:
            value, end = scan(stripped, 0)
        except StopIteration:
            raise ValueError("no JSON value") from None
        if end != len(stripped):
            raise ValueError(f"text after the JSON value at {end}")
        return value

    return (lambda value: "".join(encode(value, 0))), loads


_dumps, _loads = _codec()


def encode(value: object) -> bytes:
    """Compact UTF-8 JSON.

    Raises: InvalidArgument for text that is not Unicode (a file name in another encoding).
    """
    text = _dumps(value)
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        start = max(0, error.start - 20)
        shown = text[start : error.end].encode("utf-8", "backslashreplace").decode()
        raise InvalidArgument(
            f"an argument or variable is not valid utf-8 (near {shown})",
            hint="convert it to utf-8, or leave it out",
        ) from None


def text(value: object) -> str:
    """Compact JSON as text, for printing; what is not Unicode is shown escaped."""
    return _dumps(value).encode("utf-8", "backslashreplace").decode()


def pretty(value: object, indent: int = 4, depth: int = 0) -> str:
    """JSON as `inspect` prints it."""
    inner, outer = " " * (indent * (depth + 1)), " " * (indent * depth)
    if isinstance(value, dict) and value:
        rows = [f"{inner}{text(str(k))}: {pretty(v, indent, depth + 1)}" for k, v in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{outer}}}"
    if isinstance(value, (list, tuple)) and value:
        rows = [inner + pretty(item, indent, depth + 1) for item in value]
        return "[\n" + ",\n".join(rows) + f"\n{outer}]"
    return text(value)


def decode(data: bytes) -> Any:
    """The value in `data`.

    Raises: DataLoss when it is not JSON.
    """
    try:
        return _loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise DataLoss(f"this is not JSON: {error}") from None
