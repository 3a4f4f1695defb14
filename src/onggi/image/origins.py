"""Where blobs came from: which repositories are known to hold them.

A hint, never a promise: a push asks the registry to mount such a blob instead of sending it, and
an image pulled by digest alone is told from others by it. Knows nothing of registries themselves.

Layout: `origins/<hex>`, a line `registry/repository` for each, the newest last.
"""

from __future__ import annotations

import contextlib
import os

from onggi.image.reference import MAX_NAME_CHARS
from onggi.specs.image import check_digest

MAX_ORIGINS = 16


class Origins:
    """The records beside a content store's blobs (`root` is the content store's)."""

    def __init__(self, root: str) -> None:
        self._directory = os.path.join(root, "origins")

    def record(self, digest: str, name: str) -> None:
        """Note that the repository `name` (`registry/repository`) holds a blob.

        Not durable, and best effort: what is lost costs an upload.
        """
        path = self._path(digest)
        known = self.of(digest)
        if name in known or len(name) > MAX_NAME_CHARS + 1:
            return
        with contextlib.suppress(OSError):  # a full disk fails what matters, and says so there
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            if len(known) < MAX_ORIGINS:
                self._write(path, os.O_APPEND, (name,))
            else:
                self._write(path, os.O_TRUNC, (*known[1:], name))

    def of(self, digest: str, registry: str = "") -> list[str]:
        """Names of repositories, of one registry where it is given; the newest last."""
        try:
            with open(self._path(digest), encoding="utf-8", errors="replace") as file:
                lines = file.read(MAX_ORIGINS * (MAX_NAME_CHARS + 2)).split("\n")
        except FileNotFoundError:
            return []
        prefix = f"{registry}/" if registry else ""
        return [line for line in lines if line and line.startswith(prefix)]

    def forget(self, digest: str) -> None:
        """Delete what is known of a blob."""
        try:
            os.unlink(self._path(digest))
        except FileNotFoundError:
            return

    def digests(self) -> list[str]:
        """The blobs of which something is known."""
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return []
        return [f"sha256:{name}" for name in sorted(names) if len(name) == 64]

    def _write(self, path: str, how: int, names: tuple[str, ...]) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | how, 0o600)
        try:
            os.write(fd, "".join(f"{name}\n" for name in names).encode())
        finally:
            os.close(fd)

    def _path(self, digest: str) -> str:
        return os.path.join(self._directory, check_digest(digest).removeprefix("sha256:"))
