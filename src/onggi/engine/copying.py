"""Files into containers and out of them: `onggi cp`, as tar streams over the request's descriptor.

Each copy has a thread of its own: it takes on the owner that the container's file systems know, and
a file system that never answers holds up nobody else.
Source: docker-cp(1); Docker Engine API v1.51 ContainerArchive.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import posixpath
import stat
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from onggi.engine.api.changes import CopyInRequest, CopyOutRequest, PathAnswer, PathRequest
from onggi.engine.api.requests import Nothing
from onggi.engine.copying_paths import Place, place
from onggi.engine.core import Core
from onggi.engine.records import ContainerRecord
from onggi.errors import FailedPrecondition, InvalidArgument
from onggi.image.durable import write_all
from onggi.image.tar_reader import Entry
from onggi.image.tree_pack import pack
from onggi.image.tree_unpack import Rules, unpack
from onggi.kernel import threads
from onggi.kernel.syscalls import set_filesystem_ids

_CHUNK_BYTES = 1 << 18
_SHORT = os.O_PATH | os.O_NOFOLLOW


class Copying:
    """Copies of one engine; each public coroutine is a call of `engine.api`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def path(self, request: PathRequest, _fds: list[int]) -> PathAnswer:
        """What is at a path of a container; a final link is not followed, unless a slash is
        behind it.

        Raises:
            NotFound: nothing is there.
        """
        async with self._files(request.target) as record:
            return await _in_thread(lambda: self._path(record, request.path))

    def _path(self, record: ContainerRecord, path: str) -> PathAnswer:
        with place(self._core, record, path) as found, found.open(found.path, _SHORT) as fd:
            status = os.fstat(fd)
            kind = _KINDS.get(stat.S_IFMT(status.st_mode), "other")
            return PathAnswer(
                name=_base(path),
                kind=kind,  # type: ignore[arg-type]
                mode=stat.S_IMODE(status.st_mode),
                size_bytes=status.st_size,
                modified_ns=status.st_mtime_ns,
                link_target=os.readlink("", dir_fd=fd) if kind == "symlink" else "",
            )

    async def copy_out(self, request: CopyOutRequest, fds: list[int]) -> Nothing:
        """Write a tar of a path; behind `/.` its content without its name.

        Raises:
            NotFound: nothing is there. FailedPrecondition: it is no file but the kernel's.
        """
        async with self._files(request.target) as record:
            await _in_thread(lambda: self._copy_out(record, request, fds[0]))
            self._core.tell(record, "archive-path", path=request.path)
        return Nothing()

    def _copy_out(self, record: ContainerRecord, request: CopyOutRequest, sink: int) -> None:
        flags = os.O_PATH if request.follow else _SHORT
        with place(self._core, record, request.path) as found, found.open(found.path, flags) as fd:
            if os.fstat(fd).st_dev in found.pseudo:
                raise FailedPrecondition(
                    f"{request.path} is no file, but made by the kernel while it is read",
                    hint=f"read it inside: onggi exec {record.name} cat {request.path}",
                )
            pack(
                fd,
                os.fsencode(_base(request.path)),
                lambda data: write_all(sink, data),
                owner=found.inside,
                left_out=found.pseudo,
            )

    async def copy_in(self, request: CopyInRequest, fds: list[int]) -> Nothing:
        """Unpack a tar in a directory of a container.

        Raises:
            NotFound: no such directory. FailedPrecondition: it is read-only, or something is in the
            way. InvalidArgument: not a tar, or a hostile one.
        """
        async with self._files(request.target) as record:
            await _in_thread(lambda: self._copy_in(record, request, fds[0]))
            self._core.tell(record, "extract-to-dir", path=request.path)
        return Nothing()

    def _copy_in(self, record: ContainerRecord, request: CopyInRequest, source: int) -> None:
        with place(self._core, record, request.path) as found:
            if found.read_only:
                raise FailedPrecondition(f"{request.path} in {record.name} is mounted read-only")
            with found.open(found.path, os.O_PATH | os.O_DIRECTORY) as directory:
                if found.id_base is not None:
                    set_filesystem_ids(found.id_base, found.id_base)
                rules = Rules(
                    owner=lambda entry: _owner(found, entry, archive=request.archive),
                    keep_set_ids=request.archive,
                    overwrite=request.overwrite,
                )
                chunks = iter(lambda: os.read(source, _CHUNK_BYTES), b"")
                if unpack(chunks, directory, rules):
                    raise InvalidArgument(
                        "the archive has device nodes, which were left out",
                        hint="a container gets devices by onggi run --device",
                    )

    @contextlib.asynccontextmanager
    async def _files(self, target: str) -> AsyncIterator[ContainerRecord]:
        """The record of a container; one that does not run is kept from starting meanwhile."""
        core = self._core
        record = core.records.find_container(target)
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(core.lock(record.id))
            record = core.records.find_container(record.id)
            if core.running(record.id) is not None:
                await stack.aclose()
            yield record


_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}


def _base(path: str) -> str:
    """The last name of a path; empty for the root, and for what ends with `/.`."""
    if path.endswith("/.") or path == ".":
        return ""
    return posixpath.basename(posixpath.normpath("/" + path))


def _owner(found: Place, entry: Entry, *, archive: bool) -> tuple[int, int]:
    uid, gid = (entry.uid, entry.gid) if archive else (0, 0)
    return found.outside(uid), found.outside(gid)


_T = TypeVar("_T")


async def _in_thread(work: Callable[[], _T]) -> _T:
    """Do it in a thread that ends with it."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()

    def settle(value: Any, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(value)
        else:
            done.set_exception(error)

    def run() -> None:
        value, error = None, None
        try:
            value = work()
        except BaseException as raised:  # noqa: BLE001 - whoever waits is told, whatever it is
            error = raised
        loop.call_soon_threadsafe(settle, value, error)

    threads.start(threading.Thread(target=run, name="copying", daemon=True))
    return await done
