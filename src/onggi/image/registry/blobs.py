"""A blob while it comes from a registry: as many bytes as announced, not one more.

Source: distribution-spec spec.md#pulling-blobs, RFC 9110 sections 14.4 and 15.3.7.
"""

from __future__ import annotations

import re
from typing import Self

from onggi.errors import DataLoss, Unavailable
from onggi.image.registry.http import Answer
from onggi.runtime.printable import printable
from onggi.specs.image import Descriptor

_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", re.ASCII)


class RegistryBlob:
    """The body of an answer, from `offset` on. Not verified against the digest."""

    def __init__(self, answer: Answer | None, descriptor: Descriptor, offset: int) -> None:
        self.offset = offset
        self._answer = answer
        self._digest = descriptor.digest
        self._left = descriptor.size - offset
        self._size = descriptor.size

    def read(self, size: int) -> bytes:
        """At most `size` bytes; empty at the end.

        Raises:
            Unavailable: the stream broke off; what came so far may be kept.
            DataLoss: more than the blob's size comes.
        """
        if self._answer is None or size <= 0:
            return b""
        data = self._answer.read(min(size, self._left) if self._left else 1)
        if len(data) > self._left:
            self._answer.close()
            raise DataLoss(f"{self._answer.where}: more than the {self._size} bytes of the blob")
        self._left -= len(data)
        if not data and self._left:
            raise Unavailable(f"{self._answer.where}: ends {self._left} bytes early")
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._answer is not None:
            self._answer.close()


def open_answer(answer: Answer, descriptor: Descriptor, offset: int) -> RegistryBlob:
    """The stream of an answer 200 or 206 to a request for a blob from `offset` on.

    Raises: DataLoss: the answer is for another size or another place.
    """
    start = _start(answer, descriptor, offset) if answer.status == 206 else 0
    if answer.length is not None and answer.length != descriptor.size - start:
        answer.close()
        raise DataLoss(
            f"{answer.where}: {answer.length} bytes, where {descriptor.size - start} are due"
        )
    return RegistryBlob(answer, descriptor, start)


def _start(answer: Answer, descriptor: Descriptor, offset: int) -> int:
    text = answer.header("Content-Range")
    match = _RANGE.fullmatch(text.strip())
    fits = match is not None and (
        int(match[1]) == offset
        and int(match[2]) == descriptor.size - 1
        and match[3] in ("*", str(descriptor.size))
    )
    if not fits:
        answer.close()
        raise DataLoss(
            f"{answer.where}: content range {printable(text, 60)!r}, asked for byte {offset} on"
            f" of {descriptor.size}"
        )
    return offset
