"""What happened, as it happens: a bounded history and any number of listeners.

Source: docker-events(1) for names of kinds, actions and filters.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType

from onggi.engine.api.answers import Event
from onggi.engine.api.requests import EventsRequest
from onggi.engine.filters import Filters

HISTORY = 1024
_KEYS = (
    "container", "daemon", "event", "image", "label", "label!", "network", "scope", "type",
    "volume",
)  # fmt: skip
_VALUES = {
    "type": ("container", "image", "volume", "network", "engine", "daemon"),
    "scope": ("local", "swarm"),
}


class Events:
    """The engine's news. A listener that does not keep up loses the oldest."""

    def __init__(self) -> None:
        self._history: deque[Event] = deque(maxlen=HISTORY)
        self._listeners: set[asyncio.Queue[Event]] = set()

    def publish(
        self,
        kind: str,
        action: str,
        target: str,
        labels: Mapping[str, str] = MappingProxyType({}),
        **facts: str,
    ) -> None:
        """Tell everybody, now. A fact goes before a label of the same name."""
        attributes = {**labels, **facts}
        event = Event(
            time_ns=time.time_ns(), kind=kind, action=action, id=target, attributes=attributes
        )
        self._history.append(event)
        for queue in self._listeners:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)

    async def listen(self, request: EventsRequest, _fds: list[int]) -> AsyncIterator[Event]:
        """History from `since_ns` on, then what comes, until `until_ns`."""
        filters = Filters(request.filters, _KEYS, values=_VALUES)
        queue: asyncio.Queue[Event] = asyncio.Queue(maxsize=HISTORY)
        self._listeners.add(queue)
        try:
            past = list(self._history) if request.since_ns or request.until_ns else []
            for event in past:
                if request.since_ns <= event.time_ns and _matches(filters, event):
                    if request.until_ns and event.time_ns > request.until_ns:
                        return
                    yield event
            while (rest_s := _rest_s(request.until_ns)) is None or rest_s > 0:
                try:
                    event = await asyncio.wait_for(queue.get(), rest_s)
                except TimeoutError:
                    return
                if _matches(filters, event):
                    yield event
        finally:
            self._listeners.discard(queue)


def _rest_s(until_ns: int) -> float | None:
    return (until_ns - time.time_ns()) / 1e9 if until_ns else None


def _matches(filters: Filters, event: Event) -> bool:
    name = event.attributes.get("name", "")
    kinds = ("daemon", event.kind) if event.kind == "engine" else (event.kind,)
    # `health_status: healthy` is an event=health_status too.
    actions = (event.action, event.action.partition(":")[0])
    return (
        any(filters.accepts("type", kind) for kind in kinds)
        and any(filters.accepts("event", action) for action in actions)
        and filters.accepts("scope", "local")
        and all(
            not filters.has(kind) or (kind in kinds and filters.accepts_id(kind, event.id, name))
            for kind in ("container", "volume", "network", "daemon")
        )
        and _of_image(filters, event)
        and filters.accepts_label(event.attributes)
    )


def _of_image(filters: Filters, event: Event) -> bool:
    """An image's own event, or one of a container made from it."""
    if event.kind == "image":
        return filters.accepts_id("image", event.id, event.attributes.get("name", ""))
    return filters.accepts("image", event.attributes.get("image", ""))
