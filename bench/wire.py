"""A warm client on the native wire, for what the engine alone takes."""

from __future__ import annotations

import os
import time

from onggi.engine.layout import layout_for
from onggi.faces.cli.client import call_stream


def request_to_exit(root: str, rounds: int) -> list[float]:
    """Milliseconds of `containers.run` with auto_remove, from connecting to the exit status."""
    layout = layout_for(root, os.geteuid(), dict(os.environ))
    spec = {"image": "busybox", "command": ["true"], "auto_remove": True}
    times = []
    for number in range(rounds + 3):
        before = time.perf_counter()
        for item, fds in call_stream(layout, "containers.run", {"spec": spec, "attach": True}):
            for fd in fds:
                os.close(fd)
            if "code" in item and item["code"] != 0:
                raise RuntimeError(f"true answered {item}")
        if number >= 3:
            times.append((time.perf_counter() - before) * 1000)
    return times
