"""Finds the keys that leave a terminal session among what is typed. Pure."""

from __future__ import annotations


class DetachKeys:
    """Passes bytes through until the key sequence has been typed.

    Bytes that may begin the sequence are held back until the next one decides.
    """

    __slots__ = ("_held", "_keys", "detached")

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""
        self.detached = False

    def feed(self, data: bytes) -> bytes:
        """What goes on to the container; sets `detached` when the sequence is complete."""
        if not self._keys:
            return data
        out = bytearray()
        for at in range(len(data)):
            self._held += data[at : at + 1]
            while self._held and not self._keys.startswith(self._held):
                out.append(self._held[0])
                self._held = self._held[1:]
            if self._held == self._keys:
                self.detached = True
                break
        return bytes(out)
