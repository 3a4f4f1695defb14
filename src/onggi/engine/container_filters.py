"""Which containers `ps --filter` means. Source: docker-ps(1), "Filtering"."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from onggi.engine.api.answers import ContainerSummary
from onggi.engine.core import Core
from onggi.engine.filters import Filters
from onggi.engine.records import ContainerRecord
from onggi.errors import EngineError, InvalidArgument
from onggi.image.reference import Reference

_KEYS = (
    "ancestor", "before", "exited", "expose", "health", "id", "is-task", "label", "label!", "name",
    "network", "publish", "since", "status", "volume",
)  # fmt: skip
_VALUES = {
    "status": ("created", "restarting", "running", "removing", "paused", "exited", "dead"),
    "health": ("starting", "healthy", "unhealthy", "none"),
}
_MAX_PORT = 65535
Accept = Callable[[ContainerRecord, ContainerSummary], bool]


def parse_container_filters(core: Core, texts: Sequence[str]) -> tuple[Filters, Accept]:
    """The filters, and whether they accept a container.

    Raises:
        InvalidArgument: a key or value that there is not.
        NotFound: `before` or `since` names no container.
    """
    filters = Filters(texts, _KEYS, values=_VALUES, bools=("is-task",))
    for code in filters.get("exited"):
        if not code.removeprefix("-").isdecimal():
            raise InvalidArgument(f"filter exited={code[:60]!r} is no exit code")
    created = {
        key: [core.records.find_container(target).created_ns for target in filters.get(key)]
        for key in ("since", "before")
    }
    after, before = max(created["since"], default=-1), min(created["before"], default=1 << 64)
    ancestors = [_ancestor(core, name) for name in filters.get("ancestor")]
    published, exposed = (_ports(key, filters.get(key)) for key in ("publish", "expose"))

    def accept(record: ContainerRecord, row: ContainerSummary) -> bool:
        return (
            after < row.created_ns < before
            and _accepts_state(filters, row)
            and filters.accepts_part("name", row.name)
            and filters.accepts_id("id", row.id, row.id)
            and filters.accepts_any("volume", _mounts(record))
            and filters.accepts_any("network", _networks(record, row))
            and (not filters.has("ancestor") or any(test(record) for test in ancestors))
            and _accepts_ports(published, ((p.container_port, p.protocol) for p in record.ports))
            and _accepts_ports(exposed, _exposed(record))
            and filters.accepts_label(row.labels)
        )

    return filters, accept


def _accepts_state(filters: Filters, row: ContainerSummary) -> bool:
    return (
        filters.accepts("status", row.state)
        and filters.accepts("health", row.health or "none")
        and filters.accepts("is-task", "false")
        and (not filters.has("exited") or row.state in ("exited", "restarting", "dead"))
        and filters.accepts("exited", _exit_code(row))
    )


def _exit_code(row: ContainerSummary) -> str:
    """As `ps` shows it: 128 and the signal for one that a signal has ended."""
    end = row.exit
    if end is None:
        return ""
    return str(128 + end.signal if end.signal and (end.code or 0) <= 0 else end.code)


def _mounts(record: ContainerRecord) -> set[str]:
    return {name for m in record.spec.mounts for name in (m.source, m.target) if name}


def _networks(record: ContainerRecord, row: ContainerSummary) -> set[str]:
    ids = {place.network_id for place in record.endpoints}
    return {*row.networks, *ids, *(network_id[:12] for network_id in ids)}


def _ancestor(core: Core, name: str) -> Callable[[ContainerRecord], bool]:
    """Made from this image, or from one that stands on its layers; or named so when made."""
    try:
        image = core.images.resolve(name)
    except EngineError:
        return lambda record: _familiar(record.spec.image) == _familiar(name)
    chain = image.chain_ids
    return lambda record: (
        record.image_id == image.id or bool(chain and chain[-1] in record.chain_ids)
    )


def _familiar(name: str) -> str:
    try:
        return Reference.parse(name).familiar()
    except InvalidArgument:
        return name


Ports = list[tuple[int, int, str]]


def _ports(key: str, texts: Sequence[str]) -> Ports:
    """`80`, `80/udp`, `8000-8080/tcp` as (first, last, protocol)."""
    found = []
    for text in texts:
        numbers, _, protocol = text.partition("/")
        first, dash, last = numbers.partition("-")
        last = last if dash else first
        known = protocol in ("", "tcp", "udp", "sctp") and first.isdecimal() and last.isdecimal()
        if not known or not 0 < int(first) <= int(last) <= _MAX_PORT:
            raise InvalidArgument(
                f"filter {key}={text[:60]!r} is no port", hint="write 80, 80/udp or 8000-8080/tcp"
            )
        found.append((int(first), int(last), protocol or "tcp"))
    return found


def _accepts_ports(wanted: Ports, there: Iterable[tuple[int, str]]) -> bool:
    return not wanted or any(
        first <= port <= last and protocol == kind
        for port, kind in there
        for first, last, protocol in wanted
    )


def _exposed(record: ContainerRecord) -> Iterable[tuple[int, str]]:
    """What is exposed, published ports among it."""
    for port in record.ports:
        yield port.container_port, port.protocol
    for text in record.spec.expose:
        number, _, protocol = text.partition("/")
        if number.isdecimal():
            yield int(number), protocol or "tcp"
