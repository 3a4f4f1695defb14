"""Docker's stream frames, decoded as they come: u8 stream, 3 zero bytes, u32 big-endian, bytes.

Pure. Source: Docker Engine API, "Attach to a container", stream format.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

STDOUT, STDERR = 1, 2
_HEADER = 8


class FrameDecoder:
    """Turns received bytes into (stream, bytes) without waiting for a frame's end."""

    __slots__ = ("_header", "_left", "_stream")

    def __init__(self) -> None:
        self._header = b""
        self._left = 0
        self._stream = 0

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Each piece of output in `data`.

        Raises: ValueError when the bytes are no frames.
        """
        at = 0
        while at < len(data):
            if self._left == 0:
                need = _HEADER - len(self._header)
                self._header += data[at : at + need]
                at += need
                if len(self._header) < _HEADER:
                    return
                header, self._header = self._header, b""
                if header[0] not in (STDOUT, STDERR) or header[1:4] != b"\0\0\0":
                    raise ValueError(f"not a stream frame: {header.hex()}")
                self._stream = header[0]
                self._left = int.from_bytes(header[4:], "big")
                continue
            piece = data[at : at + self._left]
            at += len(piece)
            self._left -= len(piece)
            yield self._stream, piece
