"""The first pass over a `--format` template: text, and the words between `{{` and `}}`.

Source: pkg.go.dev/text/template, "Text and spaces", "Comments", "Arguments". Knows no meaning.
"""

from __future__ import annotations

from onggi.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_AROUND = 30
_SPACE = " \t\r\n"
_ESCAPES = {
    "n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v",
    "\\": "\\", '"': '"', "'": "'",
}  # fmt: skip
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}
_SIGNS = (":=", "|", "(", ")", ",", "=")


class Made(str):
    """Text that the template itself made: control characters in it are the user's own wish."""

    __slots__ = ()


class Source:
    """The template as it was written, for messages that show the place."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def wrong(self, at: int, why: str, hint: str = "") -> InvalidArgument:
        """The error for a place: `^` stands before it."""
        text = self.text
        start, end = max(0, at - _AROUND), min(len(text), at + _AROUND)
        before = "…" * (start > 0) + text[start:at]
        after = text[at:end] + "…" * (end < len(text))
        shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in f"{before}^{after}")
        return InvalidArgument(f"{why} in --format, at the ^: {shown}", hint=hint or None)


class Token:
    """One word of an action. `glued`: no space before it. `at`: its place in the source.

    `kind`: word, field (`.Name`), dot, variable (`$name`), literal, or a sign that is its value.
    """

    __slots__ = ("at", "glued", "kind", "value")

    def __init__(self, kind: str, value: Any, at: int, *, glued: bool) -> None:
        self.kind = kind
        self.value = value
        self.at = at
        self.glued = glued


class Piece:
    """Text (`tokens` is None), or an action."""

    __slots__ = ("at", "end", "text", "tokens")

    def __init__(self, at: int, end: int, text: str, tokens: list[Token] | None) -> None:
        self.at = at
        self.end = end
        self.text = text
        self.tokens = tokens


def pieces(source: Source) -> list[Piece]:
    """Text and actions in order; trim markers and comments are gone.

    `\\t` and `\\n` in text are a tab and a new line, as docker reads them.

    Raises: InvalidArgument with the place.
    """
    found: list[Piece] = []
    text, at, trim = source.text, 0, False
    while at < len(text):
        opened = text.find("{{", at)
        plain = text[at:] if opened < 0 else text[at:opened]
        plain = plain.lstrip(_SPACE) if trim else plain
        inner = opened + 2
        if opened >= 0 and text[inner : inner + 1] == "-" and text[inner + 1 : inner + 2] in _SPACE:
            plain, inner = plain.rstrip(_SPACE), inner + 2
        if plain:
            shown = plain.replace("\\t", "\t").replace("\\n", "\n")
            found.append(Piece(at, at + len(plain), shown, None))
        if opened < 0:
            break
        action = _Action(source, opened, inner)
        tokens = action.read()
        if tokens is not None:
            found.append(Piece(opened, action.at, "", tokens))
        at, trim = action.at, action.trims
    return found


class _Action:
    """One pass from behind `{{` to behind `}}`."""

    def __init__(self, source: Source, opened: int, at: int) -> None:
        self._source = source
        self._text = source.text
        self._opened = opened
        self.at = at
        self.trims = False

    def read(self) -> list[Token] | None:
        """The words; None for a comment."""
        if self._text.startswith("/*", self.at):
            self._comment()
            return None
        tokens: list[Token] = []
        while True:
            glued = not self._skip_space()
            if self._closed(after_space=not glued):
                return tokens
            tokens.append(self._token(glued))

    def _skip_space(self) -> bool:
        start = self.at
        while self.at < len(self._text) and self._text[self.at] in _SPACE:
            self.at += 1
        return self.at > start

    def _closed(self, *, after_space: bool) -> bool:
        if self._text.startswith("}}", self.at):
            self.at += 2
            return True
        if after_space and self._text.startswith("-}}", self.at):
            self.at += 3
            self.trims = True
            return True
        if self.at >= len(self._text):
            raise self._source.wrong(self._opened, "{{ without }}")
        return False

    def _comment(self) -> None:
        end = self._text.find("*/", self.at + 2)
        if end < 0:
            raise self._source.wrong(self.at, "/* without */")
        self.at = end + 2
        space = self._skip_space()
        if not self._closed(after_space=space):
            raise self._source.wrong(self.at, "a comment fills its {{ }} alone")

    def _token(self, glued: bool) -> Token:
        at, text = self.at, self._text
        char = text[at]
        sign = next((sign for sign in _SIGNS if text.startswith(sign, at)), "")
        if sign:
            self.at += len(sign)
            return Token(sign, sign, at, glued=glued)
        if char in "\"'`" or char.isdigit() or (char in "+-." and text[at + 1 : at + 2].isdigit()):
            return Token("literal", self._literal(char), at, glued=glued)
        if char not in ".$_" and not char.isalpha():
            raise self._source.wrong(at, f"unexpected {char!r}")
        self.at += 1
        name = self._name()
        if char == "$":
            return Token("variable", name, at, glued=glued)
        if char == ".":
            return Token("field" if name else "dot", name, at, glued=glued)
        return Token("word", char + name, at, glued=glued)

    def _literal(self, char: str) -> Made | int | float:
        if char in "\"'":
            return self._quoted(char)
        return self._raw() if char == "`" else self._number()

    def _name(self) -> str:
        start = self.at
        while self.at < len(self._text) and (
            self._text[self.at].isalnum() or self._text[self.at] == "_"
        ):
            self.at += 1
        return self._text[start : self.at]

    def _number(self) -> int | float:
        start, text = self.at, self._text
        self.at += 1
        while self.at < len(text) and (
            text[self.at].isalnum()
            or text[self.at] in "._"
            or text[self.at - 1 : self.at + 1].lower() in ("e+", "e-")
        ):
            self.at += 1
        word = text[start : self.at]
        try:
            return int(word, 0)
        except ValueError:
            pass
        try:
            return float(word)
        except ValueError:
            raise self._source.wrong(start, f"{word} is no number") from None

    def _raw(self) -> Made:
        end = self._text.find("`", self.at + 1)
        if end < 0:
            raise self._source.wrong(self.at, "a text that does not end")
        start, self.at = self.at + 1, end + 1
        return Made(self._text[start:end])

    def _quoted(self, quote: str) -> Made | int:
        start, made = self.at, ""
        self.at += 1
        while True:
            char = self._text[self.at : self.at + 1]
            self.at += 1
            if char == quote:
                break
            if not char:
                raise self._source.wrong(start, "a text that does not end")
            made += self._escape() if char == "\\" else char
        if quote == '"':
            return Made(made)
        if len(made) != 1:
            raise self._source.wrong(
                start, "'…' holds one character", 'texts are written "…" or `…`'
            )
        return ord(made)

    def _escape(self) -> str:
        char = self._text[self.at : self.at + 1]
        self.at += 1
        if char in _ESCAPES and char:
            return _ESCAPES[char]
        digits = self._text[self.at : self.at + _HEX_DIGITS.get(char, 0)]
        try:
            made = chr(int(digits, 16))
        except (ValueError, OverflowError):
            raise self._source.wrong(self.at - 2, f"unknown escape \\{char}") from None
        self.at += len(digits)
        return made
