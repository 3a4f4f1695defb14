"""A warm client on the native wire, for what the engine alone takes."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator

from onggi.engine.layout import layout_for
from onggi.faces.cli.client import Client


def request_to_exit(root: str, rounds: int) -> list[float]:
    """Milliseconds of `containers.run` with auto_remove, from connecting to the exit status."""
    client = Client(layout_for(root, os.geteuid(), dict(os.environ)).socket, root)
    spec = {"image": "busybox", "command": ["true"], "auto_remove": True, "network": "none"}
    times = []
    for number in range(rounds + 3):
        before = time.perf_counter()
        with client.open("containers.run", {"spec": spec, "attach": True}) as call:
            for item in call.items():
                if item.fd >= 0:
                    os.close(item.fd)
                if item.type == "ExitStatus" and item.value.get("code") != 0:
                    raise RuntimeError(f"true answered {item.value}")
        if number >= 3:
            times.append((time.perf_counter() - before) * 1000)
    return times


@contextlib.contextmanager
def status_times(root: str) -> Iterator[list[float]]:
    """Milliseconds of one `engine.status` after the other for as long as the block runs."""
    client = Client(layout_for(root, os.geteuid(), dict(os.environ)).socket, root)
    times: list[float] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            before = time.perf_counter()
            client.call("engine.status", {})
            times.append((time.perf_counter() - before) * 1000)
            time.sleep(0.002)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield times
    finally:
        over.set()
        thread.join()
