"""Sources of mounts that somebody else may change between a look and the mount: held by descriptor.

What is in a volume is its containers' to change, so a path in one is resolved once, below the
volume; the same descriptor is what owners are changed through, and what is mounted.
Source: openat2(2) RESOLVE_BENEATH; docker-run(1) --mount volume-subpath, bind-propagation.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from onggi.engine.api.spec import MountSpec
from onggi.engine.compose import ID_RANGE
from onggi.engine.core import Core
from onggi.engine.ownership import check_place, give
from onggi.engine.prepare import who_runs
from onggi.engine.records import ContainerRecord
from onggi.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    SyscallError,
    from_os_error,
)
from onggi.image.images import Image
from onggi.kernel.descriptors import Descriptor
from onggi.kernel.mounts import read_mountinfo
from onggi.kernel.paths import open_beneath
from onggi.kernel.syscalls import mount_identity

_SPREADING = ("shared", "rshared", "slave", "rslave")


@contextlib.contextmanager
def held_sources(core: Core, record: ContainerRecord) -> Iterator[dict[str, int]]:
    """Target → descriptor of the source, for as long as the block runs, of the mounts that need it:
    a part of a volume, one whose owners are changed, one that shares mounts with the host.

    Raises:
        NotFound: nothing is there. InvalidArgument: it leads out of the volume.
        FailedPrecondition: the source shares no mounts.
    """
    with contextlib.ExitStack() as stack:
        held = {}
        for mount in record.spec.mounts:
            spreads = mount.kind == "bind" and mount.propagation in _SPREADING
            if mount.kind == "tmpfs" or not (mount.subpath or mount.chown or spreads):
                continue
            source = core.volume_path(mount.source) if mount.kind == "volume" else mount.source
            fd = stack.enter_context(_open_source(source, mount))
            if spreads:
                _check_spreads(fd, mount)
            held[mount.target] = fd
        yield held


def _open_source(source: str, mount: MountSpec) -> Descriptor:
    try:
        top = Descriptor(os.open(source, os.O_PATH | os.O_CLOEXEC))
    except FileNotFoundError:
        raise NotFound(f"the source of {mount.target} is not there: {source}") from None
    except OSError as error:
        raise from_os_error(error, "opening the mount's source") from None
    if not mount.subpath:
        return top
    with top as root:
        return open_below(root, mount)


def open_below(root: int, mount: MountSpec) -> Descriptor:
    """The directory or file `mount.subpath` of the volume `root`.

    Raises: as `held_sources`.
    """
    try:
        found = open_beneath(root, mount.subpath, os.O_PATH)
    except SyscallError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise NotFound(
                f"volume {mount.source} has no {mount.subpath}",
                hint=f"make it first: onggi run --rm -v {mount.source}:/v … mkdir -p /v/…",
            ) from None
        if error.errno in (errno.EXDEV, errno.ELOOP):
            raise InvalidArgument(
                f"{mount.subpath} leads out of volume {mount.source}, or a link in it goes round",
                hint="name a path in the volume, without links that lead away from it",
            ) from None
        raise
    kind = stat.S_IFMT(os.fstat(found.fileno()).st_mode)
    if kind not in (stat.S_IFDIR, stat.S_IFREG):
        found.close()
        raise InvalidArgument(
            f"{mount.subpath} of volume {mount.source} is neither a directory nor a file"
        )
    return found


def _check_spreads(fd: int, mount: MountSpec) -> None:
    """Raises: FailedPrecondition: no event would ever pass between the two sides."""
    number, _ = mount_identity(fd)
    on = next((one for one in read_mountinfo() if one.mount_id == number), None)
    receives = ("shared:", "master:") if mount.propagation.endswith("slave") else ("shared:",)
    if on is not None and any(word.startswith(receives) for word in on.optional):
        return
    place = on.mount_point if on is not None else mount.source
    raise FailedPrecondition(
        f"{mount.source} cannot be {mount.propagation}: the mount at {place} shares no events",
        hint=f"mount --bind {mount.source} {mount.source}, then mount --make-shared {mount.source}",
    )


async def give_owners(
    core: Core, record: ContainerRecord, image: Image, sources: dict[str, int]
) -> None:
    """Give what `:U` names to the container's user: owners on disk are those that it sees.

    Raises:
        EngineError: something in a source must not, or cannot, be given away.
    """
    mounts = [one for one in record.spec.mounts if one.chown and one.target in sources]
    if not mounts:
        return
    user, _ = who_runs(core, record, image)
    if record.id_base is not None and max(user.uid, user.gid) >= ID_RANGE:
        raise InvalidArgument(f"user {user.uid}:{user.gid} is not one of {ID_RANGE} ids")
    for mount in mounts:
        fd = sources[mount.target]
        if mount.kind == "bind" or "device" in core.records.volumes[mount.source].options:
            check_place(fd)
            linked = False
        else:
            # Its files have no names elsewhere: no container can link across two mounts.
            linked = True
        # A descriptor of the thread's own: a cancelled start closes the others at once.
        tree = Descriptor(os.dup(fd))
        await asyncio.to_thread(give, tree, user.uid, user.gid, linked=linked)
