"""The PORTS column: what the engine lists one by one, shown as docker's users know it. Pure."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def ports(texts: Sequence[str]) -> str:
    """Published and exposed ports, neighbours as one: `0.0.0.0:8000-8001->80-81/tcp, 90/tcp`."""
    groups: list[_Range | str] = []
    for text in texts:
        address, arrow, inside = text.rpartition("->")
        number, _, protocol = inside.partition("/")
        if not number.isdecimal():
            groups.append(text)
            continue
        host, _, host_port = address.rpartition(":")
        outer = int(host_port) if arrow else 0
        found = _Range(host, outer, int(number), protocol)
        if not any(isinstance(group, _Range) and group.takes(found) for group in groups):
            groups.append(found)
    return ", ".join(map(str, groups))


class _Range:
    """Neighbouring ports of one address; `outer` 0: exposed only."""

    __slots__ = ("count", "host", "inner", "outer", "protocol")

    def __init__(self, host: str, outer: int, inner: int, protocol: str) -> None:
        self.host, self.outer, self.inner, self.protocol = host, outer, inner, protocol
        self.count = 1

    def takes(self, other: _Range) -> bool:
        """Whether the other one is the next port; then it belongs to this range."""
        outer = self.outer + self.count if self.outer else 0
        mine = (self.host, outer, self.inner + self.count, self.protocol)
        if mine != (other.host, other.outer, other.inner, other.protocol):
            return False
        self.count += 1
        return True

    def __str__(self) -> str:
        inside = f"{self._span(self.inner)}/{self.protocol}"
        return f"{self.host}:{self._span(self.outer)}->{inside}" if self.outer else inside

    def _span(self, first: int) -> str:
        return f"{first}-{first + self.count - 1}" if self.count > 1 else str(first)
