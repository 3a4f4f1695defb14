"""From words to nodes. Source: pkg.go.dev/text/template, "Actions", "Pipelines", "Variables"."""

from __future__ import annotations

from onggi.faces.cli import template_nodes as nodes
from onggi.faces.cli.suggest import nearest
from onggi.faces.cli.template_functions import NAMES
from onggi.faces.cli.template_tokens import Source, Token, pieces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from onggi.errors import InvalidArgument
    from onggi.faces.cli.template_tokens import Piece

MAX_DEPTH = 64
_NOT_HERE = ("block", "define", "template")
_CONSTANTS = {"true": True, "false": False, "nil": None}


def parse(source: Source) -> list[nodes.Node]:
    """The nodes of a template.

    Raises: InvalidArgument with the place.
    """
    return _Parser(source).whole()


class _Parser:
    """One pass over a template's pieces; one block at a time."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._pieces = pieces(source)
        self._next = 0
        self._depth = 0
        self._loops = 0
        self._known = [""]

    def whole(self) -> list[nodes.Node]:
        found, end = self._block()
        if end is not None:
            at, word = end.at, end.value
            raise self._source.wrong(at, f"{{{{{word}}}}} without a beginning")
        return found

    def _block(self) -> tuple[list[nodes.Node], _Words | None]:
        """Nodes up to `end`, `else`, or the end of the template; the words of what ended them."""
        found: list[nodes.Node] = []
        while self._next < len(self._pieces):
            piece = self._pieces[self._next]
            self._next += 1
            if piece.tokens is None:
                found.append(nodes.Text(piece.at, piece.text))
                continue
            words = _Words(self._source, piece)
            if words.value in ("end", "else"):
                return found, words
            node = self._action(words)
            words.finish()
            found.append(node)
        return found, None

    def _action(self, words: _Words) -> nodes.Node:
        keyword = words.value
        if keyword in _NOT_HERE:
            raise self._source.wrong(words.at, f"{{{{{keyword}}}}} is not known here")
        if keyword in ("break", "continue"):
            if not self._loops:
                raise self._source.wrong(words.at, f"{{{{{keyword}}}}} outside of a {{{{range}}}}")
            return nodes.Leave(words.take().at, again=keyword == "continue")
        if keyword in ("if", "with", "range"):
            words.take()
            return self._control(keyword, words)
        return self._pipe(words)

    def _control(self, keyword: str, words: _Words) -> nodes.Node:
        at, outside = words.start, len(self._known)
        self._enter(at)
        pipe = self._pipe(words, pair=keyword == "range")
        words.finish()
        self._loops += keyword == "range"
        body, end = self._block()
        self._loops -= keyword == "range"
        if end is None:
            raise self._source.wrong(at, f"{{{{{keyword}}}}} without {{{{end}}}}")
        other = self._other(keyword, end)
        del self._known[outside:]
        self._depth -= 1
        if keyword == "range":
            return nodes.Range(at, pipe, body, other)
        return nodes.Branch(at, pipe, body, other, dot=keyword == "with")

    def _other(self, keyword: str, end: _Words) -> list[nodes.Node]:
        """What follows `else`; the whole statement has ended with it."""
        if end.take().value == "end":
            end.finish()
            return []
        if end.value == keyword and keyword != "range":  # {{else if}}: one {{end}} for both
            end.take()
            return [self._control(keyword, end)]
        end.finish()
        other, last = self._block()
        if last is None or last.take().value != "end":
            raise self._source.wrong(end.start, "{{else}} without {{end}}")
        last.finish()
        return other

    def _enter(self, at: int) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._source.wrong(at, f"more than {MAX_DEPTH} levels")

    # -- pipelines ---------------------------------------------------------------------------

    def _pipe(self, words: _Words, *, pair: bool = False) -> nodes.Pipe:
        at = words.at
        names, assign = self._declared(words, pair=pair)
        commands = [self._command(words)]
        while words.kind == "|":
            words.take()
            commands.append(self._command(words))
        for operands in commands[1:]:
            if not isinstance(operands[0], (nodes.Call, nodes.Fields)):
                raise self._source.wrong(operands[0].at, "behind | stands a function")
        if not assign:
            self._known += names
        return nodes.Pipe(at, names, assign, commands)

    def _declared(self, words: _Words, *, pair: bool) -> tuple[list[str], bool]:
        kinds = [token.kind for token in words.ahead(4)]
        many = 2 if pair and kinds[:3] == ["variable", ",", "variable"] else 1
        sign = kinds[2 * many - 1] if len(kinds) >= 2 * many else ""
        if kinds[:1] != ["variable"] or sign not in (":=", "="):
            return [], False
        names = [token.value for token in words.ahead(2 * many) if token.kind == "variable"]
        for token in words.ahead(2 * many):
            if sign == "=" and token.kind == "variable":
                self._check_known(token)
        for _ in range(2 * many):
            words.take()
        return names, sign == "="

    def _command(self, words: _Words) -> Sequence[nodes.Node]:
        operands: list[nodes.Node] = []
        while words.kind not in ("", "|", ")"):
            operands.append(self._operand(words, first=not operands))
        if not operands:
            raise words.wrong("something is missing")
        if len(operands) > 1 and not isinstance(operands[0], (nodes.Call, nodes.Fields)):
            raise self._source.wrong(operands[1].at, "only functions take arguments")
        return operands

    def _operand(self, words: _Words, *, first: bool) -> nodes.Node:
        token = words.take()
        base = self._base(token, words, first=first)
        names = [(token.value, token.at)] if token.kind == "field" else []
        while words.kind == "field" and words.glued:
            following = words.take()
            names.append((following.value, following.at))
        if not names:
            return base or nodes.Dot(token.at)
        if isinstance(base, (nodes.Literal, nodes.Call)):
            raise self._source.wrong(names[0][1], "this has no fields")
        return nodes.Fields(token.at, base, names)

    def _base(self, token: Token, words: _Words, *, first: bool) -> nodes.Node | None:
        """The operand without its fields; None for the dot."""
        if token.kind in ("field", "dot"):
            return None
        if token.kind == "literal":
            return nodes.Literal(token.at, token.value)
        if token.kind == "variable":
            self._check_known(token)
            return nodes.Variable(token.at, token.value)
        if token.kind == "(":
            self._enter(token.at)
            inner = self._pipe(words)
            if words.kind != ")":
                raise self._source.wrong(token.at, "( without )")
            words.take()
            self._depth -= 1
            return inner
        if token.kind != "word":
            raise self._source.wrong(token.at, f"unexpected {token.value}")
        if token.value in _CONSTANTS:
            return nodes.Literal(token.at, _CONSTANTS[token.value])
        if token.value not in NAMES:
            raise self._no_function(token)
        if not first:
            raise self._source.wrong(
                token.at, f"{token.value} needs arguments", f"write ({token.value} …)"
            )
        return nodes.Call(token.at, token.value)

    def _check_known(self, token: Token) -> None:
        if token.value not in self._known:
            raise self._source.wrong(token.at, f"no variable ${token.value} was set")

    def _no_function(self, token: Token) -> InvalidArgument:
        meant = nearest(token.value, NAMES)
        hint = f"did you mean {meant}?" if meant else f"there are: {', '.join(NAMES)}"
        if token.value[:1].isupper():
            hint = f"a field has a dot: .{token.value}"
        return self._source.wrong(token.at, f"no function {token.value}", hint)


class _Words:
    """The words of one action, one after the other."""

    def __init__(self, source: Source, piece: Piece) -> None:
        self._source = source
        self._tokens = piece.tokens or []
        self._next = 0
        self._end = piece.end - 2
        self.start = piece.at

    @property
    def _token(self) -> Token | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    @property
    def kind(self) -> str:
        """The next word's kind; empty at the end."""
        return self._token.kind if self._token else ""

    @property
    def value(self) -> str:
        """The next word if it is a keyword or function; else empty."""
        return str(self._token.value) if self._token and self._token.kind == "word" else ""

    @property
    def glued(self) -> bool:
        """No space before the next word."""
        return bool(self._token and self._token.glued)

    @property
    def at(self) -> int:
        """The next word's place."""
        return self._token.at if self._token else self._end

    def ahead(self, count: int) -> list[Token]:
        """The next words, not taken."""
        return self._tokens[self._next : self._next + count]

    def take(self) -> Token:
        """The next word.

        Raises: InvalidArgument: there is none.
        """
        token = self._token
        if token is None:
            raise self.wrong("something is missing")
        self._next += 1
        return token

    def wrong(self, why: str) -> InvalidArgument:
        """The error for the next word."""
        return self._source.wrong(self.at, why)

    def finish(self) -> None:
        """Raises: InvalidArgument: words are left."""
        if self._token is not None:
            raise self.wrong(f"unexpected {self._token.value}")
