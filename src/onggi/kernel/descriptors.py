"""Who closes a file descriptor: an `int` is borrowed, a `Descriptor` is owned."""

from __future__ import annotations

import os
import warnings
from types import TracebackType


class Descriptor:
    """An owned file descriptor, closed at the end of a `with` block.

    The block gets the plain number, borrowed: `with open_tree(...) as tree: move_mount(tree, ...)`.
    One that is forgotten is closed when collected, with a ResourceWarning, as a file would be.
    """

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        """The number, borrowed: still ours to close.

        Raises:
            ValueError: closed or detached.
        """
        if self._number < 0:
            raise ValueError("the descriptor is closed")
        return self._number

    @property
    def closed(self) -> bool:
        return self._number < 0

    def detach(self) -> int:
        """Hand the number over: from now on the caller closes it."""
        number = self.fileno()
        self._number = -1
        return number

    def close(self) -> None:
        """Close it; a second time does nothing."""
        if self._number >= 0:
            os.close(self.detach())

    def __enter__(self) -> int:
        return self.fileno()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if self._number >= 0:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            self.close()

    def __repr__(self) -> str:
        return f"Descriptor({self._number})"
