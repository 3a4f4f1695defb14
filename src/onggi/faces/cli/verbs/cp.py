"""`cp`: files into a container and out of it.

The engine packs and unpacks the container's side, this process its own: neither opens a path of
the other's. Between them is a pipe with a tar.
"""

from __future__ import annotations

import os
import posixpath
import stat

from onggi.errors import EngineError, InvalidArgument, NotFound, from_os_error
from onggi.faces.cli import copying, human
from onggi.faces.cli.options import Option
from onggi.faces.cli.progress import ProgressBar
from onggi.faces.cli.verb import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from onggi.faces.cli.options import Parsed
    from onggi.faces.cli.verb import Context
    from onggi.image.tree_unpack import Rules

_CHUNK_BYTES = 1 << 18


class _Meter:
    """Counts what goes by, and shows it on a terminal."""

    def __init__(self, context: Context, *, quiet: bool) -> None:
        self._bar = ProgressBar(context.err) if context.err.terminal and not quiet else None
        self._err = context.err
        self._bytes = 0

    def add(self, size_bytes: int) -> None:
        self._bytes += size_bytes
        if self._bar is not None:
            self._bar.show("copying", self._bytes, 0)

    def done(self, source: str, target: str) -> None:
        if self._bar is not None:
            self._bar.end()
            self._err.line(f"Copied {human.size(self._bytes)} from {source} to {target}")


def _cp(context: Context, parsed: Parsed) -> int:
    source, target = copying.ends(*parsed.arguments)
    meter = _Meter(context, quiet=parsed.on("quiet"))
    if target.container:
        _copy_in(context, parsed, source, target, meter)
    else:
        _copy_out(context, parsed, source, target, meter)
    if not (source.stream or target.stream):
        meter.done(*parsed.arguments)
    return 0


def _copy_in(
    context: Context, parsed: Parsed, source: copying.End, target: copying.End, meter: _Meter
) -> None:
    request: dict[str, Any] = {"target": target.container, "archive": parsed.on("archive")}
    if source.stream:
        if os.isatty(0):
            raise InvalidArgument(
                "no tar on stdin", hint="tar c DIRECTORY | onggi cp - CONTAINER:/"
            )
        # As with the rest of docker's cp: the directory has to be there.
        context.client.call("containers.copy_in", request | {"path": target.path}, [0])
        return
    top = _open(source.path, follow=parsed.on("follow-link"))
    try:
        directory = stat.S_ISDIR(os.fstat(top).st_mode)
        if source.path.endswith(("/", "/.")) and not directory:
            raise InvalidArgument(f"{source.path} is not a directory")
        look = _container_look(context, target.container)
        base = "" if copying.contents_only(source.path) else _base(source.path)
        request["path"], name = copying.placed(target.path, base, look, directory=directory)
        _send(context, request, top, name, meter)
    finally:
        os.close(top)


def _send(context: Context, request: dict[str, Any], top: int, name: str, meter: _Meter) -> None:
    """Pack into a pipe that the engine unpacks from."""
    from onggi.image.tree_pack import pack  # noqa: PLC0415

    reader, writer = os.pipe2(os.O_CLOEXEC)
    refused = False

    def write(data: bytes) -> None:
        nonlocal refused
        try:
            _write_all(writer, data)
        except BrokenPipeError:
            refused = True
            raise
        meter.add(len(data))

    try:
        try:
            call = context.client.open("containers.copy_in", request, [reader])
        finally:
            os.close(reader)
        with call:
            try:
                pack(top, os.fsencode(name), write)
            except EngineError:
                if not refused:
                    raise
            os.close(writer)
            writer = -1
            call.reply()
    finally:
        if writer >= 0:
            os.close(writer)


def _copy_out(
    context: Context, parsed: Parsed, source: copying.End, target: copying.End, meter: _Meter
) -> None:
    follow = parsed.on("follow-link")
    request = {"target": source.container, "path": source.path, "follow": follow}
    if target.stream:
        if os.isatty(1):
            raise InvalidArgument("a tar is not for a terminal", hint="name a directory, or > FILE")
        context.client.call("containers.copy_out", request, [1])
        return
    look = _container_look(context, source.container)
    path = copying.resolved(source.path, look) if follow else source.path
    found = context.client.call("containers.path", {"target": source.container, "path": path})
    base = (
        ""
        if copying.contents_only(source.path)
        else posixpath.basename(posixpath.normpath(source.path))
    )
    directory, name = copying.placed(
        target.path, base, _local_look, directory=found["kind"] == "directory"
    )
    try:
        root = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise from_os_error(error, f"opening {directory}") from None
    try:
        rules = _rules(base, name, keep=parsed.on("archive"))
        _receive(context, request, root, rules, meter)
    finally:
        os.close(root)


def _rules(base: str, name: str, *, keep: bool) -> Rules:
    """What the tar calls `base` is called `name` here; nothing else in it decides a name's head."""
    from onggi.image.tree_unpack import Rules  # noqa: PLC0415

    old, new = os.fsencode(base), os.fsencode(name)

    def renamed(parts: list[bytes]) -> list[bytes]:
        rest = parts[1:] if old and parts[:1] == [old] else parts
        return [new, *rest] if new else rest

    if not keep:
        return Rules(renamed=renamed)
    return Rules(owner=lambda entry: (entry.uid, entry.gid), keep_set_ids=True, renamed=renamed)


def _receive(
    context: Context, request: dict[str, Any], root: int, rules: Rules, meter: _Meter
) -> None:
    """Unpack what the engine packs; the tar is as hostile as the container."""
    from onggi.image.tree_unpack import unpack  # noqa: PLC0415

    reader, writer = os.pipe2(os.O_CLOEXEC)
    ended = False

    def chunks() -> Iterator[bytes]:
        nonlocal ended
        while data := os.read(reader, _CHUNK_BYTES):
            meter.add(len(data))
            yield data
        ended = True

    try:
        try:
            call = context.client.open("containers.copy_out", request, [writer])
        finally:
            os.close(writer)
        with call:
            stream = chunks()
            try:
                unpack(stream, root, rules)
                for _ in stream:
                    pass  # what is behind the archive's end
            except EngineError:
                if ended:
                    call.reply()  # it broke off on the engine's side, who knows why
                raise
            call.reply()
    finally:
        os.close(reader)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _open(path: str, *, follow: bool) -> int:
    """A local source. A slash at its end follows a link, as everywhere."""
    flags = os.O_PATH | os.O_CLOEXEC
    if not (follow or path.endswith(("/", "/."))):
        flags |= os.O_NOFOLLOW
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        raise NotFound(f"no such file or directory: {path}") from None
    except OSError as error:
        raise from_os_error(error, f"opening {path}") from None


def _base(path: str) -> str:
    """The name of a local source; for `..` that of where it leads."""
    base = posixpath.basename(path.rstrip("/"))
    return posixpath.basename(os.path.realpath(path)) if base == ".." else base


def _container_look(context: Context, container: str) -> copying.Look:
    def look(path: str) -> tuple[str, str] | None:
        try:
            found = context.client.call("containers.path", {"target": container, "path": path})
        except NotFound:
            return None  # a container that is missing is told by the copy itself
        return found["kind"], found.get("link_target", "")

    return look


def _local_look(path: str) -> tuple[str, str] | None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise from_os_error(error, f"looking at {path}") from None
    if stat.S_ISLNK(status.st_mode):
        return "symlink", os.readlink(path.rstrip("/"))
    return ("directory" if stat.S_ISDIR(status.st_mode) else "file"), ""


VERBS = {
    "cp": Verb(
        _cp,
        arguments="SOURCE TARGET",
        least=2,
        most=2,
        options=(
            Option("-a --archive", "keep owners and set-user-id bits"),
            Option("-L --follow-link", "copy what a link leads to, not the link"),
            Option("-q --quiet", "show no progress"),
        ),
        complete="container",
        examples=(
            ("onggi cp web:/etc/nginx .", "a directory out of a container, running or not"),
            ("onggi cp ./site/. web:/srv/www", "what is in a directory, without the directory"),
            ("onggi cp web:/srv - | tar t", "a tar on stdout; - reads one from stdin, too"),
        ),
    )
}
