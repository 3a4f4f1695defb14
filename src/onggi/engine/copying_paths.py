"""The files of a container, held by a descriptor of its root: running, stopped or never started.

A running one's root is its first process's, with all that is mounted there. Without a process the
layers are mounted as for a start, but attached nowhere: the mount goes with its descriptor. Inside
either, paths are taken as the container takes them (`kernel.paths`), so whatever it does to its
links meanwhile, they lead nowhere else. Knows nothing of archives.

Source: proc(5) /proc/PID/root; openat2(2) RESOLVE_IN_ROOT; fsmount(2).
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import stat
from collections.abc import Iterator

from msgspec import Struct

from onggi.engine.api.spec import MountSpec
from onggi.engine.compose import ID_RANGE
from onggi.engine.core import Core
from onggi.engine.mount_sources import open_below
from onggi.engine.prepare import snapshot_of
from onggi.engine.records import ContainerRecord
from onggi.errors import FailedPrecondition, InvalidArgument, NotFound, SyscallError, from_os_error
from onggi.image.snapshots import Rootfs
from onggi.kernel.descriptors import Descriptor
from onggi.kernel.mounts import read_mountinfo
from onggi.kernel.paths import open_in_root
from onggi.kernel.procfs import read_process_file
from onggi.kernel.syscalls import (
    fsconfig_create,
    fsconfig_descriptor,
    fsconfig_flag,
    fsconfig_string,
    fsmount,
    fsopen,
)

_ROOT = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_NOBODY = 65534
#: What is no file: made by the kernel while it is looked at.
_PSEUDO = frozenset(
    "proc sysfs cgroup cgroup2 mqueue devpts securityfs debugfs tracefs bpf pstore".split()
)


class Place(Struct, frozen=True):
    """A root, a path in it, and how owners are told there.

    `id_base`: the host's id of what the container calls 0; None: the ids are the same. `pseudo`:
    devices of the file systems that hold no files.
    """

    root: int
    path: str
    id_base: int | None
    read_only: bool = False
    pseudo: frozenset[int] = frozenset()

    def open(self, path: str, flags: int) -> Descriptor:
        """Open a path of the place.

        Raises:
            NotFound: nothing is there. SyscallError: it cannot be opened.
        """
        try:
            return open_in_root(self.root, path, flags)
        except SyscallError as error:
            if error.errno == errno.ENOENT:
                raise NotFound(f"no such file or directory in the container: {path}") from None
            if error.errno == errno.ENOTDIR:
                raise FailedPrecondition(f"not a directory in the container: {path}") from None
            raise

    def inside(self, number: int) -> int:
        """What the container calls an owner."""
        if self.id_base is None:
            return number
        return number - self.id_base if 0 <= number - self.id_base < ID_RANGE else _NOBODY

    def outside(self, number: int) -> int:
        """What the host calls an owner.

        Raises:
            InvalidArgument: the container has no such id.
        """
        if self.id_base is None:
            return number
        if number >= ID_RANGE:
            raise InvalidArgument(
                f"owner {number} is not one of the container's {ID_RANGE} ids",
                hint="copy without -a, then everything belongs to root",
            )
        return self.id_base + number


@contextlib.contextmanager
def place(core: Core, record: ContainerRecord, path: str) -> Iterator[Place]:
    """Where `path` of a container is, for as long as the block runs. For a thread.

    A container that does not run must not start meanwhile: hold its lock.

    Raises:
        FailedPrecondition: it has just ended. EngineError: its files cannot be reached.
    """
    if "\0" in path:
        raise InvalidArgument("a path with a NUL")
    if core.running(record.id) is not None:
        with _running(core, record) as (root, pid):
            mounts = read_mountinfo(pid)
            pseudo = {os.makedev(m.major, m.minor) for m in mounts if m.fstype in _PSEUDO}
            yield Place(root, path, id_base(pid), pseudo=frozenset(pseudo))
        return
    mount, below = _mount_of(record.spec.mounts, path)
    if mount is None:
        with detached_root(snapshot_of(core, record)) as root:
            yield Place(root, path, None, read_only=record.spec.read_only)
        return
    source = core.volume_path(mount.source) if mount.kind == "volume" else mount.source
    with _source(source, mount, below) as (root, below):
        yield Place(root, below, None, read_only=mount.read_only)


@contextlib.contextmanager
def _running(core: Core, record: ContainerRecord) -> Iterator[tuple[int, int]]:
    """The root of a running container and the id of its first process."""
    task = core.running(record.id)
    try:
        root = os.open(f"/proc/{record.pid}/root", _ROOT)
    except OSError as error:
        raise from_os_error(error, f"reaching the files of {record.name}") from None
    try:
        # Alive now, so what was opened was its root and no other's with a recycled id.
        if task is None or not task.signal(0):
            raise FailedPrecondition(f"container {record.name} has just ended", hint="try again")
        yield root, record.pid
    finally:
        os.close(root)


def id_base(pid: int) -> int | None:
    """The host's id of what a process calls 0; None when it has the host's ids."""
    for line in read_process_file(pid, "uid_map").splitlines():
        inside, outside, size = map(int, line.split())
        if inside == 0:
            return None if (outside, size) == (0, 2**32 - 1) else outside
    return None


def _mount_of(mounts: tuple[MountSpec, ...], path: str) -> tuple[MountSpec | None, str]:
    """The mount that a path of a stopped container is below, by name alone, and the path in it."""
    clean = posixpath.normpath("/" + path.lstrip("/"))
    for mount in sorted(mounts, key=lambda one: -len(one.target)):
        if clean == mount.target or clean.startswith(mount.target + "/"):
            if mount.kind == "tmpfs":
                raise FailedPrecondition(
                    f"{mount.target} is in memory, and the container does not run",
                    hint="start it first",
                )
            rest = clean[len(mount.target) :].lstrip("/")
            return mount, f"/{rest}" + ("/" if rest and path.endswith(("/", "/.")) else "")
    return None, path


@contextlib.contextmanager
def _source(source: str, mount: MountSpec, below: str) -> Iterator[tuple[int, str]]:
    """The directory that a mount's source is or lies in, and the path there that `below` is."""
    with contextlib.ExitStack() as stack:
        try:
            top = stack.enter_context(Descriptor(os.open(source, os.O_PATH | os.O_CLOEXEC)))
        except OSError as error:
            raise from_os_error(error, "opening the mount's source") from None
        if mount.subpath:
            top = stack.enter_context(open_below(top, mount))
        if stat.S_ISDIR(os.fstat(top).st_mode):
            yield top, below
            return
        if mount.subpath:
            raise FailedPrecondition(
                f"{mount.target} is one file of a volume, and the container does not run",
                hint="start it first",
            )
        parent, name = os.path.split(source)
        yield stack.enter_context(_directory(parent)), f"/{name}"


@contextlib.contextmanager
def detached_root(rootfs: Rootfs) -> Iterator[int]:
    """The layers and the upper of a container that does not run, mounted nowhere.

    Raises:
        SyscallError: the kernel does not mount them.
    """
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(fsopen("overlay"))
        opened = [stack.enter_context(_directory(path)) for path in rootfs.lowers]
        _give_lowers(context, opened)
        for key, name in (("upperdir", "fs"), ("workdir", "work")):
            fd = stack.enter_context(_directory(f"{rootfs.upper}/{name}"))
            fsconfig_string(context, key, f"/proc/self/fd/{fd}")
        fsconfig_flag(context, "userxattr")
        fsconfig_create(context)
        yield stack.enter_context(fsmount(context))


def _give_lowers(context: int, lowers: list[int]) -> None:
    """By descriptor; before Linux 6.13 by name, where one option holds 255 bytes."""
    try:
        for fd in lowers:
            fsconfig_descriptor(context, "lowerdir+", fd)
    except SyscallError as error:
        if error.errno != errno.EINVAL:
            raise
        fsconfig_string(context, "lowerdir", ":".join(f"/proc/self/fd/{fd}" for fd in lowers))


def _directory(path: str) -> Descriptor:
    try:
        return Descriptor(os.open(path, _ROOT))
    except OSError as error:
        raise from_os_error(error, "opening a layer") from None
