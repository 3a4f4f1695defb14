"""Layers reach the disk behind the back of whoever waits for them.

Thousands of small files, or twenty large ones, are made durable by one `syncfs`, which also waits
for whatever else the file system has to write. So a layer appears before
that, valid for this boot of the kernel only (nothing less than the machine's crash loses its
pages), and its record is rewritten when it is on the disk. After such a crash it is no layer, and
is unpacked again from its blob.

Source: syncfs(2).
"""

from __future__ import annotations

import contextlib
import os
import threading

from onggi.image.layer_record import confirm_record
from onggi.kernel import threads
from onggi.kernel.syscalls import syncfs


class LayerSync:
    """One thread for all layers of a store, alive only while there is something to sync."""

    def __init__(self) -> None:
        #: Held by whoever takes a layer away: a record written into it then would outlive it.
        self.confirming = threading.Lock()
        self._lock = threading.Lock()
        self._waiting: list[tuple[int, str, str]] = []
        self._thread: threading.Thread | None = None

    def add(self, place: str, chain_id: str) -> None:
        """Have the layer in the directory `place` synced soon.

        Raises:
            OSError: it is not there. ResourceExhausted: there is no thread; the next one takes it.
        """
        fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        with self._lock:
            self._waiting.append((fd, place, chain_id))
            if self._thread is None:
                thread = threading.Thread(target=self._work, daemon=True, name="layer-sync")
                threads.start(thread)
                self._thread = thread

    def wait(self) -> None:
        """Until nothing is waiting."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._lock:
                batch, self._waiting = self._waiting, []
                if not batch:
                    self._thread = None
                    return
            # An error leaves the layer as it is: good until the next boot.
            with contextlib.suppress(OSError):
                syncfs(batch[0][0])
                for fd, place, chain_id in batch:
                    # One that was removed and made again is another directory.
                    with contextlib.suppress(OSError), self.confirming:
                        if os.path.samestat(os.fstat(fd), os.stat(place)):
                            confirm_record(fd, chain_id)
            for fd, _, _ in batch:
                os.close(fd)
