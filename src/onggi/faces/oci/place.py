"""Where an ordinary user's records are: below $XDG_RUNTIME_DIR, or in /tmp.

Whoever could write there could put containers of theirs into the user's lists, and have the user's
commands signal and delete what they name. So a place that others may write to is none.
"""

from __future__ import annotations

import os
import stat

from onggi.errors import FailedPrecondition, from_os_error

_NAME = "onggi-runtime"


def user_root() -> str:
    """The directory of the records; in /tmp it is there when this returns.

    Raises:
        FailedPrecondition: the place is another's, or others may write to it.
    Source: XDG base directory specification, "Environment variables".
    """
    runtime_dir = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime_dir:
        _check(runtime_dir, f"XDG_RUNTIME_DIR {runtime_dir}")
        return f"{runtime_dir}/{_NAME}"
    # /tmp is sticky: who has made an entry keeps it
    path = f"/tmp/{_NAME}-{os.geteuid()}"  # noqa: S108 - looked at before it is used
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise from_os_error(error, f"make {path}") from error
    _check(path, path)
    return path


def _check(path: str, name: str) -> None:
    """Raises: FailedPrecondition: not a directory that this user alone may change."""
    try:
        facts = os.lstat(path)
    except OSError as error:
        raise from_os_error(error, name) from error
    if not stat.S_ISDIR(facts.st_mode):
        why = "is not a directory"
    elif facts.st_uid != os.geteuid():
        why = f"belongs to user {facts.st_uid}, not to {os.geteuid()}"
    elif facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        why = f"may be written to by others (mode {stat.S_IMODE(facts.st_mode):04o})"
    else:
        return
    raise FailedPrecondition(
        f"{name} {why}",
        hint="name a directory of your own, of mode 0700: by --root, or in XDG_RUNTIME_DIR",
    )
