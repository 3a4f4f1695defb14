"""Does one piece of work on images in a process of its own, which may be killed at any moment.

Run as a program: an order (JSON) on each line of its input, an answer on each line of its output.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from onggi.image import archive, registry
from onggi.image.images import ImageStore
from onggi.image.prune import prune
from onggi.image.pull import pull
from onggi.image.repair import repair
from onggi.image.settings import ImageSettings
from onggi.image.transports import registry as _imported_before_the_fork  # noqa: F401
from onggi.image.transports.copy import copy_image
from onggi.image.transports.names import open_sink, open_source, parse_transport

#: Calls that change what is on disk. Each stands for the moment before it.
CHANGING = (
    "chmod chown fchmod fchown fsync ftruncate link mkdir posix_fallocate pwrite rename rmdir"
    " symlink unlink utime write"
).split()


def opened(root: str, form: str) -> ImageStore:
    return ImageStore(root, settings=ImageSettings(snapshotter=form))  # type: ignore[arg-type]


def do_pull(root: str, form: str, name: str) -> None:
    images = opened(root, form)
    source = open_source(parse_transport(f"docker://{name}"), images, images.settings)
    try:
        pull(images, source, (name,))
    finally:
        source.close()


def do_push(root: str, form: str, name: str, target: str) -> None:
    images = opened(root, form)
    source = open_source(parse_transport(f"store:{name}"), images, images.settings)
    sink = open_sink(parse_transport(f"docker://{target}"), images, images.settings)
    try:
        copy_image(source, sink)
    finally:
        sink.close()
        source.close()


def do_load(root: str, form: str, path: str) -> None:
    images = opened(root, form)
    fd = os.open(path, os.O_RDONLY)
    for image in archive.load(images, fd):
        images.unpack(image)


def do_prune(root: str, form: str, keep: str) -> None:
    images = opened(root, form)
    kept = images.resolve(keep)
    prune(images, in_use=kept.chain_ids, users={kept.id}, every=True)
    images.snapshots.sweep(kept.chain_ids)


def do_repair(root: str, form: str) -> None:
    repair(opened(root, form), in_use=())


WORK: dict[str, Callable[..., None]] = {
    "pull": do_pull,
    "push": do_push,
    "load": do_load,
    "prune": do_prune,
    "repair": do_repair,
}


def count_calls(counter: mmap.mmap, kill_at: int | None) -> None:
    """Count the changing calls; die before the `kill_at`th."""

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*arguments: Any, **named: Any) -> Any:
            (number,) = struct.unpack("q", counter[:8])
            counter[:8] = struct.pack("q", number + 1)
            if number + 1 == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)

        return instead

    for name in CHANGING:
        setattr(os, name, counted(getattr(os, name)))
    opening = os.open
    counted_opening = counted(opening)

    def open_instead(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        call = counted_opening if flags & os.O_CREAT else opening
        return int(call(path, flags, *rest, **named))

    os.open = open_instead  # type: ignore[assignment]


def child(order: dict[str, Any], counter: mmap.mmap) -> None:
    """Does the work and ends this process."""
    status = 1
    try:
        count_calls(counter, order["at_call"])
        WORK[order["work"]](**order["arguments"])
        status = 0
    except BaseException:  # noqa: BLE001 - whatever it is, the test shows it
        traceback.print_exc()
    finally:
        os._exit(status)


def carry_out(order: dict[str, Any]) -> dict[str, Any]:
    """One order in a child, and how it ended."""
    counter = mmap.mmap(-1, 8)
    begun = time.monotonic()
    pid = os.fork()
    if pid == 0:
        child(order, counter)
    if order["after_s"] is not None:
        pidfd = os.pidfd_open(pid)
        if not select.select([pidfd], [], [], order["after_s"])[0]:
            os.kill(pid, signal.SIGKILL)
        os.close(pidfd)
    _, status = os.waitpid(pid, 0)
    return {
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
        "status": os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0,
        "seconds": time.monotonic() - begun,
        "calls": struct.unpack("q", counter[:8])[0],
    }


if __name__ == "__main__":
    assert registry
    for line in sys.stdin:
        print(json.dumps(carry_out(json.loads(line))), flush=True)
