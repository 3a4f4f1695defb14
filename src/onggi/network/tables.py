"""An instance's nftables tables as the kernel has them: loaded, read back, watched, deleted.

What is in them is known to `ruleset` and `elements`; what should be, to `firewall`.
Source: linux/netfilter/nf_tables.h, nft(8).
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import struct
import subprocess

from onggi.errors import Internal, SyscallError, Unsupported
from onggi.network import elements
from onggi.network.elements import NFNL_SUBSYS_NFTABLES, NFPROTO_IPV4, NFPROTO_IPV6
from onggi.network.netlink import (
    HEADER_BYTES,
    NETLINK_NETFILTER,
    Netlink,
    attributes,
    message,
    open_socket,
    string,
    text_of,
)
from onggi.network.netlink_messages import frames

TYPE_CHECKING = False  # typing's own costs 9 ms to import
if TYPE_CHECKING:
    from collections.abc import Mapping

_NEWTABLE, _GETTABLE, _DELTABLE, _GETRULE, _NEWGEN = 0, 1, 2, 7, 15
_TABLE_NAME, _TABLE_HANDLE = 1, 4
_RULE_TABLE, _RULE_CHAIN, _RULE_EXPRESSIONS = 1, 2, 4
_NFNLGRP_NFTABLES = 7
_SOL_NETLINK, _ADD_MEMBERSHIP, _SO_RCVBUFFORCE = 270, 1, 33
_WATCH_BYTES = 1 << 20
_RECEIVE_BYTES = 64 << 10
_NFT_TIMEOUT_S = 20
#: Sets and maps whose elements are ours to add and delete.
_SETS = (
    "bridges", "internal", "pairs", "subnets", "any_port", "any_target", "own_port", "own_target"
)  # fmt: skip
#: What the ruleset needs of nftables: a name for people, and a table that has nothing else.
_FEATURES = (
    ("nf_tables", ""),
    ("connection tracking", "chain c { type filter hook input priority 0; ct state new accept; }"),
    ("nat", "chain c { type nat hook postrouting priority 100; masquerade; }"),
    ("notrack", "chain c { type filter hook output priority raw; notrack; }"),
    ("fib", "chain c { type filter hook input priority 0; fib daddr type local accept; }"),
    ("dup", "chain c { type filter hook input priority 0; dup to %s device lo; }"),
    ("sets of concatenations", "set s { type inet_proto . inet_service; }"),
)  # fmt: skip


def connect() -> tuple[Netlink, int]:
    """A netlink socket to nftables, the caller's to close, and its port id, which the kernel tells
    in what it says of changes.

    Raises:
        Unsupported: this kernel has no netfilter.
    """
    try:
        sock = open_socket(NETLINK_NETFILTER)
    except OSError as error:
        raise Unsupported(
            f"this kernel has no netfilter interface: {os.strerror(error.errno or 0)}",
            hint="load the module nfnetlink, or use a kernel that has it",
        ) from None
    sock.bind((0, 0))
    port: int = sock.getsockname()[0]
    return Netlink(sock, NETLINK_NETFILTER), port


# nft(8)


def load(text: str) -> None:
    """Have nft carry out a text as one transaction.

    Raises:
        Unsupported: nft or something of the kernel's is missing; the message says what.
        Internal: it was refused for another reason.
    """
    failure = _nft(text)
    if failure is None:
        return
    for name, body in _FEATURES:
        for family, address in (("ip", "192.0.0.10"), ("ip6", "fe80::9")):
            content = body.replace("%s", address)
            words = _nft(f"table {family} onggi-probe {{\n{content}\n}}\n", "--check")
            if words is not None:
                raise Unsupported(
                    f"nftables lacks {name} for {family} on this host: {_first_line(words)}",
                    hint="kernel modules nf_tables, nft_nat, nft_ct, nft_fib and nft_dup are used",
                )
    raise Internal(f"nft refused the rules: {_first_line(failure)}")


def _nft(text: str, *options: str) -> str | None:
    """What nft complains about; None when it does not."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/local/sbin"
    program = shutil.which("nft", path=path)
    if program is None:
        raise Unsupported("the program nft is missing", hint="install the package nftables")
    done = subprocess.run(
        [program, *options, "-f", "-"],
        input=text,
        env={"PATH": path, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        timeout=_NFT_TIMEOUT_S,
        check=False,
    )
    return None if done.returncode == 0 else done.stderr


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


# What the kernel has


def handles(nl: Netlink, table: str, families: tuple[int, ...]) -> dict[int, int]:
    """The number that the kernel has given to each family's table; those missing are left out.

    A table made again has another one.

    Raises:
        SyscallError: the kernel refused.
    """
    found = {}
    for family in families:
        try:
            body = nl.query(message(_kind(_GETTABLE), 0, _head(family, _TABLE_NAME, table)))[0][1]
        except SyscallError as error:
            if error.errno != errno.ENOENT:
                raise
            continue
        found[family] = _handle(attributes(body[4:]))
    return found


def rules(nl: Netlink, table: str, family: int) -> list[tuple[str, bytes]]:
    """Chain and expressions of each rule of a table, as the kernel writes them.

    Raises:
        SyscallError: the kernel refused.
    """
    request = message(_kind(_GETRULE), 0, _head(family, _RULE_TABLE, table))
    found = (attributes(body[4:]) for _, body in nl.dump(request))
    # Kernels that know no filter for dumps answer with all rules of the family.
    return [
        (text_of(one.get(_RULE_CHAIN, b"")), one.get(_RULE_EXPRESSIONS, b""))
        for one in found
        if text_of(one.get(_RULE_TABLE, b"")) == table
    ]


def contents(nl: Netlink, table: str, family: int) -> set[elements.Element]:
    """All elements of a table's sets and maps; none of those that are missing.

    Raises:
        SyscallError: the kernel refused.
    """
    found: set[elements.Element] = set()
    for name in _SETS:
        try:
            for _, body in nl.dump(elements.ask(table, family, name)):
                found.update(elements.read(body))
        except SyscallError as error:
            if error.errno != errno.ENOENT:
                raise
    return found


def delete(
    nl: Netlink, table: str, families: tuple[int, ...] = (NFPROTO_IPV4, NFPROTO_IPV6)
) -> None:
    """Delete the tables of a name with all that is in them; none need be there.

    Raises:
        SyscallError: the kernel refused.
    """
    for family in families:
        try:
            nl.transact([message(_kind(_DELTABLE), 0, _head(family, _TABLE_NAME, table))])
        except SyscallError as error:
            if error.errno not in (errno.ENOENT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
                raise


class Watch:
    """Hears of every change to nftables, and tells those that others make to one table.

    To be closed. Changes from before it was made are not heard of.
    """

    def __init__(self, table: str) -> None:
        self._table = table
        self._socket = open_socket(NETLINK_NETFILTER)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _WATCH_BYTES)
        self._socket.bind((0, 0))
        self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _NFNLGRP_NFTABLES)
        #: What the transaction whose messages are being read has done to the table so far.
        self._touched = False
        self._replaced = False

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def changed(self, port: int, installed: Mapping[int, int]) -> bool | None:
        """Whether somebody has changed the table since it was `installed` (see `handles`).

        `port`: whose changes do not count. None: messages were lost, so nobody knows.
        """
        changed: bool | None = False
        while True:
            try:
                data, sender = self._socket.recvfrom(_RECEIVE_BYTES)
            except BlockingIOError:
                return changed
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise SyscallError("recvfrom", "netfilter", error.errno or 0) from None
                changed = None
                continue
            if sender[0] != 0:
                continue  # another process wrote it, not the kernel
            for kind, start, end in frames(data):
                if kind >> 8 != NFNL_SUBSYS_NFTABLES:
                    continue
                if kind & 0xFF != _NEWGEN:
                    self._note(kind & 0xFF, data[start:end], port, installed)
                    continue
                # The end of a transaction. What came before ours is of no interest any more.
                if self._replaced:
                    changed = False
                elif self._touched and changed is False:
                    changed = True
                self._touched = self._replaced = False

    def _note(self, number: int, data: bytes, port: int, installed: Mapping[int, int]) -> None:
        body = data[HEADER_BYTES:]
        found = attributes(body[4:])  # the table's name is attribute 1 of every kind
        if text_of(found.get(_TABLE_NAME, b"")) != self._table:
            return
        if struct.unpack_from("=I", data, 12)[0] == port:
            return
        self._touched = True
        if number == _NEWTABLE and installed.get(body[0]) == _handle(found):
            self._replaced = True


def _handle(found: dict[int, bytes]) -> int:
    return int.from_bytes(found.get(_TABLE_HANDLE, b""))


def _kind(number: int) -> int:
    return NFNL_SUBSYS_NFTABLES << 8 | number


def _head(family: int, attribute: int, table: str) -> bytes:
    return struct.pack("=BBH", family, 0, 0) + string(attribute, table)
