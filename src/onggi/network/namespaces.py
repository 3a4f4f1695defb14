"""Sockets inside the network namespace of a container, opened by a program that stays outside.

A socket belongs for good to the namespace it was made in, so a thread that lives for a moment goes
in, opens, and comes back. Nothing of the container runs and nothing of it is read.
Source: setns(2), network_namespaces(7).
"""

from __future__ import annotations

import socket
import threading

from onggi.errors import SyscallError
from onggi.kernel import threads
from onggi.kernel.constants import CLONE_NEWNET
from onggi.kernel.syscalls import setns
from onggi.network.netlink import NETLINK_ROUTE, Netlink

TYPE_CHECKING = False  # typing's own costs 9 ms to import
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    T = TypeVar("T")


def call_in(netns_fd: int, function: Callable[[], T]) -> T:
    """What `function` returns, or raises, when called in a network namespace.

    It runs in a thread of its own, whose namespace nobody else shares; meanwhile the caller waits.

    Raises:
        SyscallError: the descriptor is no network namespace, or not ours to enter.
        ResourceExhausted: there is no thread.
    """
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            setns(netns_fd, CLONE_NEWNET)
            results.append(function())
        except BaseException as error:  # noqa: BLE001 - it is raised again in the caller's thread
            failures.append(error)

    # The thread ends inside: a namespace is a thread's own, and nothing can fail on the way back.
    thread = threading.Thread(target=run, name="netns", daemon=True)
    threads.start(thread)
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def netlink_in(netns_fd: int, protocol: int = NETLINK_ROUTE, groups: Sequence[int] = ()) -> Netlink:
    """A netlink socket that speaks for a network namespace, the caller's to close.

    Raises:
        SyscallError: as `call_in`, and as `Netlink.open`.
    """
    return call_in(netns_fd, lambda: Netlink.open(protocol, groups))


def sockets_in(netns_fd: int, kinds: Sequence[tuple[int, int]]) -> tuple[socket.socket, ...]:
    """Non-blocking sockets in a network namespace, one for each (family, type); the caller's.

    Raises:
        SyscallError: as `call_in`; EAFNOSUPPORT, the kernel lacks a family. None is left open.
    """
    return call_in(netns_fd, lambda: _open_all(kinds))


def _open_all(kinds: Sequence[tuple[int, int]]) -> tuple[socket.socket, ...]:
    opened: list[socket.socket] = []
    try:
        for family, kind in kinds:
            flags = socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            opened.append(socket.socket(family, kind | flags))
    except OSError as error:
        for one in opened:
            one.close()
        raise SyscallError("socket", f"{kinds}", error.errno or 0) from None
    return tuple(opened)
