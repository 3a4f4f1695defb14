"""What a new volume begins with: the image's files at the place where it is mounted.

Source: docker docs, "Populate a volume using a container". Knows nothing of records.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Sequence

from onggi.errors import NotFound, from_os_error
from onggi.image.apply import apply_layer
from onggi.image.compare import write_tree
from onggi.image.durable import delete_tree
from onggi.image.merged import MergedView

_CHUNK_BYTES = 1 << 20
_FILLING = ".filling-"


def is_empty(volume: str) -> bool:
    """Whether nothing is in a volume's directory."""
    with os.scandir(volume) as entries:
        return next(entries, None) is None


def fill(volume: str, layers: Sequence[str], target: str) -> None:
    """Give an empty volume the files, owner and mode of the directory `target` of the layers.

    All or nothing: what is copied takes the volume's place in one step, unless it has content by
    then. Nothing is done when the image has no directory there.

    Raises:
        EngineError: the files cannot be read or written.
    """
    with MergedView(layers) as view:
        try:
            nodes = view.walk(target)
        except NotFound:
            return
        top, _ = first = next(nodes)
        if not top.is_directory or not top.path:
            return
        parent = os.path.dirname(volume)
        with tempfile.TemporaryFile(dir=parent) as tar:
            write_tree(
                (node for part in ([first], nodes) for node in part), tar.write, whiteouts=False
            )
            tar.seek(0)
            staging = tempfile.mkdtemp(prefix=_FILLING, dir=parent)
            fd = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                apply_layer(iter(lambda: tar.read(_CHUNK_BYTES), b""), fd)
                os.rename(top.path, os.fsencode(volume), src_dir_fd=fd)
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise from_os_error(error, "filling a volume") from None
            finally:
                os.close(fd)
                _remove(parent, os.path.basename(staging))


def drop_filling(place: str) -> None:
    """Delete what a crash of `fill` left beside a volume, in the directory `place`.

    Raises:
        EngineError, OSError: it cannot be deleted.
    """
    for name in os.listdir(place):
        if name.startswith(_FILLING):
            _remove(place, name)


def _remove(parent: str, name: str) -> None:
    fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        delete_tree(fd, name)
    finally:
        os.close(fd)
