"""Docker's stream format, as a monitor speaks it on an attach socket: frames of stdout and stderr.

A pure protocol, without I/O: bytes go in, pieces of streams come out. It does not know terminals
(there everything is stdout) nor who reads.
Source: Docker Engine API, ContainerAttach, "Stream format".
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

from onggi.errors import DataLoss

_HEADER = struct.Struct(">B3xI")
HEADER_SIZE_BYTES = _HEADER.size
MAX_FRAME_SIZE_BYTES = 0xFFFFFFFF


class Stream(enum.IntEnum):
    """Which stream a piece belongs to. `SYSTEM_ERROR` is the engine's own complaint."""

    STDIN = 0
    STDOUT = 1
    STDERR = 2
    SYSTEM_ERROR = 3


class Piece(NamedTuple):
    """Some bytes of one stream: never empty, not always a whole frame."""

    stream: Stream
    data: bytes


def encode_frame(stream: Stream, data: bytes) -> bytes:
    """One frame: stream, length, bytes.

    Raises:
        ValueError: longer than a frame's length can say.
    """
    if len(data) > MAX_FRAME_SIZE_BYTES:
        raise ValueError(f"a frame holds at most {MAX_FRAME_SIZE_BYTES} bytes, not {len(data)}")
    return _HEADER.pack(stream, len(data)) + data


class StreamDecoder:
    """Takes a connection's bytes as they come and gives them back by stream.

    What a frame brings is handed on at once, so it holds never more than a header's bytes.
    """

    def __init__(self) -> None:
        self._header = bytearray()
        self._stream = Stream.STDOUT
        self._left = 0  # bytes of the current frame still to come

    def feed(self, data: bytes) -> list[Piece]:
        """The pieces in `data`, in order.

        Raises:
            DataLoss: these are not frames; the connection cannot be read any further.
        """
        pieces: list[Piece] = []
        at = 0
        while at < len(data):
            if self._left:
                piece = data[at : at + self._left]
                pieces.append(Piece(self._stream, bytes(piece)))
                self._left -= len(piece)
                at += len(piece)
            else:
                taken = data[at : at + HEADER_SIZE_BYTES - len(self._header)]
                self._header += taken
                at += len(taken)
                if len(self._header) == HEADER_SIZE_BYTES:
                    self._begin_frame()
        return pieces

    def end(self) -> None:
        """The connection ended.

        Raises:
            DataLoss: it ended inside a frame.
        """
        if self._left or self._header:
            raise DataLoss(f"the stream ended inside a frame, {self._left} bytes before its end")

    def _begin_frame(self) -> None:
        number, self._left = _HEADER.unpack(self._header)
        if number > Stream.SYSTEM_ERROR or any(self._header[1:4]):
            raise DataLoss(f"not a stream frame: {self._header.hex(' ')}")
        self._stream = Stream(number)
        self._header.clear()
