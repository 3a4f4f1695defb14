"""Every step by its opcode: the Python side of keel/steps.def."""

from __future__ import annotations

from onggi.runtime.steps import hooks, host, identity, mounts, network, process, scheduling
from onggi.runtime.steps.base import Step

_ROOMS = (hooks, host, identity, mounts, network, process, scheduling)

STEPS: dict[int, type[Step]] = {
    cls.opcode: cls
    for room in _ROOMS
    for cls in vars(room).values()
    if isinstance(cls, type) and issubclass(cls, Step) and cls is not Step
}
