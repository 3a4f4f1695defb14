"""What a validation finds, bounded: hostile images can be wrong in a million places."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

MAX_FINDINGS = 1000


class Finding(Struct, frozen=True):
    """Something that is not as the specification says.

    `error`: what MUST be; `warning`: what SHOULD be, or what implementations treat differently.
    `place`: a document's JSON path, or a layer's entry. `section`: of the image specification.
    """

    severity: Literal["error", "warning"]
    place: str
    message: str
    section: str


class Findings:
    """Collects findings up to `MAX_FINDINGS`; the last then says that there are more."""

    def __init__(self) -> None:
        self._found: dict[Finding, None] = {}
        self._more = False

    def error(self, place: str, message: str, section: str) -> None:
        self._add(Finding("error", place, message, section))

    def warning(self, place: str, message: str, section: str) -> None:
        self._add(Finding("warning", place, message, section))

    def _add(self, finding: Finding) -> None:
        if len(self._found) < MAX_FINDINGS:
            self._found.setdefault(finding)
        else:
            self._more = True

    def list(self) -> list[Finding]:
        """Those found, in the order they were found."""
        more = Finding("warning", "$", f"more than {MAX_FINDINGS} findings", "")
        return [*self._found, more] if self._more else [*self._found]
