"""The descriptors that the engine starts a warm process with."""

from __future__ import annotations

LISTENER_FD = 3
#: A pipe's end; the other is the engine's, and closes with it.
LIFELINE_FD = 4
