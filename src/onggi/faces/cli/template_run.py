"""Carrying a template out on a value. Source: pkg.go.dev/text/template."""

from __future__ import annotations

from onggi.faces.cli import template_nodes as nodes
from onggi.faces.cli.suggest import nearest
from onggi.faces.cli.template_functions import OF_CELLS, CallError, Map, call, shown, type_name
from onggi.faces.cli.template_tokens import Made

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from onggi.faces.cli.template_tokens import Source

#: Fields whose keys users choose. Source: Docker Engine API v1.51, `additionalProperties`.
_MAPS = frozenset((
    "Annotations", "Attributes", "Containers", "DriverOpts", "ExposedPorts", "IPAMConfig",
    "Labels", "Networks", "Options", "PortBindings", "Ports", "Sysctls", "Tmpfs", "Volumes",
))  # fmt: skip
#: Fields that an object of docker's has even when there is nothing to say.
_EMPTY = frozenset(("Health", "ContainerConfig", "GraphDriver", "Options", "UsageData"))


class _Leave(Exception):  # noqa: N818 - no error
    def __init__(self, *, again: bool) -> None:
        super().__init__()
        self.again = again


class Run:
    """One template on one value. `heading`: the value has headings, which functions leave alone."""

    def __init__(self, source: Source, value: Any, *, heading: bool = False) -> None:
        self._source = source
        self._heading = heading
        self._variables: list[tuple[str, Any]] = [("", value)]
        self._made: list[str] = []

    def text(self, body: Sequence[nodes.Node]) -> str:
        """What it prints.

        Raises: InvalidArgument: a field that is not there, or a function's arguments.
        """
        self._walk(body, self._variables[0][1])
        return "".join(self._made)

    def _walk(self, body: Iterable[nodes.Node], dot: Any) -> None:
        for node in body:
            if isinstance(node, nodes.Text):
                self._made.append(node.text)
            elif isinstance(node, nodes.Branch):
                self._branch(node, dot)
            elif isinstance(node, nodes.Range):
                self._range(node, dot)
            elif isinstance(node, nodes.Leave):
                raise _Leave(again=node.again)
            elif isinstance(node, nodes.Pipe):
                value = self._pipe(node, dot)
                if not node.names:
                    self._made.append(shown(value))

    def _branch(self, node: nodes.Branch, dot: Any) -> None:
        mark = len(self._variables)
        value = self._pipe(node.pipe, dot)
        if value:
            self._walk(node.body, value if node.dot else dot)
        else:
            self._walk(node.other, dot)
        del self._variables[mark:]

    def _range(self, node: nodes.Range, dot: Any) -> None:
        mark = len(self._variables)
        value = self._value_of(node.pipe.commands, dot)
        pairs = self._pairs(value, node)
        for key, item in pairs:
            names = node.pipe.names
            for name, part in zip(names, (key, item) if len(names) == 2 else (item,), strict=False):
                self._set(name, part, assign=node.pipe.assign)
            try:
                self._walk(node.body, item)
            except _Leave as leave:
                if not leave.again:
                    break
            finally:
                del self._variables[mark:]
        if not pairs:
            self._walk(node.other, dot)
            del self._variables[mark:]

    def _pairs(self, value: Any, node: nodes.Range) -> list[tuple[Any, Any]]:
        if value is None:
            return []
        if isinstance(value, dict):
            return [(key, value[key]) for key in sorted(value)]
        if isinstance(value, (list, tuple)):
            return list(enumerate(value))
        raise self._source.wrong(
            node.pipe.at, f"range needs a list or a map, not {type_name(value)}"
        )

    # -- values ------------------------------------------------------------------------------

    def _pipe(self, pipe: nodes.Pipe, dot: Any) -> Any:
        value = self._value_of(pipe.commands, dot)
        for name in pipe.names:
            self._set(name, value, assign=pipe.assign)
        return value

    def _value_of(self, commands: Sequence[Sequence[nodes.Node]], dot: Any) -> Any:
        value = self._command(commands[0], dot, ())
        for command in commands[1:]:
            value = self._command(command, dot, (value,))
        return value

    def _set(self, name: str, value: Any, *, assign: bool) -> None:
        if assign:
            for at in range(len(self._variables) - 1, -1, -1):
                if self._variables[at][0] == name:
                    self._variables[at] = (name, value)
                    return
        self._variables.append((name, value))

    def _command(self, operands: Sequence[nodes.Node], dot: Any, last: tuple[Any, ...]) -> Any:
        first, rest = operands[0], operands[1:]
        if isinstance(first, nodes.Call):
            return self._call(first, rest, dot, last)
        if isinstance(first, nodes.Fields) and (rest or last):
            arguments = [self._operand(node, dot) for node in rest]
            return self._fields(first, dot, (*arguments, *last))
        return self._operand(first, dot)

    def _operand(self, node: nodes.Node, dot: Any) -> Any:
        if isinstance(node, nodes.Literal):
            return node.value
        if isinstance(node, nodes.Variable):
            return next(v for name, v in reversed(self._variables) if name == node.name)
        if isinstance(node, nodes.Fields):
            return self._fields(node, dot, ())
        return self._pipe(node, dot) if isinstance(node, nodes.Pipe) else dot

    def _call(
        self, node: nodes.Call, rest: Sequence[nodes.Node], dot: Any, last: tuple[Any, ...]
    ) -> Any:
        if node.name in ("and", "or"):
            return self._and_or(node, rest, dot, last)
        arguments = [*(self._operand(operand, dot) for operand in rest), *last]
        if self._heading and node.name in OF_CELLS and arguments:
            return last[0] if last else arguments[0]
        try:
            return call(node.name, arguments)
        except CallError as error:
            raise self._source.wrong(node.at, f"{node.name}: {error}") from None

    def _and_or(
        self, node: nodes.Call, rest: Sequence[nodes.Node], dot: Any, last: tuple[Any, ...]
    ) -> Any:
        if not rest and not last:
            raise self._source.wrong(node.at, f"{node.name} takes 1 or more arguments")
        value: Any = None
        for operand in rest:
            value = self._operand(operand, dot)
            if bool(value) == (node.name == "or"):
                return value
        return last[0] if last else value

    # -- fields ------------------------------------------------------------------------------

    def _fields(self, node: nodes.Fields, dot: Any, arguments: tuple[Any, ...]) -> Any:
        value = dot if node.base is None else self._operand(node.base, dot)
        for name, at in node.names[:-1]:
            value = self._field(value, name, at)
        name, at = node.names[-1]
        if not arguments:
            return self._field(value, name, at)
        if name == "Label" and (labels := self._labels(value)) is not None:
            return self._label(labels, arguments, at)
        raise self._source.wrong(at, f".{name} takes no arguments")

    def _labels(self, value: Any) -> str | None:
        labels = (
            value.get("Labels", "" if self._heading else None) if isinstance(value, dict) else None
        )
        return labels if isinstance(labels, str) else None

    def _label(self, labels: str, arguments: tuple[Any, ...], at: int) -> str:
        if len(arguments) != 1 or not isinstance(arguments[0], str):
            raise self._source.wrong(at, '.Label takes one text: .Label "KEY"')
        if self._heading:
            return arguments[0].rpartition(".")[2].translate({ord("-"): " ", ord("_"): " "})
        known = getattr(labels, "by_key", None)
        if known is None:
            known = dict(one.partition("=")[::2] for one in labels.split(",") if one)
        return str(known.get(arguments[0], ""))

    def _field(self, value: Any, name: str, at: int) -> Any:
        if self._heading:
            return value[name] if isinstance(value, dict) and name in value else _heading(name)
        if isinstance(value, dict):
            key = name if name in value or isinstance(value, Map) else _folded(value, name)
            if key is not None:
                found = value.get(key)
                return Map(found or {}) if key in _MAPS and _is_map(found) else found
            if name in _EMPTY:
                return None
            meant = nearest(name, list(value))
            known = ", ".join(Made(key) for key in value)
            hint = f"did you mean .{meant}? there are: {known}" if meant else f"there are: {known}"
            raise self._source.wrong(at, f"can't evaluate field {name}", hint)
        what = "nothing" if value is None else type_name(value)
        raise self._source.wrong(at, f"can't evaluate field {name} of {what}")


def _is_map(value: Any) -> bool:
    return value is None or isinstance(value, dict)


def _folded(value: dict[str, Any], name: str) -> str | None:
    """The key that differs in case only: Go's names and those of the JSON differ so (ID, Id)."""
    lower = name.lower()
    return next((key for key in value if key.lower() == lower), None)


def _heading(name: str) -> str:
    """`CREATED AT` for `CreatedAt`, `CPU PERC` for `CPUPerc`."""
    made = ""
    for at, char in enumerate(name):
        small_near = name[at - 1 : at].islower() or name[at + 1 : at + 2].islower()
        made += f" {char}" if at and char.isupper() and small_near else char.upper()
    return made
