"""`--format` templates: the part of Go's text/template that docker's users write.

Fields, pipelines, functions, `if`, `with`, `range`, variables, comments and trim markers. Imported
only when somebody writes a template. Knows no verb.
"""

from __future__ import annotations

from onggi.faces.cli.template_parser import parse
from onggi.faces.cli.template_run import Run
from onggi.faces.cli.template_tokens import Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


class Template:
    """A template that has been read."""

    __slots__ = ("_body", "_source")

    def __init__(self, text: str) -> None:
        """Read it. Raises: InvalidArgument with the place."""
        self._source = Source(text)
        self._body = parse(self._source)

    def fill(self, value: Any) -> str:
        """Its text for one value.

        Raises: InvalidArgument: the value has no such field, or a function cannot use it.
        """
        return Run(self._source, value).text(self._body)

    def heading(self, headings: Mapping[str, str]) -> str:
        """Its text over a table: fields stand for their headings.

        Raises: as `fill`.
        """
        return Run(self._source, dict(headings), heading=True).text(self._body)
