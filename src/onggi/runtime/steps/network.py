"""The steps that connect the container's own network namespace, from the host's side and inside.

Messages are composed by whoever knows networks; here they are bytes with a person's words beside
them, which are not sent to keel.
"""

from __future__ import annotations

from onggi.runtime.steps.base import Step


class SendNetlink(Step, frozen=True, kw_only=True):
    """Have the host's kernel carry out messages about links, once the child exists.

    The child's pid is written into them at each offset (u32). `lines`: what they do, in words.
    """

    opcode = 10
    signature = "sn"
    actor = "monitor"
    concerns = "network"
    section = "rtnetlink(7), veth(4)"
    protects = "the host's own links: the container has one end of a wire, nothing else"

    messages: bytes
    pid_offsets: tuple[int, ...] = ()
    lines: tuple[str, ...] = ()

    def describe(self) -> str:
        return f"plug in {'; '.join(self.lines) or _unnamed(self.messages)}"


class ConfigureNetwork(Step, frozen=True, kw_only=True):
    """Have the kernel carry out messages in the container's own network namespace.

    `settings` are written before, below the host's /proc/sys/net: `ipv6/conf/eth0/accept_ra=0`.
    """

    opcode = 41
    signature = "sl"
    concerns = "network"
    section = "rtnetlink(7)"
    protects = "the host's addresses and routes: these are the container's own"

    messages: bytes
    settings: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()

    def describe(self) -> str:
        return f"configure the network: {'; '.join(self.lines) or _unnamed(self.messages)}"


class BindSockets(Step, frozen=True, kw_only=True):
    """Open sockets in the container's network namespace, which the monitor keeps for the engine.

    `udp:127.0.0.11:53`, `tcp:[::1]:53`; a TCP socket listens.
    """

    opcode = 42
    signature = "l"
    concerns = "network"
    section = "bind(2), listen(2)"
    protects = "the engine's name server: it listens on no address of the host"

    sockets: tuple[str, ...]

    def describe(self) -> str:
        return f"bind {' and '.join(self.sockets)} for the engine to answer"


def _unnamed(messages: bytes) -> str:
    return f"{len(messages)} bytes of netlink messages"
