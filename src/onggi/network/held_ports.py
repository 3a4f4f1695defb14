"""Ports of the host that are held while they are published: bound, so that no other program can
have them, and one that has is told to the user.

The rules lead packets elsewhere before any socket is looked for, so a held socket never hears any.
Works in the network namespace of the calling thread.
Source: ip(7), tcp(7), socket(7) SO_REUSEADDR.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time

from onggi.errors import Conflict, FailedPrecondition, ResourceExhausted, SyscallError

TYPE_CHECKING = False  # typing's own costs 9 ms to import
if TYPE_CHECKING:
    from collections.abc import Iterator

_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_WILDCARDS = {"": ("0.0.0.0", "::")}  # noqa: S104 - it is held, never served
_ATTEMPTS = 50
#: How long an error waits for the name of who has the port.
_SEARCH_S = 0.1
_TCP_LISTEN = "0A"
#: Every socket held in this process by protocol and number, for `aside`: not by who holds it.
_HELD: dict[tuple[str, int], list[socket.socket]] = {}


class HeldPorts:
    """The ports that one engine holds. To be closed."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str, int], list[socket.socket]] = {}

    def hold(self, protocol: str, address: str, port: int) -> int:
        """Hold a port of an address of the host; empty: of every address, of both families.

        Port 0: one that is free, which is the answer.

        Raises:
            Conflict: somebody has it; the message says who, where that is found quickly.
            FailedPrecondition: the host has no such address.
            ResourceExhausted: no port is free, or no descriptor.
        """
        if (protocol, address, port) in self._held:
            raise Conflict(
                f"port {_text(protocol, address, port)} is published already",
                hint="choose another port of the host, or stop the container that has it",
            )
        sockets = _bind_all(protocol, address, port)
        number: int = sockets[0].getsockname()[1]
        self._held[protocol, address, number] = sockets
        _HELD.setdefault((protocol, number), []).extend(sockets)
        return number

    def release(self, protocol: str, address: str, port: int) -> None:
        """Let go of a port; one that is not held is no error."""
        sockets = self._held.pop((protocol, address, port), [])
        others = [sock for sock in _HELD.pop((protocol, port), ()) if sock not in sockets]
        if others:
            _HELD[protocol, port] = others
        for sock in sockets:
            sock.close()

    def close(self) -> None:
        """Let go of all."""
        for key in list(self._held):
            self.release(*key)


@contextlib.contextmanager
def aside(protocol: str, port: int) -> Iterator[None]:
    """While it lasts, a socket with SO_REUSEADDR may be bound to a port that this process holds.

    For the proxy, which serves [::1] beside a socket that holds every address. To listen, it must
    begin here, too.
    """
    ours = list(_HELD.get((protocol, port), ()))
    for sock in ours:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        yield
    finally:
        for sock in ours:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)


def _bind_all(protocol: str, address: str, port: int) -> list[socket.socket]:
    with contextlib.ExitStack() as rejected:
        for _ in range(_ATTEMPTS):
            made: list[socket.socket] = []
            try:
                for one in _WILDCARDS.get(address, (address,)):
                    number = made[0].getsockname()[1] if made else port
                    sock = _bind(protocol, one, number)
                    if sock is not None:
                        made.append(sock)
                return made
            except OSError as error:
                for sock in made:
                    rejected.callback(sock.close)
                if error.errno != errno.EADDRINUSE or port or not made:
                    raise _failure(error, protocol, address, port) from None
                # It is free in one family only. Kept until another one is found, or the kernel
                # would choose it again.
    raise ResourceExhausted(f"no {protocol} port is free in both IPv4 and IPv6")


def _bind(protocol: str, address: str, port: int) -> socket.socket | None:
    """A socket bound to an address; None where this kernel has not its family."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        sock = socket.socket(family, _KINDS[protocol])
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT and address == "::":
            return None
        raise
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if protocol == "tcp" and port:
            _bind_tcp(sock, address, port)
        else:
            # What comes while the rules are missing is not to be kept: the least is a page or so.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            sock.bind((address, port))
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRNOTAVAIL and address == "::":
            return None  # IPv6 is switched off
        raise
    return sock


def _bind_tcp(sock: socket.socket, address: str, port: int) -> None:
    """Bind without being stopped by connections of an earlier owner that the kernel remembers for
    a minute (TIME_WAIT), and so that SO_REUSEADDR of others, which every server sets, is in vain.

    The kernel lets two sockets share a port as long as both have SO_REUSEADDR and none listens. To
    have listened for a moment takes that back for the port; the connection that could come in
    between is reset. (Afterwards the kernel forgets a port that it has chosen itself.)
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, port))
    sock.listen(0)
    sock.shutdown(socket.SHUT_RDWR)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)


# Who is in the way


def _failure(error: OSError, protocol: str, address: str, port: int) -> Exception:
    text = _text(protocol, address, port)
    if error.errno == errno.EADDRINUSE and not port:
        return ResourceExhausted(f"no {protocol} port is free")
    if error.errno == errno.EADDRINUSE:
        name = _owner(protocol, port)
        return Conflict(
            f"port {text} is in use" + (f" by {name}" if name else ""),
            hint="choose another port of the host, or stop the program that has it",
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return FailedPrecondition(
            f"port {text} cannot be published: this host has no address {address}",
            hint="`ip address` lists those it has",
        )
    return SyscallError("bind", text, error.errno or 0)


def _text(protocol: str, address: str, port: int) -> str:
    where = f"[{address}]:" if ":" in address else f"{address}:" if address else ""
    return f"{where}{port}/{protocol}"


def _owner(protocol: str, port: int) -> str:
    """The program that has a port, as `nginx (pid 123)`; empty when it is not found in time."""
    deadline = time.monotonic() + _SEARCH_S
    inodes = _inodes(protocol, port)
    if not inodes:
        return ""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if time.monotonic() > deadline:
            break
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                if os.readlink(f"/proc/{pid}/fd/{fd}") in inodes:
                    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                        return f"{file.read().strip()} (pid {pid})"
        except OSError:
            continue  # it has ended, or is not ours to look at
    return ""


def _inodes(protocol: str, port: int) -> frozenset[str]:
    """Sockets that listen on a port, or are bound to it, as links of /proc/*/fd name them."""
    found = []
    for name in (protocol, f"{protocol}6"):
        with contextlib.suppress(FileNotFoundError):
            with open(f"/proc/thread-self/net/{name}", encoding="ascii") as file:
                rows = [line.split() for line in file][1:]
            found += [
                f"socket:[{row[9]}]"
                for row in rows
                if row[1].endswith(f":{port:04X}") and (row[3] == _TCP_LISTEN or protocol == "udp")
            ]
    return frozenset(found)
