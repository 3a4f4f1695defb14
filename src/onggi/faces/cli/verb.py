"""What a verb is: a table of options, examples, and a function that carries it out."""

from __future__ import annotations

import os

from onggi.faces.cli.client import Client
from onggi.faces.cli.output import Output
from onggi.faces.cli.place import run_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from onggi.faces.cli.options import Option, Parsed


class Context:
    """The world of one command: made inside `main`, never kept between commands."""

    __slots__ = ("client", "cwd", "environ", "err", "out", "root")

    def __init__(self, root: str | None, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.root = root
        self.out = Output(1)
        self.err = Output(2)
        self.client = Client(f"{run_directory(root, os.geteuid(), environ)}/onggi.sock", root)

    def warn(self, warnings: Sequence[str]) -> None:
        """Show the engine's warnings, one line each."""
        for warning in warnings:
            self.err.line(f"onggi: warning: {warning}")


class Verb:
    """One verb. `arguments` as usage shows them; `least`/`most` of them (None: any number)."""

    __slots__ = (
        "arguments", "complete", "examples", "interspersed", "least", "most", "options", "run",
    )  # fmt: skip

    def __init__(
        self,
        run: Callable[[Context, Parsed], int],
        *,
        arguments: str = "",
        least: int = 0,
        most: int | None = None,
        options: Sequence[Option] = (),
        examples: Sequence[tuple[str, str]] = (),
        interspersed: bool = True,
        complete: str = "",
    ) -> None:
        self.run = run
        self.arguments = arguments
        self.least = least
        self.most = most
        self.options = tuple(options)
        self.examples = tuple(examples)
        self.interspersed = interspersed
        self.complete = complete
