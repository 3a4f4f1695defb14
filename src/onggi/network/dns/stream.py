"""Messages over TCP: each behind its length in two bytes.

Source: RFC 1035 section 4.2.2, RFC 7766.
"""

from __future__ import annotations

import asyncio
import socket


async def read_message(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, most_bytes: int
) -> bytes:
    """The next message.

    Raises:
        EOFError: the other side has ended, or the message is longer than it may be.
        OSError: the connection broke.
    """
    size_bytes = int.from_bytes(await _read(loop, sock, 2), "big")
    if size_bytes > most_bytes:
        raise EOFError
    return await _read(loop, sock, size_bytes)


async def _read(loop: asyncio.AbstractEventLoop, sock: socket.socket, size_bytes: int) -> bytes:
    data = bytearray()
    while len(data) < size_bytes:
        piece = await loop.sock_recv(sock, size_bytes - len(data))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)


async def write_message(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, message: bytes
) -> None:
    """Send a message, at once with its length. Raises: OSError."""
    await loop.sock_sendall(sock, len(message).to_bytes(2, "big") + message)
