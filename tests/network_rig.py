"""Network namespaces that a test makes for itself: nothing of the host's own is touched.

`with fresh(2) as (left, right):` gives two empty ones, held by descriptors: when these are closed,
the kernel removes what was in them. Code runs inside in a thread of its own.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from onggi.kernel.constants import CLONE_NEWNET
from onggi.kernel.syscalls import unshare
from onggi.network import links
from onggi.network.namespaces import call_in, netlink_in
from onggi.network.netlink import NETLINK_ROUTE, Netlink

T = TypeVar("T")


class Namespace:
    """A network namespace of a test's own. `fd` is borrowed."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def call(self, function: Callable[[], T]) -> T:
        """What the function returns when it runs inside (/proc/sys/net is inside's, too)."""
        return call_in(self.fd, function)

    def netlink(self, protocol: int = NETLINK_ROUTE) -> Netlink:
        """A netlink socket of inside, the caller's to close."""
        return netlink_in(self.fd, protocol)

    def command(self, *argv: str, stdin: str = "", check: bool = True) -> str:
        """The output of a program that runs inside."""

        def run() -> subprocess.CompletedProcess[str]:
            return subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)

        done = self.call(run)
        if check and done.returncode:
            raise AssertionError(f"{argv}: {done.returncode}: {done.stderr}")
        return done.stdout

    @contextlib.contextmanager
    def process(self, *argv: str) -> Iterator[subprocess.Popen[bytes]]:
        """A program that runs inside until the block ends; without arguments one that waits."""
        pipe = subprocess.PIPE
        program = self.call(lambda: subprocess.Popen(argv or ("cat",), stdin=pipe, stdout=pipe))
        try:
            yield program
        finally:
            program.kill()
            program.communicate()

    def socket(self, family: int, kind: int, timeout_s: float = 5) -> socket.socket:
        """A socket of inside, the caller's to close."""
        made = self.call(lambda: socket.socket(family, kind))
        made.settimeout(timeout_s)
        return made

    def sysctl(self, name: str, value: int | None = None) -> int:
        """Read, or write and read, `net/…` of inside."""

        def access() -> int:
            path = f"/proc/sys/net/{name}"
            if value is not None:
                with open(path, "w", encoding="ascii") as file:
                    file.write(str(value))
            with open(path, encoding="ascii") as file:
                return int(file.read())

        return self.call(access)


@contextlib.contextmanager
def fresh(count: int = 1) -> Iterator[tuple[Namespace, ...]]:
    """Empty network namespaces, each with loopback up."""
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(count):
            fd = _unshared()
            stack.callback(os.close, fd)
            made.append(Namespace(fd))
            with made[-1].netlink() as nl:
                nl.request([links.set_up(links.LOOPBACK_INDEX)])
        yield tuple(made)


def join(
    left: Namespace, right: Namespace, name: str, left_address: str, right_address: str
) -> None:
    """A wire between two namespaces, called `name` in both, with an address at each end."""
    with left.netlink() as here, right.netlink() as there:
        here.request([links.create_veth(name, 1500, peer=name, netns_fd=right.fd)])
        for nl, address in ((here, left_address), (there, right_address)):
            body = nl.query(links.get_link(name))[0][1]
            index = int.from_bytes(body[4:8], "little")
            quiet = links.no_generated_address(index)
            nl.request([quiet, links.set_up(index), links.add_address(index, address)])


def _unshared() -> int:
    found: list[int] = []
    failures: list[BaseException] = []

    def make() -> None:
        try:
            unshare(CLONE_NEWNET)
            found.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        except BaseException as error:  # noqa: BLE001 - raised again below
            failures.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return found[0]


def datagram(sender: socket.socket, receiver: socket.socket, to: tuple[str, int]) -> bytes:
    """Send from one socket to an address, and give what the other one receives."""
    sender.sendto(b"ping", to)
    return receiver.recv(64)
