"""What a list of software needs of an image's files: bounded reads, and notes of what failed.

Images are hostile: nothing in them stops the list, costs more memory than allowed, or puts control
characters into it. What could not be read is noted, so that the list says what it lacks.
"""

from __future__ import annotations

from collections.abc import Iterator

from onggi.errors import EngineError, NotFound
from onggi.image.merged import MergedView

#: Of all files together.
MAX_TOTAL_BYTES = 512 * 1024 * 1024
MAX_NOTES = 100
MAX_FIELD_CHARS = 1024


class Files:
    """Reads from one image. `notes`: a line for each thing that could not be read."""

    def __init__(self, view: MergedView) -> None:
        self.view = view
        self.notes: list[str] = []
        self._left_bytes = MAX_TOTAL_BYTES

    def read(self, path: str, maximum_bytes: int) -> str | None:
        """A file's text; None when there is none, or with a note when it cannot be read."""
        try:
            data = self.view.read_file(path, min(maximum_bytes, self._left_bytes))
        except NotFound:
            return None
        except EngineError as error:
            self.note(error.message)
            return None
        self._left_bytes -= len(data)
        return data.decode("utf-8", "replace")

    def names(self, path: str) -> list[str]:
        """The names in a directory; none when it is missing."""
        try:
            return self.view.list_directory(path)
        except NotFound:
            return []
        except EngineError as error:
            self.note(error.message)
            return []

    def note(self, text: str) -> None:
        """Say that something is missing in the list."""
        if len(self.notes) < MAX_NOTES:
            self.notes.append(clean(text))


def clean(text: str) -> str:
    """One printable line of at most 1024 characters."""
    line = " ".join(text[: 4 * MAX_FIELD_CHARS].split())
    if not line.isprintable():
        line = "".join(c if c.isprintable() else "\ufffd" for c in line)
    return line[:MAX_FIELD_CHARS]


def stanzas(text: str, wanted: frozenset[str]) -> Iterator[dict[str, list[str]]]:
    """The paragraphs of a control file: field, in lower case → its lines, of the `wanted` ones.

    Source: deb822(5).
    """
    fields: dict[str, list[str]] = {}
    lines: list[str] | None = None
    for line in text.split("\n"):
        if not line.strip():
            if fields:
                yield fields
            fields, lines = {}, None
        elif line[0] in " \t":
            if lines is not None:
                lines.append(line.strip())
        else:
            name, colon, value = line.partition(":")
            name = name.lower()
            # The first of several counts, as it does for dpkg.
            lines = [value.strip()] if colon and name in wanted and name not in fields else None
            if lines is not None:
                fields[name] = lines
    if fields:
        yield fields


def first(fields: dict[str, list[str]], name: str) -> str:
    """The first line of a field, cleaned; "" when it is missing."""
    return clean(fields[name][0]) if name in fields else ""
