"""How overlayfs marks what a layer hides: whiteouts and opaque directories.

Knows nothing of tar, where the same marks are names.

Source: kernel Documentation/filesystems/overlayfs.rst#whiteouts-and-opaque-directories.
"""

from __future__ import annotations

import os
import stat

#: userxattr overlays read the first, those of the host's root the second.
OPAQUE_XATTRS = ("user.overlay.opaque", "trusted.overlay.opaque")
#: What overlayfs believes about a layer: never taken from an archive, nor put into one.
OVERLAY_XATTRS = ("user.overlay.", "trusted.overlay.")


def is_whiteout(status: os.stat_result) -> bool:
    """Whether overlayfs reads this inode as "deleted here"."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def set_opaque(fd: int) -> None:
    """Hide what the layers below have in this directory. Raises: OSError."""
    for name in OPAQUE_XATTRS:
        os.setxattr(fd, name, b"y")


def is_opaque(fd: int) -> bool:
    """Whether overlayfs shows nothing of the layers below in this directory (O_PATH will do)."""
    path = f"/proc/self/fd/{fd}"
    for name in OPAQUE_XATTRS:
        try:
            if os.getxattr(path, name) == b"y":
                return True
        except OSError:
            continue  # not set, or not readable for us: then overlayfs cannot have set it either
    return False
