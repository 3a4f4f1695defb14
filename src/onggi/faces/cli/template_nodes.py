"""What a template consists of once it is read. Plain values with their places in the source."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


class Node:
    """Part of a template. `at`: its place in the source."""

    __slots__ = ("at",)

    def __init__(self, at: int) -> None:
        self.at = at


class Text(Node):
    """Text that is printed as it is."""

    __slots__ = ("text",)

    def __init__(self, at: int, text: str) -> None:
        super().__init__(at)
        self.text = text


class Literal(Node):
    """A text, number, bool or nil."""

    __slots__ = ("value",)

    def __init__(self, at: int, value: Any) -> None:
        super().__init__(at)
        self.value = value


class Dot(Node):
    """`.`"""

    __slots__ = ()


class Fields(Node):
    """`.A.B`, `$x.A` or `(…).A`; `base` None: of the dot. `names`: with their places."""

    __slots__ = ("base", "names")

    def __init__(self, at: int, base: Node | None, names: Sequence[tuple[str, int]]) -> None:
        super().__init__(at)
        self.base = base
        self.names = names


class Variable(Node):
    """`$name`; `$` is what the template was given."""

    __slots__ = ("name",)

    def __init__(self, at: int, name: str) -> None:
        super().__init__(at)
        self.name = name


class Call(Node):
    """A function's name, as the first operand of a command."""

    __slots__ = ("name",)

    def __init__(self, at: int, name: str) -> None:
        super().__init__(at)
        self.name = name


class Pipe(Node):
    """`$a, $b := command | command`. `commands`: each its operands; `assign`: `=`, not `:=`."""

    __slots__ = ("assign", "commands", "names")

    def __init__(
        self, at: int, names: Sequence[str], assign: bool, commands: Sequence[Sequence[Node]]
    ) -> None:
        super().__init__(at)
        self.names = names
        self.assign = assign
        self.commands = commands


class Branch(Node):
    """`{{if}}` or `{{with}}` (`dot`: its value becomes the dot) and what holds otherwise."""

    __slots__ = ("body", "dot", "other", "pipe")

    def __init__(
        self, at: int, pipe: Pipe, body: Sequence[Node], other: Sequence[Node], *, dot: bool
    ) -> None:
        super().__init__(at)
        self.pipe = pipe
        self.body = body
        self.other = other
        self.dot = dot


class Range(Node):
    """`{{range}}`; `other` when there is nothing."""

    __slots__ = ("body", "other", "pipe")

    def __init__(self, at: int, pipe: Pipe, body: Sequence[Node], other: Sequence[Node]) -> None:
        super().__init__(at)
        self.pipe = pipe
        self.body = body
        self.other = other


class Leave(Node):
    """`{{break}}`, or `{{continue}}` with `again`."""

    __slots__ = ("again",)

    def __init__(self, at: int, *, again: bool) -> None:
        super().__init__(at)
        self.again = again
