"""Whether a layer's tar is what the specification calls one. Reads it as a stream; unpacks nothing.

Source: image-spec layer.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from onggi.errors import InvalidArgument, ResourceExhausted
from onggi.image.apply import OPAQUE_NAME, WHITEOUT_PREFIX
from onggi.image.compression import Read, plain_chunks
from onggi.image.findings import Findings
from onggi.image.overlay import OVERLAY_XATTRS
from onggi.image.tar_reader import DIRECTORY, HARD_LINK, REGULAR, SYMLINK, Entry, TarReader

_ATTRIBUTES = "layer.md#file-attributes"
_WHITEOUTS = "layer.md#whiteouts"
_FORMAT = "layer.md#representing-changes"


def validate_layer(read: Read, place: str, diff_id: str | None, findings: Findings) -> None:
    """Read a layer, compressed or not, to its end; `diff_id`: what its plain tar must be.

    `place` names it in findings.
    """
    digest = hashlib.sha256()

    def hashed() -> Iterator[bytes]:
        for chunk in plain_chunks(read):
            digest.update(chunk)
            yield chunk

    chunks = hashed()
    checked = _Entries(place, findings)
    try:
        for entry in TarReader(chunks):
            checked.check(entry)
    except (InvalidArgument, ResourceExhausted) as error:
        findings.error(place, error.message, _FORMAT)
        return
    checked.finish()
    found = f"sha256:{digest.hexdigest()}"
    if diff_id is not None and found != diff_id:
        findings.error(
            place, f"the plain tar is {found}, its diff id {diff_id}", "config.md#layer-diffid"
        )


class _Entries:
    """The entries of one layer. Names are kept as hashes: there may be millions."""

    def __init__(self, place: str, findings: Findings) -> None:
        self._place = place
        self._findings = findings
        self._seen: set[int] = set()
        self._symlinks: set[bytes] = set()
        self._whiteouts: dict[bytes, str] = {}
        self._count = 0

    def check(self, entry: Entry) -> None:
        self._count += 1
        where = f"{self._place}: {entry.shown}"
        name = self._path(entry.name, where)
        if name is None:
            return
        if hash(name) in self._seen and (entry.type != DIRECTORY or name):
            self._findings.warning(where, "is there twice; readers differ in which counts", _FORMAT)
        self._seen.add(hash(name))
        self._check_parents(name, where)
        base = name.rpartition(b"/")[2]
        if base.startswith(WHITEOUT_PREFIX):
            self._check_whiteout(entry, name, base, where)
        elif entry.type == SYMLINK:
            self._symlinks.add(name)
            if not entry.link:
                self._findings.error(where, "a symlink to nothing", _FORMAT)
        elif entry.type == HARD_LINK:
            self._check_hard_link(entry, where)
        for key in entry.xattrs or {}:
            if key.startswith(OVERLAY_XATTRS):
                self._findings.warning(
                    where, f"attribute {key[:80]!r} is one host's own", _ATTRIBUTES
                )

    def finish(self) -> None:
        """What only the whole layer tells."""
        for name, where in self._whiteouts.items():
            if hash(name) in self._seen:
                self._findings.warning(
                    where, "hides what the same layer adds; readers differ", _WHITEOUTS
                )

    def _path(self, name: bytes, where: str) -> bytes | None:
        """A name in one form; b"" is the root."""
        if name.startswith(b"/"):
            self._findings.error(where, "an absolute name", _FORMAT)
            return None
        parts = [part for part in name.split(b"/") if part not in (b"", b".")]
        if b".." in parts:
            self._findings.error(where, "'..' in a name", _FORMAT)
            return None
        return b"/".join(parts)

    def _check_parents(self, name: bytes, where: str) -> None:
        if not self._symlinks:
            return
        parent = name.rpartition(b"/")[0]
        while parent:
            if parent in self._symlinks:
                self._findings.error(where, "is below a symlink of the same layer", _FORMAT)
                return
            parent = parent.rpartition(b"/")[0]

    def _check_whiteout(self, entry: Entry, name: bytes, base: bytes, where: str) -> None:
        if entry.type != REGULAR or entry.size_bytes:
            self._findings.error(where, "a whiteout must be an empty file", _WHITEOUTS)
        if base == OPAQUE_NAME:
            return
        hidden = base.removeprefix(WHITEOUT_PREFIX)
        if hidden in (b"", b".", b".."):
            self._findings.error(where, "a whiteout without a name", _WHITEOUTS)
        elif hidden.startswith(WHITEOUT_PREFIX):
            self._findings.warning(where, "a mark of aufs, which nobody else reads", _WHITEOUTS)
        else:
            parent = name[: len(name) - len(base)]
            self._whiteouts[parent + hidden] = where

    def _check_hard_link(self, entry: Entry, where: str) -> None:
        target = self._path(entry.link, f"{where}, its target")
        if target is not None and hash(target) not in self._seen:
            self._findings.error(
                where, "a hard link to what does not stand before it in the layer", _FORMAT
            )
